package poller

import (
	"sync"
	"testing"

	"edged/internal/batch"
	"edged/internal/redistest"
)

// stubborn is a client that acknowledges all items but those of some numbers, which it
// refuses.
type stubborn struct {
	m       batch.Membership
	joined  chan struct{}
	refuses map[uint64]bool
	work    chan func()

	mu      sync.Mutex
	refused map[uint64]int
	others  int
}

func (l *life) joinStubborn(list int, group string, refuses ...uint64) *stubborn {
	c := &stubborn{joined: make(chan struct{}), refuses: make(map[uint64]bool), refused: make(map[uint64]int), work: make(chan func(), 100_000)}
	for _, n := range refuses {
		c.refuses[n] = true
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-c.joined
		for f := range c.work {
			f()
		}
	}()
	c.m = l.logs[list].Join(group, "1", c)
	close(c.joined)
	l.t.Cleanup(func() {
		c.m.Leave()
		close(c.work)
		<-done
	})
	return c
}

func (c *stubborn) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	epoch, first := b.Epoch(), b.First()
	c.work <- func() {
		r.Confirm()
		for n := first + uint64(from); n < first+uint64(to); n++ {
			kind := batch.Acked
			c.mu.Lock()
			if c.refuses[n] {
				kind = batch.Refused
				c.refused[n]++
			} else {
				c.others++
			}
			c.mu.Unlock()
			c.m.(batch.Acknowledger).Acknowledge(epoch, n, batch.Ack{Kind: kind}, nil)
		}
	}
	return to - from
}

func (c *stubborn) counts() (others, refused int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.refused {
		refused += n
	}
	return c.others, refused
}

// givesIn ends the refusing.
func (c *stubborn) givesIn() {
	c.mu.Lock()
	clear(c.refuses)
	c.mu.Unlock()
}

func TestAnItemThatIsRefusedForEverHoldsNothing(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{false, true} {
		s := redistest.Start(t)
		l := start(t, s.Address(), explicit, func(o *setup) { o.Lists[0].FromRight = right })
		c := l.joinStubborn(0, "workers", 3, 500)
		n := 0
		more := func(items int) {
			pushed(t, s, right, numbered(items)...)
			n += items
			redistest.Eventually(t, "all others are acknowledged", func() bool {
				others, _ := c.counts()
				return others == n-2
			})
		}
		more(25_000)
		redistest.Eventually(t, "the list is nearly empty", func() bool { return s.Len("a") < 10_001 })
		more(10_000)
		redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
		if aside := s.Client().HGetAll(t.Context(), keys.Aside).Val(); len(aside) != 2 || aside["3"] != "item 3" || aside["500"] != "item 500" {
			t.Fatalf("aside are %v", aside)
		}
		_, before := c.counts()
		redistest.Eventually(t, "they come again and again", func() bool { _, refused := c.counts(); return refused > before+10 })

		l.stop()
		after := start(t, s.Address(), explicit, func(o *setup) { o.Lists[0].FromRight = right })
		c = after.joinStubborn(0, "workers", 3)
		redistest.Eventually(t, "one is acknowledged after a restart", func() bool { return s.Client().HLen(t.Context(), keys.Aside).Val() == 1 })
		if others, _ := c.counts(); others != 1 {
			t.Errorf("%d items came again beside the refused one", others-1)
		}
		c.givesIn()
		redistest.Eventually(t, "the last is acknowledged", func() bool { return s.Client().HLen(t.Context(), keys.Aside).Val() == 0 })
		after.balanced()
	}
}

func TestACopyThatIsDeletedIsCountedAsGone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), explicit)
	c := l.joinStubborn(0, "workers", 0)
	pushed(t, s, false, numbered(12_000)...)
	redistest.Eventually(t, "it is set aside", func() bool { return s.Len("a") == 0 })
	do(t, s, "DEL", keys.Aside)
	redistest.Eventually(t, "it is counted", func() bool { return l.logs[0].Stats().Gone == 1 })
	pushed(t, s, false, "one more")
	redistest.Eventually(t, "the others go on", func() bool { others, _ := c.counts(); return others == 12_000 && s.Len("a") == 0 })
	l.balanced()
}
