package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"edged/internal/redistest"
)

const controlDoc = "../../docs/CONTROL.md"

func readDoc(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheUsageFitsAScreen(t *testing.T) {
	if n := strings.Count(usage, "\n"); n > 23 {
		t.Errorf("edged -h has %d lines, and a prompt follows", n)
	}
	for line := range strings.Lines(usage) {
		if len(line) > 81 {
			t.Errorf("edged -h has a line of %d columns: %s", len(line)-1, line)
		}
	}
}

// transcript is a command of a document and what it prints.
type transcript struct{ command, output string }

// transcripts are what stands in fences of the kind console.
func transcripts(doc string) (all []transcript) {
	for _, fence := range regexp.MustCompile("(?ms)^```console\n(.*?)^```$").FindAllStringSubmatch(doc, -1) {
		for line := range strings.Lines(fence[1]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				all = append(all, transcript{command: command})
			} else {
				all[len(all)-1].output += line
			}
		}
	}
	return all
}

var (
	anyNumber   = regexp.MustCompile(`\d+(\.\d+)*`)
	anyDuration = regexp.MustCompile(`\b(N(h|ms|m|s))+\b`)
	anyBlanks   = regexp.MustCompile(` +`)
	anyPlatform = regexp.MustCompile(`(N)( \(\w+\))? linux/\w+`)
)

// normal takes off what differs from run to run.
func normal(output string) string {
	output = anyNumber.ReplaceAllString(output, "N")
	output = anyDuration.ReplaceAllString(output, "T")
	output = anyPlatform.ReplaceAllString(output, "$1 linux/any")
	return anyBlanks.ReplaceAllString(output, " ")
}

func TestTheTranscriptsInTheDocuments(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	redis.Push("events", "one", "two words", "three")
	folder := shortFolder(t)
	file := filepath.Join(folder, "edged.toml")
	real := strings.NewReplacer("/run/edged/", folder+"/", "/etc/edged/edged.toml", file,
		"unix:///run/redis/redis.sock", redis.Address())
	content := fmt.Sprintf("instance = \"box\"\nredis.address = %q\ntcp.listen = \"127.0.0.1:0\"\n"+
		"control.socket = \"%s/control.sock\"\ncontrol.status_socket = \"%[2]s/status.sock\"\n", redis.Address(), folder)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("edged", "-config", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	shell := func(command string) string {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	redistest.Eventually(t, "edged sees the backlog", func() bool {
		out, _ := exec.Command("edged", "ctl", "-socket", folder+"/control.sock", "status").Output()
		return strings.Contains(string(out), "backlog 3 items")
	})

	var help map[string][]map[string]any
	if err := json.Unmarshal([]byte(shell("edged ctl -socket "+folder+"/control.sock help json")), &help); err != nil {
		t.Fatal(err)
	}
	doc := readDoc(t, controlDoc)
	for name := range help["commands"][0] {
		if !strings.Contains(doc, "\n| `commands[]."+name+"` |") {
			t.Errorf("docs/CONTROL.md does not have the field %s of help", name)
		}
	}

	all := append(transcripts(readDoc(t, "../../README.md")), transcripts(doc)...)
	if len(all) < 10 {
		t.Fatalf("only %d transcripts were found", len(all))
	}
	for _, tr := range all {
		got, want := shell(real.Replace(tr.command)), real.Replace(tr.output)
		if normal(got) != normal(want) {
			t.Errorf("$ %sgot:\n%swant:\n%s", tr.command, got, want)
		}
	}
}
