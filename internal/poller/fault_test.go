package poller

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/redistest"
)

func TestALeaverDuringTheReadOfAnItemTooLargeLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	left := make(chan struct{})
	var a *client
	joined := make(chan struct{})
	wrapped := &leavesBeforeBury{leave: sync.OnceFunc(func() {
		<-joined
		a.m.Leave()
		close(left)
	})}
	l := start(t, s.Address(), func(o *setup) {
		o.MaxPayload = 1000
		o.Lists[0].Log = wrapped
	})
	a = l.join(0, true)
	close(joined)
	s.Push("a", "one", "two", "three", strings.Repeat("x", 2000), "four")
	<-left
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	got := s.Client().LRange(t.Context(), "a", 0, -1).Val()
	if len(got) != 5 || got[0] != "one" {
		t.Fatalf("no item was confirmed, yet %d items are left; books %+v", len(got), l.logs[0].Stats())
	}
}

func TestItemsThatAlternateAreToldApart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), func(o *setup) { o.BatchItems = 3 })
	a := l.join(0, true)
	s.Push("a", "tick", "data 0", "tick", "data 1", "tick", "data 2")
	a.wait(t, 6)
	s.Client().LTrim(t.Context(), "a", 2, -1)
	a.confirmSome(2) // tick; data 0, tick
	redistest.Eventually(t, "the one that was not cut is removed", func() bool { return s.Len("a") == 3 })
	a.m.Leave()
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	left := strings.Join(s.Client().LRange(t.Context(), "a", 0, -1).Val(), ",")
	if !strings.Contains(left, "data 1") {
		t.Fatalf("data 1 was neither confirmed nor cut; left in Redis: %s", left)
	}
}

func TestAFailingListWithHintsDoesNotSpin(t *testing.T) {
	s := redistest.Start(t)
	var turns atomic.Int64
	change := func() {
		s.Client().XAdd(t.Context(), &redis.XAddArgs{Stream: "a", Values: []string{"k", "v"}})
	}
	change()
	l := start(t, s.Address(), func(o *setup) { o.Alive = func(time.Time) { turns.Add(1) } })
	l.join(0, false)
	l.is(Failing)
	const changes, trips = 50, 200
	before := turns.Load()
	for range changes {
		change()
		roundTrips(t, s, trips)
	}
	if n := turns.Load() - before; n > changes*trips/10 {
		t.Errorf("%d turns during %d changes and %d round trips", n, changes, changes*trips)
	}
}

// Visitors come and go, connections break, scripts are flushed, the lease is
// taken away, strange items appear at the head: every item is confirmed by
// a client, or in Redis, or a dead letter, and the books close. EDGED_TEST_SEED
// makes the same random choices again.
func TestNothingIsLostWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("EDGED_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("EDGED_TEST_SEED is not a valid seed: %v", err)
		}
	}
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, right := range []bool{false, true} {
			t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) { playTurmoil(t, seed, mode, right) })
		}
	})
}

// turmoil is a list while everything happens to it.
type turmoil struct {
	t      *testing.T
	server *redistest.Server
	loop   *life
	chance *rand.Rand
	right  bool         // whether the list is read from its right end
	sent   map[int]bool // whether the push of an item succeeded; the outcome of others is not known

	mu   sync.Mutex
	seen map[string]bool // guarded by mu
}

const turmoilItems = 6000

func playTurmoil(t *testing.T, seed uint64, mode func(*setup), right bool) {
	t.Parallel()
	t.Logf("EDGED_TEST_SEED=%d", seed)
	s := redistest.Start(t)
	l := start(t, s.Address(), mode, func(o *setup) {
		o.MaxPayload, o.BatchItems, o.BatchBytes, o.Relay.Window = 1000, 7, 900, 40
		o.PollInterval, o.Lease, o.RejoinGrace = 50*time.Millisecond, 300*time.Millisecond, 100*time.Millisecond
		o.Log, o.Lists[0].FromRight = nil, right
	})
	w := &turmoil{t: t, server: s, loop: l, chance: rand.New(rand.NewPCG(seed, 0)), right: right, sent: map[int]bool{}, seen: map[string]bool{}}

	done := make(chan struct{})
	var visitors sync.WaitGroup
	for i, group := range []string{"", "g", "g"} {
		visitors.Go(func() { w.visit(group, rand.New(rand.NewPCG(seed, 1+uint64(i))), done) })
	}
	for i := 0; i < turmoilItems; {
		for range w.chance.IntN(30) {
			w.push(i)
			i++
		}
		w.disturb()
		for range w.chance.IntN(8) {
			l.comesRound()
		}
	}
	close(done)
	visitors.Wait()
	if err := l.stop(); err != nil {
		t.Log(err) // what was confirmed may remain; it counts as seen and as left
	}
	w.check()
}

// note records that a client has confirmed items, or that they are in Redis.
func (w *turmoil) note(items ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, item := range items {
		id, _, _ := strings.Cut(item, " ")
		w.seen[id] = true
	}
}

// visit joins the list again and again, and confirms some items.
func (w *turmoil) visit(group string, chance *rand.Rand, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		v := &client{hold: true, most: 1 + chance.IntN(60)}
		leave := w.loop.joinAs(0, group, v)
		for range chance.IntN(12) {
			w.loop.comesRound()
			w.note(v.confirmSome(chance.IntN(4))...)
		}
		leave()
	}
}

// push pushes item i.
func (w *turmoil) push(i int) {
	size := w.chance.IntN(200)
	if w.chance.IntN(15) == 0 {
		size = 1200 // too large
	}
	push := w.server.Client().RPush
	if w.right {
		push = w.server.Client().LPush
	}
	err := push(w.t.Context(), "a", fmt.Sprintf("%d %s", i, strings.Repeat("x", size))).Err()
	if w.sent[i] = err == nil; err != nil {
		w.t.Logf("item %d was not pushed: %v", i, err)
	}
}

// disturb does something that edged must endure, or nothing.
func (w *turmoil) disturb() {
	ctx, c := w.t.Context(), w.server.Client()
	switch w.chance.IntN(12) {
	case 0:
		c.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	case 1:
		c.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub")
	case 2:
		c.ScriptFlush(ctx)
	case 3:
		handTo(w.t, w.server, "", 0)
	case 4:
		handTo(w.t, w.server, "other/1", 20*time.Millisecond)
	case 5:
		if w.right {
			c.RPush(ctx, "a", "odd")
		} else {
			c.LPush(ctx, "a", "odd")
		}
	}
}

// check fails the test if an item is lost.
func (w *turmoil) check() {
	ctx, c := w.t.Context(), w.server.Client()
	w.note(c.LRange(ctx, "a", 0, -1).Val()...)
	for _, dead := range c.LRange(ctx, keys.Dead, 0, -1).Val() {
		_, item, _ := strings.Cut(dead, "\n")
		w.note(item)
	}

	lost, failed := 0, 0
	for i, ok := range w.sent {
		switch {
		case !ok:
			failed++
		case !w.seen[fmt.Sprint(i)]:
			lost++
		}
	}
	st := w.loop.logs[0].Stats()
	if failed > turmoilItems/10 {
		w.t.Errorf("%d of %d pushes failed", failed, len(w.sent))
	}
	if lost > 0 {
		w.t.Errorf("%d items lost; books %+v", lost, st)
	}
	if left := int(w.server.Len("a")); st.InFlight > left {
		w.t.Errorf("%d items are left; books %+v", left, st)
	}
}
