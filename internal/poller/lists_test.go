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
	r := start(t, redis.Address())
	c, member := r.join(0, true)
	other, _ := r.join(1, false)
	redistest.Eventually(t, "a is delivered", func() bool { return c.count() == 2 })

	if err := r.loop.Finish(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	redis.Push("a", "3")
	redis.Push("b", "x")
	redistest.Eventually(t, "b is served meanwhile", func() bool { return other.count() == 1 })
	if n := c.count(); n != 2 {
		t.Fatalf("%d items of a list came that is finished", n)
	}
	c.confirm()
	member.Leave()
	if err := r.loop.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if n := redis.Len("a"); n != 1 {
		t.Errorf("%d items are left in the list, want the one that was not taken", n)
	}
	if all := r.loop.Lists(); len(all) != 1 || all[0].Key != "b" {
		t.Errorf("the lists are %+v", all)
	}
	for _, err := range []error{r.loop.Finish(t.Context(), "a"), r.loop.Remove(t.Context(), "a")} {
		if !errors.Is(err, ErrNoList) {
			t.Errorf("a list that is gone: %v", err)
		}
	}

	w := relay.NewList(relay.Options{Window: 10, Memory: 1 << 20, Changed: r.loop.Wake})
	r.windows = append(r.windows, w)
	if err := r.loop.Add(t.Context(), List{Key: "a", Subject: "sa", Window: w, Paused: true}); err != nil {
		t.Fatal(err)
	}
	c, _ = r.join(2, false)
	if all := r.loop.Lists(); len(all) != 2 || !all[1].Paused {
		t.Errorf("the lists are %+v", all)
	}
	r.loop.Pause("a", false)
	redistest.Eventually(t, "what was left comes", func() bool { return c.count() == 1 && redis.Len("a") == 0 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}
