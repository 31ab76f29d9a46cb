package poller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"edged/internal/batch"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// leavesBeforeBury lets the last member leave in the moment before Bury, as its
// reader may at any time while the loop is in its round trip.
type leavesBeforeBury struct {
	Window
	leave func()
}

func (w *leavesBeforeBury) Bury(seq uint64) bool {
	w.leave()
	return w.Window.Bury(seq)
}

func TestALeaverDuringTheReadOfAnItemTooLargeLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	left := make(chan struct{})
	var m batch.Membership
	joined := make(chan struct{})
	wrapped := &leavesBeforeBury{leave: sync.OnceFunc(func() {
		<-joined
		m.Leave()
		close(left)
	})}
	r := start(t, s.Address(), func(o *Options) {
		o.MaxPayload = 1000
		o.Lists[0].Window = wrapped
	})
	_, m = r.join(0, true)
	close(joined)
	s.Push("a", "one", "two", "three", strings.Repeat("x", 2000), "four")
	<-left
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got := s.Client().LRange(t.Context(), "a", 0, -1).Val()
	if len(got) != 5 || got[0] != "one" {
		t.Fatalf("nobody confirmed anything, yet %d items are left; books %+v", len(got), r.windows[0].Stats())
	}
}

// record is an item as fixed layouts have them: what differs is in the middle.
func record(i int) string {
	pad := strings.Repeat("p", 200)
	return fmt.Sprintf("%s%04d%s", pad, i, pad)
}

func TestItemsThatDifferOnlyInTheMiddleAreToldApart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	for i := range 5 {
		s.Push("a", record(i))
	}
	redistest.Eventually(t, "the first items arrived", func() bool { return a.count() == 5 })
	s.Client().LTrim(t.Context(), "a", 2, -1) // the producer caps its list
	for i := 5; i < 20; i++ {
		s.Push("a", record(i))
	}
	redistest.Eventually(t, "the list is empty", func() bool { a.confirm(); return s.Len("a") == 0 })
	seen := map[string]bool{}
	for _, item := range a.got() {
		seen[string(item)] = true
	}
	for i := range 20 {
		if !seen[record(i)] {
			t.Errorf("item %d was never delivered and is gone from Redis", i)
		}
	}
}

func TestItemsThatAlternateAreToldApart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address(), func(o *Options) { o.BatchItems = 3 })
	a, m := r.join(0, true)
	s.Push("a", "tick", "data 0", "tick", "data 1", "tick", "data 2")
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 6 })
	s.Client().LTrim(t.Context(), "a", 2, -1)
	a.mu.Lock()
	first := a.owed[0] // tick, data 0, tick
	a.mu.Unlock()
	first.Confirm()
	redistest.Eventually(t, "the move was noticed", func() bool { return r.status("a").Removed >= 2 })
	m.Leave()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	left := strings.Join(s.Client().LRange(t.Context(), "a", 0, -1).Val(), ",")
	if !strings.Contains(left, "data 1") {
		t.Fatalf("data 1 was confirmed by nobody and cut by nobody; left in Redis: %s", left)
	}
}

func TestAnItemTooLargeDoesNotHoldUpAFullRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", strings.Repeat("x", 200_000))
	s.Push("a", numbered(100)...)
	if err := s.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	r := start(t, s.Address(), func(o *Options) { o.MaxPayload = 1000 })
	a, _ := r.join(0, false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 100)
	if s.Len(DeadKey("a")) != 1 {
		t.Error("the item is no dead letter")
	}
}

func TestAFailingListWithHintsDoesNotSpin(t *testing.T) {
	s := redistest.Start(t)
	var turns atomic.Int64
	change := func() {
		s.Client().XAdd(t.Context(), &redis.XAddArgs{Stream: "a", Values: []string{"k", "v"}})
	}
	change()
	r := start(t, s.Address(), func(o *Options) { o.Alive = func(time.Time) { turns.Add(1) } })
	redistest.Eventually(t, "the list fails", func() bool { return r.status("a").State == Failing })
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

func TestAClientThatJoinsGetsABacklogAtOnceWithoutHints(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	r := start(t, m.Addr()) // the slow poll is a minute away
	first, member := r.join(0, false)
	m.RPush("a", "x")
	redistest.Eventually(t, "the first item is gone", func() bool { return first.count() == 1 && !m.Exists("a") })
	member.Leave()
	redistest.Eventually(t, "the list waits", func() bool { return r.status("a").State == Waiting })
	m.RPush("a", "y")
	second, _ := r.join(0, false)
	redistest.Eventually(t, "the second item arrived", func() bool { return second.count() == 1 })
}

// visitor is a member that takes a number of items and confirms some of them.
type visitor struct {
	mu    sync.Mutex
	takes int
	owed  []owed
}

type owed struct {
	items   []string
	receipt batch.Receipt
}

func (v *visitor) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := min(to-from, v.takes)
	v.takes -= n
	o := owed{receipt: r}
	for i := from; i < from+n; i++ {
		o.items = append(o.items, string(b.Item(i)))
	}
	if n > 0 {
		v.owed = append(v.owed, o)
	}
	return n
}

