package poller

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"edged/internal/batch"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// hand is a member of an explicit list.
type hand struct {
	t    *testing.T
	auto bool // acknowledges by itself
	m    batch.Acknowledger

	mu  sync.Mutex
	got []handed
	wg  sync.WaitGroup
}

type handed struct {
	seq   uint64
	taken time.Time
	tries int
	item  string
}

func (h *hand) Deliver(b *batch.Batch, from, to int, _ batch.Receipt) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := from; i < to; i++ {
		x := handed{b.First() + uint64(i), b.Taken(), b.Tries(), string(b.Item(i))}
		h.got = append(h.got, x)
		if h.auto {
			h.wg.Go(func() { h.m.Acknowledge(x.seq, x.taken, batch.Ack{}, nil) })
		}
	}
	return to - from
}

func (h *hand) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.got)
}

func (h *hand) items() (items []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.got {
		items = append(items, x.item)
	}
	return items
}

func (h *hand) say(i int, kind batch.AckKind) error {
	h.mu.Lock()
	x := h.got[i]
	h.mu.Unlock()
	return h.m.Acknowledge(x.seq, x.taken, batch.Ack{Kind: kind}, nil)
}

// erig is a loop over one explicit list, "a".
type erig struct {
	t      *testing.T
	loop   *Loop
	window *relay.Explicit
	stop   func() error
}

func startExplicit(t *testing.T, address, instance string, change ...func(*Options, *relay.ExplicitOptions)) *erig {
	r := &erig{t: t}
	opts := Options{
		Redis:    redisconn.Options{Address: address, Timeout: 2 * time.Second},
		Instance: instance, PollInterval: time.Minute, Lease: 5 * time.Minute,
		BatchItems: 500, BatchBytes: 128 << 10, MaxPayload: 1 << 20,
		Lists: []List{{Key: "a", Subject: "sa"}}, Log: zaptest.NewLogger(t),
	}
	eopts := relay.ExplicitOptions{Window: 1000, Memory: 4 << 20, AckWait: time.Hour, MaxAckPending: 1000, Changed: func() { r.loop.Wake() }}
	for _, c := range change {
		c(&opts, &eopts)
	}
	r.window = relay.NewExplicit(eopts)
	opts.Lists[0].Explicit = r.window
	r.loop = New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.loop.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		r.window.Stop()
		cancel()
		return <-ended
	})
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *erig) join(auto bool) *hand {
	h := &hand{t: r.t, auto: auto}
	h.mu.Lock() // Deliver may come before Join has returned
	h.m = &lateMembership{}
	h.mu.Unlock()
	late := h.m.(*lateMembership)
	late.ready = make(chan struct{})
	late.Acknowledger = r.window.Join("", "1", h).(batch.Acknowledger)
	close(late.ready)
	r.t.Cleanup(func() {
		h.m.Leave()
		h.wg.Wait()
	})
	return h
}

// lateMembership waits until Join has returned.
type lateMembership struct {
	ready chan struct{}
	batch.Acknowledger
}

func (l *lateMembership) Acknowledge(seq uint64, taken time.Time, a batch.Ack, removed func(error)) error {
	<-l.ready
	return l.Acknowledger.Acknowledge(seq, taken, a, removed)
}

func (l *lateMembership) Leave() {
	<-l.ready
	l.Acknowledger.Leave()
}

func (r *erig) balanced() {
	r.t.Helper()
	if st := r.window.Stats(); st.Taken != st.Confirmed+st.Returned+st.Dead+st.Gone+uint64(st.InFlight) {
		r.t.Fatalf("the books do not close: %+v", st)
	}
}

func empty(s *redistest.Server, instance string) func() bool {
	return func() bool { return s.Len("a") == 0 && s.Len(inFlightKey("a", instance)) == 0 }
}

func wantItems(t *testing.T, got []string, n int) {
	t.Helper()
	for i := range n {
		if i >= len(got) || got[i] != fmt.Sprintf("item %d", i) {
			t.Fatalf("%d items, want %d in order; the %d. is wrong", len(got), n, i)
		}
	}
	if len(got) != n {
		t.Fatalf("%d items, want %d", len(got), n)
	}
}

