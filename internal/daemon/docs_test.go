package daemon

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/journal"
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
	"version": Version{}, "status": statusAnswer{}, "lists": listsAnswer{}, "consumers": consumersAnswer{}, "clients": clientsAnswer{},
	"config": configAnswer{}, "watch": sample{}, "peek": peekAnswer{}, "history": historyAnswer{}, "pause": nil, "resume": nil, "kick": nil,
	"dead": deadAnswer{}, "requeue": requeueAnswer{}, "trace": traceLine{}, "inbound": inboundAnswer{}, "loglevel": levelAnswer{},
	"health": Health{}, "tasks": tasksAnswer{}, "uplinks": uplinksAnswer{},
	"drain": drainProgress{}, "quit": nil, "forget": nil, "reload": reloadAnswer{},
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
		case option == "omitempty", option == "omitzero":
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
	commands := append(Commands(), uds.Command{Name: "help", Args: "[COMMAND]"})
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

func TestHelpFitsAScreen(t *testing.T) {
	// A line for each command, of which pause and resume share one, as inbound and uplinks do, and quit and drain;
	// one more line, OK, the prompt.
	if n := len(Commands()) - 3 + 1 + 1 + 1; n > 24 {
		t.Errorf("help and the prompt behind it take %d lines", n)
	}
	const widest = "pause|resume LIST|all"
	for _, c := range Commands() {
		if n := len(widest+"  ") + len(c.Summary); n > 80 {
			t.Errorf("the line of %s has %d columns", c.Name, n)
		}
		if len(c.Name+" "+c.Args) > len(widest) {
			t.Errorf("%s widens the first column", c.Name)
		}
		line := "  echo '" + c.Example + "' | socat - UNIX-CONNECT:/run/edged/control.sock"
		if c.Stream != nil {
			line = strings.Replace(line, "socat", "socat -t99", 1)
		}
		if len(line) > 80 {
			t.Errorf("the example of %s has %d columns", c.Name, len(line))
		}
	}
}
