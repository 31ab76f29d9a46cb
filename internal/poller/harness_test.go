package poller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"edged/internal/batch"
	"edged/internal/ledger"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// Each test has servers of its own and runs in parallel, except those that measure
// memory or the loop's turns and those with a timeout below half a second.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// life is one process of edged that serves the lists "a" and "b".
type life struct {
	t        *testing.T
	loop     *Loop
	logs     []*relay.Log
	explicit []bool       // of them
	now      time.Time    // the clock, if the test takes the turns
	stop     func() error // ends a loop that runs, as at the end of a drain
}

// setup has the parts of a life that a test can change.
type setup struct {
	Options
	Relay    relay.Options
	Explicit map[string]bool // keys of lists
}

// explicit makes items of all lists wait for acknowledgements.
func explicit(o *setup) {
	for _, list := range o.Lists {
		o.Explicit[list.Key] = true
	}
}

func received(*setup) {}

// inBothModes runs a test that is parallel with lists of each kind.
func inBothModes(t *testing.T, run func(t *testing.T, mode func(*setup))) {
	t.Parallel()
	inEachMode(t, run)
}

func inEachMode(t *testing.T, run func(t *testing.T, mode func(*setup))) {
	t.Run("received", func(t *testing.T) { run(t, received) })
	t.Run("explicit", func(t *testing.T) { run(t, explicit) })
}

// build makes a life whose loop does not run. A Log that the test has set in the
// Lists is a wrapper, which gets the relay's.
func build(t *testing.T, address string, change ...func(*setup)) *life {
	l := &life{t: t, now: time.Now()}
	o := setup{Options{
		Redis:    redisconn.Options{Address: address, Timeout: 2 * time.Second},
		Instance: "x", PollInterval: time.Minute, Lease: 5 * time.Minute,
		BatchItems: 500, BatchBytes: 128 << 10, MaxPayload: 1 << 20, Log: zaptest.NewLogger(t),
		Lists: []List{{Key: "a", Subject: "sa"}, {Key: "b", Subject: "sb"}},
	}, relay.Options{
		Window: 4000, Memory: 4 << 20, Terms: relay.Terms{AckWait: time.Hour, MaxAckPending: 4000},
	}, make(map[string]bool)}
	for _, c := range change {
		c(&o)
	}
	for i := range o.Lists {
		o.Relay.Explicit = o.Explicit[o.Lists[i].Key]
		o.Relay.Changed = func() { l.loop.Wake(o.Lists[i].Key) }
		l.explicit = append(l.explicit, o.Relay.Explicit)
		l.logs = append(l.logs, relay.New(o.Relay))
		if wrapped, ok := o.Lists[i].Log.(*leavesBeforeBury); ok {
			wrapped.Log = l.logs[i]
		} else {
			o.Lists[i].Log = l.logs[i]
		}
	}
	l.loop = New(o.Options)
	return l
}

// start begins a life.
func start(t *testing.T, address string, change ...func(*setup)) *life {
	l := build(t, address, change...)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.loop.Run(ctx) }()
	l.stop = sync.OnceValue(func() error {
		for _, log := range l.logs {
			log.Stop()
		}
		cancel()
		return <-ended
	})
	t.Cleanup(func() { l.stop() })
	return l
}

// held is a server with n items in list "a", and a life with a client that has all of them
// and holds.
func held(t *testing.T, n int, change ...func(*setup)) (*redistest.Server, *life, *client) {
	t.Helper()
	s := redistest.Start(t)
	s.Push("a", numbered(n)...)
	l := start(t, s.Address(), change...)
	c := l.join(0, true)
	c.wait(t, n)
	return s, l, c
}

// heldByHand is held with a life whose turns the test takes.
func heldByHand(t *testing.T, n int, change ...func(*setup)) (*redistest.Server, *life, *client) {
	t.Helper()
	s := redistest.Start(t)
	s.Push("a", numbered(n)...)
	l := byHand(t, s.Address(), change...)
	c := l.join(0, true)
	l.settle(0)
	c.wait(t, n)
	return s, l, c
}

// manyItems is the limit of a read once the sizes of a list's items are known.
const manyItems = 100