// confirm confirms the first n deliveries and returns their items.
func (v *visitor) confirm(n int) (items []string) {
	v.mu.Lock()
	n = min(n, len(v.owed))
	now := v.owed[:n]
	v.owed = v.owed[n:]
	v.mu.Unlock()
	for _, o := range now {
		items = append(items, o.items...)
	}
	for _, o := range now {
		o.receipt.Confirm()
	}
	return items
}

// Visitors come and go, connections break, scripts are flushed, the lease is
// taken away, strange items appear at the head: every item is confirmed by
// somebody, or in Redis, or a dead letter, and the books close. EDGED_TEST_SEED
// makes the same random choices again.
func TestNothingIsLostWhateverHappens(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("EDGED_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("EDGED_TEST_SEED is not a valid seed: %v", err)
		}
	}
	for _, right := range []bool{false, true} {
		t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) { turmoil(t, seed, right) })
	}
}

func turmoil(t *testing.T, seed uint64, right bool) {
	t.Parallel()
	t.Logf("EDGED_TEST_SEED=%d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	s := redistest.Start(t)
	var loop *Loop
	w := relay.NewList(relay.Options{Window: 40, Memory: 1 << 20, Changed: func() { loop.Wake() }})
	loop = New(Options{
		Redis: redisconn.Options{Address: s.Address(), Timeout: 2 * time.Second}, Instance: "x",
		MaxPayload: 1000, BatchItems: 7, BatchBytes: 900, PollInterval: 50 * time.Millisecond, Lease: 300 * time.Millisecond,
		Lists: []List{{Key: "a", Subject: "sa", Window: w, FromRight: right}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()

	var mu sync.Mutex
	seen := map[string]bool{} // guarded by mu
	note := func(items []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range items {
			id, _, _ := strings.Cut(item, " ")
			seen[id] = true
		}
	}
	done := make(chan struct{})
	var visitors sync.WaitGroup
	for i := range 3 {
		group := []string{"", "g", "g"}[i]
		rand := rand.New(rand.NewPCG(seed, 1+uint64(i)))
		visitors.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				v := &visitor{takes: 1 + rand.IntN(60)}
				m := w.Join(group, "1", v)
				for range rand.IntN(12) {
					time.Sleep(time.Duration(rand.IntN(800)) * time.Microsecond)
					note(v.confirm(rand.IntN(4)))
				}
				m.Leave()
			}
		})
	}
	c, push, odd := s.Client(), s.Client().RPush, s.Client().LPush
	if right {
		push, odd = odd, push
	}
	const items = 6000
	pushed := map[int]bool{} // of a push that failed the outcome is not known
	for i := 0; i < items; {
		for range chance.IntN(30) {
			size := chance.IntN(200)
			if chance.IntN(15) == 0 {
				size = 1200 // too large
			}
			err := push(ctx, "a", fmt.Sprintf("%d %s", i, strings.Repeat("x", size))).Err()
			if pushed[i] = err == nil; err != nil {
				t.Logf("item %d was not pushed: %v", i, err)
			}
			i++
		}
		switch chance.IntN(12) {
		case 0:
			c.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		case 1:
			c.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub")
		case 2:
			c.ScriptFlush(ctx)
		case 3:
			c.Del(ctx, leaseKey("a"))
		case 4:
			c.Set(ctx, leaseKey("a"), "other/1", 20*time.Millisecond)
		case 5:
			odd(ctx, "a", "odd")
		}
		time.Sleep(time.Duration(chance.IntN(3)) * time.Millisecond)
	}
	close(done)
	visitors.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Log(err) // what was confirmed may remain; it counts as seen and as left
	}
	note(c.LRange(t.Context(), "a", 0, -1).Val())
	for _, dead := range c.LRange(t.Context(), DeadKey("a"), 0, -1).Val() {
		_, item, _ := strings.Cut(dead, "\n")
		note([]string{item})
	}
	lost, failed := 0, 0
	for i, ok := range pushed {
		switch {
		case !ok:
			failed++
		case !seen[fmt.Sprint(i)]:
			lost++
		}
	}
	st := w.Stats()
	if failed > items/10 {
		t.Errorf("%d of %d pushes failed", failed, len(pushed))
	}
	if lost > 0 {
		t.Errorf("%d items lost; books %+v", lost, st)
	}
	if st.InFlight != 0 || st.Taken != st.Confirmed+st.Returned+st.Dead+st.Gone {
		t.Errorf("the books do not close: %+v", st)
	}
}
