package redisconn

import (
	"errors"
	"testing"
)

func TestARedirectionNamesTheAddress(t *testing.T) {
	for text, want := range map[string]string{
		"MOVED 3999 127.0.0.1:6381": "127.0.0.1:6381",
		"MOVED 3999 node.lan:6381":  "node.lan:6381",
		"MOVED 3999 :6381":          "10.0.0.1:6381",
		"MOVED 3999 ::1:6381":       "[::1]:6381",
		"MOVED 3999 ?:6381":         "",
		"MOVED":                     "",
		"MOVED 3999":                "",
		"ASK 3999 127.0.0.1:6381":   "",
	} {
		if got := movedTo(Reply(text), "10.0.0.1:7000"); got != want {
			t.Errorf("%s leads to %q, want %q", text, got, want)
		}
	}

	if got := movedTo(errors.New("MOVED 3999 127.0.0.1:6381"), "10.0.0.1:7000"); got != "" {
		t.Errorf("a reply that Redis does not send leads to %q", got)
	}
}