// byHand makes a life whose turns the test takes, and whose clients hold. Without more
// turns it is a process that was killed.
func byHand(t *testing.T, address string, change ...func(*setup)) *life {
	var l *life
	l = build(t, address, append(change, func(o *setup) { o.Relay.Now = func() time.Time { return l.now } })...)
	t.Cleanup(l.loop.servers.Close)
	if err := l.loop.readers[0].Server.LoadScripts(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range l.loop.readers {
		r.limit = manyItems
	}
	return l
}

// turn takes a turn of list "a" that looks for items.
func (l *life) turn() {
	l.loop.readers[0].more = true
	l.loop.readers[0].turn(l.t.Context(), l.now)
	l.loop.readers[0].Server.Settle(0)
}

// settle takes turns of a list until nothing is left to do.
func (l *life) settle(list int) {
	l.t.Helper()
	r := l.loop.readers[list]
	r.more = true
	still := 0
	for range 500 {
		if r.turn(l.t.Context(), l.now) {
			still = 0
		} else if still++; still > 2 {
			return
		}
		if still > 0 {
			l.now = l.now.Add(100 * time.Microsecond)
		}
		if l.now.Before(r.retryAt) {
			l.now = r.retryAt
		}
	}
	l.t.Fatal("it does not come to rest")
}

func (l *life) status(key string) Status {
	for _, s := range l.loop.Lists() {
		if s.Key == key {
			return s
		}
	}
	return Status{}
}

// is waits until list "a" is in a state.
func (l *life) is(state State) {
	l.t.Helper()
	redistest.Eventually(l.t, "the list is "+string(state), func() bool { return l.status("a").State == state })
}

// round waits until the loop has come round.
func (l *life) round() {
	l.t.Helper()
	if err := l.comesRound(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *life) comesRound() error { return l.loop.between(l.t.Context(), func() {}) }

// balanced waits until the books of list "a" say that nothing is on its way.
func (l *life) balanced() {
	l.t.Helper()
	redistest.Eventually(l.t, "the books close", func() bool { return l.logs[0].Stats().InFlight == 0 })
}

// client is a member of a list that keeps the items it gets.
type client struct {
	explicit bool
	hold     bool             // confirms nothing by itself
	m        batch.Membership // known once joined is closed
	joined   chan struct{}
	wake     chan struct{} // holds one
	arrived  func()        // called by the loop after each delivery, if set
	most     int           // it takes no more items; 0: any number

	mu                    sync.Mutex
	refuses               map[uint64]bool // numbers of items
	acknowledged, refused int
	deliveries            []delivery // all that came
	confirmed             int        // so many of them
	items                 []string
	places                []place // of the items
}

type delivery struct {
	from, to int // of items
	receipt  batch.Receipt
}

// place is an item's number, and its delivery.
type place struct {
	epoch  string
	number uint64
	tries  int
}

func (c *client) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.items)
	if c.most > 0 {
		to = min(to, from+c.most-n)
	}
	if from >= to {
		return 0
	}
	for i := from; i < to; i++ {
		c.items = append(c.items, string(b.Item(i)))
		c.places = append(c.places, place{b.Epoch(), b.First() + uint64(i), b.Tries()})
	}
	c.deliveries = append(c.deliveries, delivery{n, len(c.items), r})
	if !c.hold {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	if c.arrived != nil {
		c.arrived()
	}
	return to - from
}

// confirm confirms all that has arrived.
func (c *client) confirm() { c.confirmSome(1 << 30) }

// confirmSome confirms the oldest n deliveries that are not confirmed, and returns
// their items.
func (c *client) confirmSome(n int) (items []string) {
	c.mu.Lock()
	n = min(n, len(c.deliveries)-c.confirmed)
	now := c.deliveries[c.confirmed : c.confirmed+n]
	c.confirmed += n
	for _, d := range now {
		items = append(items, c.items[d.from:d.to]...)
	}
	c.mu.Unlock()
	for _, d := range now {
		for i := d.from; c.explicit && i < d.to; i++ {
			c.say(i, c.kind(i))
		}
		d.receipt.Confirm()
	}
	return items
}

// kind is how the i-th item that came is acknowledged.
func (c *client) kind(i int) batch.AckKind {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.places[i].number
	if c.refuses[n] {
		c.refused++
		return batch.Refused
	}
	c.acknowledged++
	return batch.Acked
}

// say acknowledges the i-th item that came.
func (c *client) say(i int, kind batch.AckKind) error { return c.acknowledge(i, kind, nil) }

func (c *client) acknowledge(i int, kind batch.AckKind, saved func(error)) error {
	c.mu.Lock()
	at := c.places[i]
	c.mu.Unlock()
	return c.m.(batch.Acknowledger).Acknowledge(at.epoch, at.number, batch.Ack{Kind: kind}, saved)
}

func (c *client) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

func (c *client) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.items)
}

