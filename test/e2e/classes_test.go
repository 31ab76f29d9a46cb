package e2e

import (
	"strings"
	"testing"

	"edged/internal/redistest"
)

func TestReloadChangesClassesWithoutABreak(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	const alarms, infos = "[[list]]\nkey = \"alarms\"\n", "[[list]]\nkey = \"infos\"\n"
	d := startEdged(t, r, alarms, infos)
	nc := connect(t, d)
	_, got := subscribe(t, nc, "infos", "")
	r.Push("infos", "1")
	got.wait(t, 1)

	d.reload("[delivery]\nshare = 0\n", alarms, infos+"class = 2\n")
	r.Push("infos", "2")
	got.wait(t, 2)
	var answer struct {
		Lists []struct{ Class int }
	}
	d.ControlJSON("lists", &answer)
	if len(answer.Lists) != 2 || answer.Lists[0].Class != 0 || answer.Lists[1].Class != 2 {
		t.Errorf("lists are %+v", answer.Lists)
	}
	if text := d.Control("lists"); !strings.Contains(text, "infos: class 2, 0 reads by its share") {
		t.Errorf("lists answers %q", text)
	}
	if n := nc.Stats().Reconnects; n != 0 {
		t.Errorf("the client was disconnected %d times", n)
	}
}
