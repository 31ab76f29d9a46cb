package subject

import (
	"strings"
	"testing"
)

func TestValidSubjectsAreRecognized(t *testing.T) {
	for _, tc := range []struct {
		subject     string
		valid, wild bool
	}{
		{"a", true, false}, {"a.b", true, false}, {"ä.☃", true, false}, {"a*.>b", true, false},
		{"*", true, true}, {">", true, true}, {"a.*.b", true, true}, {"a.*.>", true, true},
		{"", false, false}, {".", false, false}, {"a.", false, false}, {".a", false, false}, {"a..b", false, false},
		{">.a", false, false}, {"a b", false, false}, {"a\tb", false, false}, {"a\x00", false, false},
		{"a\rb", false, false}, {"a\nb", false, false}, {"\xc3", false, false},
	} {
		if valid, wild := Valid([]byte(tc.subject)); valid != tc.valid || valid && wild != tc.wild {
			t.Errorf("%q: valid %v, wild %v", tc.subject, valid, wild)
		}
	}
}

func TestPatternsMatchLiterals(t *testing.T) {
	for _, tc := range []struct {
		pattern, literal string
		want             bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a.b", false}, {"a.b", "a", false},
		{"*", "a", true}, {"*", "a.b", false}, {">", "a", true}, {">", "a.b.c", true},
		{"a.>", "a", false}, {"a.>", "a.b", true}, {"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false}, {"*.>", "a", false},
	} {
		if got := Matches(tc.pattern, tc.literal); got != tc.want {
			t.Errorf("%q matches %q: %v", tc.pattern, tc.literal, got)
		}
	}
}

func TestPatternsCoverAndOverlap(t *testing.T) {
	for _, tc := range []struct {
		a, b            string
		covers, overlap bool
	}{
		{"a", "a", true, true}, {"a", "b", false, false}, {"a", "a.b", false, false},
		{"*", "a", true, true}, {"a", "*", false, true}, {"*", "*", true, true}, {"*", ">", false, true},
		{">", "*", true, true}, {">", "a.*.>", true, true}, {"a.*", "a.>", false, true}, {"a.>", "a.*", true, true},
		{"a.>", "a", false, false}, {"*.b", "a.*", false, true}, {"*.b", "a.c", false, false}, {"a.*.c", "a.b.>", false, true},
		{"a.>", "b.>", false, false}, {">", ">", true, true}, {"a.>", "a.>", true, true}, {"a.*.>", "a.>", false, true},
	} {
		if got := Matches(tc.a, tc.b); got != tc.covers {
			t.Errorf("%s covers %s: %v, want %v", tc.a, tc.b, got, tc.covers)
		}
		for _, p := range [][2]string{{tc.a, tc.b}, {tc.b, tc.a}} {
			if got := Overlap(p[0], p[1]); got != tc.overlap {
				t.Errorf("%s overlaps %s: %v, want %v", p[0], p[1], got, tc.overlap)
			}
		}
	}
}

func TestCheckExplainsAndIsStricterThanValid(t *testing.T) {
	for s, want := range map[string]string{
		"a.b": "", "a.*.>": "", "ä.☃": "", "*": "",
		"": "empty part", "a..b": "empty part", "a b": "space", "a\u00a0b": "space", "a\x01": "control", "a\xff": "UTF-8",
		"a*": "only a piece", "a.>b": "only a piece", ">.a": "before its end",
	} {
		err := Check(s)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

func TestTokenIsOneTokenOfALiteral(t *testing.T) {
	for name, want := range map[string]string{
		"items": "items", "a.b": "a_b", "*": "_", "a >": "a__", "a\xff\n": "a__", "ä": "ä",
	} {
		if got := Token(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}

func TestMessagesCostNoAllocation(t *testing.T) {
	literal, pattern := "telemetry.room.7", "telemetry.*.>"
	b := []byte(literal)
	for name, do := range map[string]func(){
		"Valid":   func() { Valid(b) },
		"Matches": func() { Matches(pattern, literal) },
		"Cut":     func() { Cut(b) },
	} {
		if allocs := testing.AllocsPerRun(100, do); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

func BenchmarkValid(b *testing.B) {
	s := []byte("telemetry.room.7")
	for b.Loop() {
		Valid(s)
	}
}

func BenchmarkMatches(b *testing.B) {
	for b.Loop() {
		Matches("telemetry.*.>", "telemetry.room.7")
	}
}

func FuzzCheckedSubjectsAreValid(f *testing.F) {
	for _, s := range []string{"a.b", "a.*.>", "a*", "\xff", "", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		valid, wild := Valid([]byte(s))
		if Check(s) == nil && !valid {
			t.Errorf("%q passes Check and is not valid", s)
		}
		if valid && !Matches(s, s) {
			t.Errorf("%q does not match itself", s)
		}
		if valid && !wild && !Matches(">", s) {
			t.Errorf("> does not match %q", s)
		}
	})
}
