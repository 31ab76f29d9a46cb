package poller

import (
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/redistest"
)

func TestAConnectionThatClosesAtRestIsReplacedBeforeTheNextItemComes(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.WarnLevel)
	s := redistest.Start(t)
	r := start(t, s.Address(), func(o *Options) { o.Log = zap.New(core) })
	a, _ := r.join(0, false)
	for n := range 3 {
		redistest.Eventually(t, "Redis sends hints", func() bool { return tracks(t, s) })
		s.Push("a", "item")
		redistest.Eventually(t, "the item arrived", func() bool { return a.count() == n+1 && s.Len("a") == 0 })
		do(t, s, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	}
	redistest.Eventually(t, "Redis sends hints again", func() bool { return tracks(t, s) })
	for _, line := range logged.All() {
		t.Errorf("a reconnect that works is logged: %s %v", line.Message, line.ContextMap())
	}
}

// turnWith takes a turn of a list that has items to read, and waits for its end.
func turnWith(t *testing.T, src *source) {
	t.Helper()
	src.more = true
	src.turn(t.Context(), time.Now())
	src.Server.Settle(0)
}

func TestReadsGrowFromOneItemAndShrinkAfterATimeout(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	src, w := receivedByHand(t, s.Address(), func(o *Options) { o.Redis.Timeout = 500 * time.Millisecond })
	src.limit = 1
	c := &client{t: t, hold: true}
	defer w.Join("", "1", c).Leave()
	s.Push("a", numbered(200)...)
	src.turn(t.Context(), time.Now()) // takes the lease
	src.Server.Settle(0)
	for _, want := range []int{1, 3, 7, 15, 31} {
		if turnWith(t, src); c.count() != want {
			t.Fatalf("%d items arrived, want %d", c.count(), want)
		}
	}
	turnWith(t, src)
	turnWith(t, src)
	if src.last != 64 {
		t.Fatalf("the last read asked for %d items, want 64", src.last)
	}

	s.Signal(syscall.SIGSTOP)
	turnWith(t, src)
	s.Signal(syscall.SIGCONT)
	if src.last != 128 || src.limit != 64 {
		t.Errorf("after a timeout of a read of %d items the next may ask for %d", src.last, src.limit)
	}
}
