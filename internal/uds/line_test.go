package uds

import (
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestParseLineSplitsCommandsAndWords(t *testing.T) {
	for line, want := range map[string][]request{
		"":                      nil,
		" \t ":                  nil,
		";; ;":                  nil,
		"status":                {{name: "status", args: []string{}}},
		"status\r":              {{name: "status", args: []string{}}},
		" peek\tjobs  10 ":      {{name: "peek", args: []string{"jobs", "10"}}},
		"status json":           {{name: "status", args: []string{}, json: true}},
		"json":                  {{name: "json", args: []string{}}},
		"pause json json":       {{name: "pause", args: []string{"json"}, json: true}},
		"status;lists json ; ;": {{name: "status", args: []string{}}, {name: "lists", args: []string{}, json: true}},
		"pause größe":           {{name: "pause", args: []string{"größe"}}},
		"pause \uFFFD":          {{name: "pause", args: []string{"\uFFFD"}}},
	} {
		if got := parseLine([]byte(line)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
}

func TestParseLineRefusesTheWholeLineForOneBadCharacter(t *testing.T) {
	for line, message := range map[string]string{
		"status\x00":         `byte 7 of the line is '\x00'`,
		"status; \x1b[2J;ok": `byte 9 of the line is '\x1b'`,
		"status\rlists":      `byte 7 of the line is '\r'`,
		"status\r\r":         `byte 7 of the line is '\r'`,
		"pause \xff json":    `byte 7 of the line, "\xff", is not UTF-8`,
		"pause \u202e":       `byte 7 of the line is '\u202e'`,
		"\v":                 `byte 1 of the line is '\v'`,
	} {
		got := parseLine([]byte(line))
		if len(got) != 1 || got[0].err == nil || got[0].name != "" {
			t.Errorf("%q: got %+v, want one error", line, got)
			continue
		}
		if got[0].err.Code != BadInput || !strings.HasPrefix(got[0].err.Message, message) {
			t.Errorf("%q: got %v, want %s", line, got[0].err, message)
		}

		if want := strings.HasSuffix(line, " json"); got[0].json != want {
			t.Errorf("%q: json is %v, want %v", line, got[0].json, want)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, seed := range []string{
		"status", "status json\r", "peek jobs 10; lists json", ";;", "json json",
		"\x00", "a\xffb", "\v", "pause \u00a0x", strings.Repeat("a;", maxLine/2),
	} {
		f.Add([]byte(seed))
	}

	f.Fuzz(func(t *testing.T, line []byte) {
		requests := parseLine(line)
		var again []string
		for _, req := range requests {
			if req.err != nil {
				if len(requests) != 1 || req.name != "" || req.args != nil {
					t.Fatalf("%q: commands beside an error: %+v", line, requests)
				}
				if answer := render(nil, req.err, false); strings.Count(string(answer), "\n") != 1 || !utf8.Valid(answer) {
					t.Fatalf("%q: the error is not one line of text: %q", line, answer)
				}
				return
			}
			words := append([]string{req.name}, req.args...)
			for _, word := range words {
				if word == "" || strings.ContainsFunc(word, func(r rune) bool {
					return r == ';' || r == ' ' || !unicode.IsPrint(r)
				}) {
					t.Fatalf("%q: bad word %q", line, word)
				}
			}
			if req.json {
				words = append(words, "json")
			}
			again = append(again, strings.Join(words, " "))
		}
		if got := parseLine([]byte(strings.Join(again, ";"))); !reflect.DeepEqual(got, requests) {
			t.Fatalf("%q: read again, it is %+v, not %+v", line, got, requests)
		}
	})
}
