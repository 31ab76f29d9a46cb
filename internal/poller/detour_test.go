package poller

import (
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/redisconn"
	"edged/internal/redistest"
)

// A request finds that the list has moved, to a server that has other data: a
// replica that did not have everything when it took over.
func TestAListThatARequestFindsElsewhereIsComparedBeforeAnythingIsRemoved(t *testing.T) {
	t.Parallel()
	from, to := redistest.StartNode(t), redistest.StartNode(t)
	l := byHand(t, from.Address())
	r := l.loop.readers[0]
	left := r.Server
	c := l.join(0, true)
	items := numbered(100)
	from.Push("a", items...)
	l.settle(0)
	c.wait(t, 100)
	to.Push("a", items[:40]...)
	to.Push("a", "another")
	to.Push("a", items[41:]...)
	for field, value := range from.Client().HGetAll(t.Context(), keys.Ledger).Val() {
		to.Client().HSet(t.Context(), keys.Ledger, field, value)
	}
	moved := false
	if _, err := call(r, func(*redis.Client) (struct{}, error) {
		if !moved {
			moved = true
			return struct{}{}, redisconn.Reply("MOVED 1 " + to.Address())
		}
		return struct{}{}, r.Server.LoadScripts(t.Context())
	}); err != nil || r.Server == left {
		t.Fatal(err, "it has not moved")
	}
	for range 20 {
		c.confirm()
		l.settle(0)
	}
	if !slices.Contains(c.got(), "another") {
		t.Errorf("an item was never delivered; in Redis are %d items", to.Len("a"))
	}
}

// The loop waits for the server of one list for longer than a round trip may take,
// while one is under way with another's.
func TestAReplyThatCameWhileAnotherServerWasWaitedForCounts(t *testing.T) {
	serves, hangs := redistest.Start(t), redistest.Start(t)
	l := byHand(t, "", func(o *setup) {
		o.Redis.Cluster = []string{serves.Address(), hangs.Address(), hangs.Address()} // a list that hangs stays where it is
		o.Redis.Timeout = 100 * time.Millisecond
	})
	a, b := l.loop.readers[0], l.loop.readers[1]
	if b.Detour(io.EOF); b.Server.Address != hangs.Address() {
		t.Fatal("the second list is not where it should be")
	}
	c := l.join(0, true)
	l.join(1, true)
	l.settle(0)
	l.settle(1)

	serves.Push("a", numbered(10)...)
	hangs.Signal(syscall.SIGSTOP)
	defer hangs.Signal(syscall.SIGCONT)
	a.more, b.more = true, true
	if a.turn(t.Context(), l.now); !a.sent {
		t.Fatal("nothing is under way")
	}
	b.turn(t.Context(), l.now)
	if b.turn(t.Context(), l.now); b.faults == 0 {
		t.Fatal("it does not hang")
	}
	a.turn(t.Context(), l.now)
	if a.faults > 0 || c.count() != 10 {
		t.Errorf("%d faults, %d items arrived, want 10", a.faults, c.count())
	}
}
