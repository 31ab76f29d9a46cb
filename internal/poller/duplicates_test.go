package poller

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"edged/internal/batch"
	"edged/internal/dedup"
	"edged/internal/redistest"
)

// deduped lets list "a" drop items whose field id one of the n items before them has.
func deduped(n int) func(*setup) {
	return func(o *setup) {
		by, err := dedup.ParseBy("json:id")
		if err != nil {
			panic(err)
		}
		o.Lists[0].Dedup, o.Lists[0].DedupItems = by, n
	}
}

// repeating are items with ids of their own, but for every third, which repeats one of the last.
func repeating(seed uint64, from, n, window int) (all []any) {
	random := rand.New(rand.NewPCG(seed, uint64(from)))
	for i := range n {
		id := from + i
		if i > 0 && random.IntN(3) == 0 {
			id = max(from, from+i-1-random.IntN(2*window))
		}
		all = append(all, fmt.Sprintf(`{"id":%d,"n":%d}`, id, from+i))
	}
	return all
}

// firsts are the items without the duplicates, of a list that has all of them in this order.
func firsts(all []any, window int) (left []string) {
	ids := make([]string, len(all))
	for i, item := range all {
		ids[i], _, _ = strings.Cut(item.(string), ",")
		if !slices.Contains(ids[max(0, i-window):i], ids[i]) {
			left = append(left, item.(string))
		}
	}
	return left
}

func wantItems(t *testing.T, name string, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: item %d is %s, want %s", name, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d items, want %d", name, len(got), len(want))
	}
}

func TestTheFirstOfEqualItemsComesAndNoOther(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		items := repeating(1, 0, 3000, 50)
		want := firsts(items, 50)
		s.Push("a", items...)
		l := start(t, s.Address(), mode, deduped(50))
		one, other := l.join(0, false), l.join(0, false)
		one.wait(t, len(want))
		other.wait(t, len(want))
		gone(t, s, one, other)
		wantItems(t, "one", one.got(), want)
		wantItems(t, "the other", other.got(), want)
		l.balanced()
		if st := l.logs[0].Stats(); st.Duplicates != uint64(len(items)-len(want)) || st.Taken != uint64(len(items)) {
			t.Errorf("%d duplicates of %d taken, want %d of %d", st.Duplicates, st.Taken, len(items)-len(want), len(items))
		}
	})
}

func TestARestartDropsNoOtherDuplicates(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		const window = 20
		s := redistest.Start(t)
		var all []any
		var got []string
		for i := range 12 {
			items := repeating(uint64(i), 0, 300, window)
			all = append(all, items...)
			s.Push("a", items...)
			l := byHand(t, s.Address(), mode, deduped(window))
			c := l.join(0, true)
			l.settle(0)
			got = append(got, c.confirmSome(2)...)
			l.settle(0) // and killed: it is another process that goes on
		}
		l := start(t, s.Address(), mode, deduped(window))
		c := l.join(0, false)
		gone(t, s, c)
		wantItems(t, "all lives", append(got, c.got()...), firsts(all, window))
	})
}

func TestAConsumerThatLagsGetsNoDuplicate(t *testing.T) {
	t.Parallel()
	const window = 30
	s := redistest.Start(t)
	items := repeating(3, 0, 3000, window)
	want := firsts(items, window)
	s.Push("a", items...)
	narrow := func(o *setup) { o.Explicit["a"], o.Relay.MaxAckPending = true, 100 }
	l := start(t, s.Address(), narrow, deduped(window))
	front, further := l.joinGroup(0, "front", false), l.joinGroup(0, "further", true)
	l.joinGroup(0, "behind", true)
	front.wait(t, len(want))
	further.wait(t, 100)
	further.confirm()
	redistest.Eventually(t, "the window moves", func() bool { return further.count() > 150 })
	l.stop()

	l = start(t, s.Address(), narrow, deduped(window))
	again := l.joinGroup(0, "front", false)
	behind, further2 := l.joinGroup(0, "behind", false), l.joinGroup(0, "further", false)
	gone(t, s, behind, further2, again)
	wantItems(t, "the one behind", behind.got(), want)
	wantItems(t, "the other one", further2.got(), want[100:])
	wantItems(t, "the front", append(front.got(), again.got()...), want)
}

func TestAnItemThatIsRequeuedIsDelivered(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", `{"id":1,"n":1}`, `{"id":2,"n":2}`, `{"id":1,"n":3}`)
	l := start(t, s.Address(), explicit, deduped(10))
	c := l.join(0, true)
	c.wait(t, 2)
	if err := c.say(0, batch.Terminated); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, "the item is a dead letter", func() bool { return s.Len("{a}:dead") == 1 })
	if n, err := l.loop.Requeue(t.Context(), "a", 10, func(int, int) error { return nil }); n != 1 || err != nil {
		t.Fatalf("%d were put back: %v", n, err)
	}
	s.Push("a", `{"id":2,"n":4}`, `{"id":1,"n":5}`)
	c.wait(t, 4)
	l.stop()
	l = start(t, s.Address(), explicit, deduped(10))
	c2 := l.join(0, false)
	gone(t, s, c2)
	wantItems(t, "before", c.got(), []string{`{"id":1,"n":1}`, `{"id":2,"n":2}`, `{"id":1,"n":1}`, `{"id":2,"n":4}`})
	wantItems(t, "after the restart", c2.got(), []string{`{"id":2,"n":2}`, `{"id":1,"n":1}`, `{"id":2,"n":4}`})
}

func TestKeysThatCannotBeReadLetItemsThrough(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", `{"id":1}`, `{"id":2}`)
	l := start(t, s.Address(), deduped(10))
	gone(t, s, l.join(0, false))
	l.stop()
	do(t, s, "DEL", keys.Seen)
	s.Push("a", `{"id":1}`, `{"id":1}`, `{"id":2}`)
	l = start(t, s.Address(), deduped(10))
	c := l.join(0, false)
	gone(t, s, c)
	wantItems(t, "it", c.got(), []string{`{"id":1}`, `{"id":2}`})
}

func TestItemsWithoutTheFieldAllCome(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	items := []any{"x", "x", `{"id":null}`, `{"id":null}`, `{"no":1}`, `{"no":1}`, sized("large", 2<<20), sized("large", 2<<20), "", ""}
	s.Push("a", items...)
	l := start(t, s.Address(), deduped(10))
	c := l.join(0, false)
	gone(t, s, c)
	if got := c.got(); len(got) != 8 || s.Len("{a}:dead") != 2 {
		t.Errorf("%d items came, %d are dead letters", len(got), s.Len("{a}:dead"))
	}
}