func TestExplicitItemsArriveInOrderAndLeaveRedisWhenAcknowledged(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{false, true} {
		t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) {
			s := redistest.Start(t)
			items := numbered(5000)
			if right {
				slices.Reverse(items)
			}
			s.Push("a", items...)
			r := startExplicit(t, s.Address(), "x", func(o *Options, _ *relay.ExplicitOptions) { o.Lists[0].FromRight = right })
			h := r.join(true)
			redistest.Eventually(t, "all is gone", empty(s, "x"))
			wantItems(t, h.items(), 5000)
			r.balanced()
		})
	}
}

func TestExplicitItemsStayInFlightUntilAcknowledgedInAnyOrder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 10 })
	if s.Len("a") != 0 || s.Len(inFlightKey("a", "x")) != 10 {
		t.Fatal("the items are not in flight")
	}
	h.say(7, batch.Acked)
	h.say(0, batch.Acked)
	h.say(3, batch.Terminated)
	redistest.Eventually(t, "three are removed", func() bool { return s.Len(inFlightKey("a", "x")) == 7 })
	left := s.Client().LRange(t.Context(), inFlightKey("a", "x"), 0, -1).Val()
	if want := "item 1,item 2,item 4,item 5,item 6,item 8,item 9"; strings.Join(left, ",") != want {
		t.Fatalf("left are %v", left)
	}
	dead := s.Client().LRange(t.Context(), DeadKey("a"), 0, -1).Val()
	if len(dead) != 1 || !strings.HasSuffix(dead[0], "\nitem 3") || !strings.Contains(dead[0], "given up by a client") {
		t.Fatalf("dead letters are %q", dead)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	back := s.Client().LRange(t.Context(), "a", 0, -1).Val()
	if !slices.Equal(back, left) || s.Len(inFlightKey("a", "x")) != 0 {
		t.Fatalf("at the end %v are back at the head, want %v", back, left)
	}
	r.balanced()
}

func TestWhatALifeLeftInFlightGoesBackFirst(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push(inFlightKey("a", "x"), "item 0", "item 1", "item 2")
	s.Push("a", "item 3")
	s.Client().Set(t.Context(), aliveKey("a", "x"), "x/before", time.Hour)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(true)
	redistest.Eventually(t, "all is gone", empty(s, "x"))
	wantItems(t, h.items(), 4)
}

func TestTheItemsOfAnInstanceThatIsGoneAreReclaimedOnceItsLeaseHasRunOut(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx := t.Context()
	s.Push(inFlightKey("a", "gone"), "item 0", "item 1")
	s.Client().HSet(ctx, instancesKey("a"), "gone", 1, "alive", 1)
	s.Push(inFlightKey("a", "alive"), "not yours")
	s.Client().Set(ctx, aliveKey("a", "alive"), "alive/1", 0)
	r := startExplicit(t, s.Address(), "x", func(o *Options, _ *relay.ExplicitOptions) { o.PollInterval = 20 * time.Millisecond })
	h := r.join(true)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 2 })
	redistest.Eventually(t, "all is gone", empty(s, "x"))
	if s.Len(inFlightKey("a", "alive")) != 1 {
		t.Error("an instance that is alive lost its items")
	}
	redistest.Eventually(t, "the instance that is gone is off the books", func() bool {
		return !s.Client().HExists(ctx, instancesKey("a"), "gone").Val()
	})
}

func TestTwoInstancesShareAnExplicitList(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	small := func(_ *Options, e *relay.ExplicitOptions) { e.MaxAckPending = 10 }
	one, two := startExplicit(t, s.Address(), "one", small), startExplicit(t, s.Address(), "two", small)
	a, b := one.join(false), two.join(false)
	s.Push("a", numbered(20)...)
	redistest.Eventually(t, "both have some", func() bool { return a.count() == 10 && b.count() == 10 })
	all := append(a.items(), b.items()...)
	slices.Sort(all)
	if len(slices.Compact(all)) != 20 {
		t.Error("an item went to both")
	}
}

