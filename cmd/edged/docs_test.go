package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/journal"
	"edged/internal/redistest"
	"edged/internal/uds"
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

// answerTypes are the values that the commands answer with; nil is {"ok":true}.
var answerTypes = map[string]any{
	"version": versionInfo{}, "status": statusAnswer{}, "lists": listsAnswer{}, "clients": clientsAnswer{},
	"config": configAnswer{}, "watch": sample{}, "peek": peekAnswer{}, "pause": nil, "resume": nil, "kick": nil,
	"dead": deadAnswer{}, "requeue": requeueAnswer{}, "inbound": inboundAnswer{}, "loglevel": levelAnswer{},
	"drain": drainProgress{}, "quit": nil, "reload": reloadAnswer{},
}

// fields are the paths of what t has in JSON; those that may be missing have a *.
func fields(path string, t reflect.Type) (all []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			all = append(all, fields(path, f.Type)...)
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		at, kind := path+name, f.Type
		if kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct {
			at, kind = at+"[]", kind.Elem()
		}
		switch {
		case kind.Kind() == reflect.Struct && kind != reflect.TypeFor[time.Time]():
			all = append(all, fields(at+".", kind)...)
		case option == "omitempty":
			all = append(all, "`"+at+"`*")
		default:
			all = append(all, "`"+at+"`")
		}
	}
	return all
}

var (
	docSection = regexp.MustCompile("(?m)^### `([^`]+)`$")
	docField   = regexp.MustCompile("(?m)^\\| (`[^`]+`\\*?) \\|")
	docLevel   = regexp.MustCompile(`(?m)^Level (\w+)\.`)
)

func TestTheDocumentHasEveryCommandAndEveryFieldOfItsJSON(t *testing.T) {
	doc := readDoc(t, controlDoc)
	sections := map[string]string{} // by usage
	marks := docSection.FindAllStringSubmatchIndex(doc, -1)
	for i, m := range marks {
		end := len(doc)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		sections[doc[m[2]:m[3]]], _, _ = strings.Cut(doc[m[1]:end], "\n## ")
	}
	commands := append((&daemon{}).commands(), uds.Command{Name: "help", Args: "[COMMAND]"})
	for _, c := range commands {
		usage := strings.TrimSpace(c.Name + " " + c.Args)
		section, ok := sections[usage]
		if !ok {
			t.Errorf("docs/CONTROL.md has no section for %q", usage)
			continue
		}
		delete(sections, usage)
		if m := docLevel.FindStringSubmatch(section); m == nil || m[1] != c.Level.String() {
			t.Errorf("%s: the document gives the level %q, it is %s", c.Name, m, c.Level)
		}
		var got, want []string
		for _, m := range docField.FindAllStringSubmatch(section, -1) {
			got = append(got, m[1])
		}
		answer, known := answerTypes[c.Name]
		switch {
		case c.Name == "help":
			continue // TestTheTranscriptsInTheDocuments asks for it
		case !known:
			t.Errorf("%s is missing in answerTypes", c.Name)
		case answer == nil:
			want = []string{"`ok`"}
		default:
			want = fields("", reflect.TypeOf(answer))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the document has the fields\n%q, the answer has\n%q", c.Name, got, want)
		}
	}
	for usage := range sections {
		t.Errorf("docs/CONTROL.md has a section %q, which is no command", usage)
	}
}

func TestTheDocumentHasTheEventsOfTheJournal(t *testing.T) {
	doc := readDoc(t, controlDoc)
	for event, id := range journal.Events {
		if !strings.Contains(doc, "\n| `"+event+"` | `"+id+"` |") {
			t.Errorf("docs/CONTROL.md does not have the event %s with %s", event, id)
		}
	}
}

func TestTheOperationsManualHasEveryStateAndEveryEvent(t *testing.T) {
	doc := readDoc(t, "../../docs/OPERATIONS.md")
	states := regexp.MustCompile(`(?m)^\t\w+ +State = "(\w+)"`).FindAllStringSubmatch(readDoc(t, "../../internal/poller/poller.go"), -1)
	if len(states) < 8 {
		t.Fatalf("only %d states were found in the source", len(states))
	}
	for _, state := range states {
		if !strings.Contains(doc, "\n| `"+state[1]+"` | ") {
			t.Errorf("docs/OPERATIONS.md does not say what %s means", state[1])
		}
	}
	for event, id := range journal.Events {
		if !strings.Contains(doc, "\njournalctl -u edged MESSAGE_ID="+id+"   # "+event+":") {
			t.Errorf("docs/OPERATIONS.md does not have the event %s with %s", event, id)
		}
	}
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

func TestHelpFitsAScreen(t *testing.T) {
	// A line for each command and for help itself, two more lines, OK, the prompt.
	if n := len((&daemon{}).commands()) + 1 + 2 + 1 + 1; n > 24 {
		t.Errorf("help and the prompt behind it take %d lines", n)
	}
	for _, c := range (&daemon{}).commands() {
		if n := len("requeue LIST [N|all]  ") + len(c.Summary); n > 80 {
			t.Errorf("the line of %s has %d columns", c.Name, n)
		}
		if len(c.Name+" "+c.Args) > len("requeue LIST [N|all]") {
			t.Errorf("%s widens the first column", c.Name)
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
