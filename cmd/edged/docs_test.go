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

	"edged/internal/edgedtest"
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

// transcript is a command in a document, with its output.
type transcript struct{ command, output string }

// transcripts returns the contents of fences of the kind console.
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

// normal removes the parts that differ from run to run.
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

// commandsBelow returns the fences of shell commands below a heading of a document.
func commandsBelow(t *testing.T, doc, heading string) (fences []string) {
	t.Helper()
	_, text, found := strings.Cut(doc, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("there is no section %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for _, fence := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		fences = append(fences, fence[1])
	}
	return fences
}

// docs/DEPLOY.md has commands for TLS and users. Here there is no systemd, and no group or folder
// of edged: shell functions and another path replace them.
func TestTheCommandsOfTheDocumentLetUsersInByTLS(t *testing.T) {
	t.Parallel()
	fences := commandsBelow(t, readDoc(t, "../../docs/DEPLOY.md"), "Clients from other machines: TLS and users")
	if len(fences) != 2 {
		t.Fatalf("docs/DEPLOY.md has %d fences of commands, want those that set it up and those that check it", len(fences))
	}
	redis, folder, address := redistest.Start(t), shortFolder(t), edgedtest.Address(t)
	content := fmt.Sprintf("redis.address = %q\ntcp.listen = %q\ncontrol.socket = \"%s/control.sock\"\ncontrol.status_socket = \"\"\n",
		redis.Address(), address, folder)
	if err := os.WriteFile(filepath.Join(folder, "edged.toml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	stubs := fmt.Sprintf(`set -e
exec 2>&1
export NATS_URL=%[2]s
redis-cli() { command redis-cli -s %[3]s "$@"; }
chgrp() { :; }
edged() { if [ "$*" = check ]; then command edged check %[1]s/edged.toml; else command edged "$@"; fi; }
systemctl() {
  command edged -config %[1]s/edged.toml >%[1]s/log 2>&1 &
  trap "kill $!; wait" EXIT
  until grep -q '"serving"' %[1]s/log; do kill -0 $!; sleep 0.05; done
}
`, folder, address, strings.TrimPrefix(redis.Address(), "unix://"))
	commands := strings.ReplaceAll(strings.Join(fences, "echo checks:\n"), "/etc/edged", folder)

	out, err := exec.Command("bash", "-c", stubs+commands).CombinedOutput()
	_, checks, _ := strings.Cut(string(out), "checks:\n")
	if err != nil || checks != "1\nevents hello\nconfirmed 1 of 1\n21\n" {
		t.Errorf("%v; the commands print:\n%s", err, out)
	}
	modes, err := exec.Command("stat", "-c", "%a", folder+"/ca.key", folder+"/box.key", folder+"/ca.pem").Output()
	if err != nil || string(modes) != "600\n640\n644\n" {
		t.Errorf("the modes of ca.key, box.key and ca.pem are %q, %v", modes, err)
	}
}