func TestConnectionsKilledAgainAndAgainLoseAndDoubleNoExplicitItem(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	const n = 20000
	s.Push("a", numbered(n)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(true)
	done := empty(s, "x")
	for !done() {
		s.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		before := r.loop.Lists()[0].Removed
		redistest.Eventually(t, "it goes on", func() bool { return r.loop.Lists()[0].Removed > before || done() })
	}
	wantItems(t, h.items(), n)
	r.balanced()
}

func TestAnExplicitListOfAFullRedisIsDrained(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(1000)...)
	if err := s.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	r := startExplicit(t, s.Address(), "x")
	h := r.join(true)
	redistest.Eventually(t, "all is gone", empty(s, "x"))
	wantItems(t, h.items(), 1000)
}

func TestAnInstanceWhoseItemsWereReclaimedRemovesNothingMore(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx := t.Context()
	s.Push("a", numbered(5)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 5 })
	// As if this process had been stopped for longer than its lease: another one
	// has given the items back, and taken two of them.
	err := s.Client().Eval(ctx, `redis.call('DEL', KEYS[1], KEYS[5])
		while redis.call('LMOVE', KEYS[2], KEYS[3], 'RIGHT', 'LEFT') do end
		return redis.call('LMOVE', KEYS[3], KEYS[4], 'LEFT', 'RIGHT')`,
		[]string{aliveKey("a", "x"), inFlightKey("a", "x"), "a", inFlightKey("a", "other"), instancesKey("a")}).Err()
	if err != nil {
		t.Fatal(err)
	}
	h.say(0, batch.Acked) // it finds out
	// What it took again is either known to the client or comes again: in the end
	// all of it is acknowledged.
	redistest.Eventually(t, "all is gone", func() bool {
		for i := range h.count() {
			h.say(i, batch.Acked)
		}
		return empty(s, "x")()
	})
	if s.Len(inFlightKey("a", "other")) != 1 {
		t.Error("the other's item is gone")
	}
	r.balanced()
}

func TestAnExplicitItemTooLargeIsADeadLetter(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	large := bytes.Repeat([]byte("large"), 1000)
	s.Push("a", "item 0", large, "item 1", large)
	r := startExplicit(t, s.Address(), "x", func(o *Options, _ *relay.ExplicitOptions) { o.MaxPayload = 1000 })
	h := r.join(true)
	redistest.Eventually(t, "all is gone", empty(s, "x"))
	wantItems(t, h.items(), 2)
	dead := s.Client().LRange(t.Context(), DeadKey("a"), 0, -1).Val()
	if len(dead) != 2 || !strings.HasSuffix(dead[1], "\n"+string(large)) {
		t.Fatalf("%d dead letters", len(dead))
	}
	r.balanced()
}

func TestWithNobodyThereExplicitItemsGoBack(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 10 })
	h.say(4, batch.Acked)
	h.m.Leave()
	redistest.Eventually(t, "they are back", func() bool { return s.Len("a") == 9 && s.Len(inFlightKey("a", "x")) == 0 })
	r.balanced()
}

// sees whether every item is with a client or in Redis.
func (r *erig) wantNoneLost(s *redistest.Server, n int, hands ...*hand) {
	r.t.Helper()
	have := make(map[string]bool)
	for _, h := range hands {
		for _, item := range h.items() {
			have[item] = true
		}
	}
	for _, key := range []string{"a", inFlightKey("a", "x"), DeadKey("a")} {
		for _, item := range s.Client().LRange(r.t.Context(), key, 0, -1).Val() {
			have[item] = true
		}
	}
	for i := range n {
		if item := fmt.Sprintf("item %d", i); !have[item] {
			r.t.Errorf("%s is lost", item)
		}
	}
}

