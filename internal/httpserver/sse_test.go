package httpserver

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// event is one that a browser would fire.
type event struct{ id, name, data string }

// parser reads an event stream as HTML's specification says (9.2.6, "Interpreting an event
// stream"), a chunk at a time.
type parser struct {
	rest       string
	data, name string
	filled     bool   // data had a field
	id         string // the last event ID buffer
	lastID     string // the last event ID string
	retry      string
	comments   int
}

func (p *parser) feed(chunk string) (fired []event) {
	p.rest += chunk
	for {
		i := strings.IndexAny(p.rest, "\r\n")
		if i < 0 || p.rest[i] == '\r' && i == len(p.rest)-1 { // a LF may follow
			return fired
		}

		line := p.rest[:i]
		if strings.HasPrefix(p.rest[i:], "\r\n") {
			i++
		}
		p.rest = p.rest[i+1:]
		if line == "" {
			p.lastID = p.id
			if p.filled {
				fired = append(fired, event{p.lastID, p.name, strings.TrimSuffix(p.data, "\n")})
			}
			p.data, p.name, p.filled = "", "", false
			continue
		}

		p.field(line)
	}
}

func (p *parser) field(line string) {
	name, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch name {
	case "":
		p.comments++
	case "event":
		p.name = value
	case "data":
		p.data += value + "\n"
		p.filled = true
	case "id":
		if !strings.Contains(value, "\x00") {
			p.id = value
		}
	case "retry":
		if value != "" && strings.Trim(value, "0123456789") == "" {
			p.retry = value
		}
	}
}

// decoded returns the item that an event in a form stands for.
func decoded(t *testing.T, f form, e event) string {
	t.Helper()
	if f == formJSON {
		var j jsonItem
		if err := json.Unmarshal([]byte(e.data), &j); err != nil {
			t.Fatal(err)
		}
		if j.ID != e.id {
			t.Errorf("the id is %q, in the item %q", e.id, j.ID)
		}
		if j.Data != nil {
			return *j.Data
		}
		return string(j.Base64)
	}

	if f == formBase64 || f == formAuto && e.name == eventBase64 {
		data, err := base64.StdEncoding.DecodeString(e.data)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	return e.data
}

// checkForms checks that items come out of a stream as they went in.
func checkForms(t *testing.T, items ...string) {
	t.Helper()
	var all []item
	for i, it := range items {
		all = append(all, item{number: uint64(i), seen: time.Unix(1e9, 0), data: []byte(it)})
	}

	for f := range form(forms) {
		var p parser
		fired := p.feed(string(framed(f, "a.b", "epoch", all).data))
		if len(fired) != len(items) {
			t.Fatalf("%s: %d events for %d items", formNames[f], len(fired), len(items))
		}
		for i, e := range fired {
			text := utf8.ValidString(items[i]) && !strings.ContainsAny(items[i], "\r\x00")
			if got := decoded(t, f, e); got != items[i] && (f != formText || text) {
				t.Errorf("%s: item %q came out as %q", formNames[f], items[i], got)
			}
			if want := placed("epoch", uint64(i)+1); e.id != want {
				t.Errorf("%s: id %q, want %q", formNames[f], e.id, want)
			}
			if named := f == formAuto && !text; named != (e.name == eventBase64) || !named && e.name != "" {
				t.Errorf("%s: item %q has the event %q", formNames[f], items[i], e.name)
			}
		}
	}
}

func TestItemsComeOutOfAStreamAsTheyWentIn(t *testing.T) {
	checkForms(t, "one", "", " leading", "two\nlines", "\n", "\n\nend\n", "data: x", "a\rb", "a\r\nb", "\x00", "\xff\xfe", "\ufeffbom", "grün", "\u2028", ": comment", "id: 7")
}

func FuzzItemsComeOutOfAStreamAsTheyWentIn(f *testing.F) {
	f.Add("one", "two\n")
	f.Add("\r\n", "\xff")
	f.Fuzz(func(t *testing.T, a, b string) { checkForms(t, a, b) })
}

func FuzzAnIDIsReadAsItWasWritten(f *testing.F) {
	f.Add("abcdefgh-12,x-0")
	f.Add("a--1")

	f.Fuzz(func(t *testing.T, id string) {
		all, ok := parsePlaces(id)
		if !ok {
			return
		}
		var words []string
		for _, p := range all {
			words = append(words, p.String())
		}
		again, ok := parsePlaces(strings.Join(words, ","))
		if !ok || len(again) != len(all) || again[0] != all[0] {
			t.Errorf("%q became %v", id, words)
		}
	})
}
