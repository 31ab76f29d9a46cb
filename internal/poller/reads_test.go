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
	a := start(t, s.Address(), func(o *setup) { o.Log = zap.New(core) }).join(0, false)
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

func TestReadsStaySmallAfterOneThatTookAsLongAsTheLease(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := byHand(t, s.Address())
	c := l.join(0, true)
	l.turn() // takes the list
	l.turn() // and notes that the client owes
	s.Push("a", numbered(200)...)

	r, lease := l.loop.readers[0], l.loop.opts.Lease
	l.loop.opts.Lease, r.limit = 1, 8
	for _, want := range []int{8, 9, 10} {
		if l.turn(); c.count() != want {
			t.Fatalf("%d items arrived, want %d", c.count(), want)
		}
	}
	l.loop.opts.Lease, r.slowUntil = lease, time.Now().Add(time.Hour)
	for _, want := range []int{11, 12} {
		if l.turn(); c.count() != want {
			t.Fatalf("%d items arrived while the reads are small, want %d", c.count(), want)
		}
	}
	r.slowUntil = time.Time{}
	for _, want := range []int{13, 15, 19} {
		if l.turn(); c.count() != want {
			t.Fatalf("%d items arrived, want %d", c.count(), want)
		}
	}
}

func TestReadsGrowFromOneItemAndShrinkAfterATimeout(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := byHand(t, s.Address(), func(o *setup) { o.Redis.Timeout = 500 * time.Millisecond })
	r := l.loop.readers[0]
	r.limit = 1
	c := l.join(0, true)
	l.turn() // takes the list
	l.turn() // and notes that the client owes
	s.Push("a", numbered(200)...)
	for _, want := range []int{1, 3, 7, 15, 31} {
		if l.turn(); c.count() != want {
			t.Fatalf("%d items arrived, want %d", c.count(), want)
		}
	}
	l.turn()
	l.turn()
	if r.last != 64 {
		t.Fatalf("the last read asked for %d items, want 64", r.last)
	}

	s.Signal(syscall.SIGSTOP)
	l.turn()
	s.Signal(syscall.SIGCONT)
	if r.last != 128 || r.limit != 64 {
		t.Errorf("after a timeout of a read of %d items the next may ask for %d", r.last, r.limit)
	}
}