func TestAProcessWhosePlaceAnotherOfItsNameHasTakenLosesItNoItem(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	old := startExplicit(t, s.Address(), "x")
	stale := old.join(false)
	redistest.Eventually(t, "the first serves", func() bool { return old.loop.Lists()[0].State == Serving })
	r := startExplicit(t, s.Address(), "x", func(o *Options, _ *relay.ExplicitOptions) { o.PollInterval = 20 * time.Millisecond })
	h := r.join(true)
	redistest.Eventually(t, "the second has the lease", func() bool {
		return s.Client().Get(t.Context(), aliveKey("a", "x")).Val() == r.loop.holder
	})
	s.Push("a", numbered(50)...) // the first does not know yet that it has lost its place
	redistest.Eventually(t, "the first knows", func() bool { return old.loop.Lists()[0].Holder != "" })
	for i := 50; i < 100; i++ {
		s.Push("a", fmt.Sprintf("item %d", i))
	}
	redistest.Eventually(t, "all is gone", empty(s, "x"))
	r.wantNoneLost(s, 100, h)
	if stale.count() != 0 {
		t.Error("the first has delivered something")
	}
	r.balanced()
}

func TestWhatWasTakenWithoutItsKnowledgeIsDeliveredAndNotRemovedForAnother(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", "item 0")
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "it arrived", func() bool { return h.count() == 1 })
	// As if Redis had stood still, and carried out an LMOVE of a connection that
	// was given up only after the in-flight list was read.
	s.Push(inFlightKey("a", "x"), "item 1")
	s.Push("a", "item 2")
	redistest.Eventually(t, "the next arrived", func() bool { return slices.Contains(h.items(), "item 2") })
	h.say(slices.Index(h.items(), "item 2"), batch.Acked)
	redistest.Eventually(t, "all are delivered", func() bool { return slices.Contains(h.items(), "item 1") })
	r.wantNoneLost(s, 3, h)
}

func TestItemsAreNotLostWhereTheListHasTheWrongType(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(5)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 5 })
	s.Client().Set(t.Context(), "a", "no list", 0)
	h.m.Leave()
	redistest.Eventually(t, "it fails", func() bool { return r.loop.Lists()[0].State == Failing })
	r.stop()
	if n := s.Len(inFlightKey("a", "x")); n != 5 {
		t.Fatalf("%d of 5 items are left", n)
	}
}

func TestRequeueLosesNoDeadLetterWhereTheListHasTheWrongType(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := startExplicit(t, s.Address(), "x")
	s.Push(DeadKey("a"), "{}\nitem 0")
	s.Client().Set(t.Context(), "a", "no list", 0)
	if _, err := r.loop.Requeue(t.Context(), "a", 1); err == nil {
		t.Error("no error")
	}
	if s.Len(DeadKey("a")) != 1 {
		t.Fatal("the dead letter is gone")
	}
}

func TestOnAFullRedisItemsAreRemovedInAnyOrder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(3)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 3 })
	if err := s.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	h.say(1, batch.Acked)
	redistest.Eventually(t, "one is removed", func() bool { return s.Len(inFlightKey("a", "x")) == 2 })
}

func TestWhatAFinishedMemberAcknowledgesIsRemoved(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(2)...)
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 2 })
	<-h.m.(*lateMembership).ready
	h.m.Finish(2)
	if err := round(t, r.loop); err != nil { // the loop has come round
		t.Fatal(err)
	}
	if err := round(t, r.loop); err != nil {
		t.Fatal(err)
	}
	h.say(0, batch.Acked)
	h.say(1, batch.Acked)
	redistest.Eventually(t, "it is removed", func() bool { return r.window.Stats().InFlight == 0 })
	if n := s.Len("a"); n != 0 {
		t.Fatalf("%d items that were acknowledged are in the list again", n)
	}
}

// round waits until the loop has come round.
func round(t *testing.T, l *Loop) error {
	_, err := ask(t.Context(), l, func(context.Context) (struct{}, error) { return struct{}{}, nil })
	return err
}
