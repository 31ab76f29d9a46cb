package poller

import (
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// A request finds that the list has moved, to a server that has other data: a
// replica that did not have everything when it took over.
func TestAListThatARequestFindsElsewhereIsComparedBeforeAnythingIsRemoved(t *testing.T) {
	t.Parallel()
	from, to := redistest.StartNode(t), redistest.StartNode(t)
	w := relay.NewList(relay.Options{Window: 1000, Memory: 1 << 20})
	l := New(Options{
		Redis: redisconn.Options{Address: from.Address(), Timeout: 2 * time.Second}, Instance: "x",
		MaxPayload: 1000, BatchItems: 500, BatchBytes: 128 << 10, PollInterval: time.Minute, Lease: 5 * time.Minute,
		Lists: []List{{Key: "a", Subject: "sa", Window: w}},
	})
	t.Cleanup(l.servers.Close)
	src := l.sources[0].(*source)
	left := src.Server
	c := &client{t: t, hold: true}
	w.Join("", "1", c)
	now := time.Now()
	items := numbered(100)
	from.Push("a", items...)
	settleDown(t, src, &now)
	if c.count() == 0 {
		t.Fatal("nothing arrived")
	}
	to.Push("a", items[:40]...)
	to.Push("a", "another")
	to.Push("a", items[41:]...)
	to.Client().Set(t.Context(), leaseKey("a"), from.Client().Get(t.Context(), leaseKey("a")).Val(), 0)
	moved := false
	if _, err := call(src.lane, func(*redis.Client) (struct{}, error) {
		if !moved {
			moved = true
			return struct{}{}, redisconn.Reply("MOVED 1 " + to.Address())
		}
		return struct{}{}, src.Server.LoadScripts(t.Context())
	}); err != nil || src.Server == left {
		t.Fatal(err, "it has not moved")
	}
	for range 20 {
		c.confirm()
		settleDown(t, src, &now)
	}
	for _, item := range c.got() {
		if string(item) == "another" {
			return
		}
	}
	t.Errorf("an item was never delivered; in Redis are %d items", to.Len("a"))
}

// The loop waits for the server of one list for longer than a round trip may take,
// while one is under way with another's.
func TestAReplyThatCameWhileAnotherServerWasWaitedForCounts(t *testing.T) {
	serves, hangs := redistest.Start(t), redistest.Start(t)
	var windows []*relay.List
	opts := Options{
		Redis: redisconn.Options{
			Cluster: []string{serves.Address(), hangs.Address(), hangs.Address()}, // a list that hangs stays where it is
			Timeout: 100 * time.Millisecond,
		},
		Instance:   "x",
		MaxPayload: 1000, BatchItems: 500, BatchBytes: 128 << 10, PollInterval: time.Minute, Lease: 5 * time.Minute,
	}
	for _, key := range []string{"a", "b"} {
		w := relay.NewList(relay.Options{Window: 1000, Memory: 1 << 20})
		windows = append(windows, w)
		opts.Lists = append(opts.Lists, List{Key: key, Subject: key, Window: w})
	}
	l := New(opts)
	withoutRun(t, l)
	a, b := l.sources[0].(*source), l.sources[1].(*source)
	if b.Detour(io.EOF); b.Server.Address != hangs.Address() {
		t.Fatal("the second list is not where it should be")
	}
	c := &client{t: t, hold: true}
	windows[0].Join("", "1", c)
	windows[1].Join("", "1", &client{t: t, hold: true})
	now := time.Now()
	settleDown(t, a, &now)
	settleDown(t, b, &now)

	serves.Push("a", numbered(10)...)
	hangs.Signal(syscall.SIGSTOP)
	defer hangs.Signal(syscall.SIGCONT)
	a.more, b.more = true, true
	if a.turn(t.Context(), now); !a.sent {
		t.Fatal("nothing is under way")
	}
	b.turn(t.Context(), now)
	if b.turn(t.Context(), now); b.faults == 0 {
		t.Fatal("it does not hang")
	}
	a.turn(t.Context(), now)
	if a.faults > 0 || c.count() != 10 {
		t.Errorf("%d faults, %d items arrived, want 10", a.faults, c.count())
	}
}