// join makes a client that confirms the items it gets, from a goroutine of its own as
// a real one does; with hold it waits for confirm.
func (l *life) join(list int, hold bool) *client { return l.joinGroup(list, "", hold) }

func (l *life) joinGroup(list int, group string, hold bool) *client {
	c := &client{hold: hold}
	l.t.Cleanup(l.joinAs(list, group, c))
	return c
}

// joinAs lets a client join. It returns a function that lets it leave.
func (l *life) joinAs(list int, group string, c *client) (leave func()) {
	c.explicit = l.explicit[list]
	c.joined, c.wake = make(chan struct{}), make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-c.joined
		for range c.wake {
			c.confirm()
		}
	}()
	c.m = l.logs[list].Join(group, "1", c)
	close(c.joined)
	return func() {
		c.m.Leave()
		close(c.wake)
		<-done
	}
}

// wait waits until n items have arrived.
func (c *client) wait(t *testing.T, n int) {
	t.Helper()
	redistest.Eventually(t, fmt.Sprintf("%d items arrived", n), func() bool { return c.count() >= n })
	if got := c.count(); got != n {
		t.Fatalf("%d items arrived, want %d", got, n)
	}
}

// gone waits until list "a" is empty; clients confirm the items they have.
func gone(t *testing.T, s *redistest.Server, clients ...*client) {
	t.Helper()
	redistest.Eventually(t, "the list is empty", func() bool {
		for _, c := range clients {
			c.confirm()
		}
		return s.Len("a") == 0
	})
}

func numbered(n int) []any {
	items := make([]any, n)
	for i := range items {
		items[i] = fmt.Sprintf("item %d", i)
	}
	return items
}

// equalItems are items that only their number tells from one another.
func equalItems(n int) []any { return slices.Repeat([]any{"tick"}, n) }

// sized is an item of size bytes.
func sized(name string, size int) string { return name + strings.Repeat(".", size-len(name)) }

// pushed pushes items to the tail of list "a", whichever end that is.
func pushed(t *testing.T, s *redistest.Server, right bool, items ...any) {
	t.Helper()
	push := s.Client().RPush
	if right {
		push = s.Client().LPush
	}
	if err := push(t.Context(), "a", items...).Err(); err != nil {
		t.Fatal(err)
	}
}

func wantNumbered(t *testing.T, got []string, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d items, want %d", len(got), n)
	}
	for i, item := range got {
		if want := fmt.Sprintf("item %d", i); item != want {
			t.Fatalf("item %d is %q, want %q", i, item, want)
		}
	}
}

// keys are those of list "a".
var keys = ledger.KeysOf("a")

// owner is the process that has list "a"; empty: none.
func owner(t *testing.T, s *redistest.Server) string {
	t.Helper()
	return s.Client().HGet(t.Context(), keys.Ledger, "owner").Val()
}

// handTo gives list "a" to another instance for a while, as if this process had been
// stopped for longer than its lease; with no name no instance has it.
func handTo(t *testing.T, s *redistest.Server, name string, lease time.Duration) {
	t.Helper()
	if name == "" {
		do(t, s, "HDEL", keys.Ledger, "owner", "deadline")
		return
	}
	do(t, s, "HSET", keys.Ledger, "owner", name, "deadline", time.Now().Add(lease).UnixMilli(), "lease", lease.Milliseconds())
}

func do(t *testing.T, s *redistest.Server, args ...any) {
	t.Helper()
	if err := s.Client().Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// leavesBeforeBury lets the last member leave in the moment before Bury, as its
// reader may at any time while the loop is in its round trip.
type leavesBeforeBury struct {
	Log
	leave func()
}

func (w *leavesBeforeBury) Bury(n uint64, reason string) {
	w.leave()
	w.Log.Bury(n, reason)
}
