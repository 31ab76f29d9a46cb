package compat

import (
	"maps"
	"os/exec"
	"path/filepath"
	"testing"

	"edged/internal/redistest"
)

// The reply subject has 11 tokens; most of JetStream's have 9.
func TestTheCClientReadsTheReplySubjectsOfAnExplicitList(t *testing.T) {
	t.Parallel()
	s := start(t, edged, settings{edged: "[[list]]\nkey = \"events\"\nack = \"explicit\""})
	s.redis.Push("events", "refused", "acknowledged", "given up")
	saw := watch(t, s, exec.CommandContext(t.Context(), compileC(t, filepath.Join("c", "acks.c"))))
	want := map[string]string{
		"0": "refused of events, consumer edged, domain none, delivered 1, sequence 1 and 1",
		"1": "acknowledged of events, consumer edged, domain none, delivered 1, sequence 2 and 2",
		"2": "given up of events, consumer edged, domain none, delivered 1, sequence 3 and 3",
		"3": "refused of events, consumer edged, domain none, delivered 2, sequence 1 and 1",
	}
	if !maps.Equal(saw, want) {
		t.Errorf("it saw %q", saw)
	}
	redistest.Eventually(t, "one is left, and is dead", func() bool { return s.redis.Len("events") == 0 && s.redis.Len("{events}:dead") == 1 })
}
