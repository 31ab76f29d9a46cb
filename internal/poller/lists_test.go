package poller

import (
	"errors"
	"testing"

	"edged/internal/redistest"
	"edged/internal/relay"
)

func TestAListIsFinishedRemovedAndAddedAgainWhileAnotherIsServed(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	redis.Push("a", "1", "2")
	l := start(t, redis.Address())
	c := l.join(0, true)
	other := l.join(1, false)
	c.wait(t, 2)

	if err := l.loop.Finish(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	redis.Push("a", "3")
	redis.Push("b", "x")
	redistest.Eventually(t, "b is served meanwhile", func() bool { return other.count() == 1 })
	if n := c.count(); n != 2 {
		t.Fatalf("%d items of a list came that is finished", n)
	}
	c.confirm()
	c.m.Leave()
	if err := l.loop.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if n := redis.Len("a"); n != 1 {
		t.Errorf("%d items are left in the list, want the one that was not taken", n)
	}
	if all := l.loop.Lists(); len(all) != 1 || all[0].Key != "b" {
		t.Errorf("the lists are %+v", all)
	}
	for _, err := range []error{l.loop.Finish(t.Context(), "a"), l.loop.Remove(t.Context(), "a")} {
		if !errors.Is(err, ErrNoList) {
			t.Errorf("a list that is gone: %v", err)
		}
	}

	l.logs = []*relay.Log{l.logs[1], relay.New(relay.Options{Window: 10, Memory: 1 << 20, Changed: func() { l.loop.Wake("a") }})}
	if err := l.loop.Add(t.Context(), List{Key: "a", Subject: "sa", Log: l.logs[1], Paused: true}); err != nil {
		t.Fatal(err)
	}
	c = l.join(1, false)
	if all := l.loop.Lists(); len(all) != 2 || !all[1].Paused {
		t.Errorf("the lists are %+v", all)
	}
	l.loop.Pause("a", false)
	redistest.Eventually(t, "what was left comes", func() bool { return c.count() == 1 && redis.Len("a") == 0 })
	if err := l.stop(); err != nil {
		t.Error(err)
	}
}
