package nearest

import (
	"strings"
	"testing"
)

func TestMisspelledNamesAreFound(t *testing.T) {
	commands := []string{"help", "status", "health", "lists", "kick", "dead", "drain", "quit"}
	for name, want := range map[string]string{
		"stauts": "status", "statsu": "status", "sttus": "status", "status!": "status", "sattsu": "status",
		"kcik": "kick", "lsits": "lists", "lisst": "lists", "dian": "", "hepl": "help",
		"GET": "", "stop": "", "": "", "x": "", "heal": "health", "statistics": "",
		strings.Repeat("status", 1000): "",
	} {
		if got := Name(name, commands); got != want {
			t.Errorf("%.20q: %q, want %q", name, got, want)
		}
	}
}

func TestTheNearestOfSeveralIsChosen(t *testing.T) {
	known := []string{"max_payload_a", "max_payload", "max_payloads"}
	if got := Name("max_paylod", known); got != "max_payload" {
		t.Error(got)
	}
	if got := Name("max_payload_", known); got != "max_payload_a" {
		t.Errorf("%s, want the first of those that are one slip away", got)
	}
}

func TestSlips(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1},
		{"abcd", "badc", 2}, {"kitten", "sitting", 3}, {"ca", "abc", 3},
	} {
		if got := slips(tc.a, tc.b); got != tc.want {
			t.Errorf("%q to %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if got := slips(tc.b, tc.a); got != tc.want {
			t.Errorf("%q to %q: %d, want %d", tc.b, tc.a, got, tc.want)
		}
	}
}
