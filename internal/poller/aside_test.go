package poller

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/redistest"
)

// refuses makes an explicit client that acknowledges all items except those of some
// numbers, which it refuses.
func (l *life) refuses(numbers ...uint64) *client {
	c := &client{refuses: make(map[uint64]bool)}
	for _, n := range numbers {
		c.refuses[n] = true
	}
	l.t.Cleanup(l.joinAs(0, "workers", c))
	return c
}

// counts is how many items a client has acknowledged, and how often it has refused one.
func (c *client) counts() (others, refused int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acknowledged, c.refused
}

func TestAnItemThatIsRefusedForEverHoldsNothing(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{false, true} {
		s := redistest.Start(t)
		l := start(t, s.Address(), explicit, func(o *setup) { o.Lists[0].FromRight = right })
		c := l.refuses(3, 500)
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
		c = after.refuses(3)
		redistest.Eventually(t, "one is acknowledged after a restart", func() bool { return s.Client().HLen(t.Context(), keys.Aside).Val() == 1 })
		if others, _ := c.counts(); others != 1 {
			t.Errorf("%d items came again beside the refused one", others-1)
		}
		c.mu.Lock()
		clear(c.refuses)
		c.mu.Unlock()
		redistest.Eventually(t, "the last is acknowledged", func() bool { return s.Client().HLen(t.Context(), keys.Aside).Val() == 0 })
		after.balanced()
	}
}

func TestACopyThatIsDeletedIsCountedAsGone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), explicit)
	c := l.refuses(0)
	pushed(t, s, false, numbered(12_000)...)
	redistest.Eventually(t, "it is set aside", func() bool { return s.Len("a") == 0 })
	do(t, s, "DEL", keys.Aside)
	redistest.Eventually(t, "it is counted", func() bool { return l.logs[0].Stats().Gone == 1 })
	pushed(t, s, false, "one more")
	redistest.Eventually(t, "the others go on", func() bool { others, _ := c.counts(); return others == 12_000 && s.Len("a") == 0 })
	l.balanced()
}

func TestAnItemSetAsideThatIsTooLargeNowBecomesADeadLetterAndIsLogged(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), explicit)
	l.refuses(0)
	s.Push("a", sized("large", 2000))
	s.Push("a", numbered(12_000)...)
	redistest.Eventually(t, "it is set aside", func() bool { return s.Len("a") == 0 })
	l.stop()

	core, logged := observer.New(zap.WarnLevel)
	l = start(t, s.Address(), explicit, func(o *setup) { o.MaxPayload, o.Log = 1000, zap.New(core) })
	l.refuses()
	redistest.Eventually(t, "it is a dead letter", func() bool { return s.Len(keys.Dead) == 1 && s.Client().HLen(t.Context(), keys.Aside).Val() == 0 })
	if n := logged.FilterMessageSnippet("too large to deliver").Len(); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	l.balanced()
}
