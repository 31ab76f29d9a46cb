package poller

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"edged/internal/batch"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// cut tells where a request is to be cut, below 0 for nowhere, and is what happens
// before the rest of it is sent on.
type cut func(request []byte) (at int, between func())

// splitter is a network that delivers requests in two parts.
type splitter struct {
	address string
	cut     atomic.Pointer[cut]
}

func newSplitter(t *testing.T, s *redistest.Server) *splitter {
	n := &splitter{}
	n.address = inFrontOf(t, s, n.requests, n.replies)
	return n
}

func (n *splitter) requests(server *net.UnixConn, client net.Conn, _ <-chan struct{}) {
	defer server.CloseWrite() // when the test fails in between, too
	buf := make([]byte, 64<<10)
	for {
		got, err := client.Read(buf)
		p := buf[:got]
		if f := n.cut.Load(); f != nil && got > 0 {
			if at, between := (*f)(p); at >= 0 {
				server.Write(p[:at])
				between()
				p = p[at:]
			}
		}
		server.Write(p)
		if err != nil {
			return
		}
	}
}

// await waits until a channel is closed, and fails the test after half a minute.
func await(t *testing.T, what string, closed <-chan struct{}) {
	t.Helper()
	redistest.Eventually(t, what, func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	})
}

func (n *splitter) replies(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	buf := make([]byte, 64<<10)
	gone := false
	for {
		got, err := server.Read(buf)
		if !gone {
			_, werr := client.Write(buf[:got])
			gone = werr != nil
		}
		if err != nil {
			return
		}
	}
}

// manyItems is the limit of a read once the sizes of a list's items are known.
const manyItems = 100

// knowSizes makes a loop that runs take the sizes of its lists' items for known.
func knowSizes(t *testing.T, l *Loop) {
	t.Helper()
	_, err := ask(t.Context(), l, func(context.Context) (struct{}, error) {
		for _, s := range l.lanes {
			s.limit = manyItems
		}
		return struct{}{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// withoutRun prepares a loop whose turns the test takes.
func withoutRun(t *testing.T, l *Loop) {
	t.Cleanup(l.servers.Close)
	if err := l.lanes[0].Server.LoadScripts(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range l.lanes {
		s.limit = manyItems
	}
}

// byHand makes a loop over the explicit list "a" whose turns the test takes.
func byHand(t *testing.T, address string, timeout time.Duration) (*mover, *relay.Explicit) {
	w := relay.NewExplicit(relay.ExplicitOptions{Window: 1000, Memory: 4 << 20, AckWait: time.Hour, MaxAckPending: 1000})
	l := New(Options{
		Redis: redisconn.Options{Address: address, Timeout: timeout}, Instance: "x", PollInterval: time.Minute, Lease: 5 * time.Minute,
		BatchItems: 500, BatchBytes: 128 << 10, MaxPayload: 1 << 20, Lists: []List{{Key: "a", Subject: "sa", Explicit: w}},
	})
	withoutRun(t, l)
	return l.sources[0].(*mover), w
}

func joinExplicit(t *testing.T, w *relay.Explicit) *hand {
	h := &hand{t: t}
	h.m = w.Join("", "1", h).(batch.Acknowledger)
	return h
}

func laneOf(s server) *lane {
	if m, ok := s.(*mover); ok {
		return m.lane
	}
	return s.(*source).lane
}

// settleDown takes turns until nothing is left to do.
func settleDown(t *testing.T, s server, now *time.Time) {
	still := 0
	for range 200 {
		if s.turn(t.Context(), *now) {
			still = 0
		} else if still++; still > 2 {
			return
		}
		if still > 0 {
			*now = now.Add(100 * time.Microsecond)
		}
		if l := laneOf(s); now.Before(l.retryAt) {
			*now = l.retryAt
		}
	}
	t.Fatal("it does not come to rest")
}

// Loss: the guard looks at three of the items that it removes, and the number of the
// last removal came back with the data.
func TestARedisThatComesBackWithOlderDataLosesNoItemThatCameSince(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var loop *Loop
	w := relay.NewList(relay.Options{Window: 4, Memory: 1 << 20, Changed: func() { loop.Wake() }})
	v := relay.NewList(relay.Options{Window: 4, Memory: 1 << 20, Changed: func() { loop.Wake() }})
	loop = New(Options{
		Redis: redisconn.Options{Address: s.Address(), Timeout: 2 * time.Second}, Instance: "x",
		MaxPayload: 1000, BatchItems: 500, BatchBytes: 128 << 10, PollInterval: 5 * time.Second, Lease: 5 * time.Minute,
		Lists: []List{{Key: "a", Subject: "sa", Window: w}, {Key: "b", Subject: "sb", Window: v}}, Log: zaptest.NewLogger(t),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	c := &client{t: t, hold: true}
	w.Join("", "1", c)
	other := &client{t: t, slow: make(chan batch.Receipt, 10)}
	v.Join("", "1", other)
	go func() {
		for r := range other.slow {
			r.Confirm()
		}
	}()
	defer close(other.slow)

	s.Push("a", "tick", "data 0")
	redistest.Eventually(t, "two arrived", func() bool { return c.count() == 2 })
	do(t, s, "SAVE")
	s.Push("a", "data 1", "tick")
	redistest.Eventually(t, "the window is full", func() bool { return c.count() == 4 && loop.Lists()[0].State == Full })
	s.Kill()
	s.Restart()
	s.Push("a", "data 2", "tick") // the producer goes on
	s.Push("b", "x")              // the other list is the one that finds the scripts missing, and loads them
	redistest.Eventually(t, "the other list is served again", func() bool { return other.count() == 1 && s.Len("b") == 0 })
	c.mu.Lock()
	slices.Reverse(c.owed) // so that all becomes removable at once
	c.mu.Unlock()
	c.confirm()
	redistest.Eventually(t, "all is gone", func() bool { c.confirm(); return s.Len("a") == 0 })
	for _, item := range c.got() {
		if string(item) == "data 2" {
			return
		}
	}
	t.Errorf("data 2 was never delivered and is gone from Redis; delivered: %q", c.got())
}

// As above, without a restart.
func TestAListThatIsReplacedByALikeOneIsReadFromItsHead(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	s.Push("a", "tick", "data 0", "data 1", "tick")
	redistest.Eventually(t, "they arrived", func() bool { return a.count() == 4 })
	if err := s.Client().Eval(t.Context(), `redis.call('DEL', KEYS[1])
		return redis.call('RPUSH', KEYS[1], 'tick', 'data 0', 'data 2', 'tick')`, []string{"a"}).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, "all is gone", func() bool { a.confirm(); return s.Len("a") == 0 })
	for _, item := range a.got() {
		if string(item) == "data 2" {
			return
		}
	}
	t.Errorf("data 2 was never delivered and is gone from Redis; delivered: %q", a.got())
}

func TestALostReplyWithAnItemTooLargeInFlightDoublesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	n := newNetwork(t, s)
	l := serveReceived(t, s, func(o *Options) { o.Redis.Address, o.MaxPayload = n.address, 1000 })
	items := numbered(10)
	s.Push("a", items[:5]...)
	s.Push("a", strings.Repeat("x", 2000))
	s.Push("a", items[5:]...)
	redistest.Eventually(t, "the items arrived", func() bool { return len(l.items()) == 10 })
	n.lose.Store(1)
	l.confirm()
	redistest.Eventually(t, "all is gone", func() bool { l.confirm(); return l.empty() })
	if s.Len(DeadKey("a")) != 1 {
		t.Error("the item is no dead letter")
	}
	wantItems(t, l.items(), 10)
}

func TestAnItemTooLargeIsCountedOnceHoweverLongItCantBeBuried(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Client().Set(t.Context(), DeadKey("a"), "no list", 0)
	s.Push("a", strings.Repeat("x", 2000), "item 0")
	r := start(t, s.Address(), func(o *Options) { o.MaxPayload = 1000 })
	a, _ := r.join(0, false)
	tries := 0
	redistest.Eventually(t, "it has failed for a while", func() bool {
		if r.status("a").State == Failing {
			tries++
		}
		return tries > 500
	})
	do(t, s, "DEL", DeadKey("a"))
	redistest.Eventually(t, "all is gone", func() bool { return s.Len("a") == 0 && a.count() > 0 })
	if st := r.windows[0].Stats(); st.Dead != 1 || st.Taken != 2 || s.Len(DeadKey("a")) != 1 {
		t.Errorf("%d dead letters, the books say %+v", s.Len(DeadKey("a")), st)
	}
}

// acknowledgeAll acknowledges what comes until Redis and the window are empty.
func acknowledgeAll(t *testing.T, s *redistest.Server, r *erig, h *hand) {
	t.Helper()
	said := 0
	done := empty(s, "x")
	redistest.Eventually(t, "all is gone", func() bool {
		for ; said < h.count(); said++ {
			h.say(said, batch.Acked)
		}
		return done() && r.window.Stats().InFlight == 0
	})
}

func TestAGivingBackThatComesLateGivesNothingMoreBack(t *testing.T) {
	s := redistest.Start(t)
	n := newNetwork(t, s)
	s.Push("a", numbered(10)...)
	r := startExplicit(t, n.address, "x", func(o *Options, _ *relay.ExplicitOptions) { o.Redis.Timeout = 200 * time.Millisecond })
	first := r.join(false)
	redistest.Eventually(t, "the items arrived", func() bool { return first.count() == 10 })
	n.delay.Store(true)
	first.m.Leave()
	release := <-n.kept
	redistest.Eventually(t, "they are back", func() bool { return s.Len("a") == 10 })
	h := r.join(false)
	redistest.Eventually(t, "they arrived again", func() bool { return h.count() == 10 })
	release()
	acknowledgeAll(t, s, r, h)
	wantItems(t, h.items(), 10)
}

// As if it had been stopped, and had not yet heard the hint.
func TestAProcessWhosePlaceIsTakenGivesNothingOfItsSuccessorsBack(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	old, w := byHand(t, s.Address(), 2*time.Second)
	stale := joinExplicit(t, w)
	now := time.Now()
	settleDown(t, old, &now)
	if stale.count() != 10 {
		t.Fatalf("%d items", stale.count())
	}
	r := startExplicit(t, s.Address(), "x")
	h := r.join(false)
	redistest.Eventually(t, "they arrived at the successor's", func() bool { return h.count() == 10 })
	stale.m.Leave()
	settleDown(t, old, &now)
	acknowledgeAll(t, s, r, h)
	wantItems(t, h.items(), 10)
}

// A late LMOVE is a fact of life (see TestWhatWasTakenWithoutItsKnowledge…); what
// was moved behind it in the same round trip as the discovery comes twice, though
// it was acknowledged and the client was told that it is removed.
func TestWhatIsSaidToBeRemovedDoesNotComeAgainAfterALateMove(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	m, w := byHand(t, s.Address(), 2*time.Second)
	h := joinExplicit(t, w)
	defer h.m.Leave()
	now := time.Now()
	s.Push("a", "item 0")
	settleDown(t, m, &now)
	if h.count() != 1 {
		t.Fatalf("%d items", h.count())
	}
	s.Push(inFlightKey("a", "x"), "item 1") // the late LMOVE
	s.Push("a", "item 2")
	m.more = true
	m.turn(t.Context(), now)
	if !slices.Contains(h.items(), "item 2") { // it may wait for the discovery
		settleDown(t, m, &now)
	}
	i := slices.Index(h.items(), "item 2")
	if i < 0 {
		t.Fatal("item 2 did not arrive")
	}
	var told []error
	x := h.got[i]
	h.m.Acknowledge(x.seq, x.taken, batch.Ack{}, func(err error) { told = append(told, err) })
	settleDown(t, m, &now)
	times := 0
	for _, item := range h.items() {
		if item == "item 2" {
			times++
		}
	}
	if times != 1 {
		t.Errorf("item 2 was acknowledged, which was answered with %v, and came %d times; in flight are %q", told, times,
			s.Client().LRange(t.Context(), inFlightKey("a", "x"), 0, -1).Val())
	}
}

func TestWhatAnotherGaveBackIsNotSaidToBeRemovedWhereAReplyIsLost(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	n := newNetwork(t, s)
	m, w := byHand(t, n.address, 2*time.Second)
	h := joinExplicit(t, w)
	defer h.m.Leave()
	now := time.Now()
	s.Push("a", "item 0", "item 1")
	settleDown(t, m, &now)
	// Its lease has run out, and another instance has given back what it had.
	do(t, s, "DEL", aliveKey("a", "x"))
	keys := []string{"a", aliveKey("a", "x"), DeadKey("a"), inFlightKey("a", "x"), instancesKey("a")}
	if _, err := reclaim.RunBy(t.Context(), s.Client(), keys, "L", "x"); err != nil {
		t.Fatal(err)
	}
	do(t, s, "LMOVE", "a", inFlightKey("a", "other"), "LEFT", "RIGHT") // item 0 is with another
	var told []error
	h.m.Acknowledge(h.got[0].seq, h.got[0].taken, batch.Ack{}, func(err error) { told = append(told, err) })
	n.lose.Store(1)
	settleDown(t, m, &now)
	if len(told) != 1 || told[0] == nil {
		t.Errorf("item 0 is in flight at another instance's; told was %v; books %+v", told, w.Stats())
	}
}

func TestMovesThatComeLateAreNotHeldUpForGoodWhenTheInstanceHasEnded(t *testing.T) {
	s := redistest.Start(t)
	n := newSplitter(t, s)
	r := startExplicit(t, n.address, "x", func(o *Options, _ *relay.ExplicitOptions) { o.Redis.Timeout = 200 * time.Millisecond })
	h := r.join(true)
	redistest.Eventually(t, "it serves", func() bool { return r.loop.Lists()[0].State == Serving })
	knowSizes(t, r.loop)
	kept, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	f := cut(func(request []byte) (int, func()) {
		at := bytes.Index(request, []byte("*5\r\n$5\r\nLMOVE"))
		if at < 0 || !once.CompareAndSwap(false, true) {
			return -1, nil
		}
		return at, func() { close(kept); <-release }
	})
	n.cut.Store(&f)
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	items := numbered(10)
	s.Push("a", items[:5]...)
	<-kept
	redistest.Eventually(t, "all is gone", func() bool { return h.count() == 5 && empty(s, "x")() })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	s.Push("a", items[5:]...)
	free()
	redistest.Eventually(t, "the moves came", func() bool { return s.Len("a") == 0 })
	other := startExplicit(t, s.Address(), "y", func(o *Options, _ *relay.ExplicitOptions) { o.PollInterval = 20 * time.Millisecond })
	o := other.join(true)
	redistest.Eventually(t, "another instance has looked round", func() bool { return other.loop.Lists()[0].State == Serving })
	for range 3 { // it has looked for what others left, after that
		if err := round(t, other.loop); err != nil {
			t.Fatal(err)
		}
	}
	s.Push("a", "item 10")
	redistest.Eventually(t, "a later item is gone", func() bool { return o.count() > 0 && empty(s, "y")() })
	if o.count() != 6 {
		t.Errorf("%d of 6 items arrived; in flight at the instance that has ended are %d, lease %d, instances %v", o.count(),
			s.Len(inFlightKey("a", "x")), s.Client().Exists(t.Context(), aliveKey("a", "x")).Val(), s.Client().HKeys(t.Context(), instancesKey("a")).Val())
	}
}

func TestAnExplicitListWhoseItemsGrowKeepsToItsMemory(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := startExplicit(t, s.Address(), "x") // 4 MB
	h := r.join(false)
	acked := 0
	small := func(n int) {
		redistest.Eventually(t, "the small ones are gone", func() bool {
			for ; acked < min(n, h.count()); acked++ {
				h.say(acked, batch.Acked)
			}
			return acked == n
		})
	}
	s.Push("a", numbered(5000)...)
	small(5000)
	r.loop.Pause("a", true)
	if err := round(t, r.loop); err != nil {
		t.Fatal(err)
	}
	s.Push("a", numbered(1005)...)
	large := strings.Repeat("x", 200<<10)
	for range 500 {
		s.Push("a", large)
	}
	r.loop.Pause("a", false)
	small(6005)
	redistest.Eventually(t, "the large ones come", func() bool { return h.count() > 6005 })
	for range 3 {
		if err := round(t, r.loop); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	for _, item := range h.items()[6005:] {
		total += len(item)
	}
	if total > 3*(4<<20) {
		t.Errorf("%d MB are in flight, may be 4", total>>20)
	}
}

// A removal that comes late comes between the guard and the LRANGE of find.
func TestALateRemovalInTheMiddleOfFindIsSurvived(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	n := newSplitter(t, s)
	w := relay.NewList(relay.Options{Window: 4000, Memory: 1 << 20})
	l := New(Options{
		Redis: redisconn.Options{Address: n.address, Timeout: 500 * time.Millisecond}, Instance: "x",
		MaxPayload: 1000, BatchItems: 500, BatchBytes: 128 << 10, PollInterval: time.Minute, Lease: 5 * time.Minute,
		Lists: []List{{Key: "a", Subject: "sa", Window: w}},
	})
	withoutRun(t, l)
	src := l.sources[0].(*source)
	c := &client{t: t, hold: true}
	w.Join("", "1", c)
	now := time.Now()
	items := numbered(20)
	s.Push("a", items[:15]...)
	settleDown(t, src, &now)
	s.Push("a", items[15:]...)
	src.more = true
	settleDown(t, src, &now)
	if c.count() != 20 {
		t.Fatalf("%d items", c.count())
	}
	c.owed[0].Confirm() // the first 15

	late, arrived := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(late) })
	t.Cleanup(release)
	barrier := func() { s.Client().Ping(context.Background()) }
	var step atomic.Int32
	f := cut(func(request []byte) (int, func()) {
		at := bytes.Index(request, []byte("*4\r\n$6\r\nLRANGE"))
		switch {
		case step.Load() == 0 && bytes.Contains(request, []byte("EVALSHA")):
			step.Store(1)
			return 0, func() { <-late }
		case step.Load() == 1 && at > 0:
			step.Store(2)
			return at, func() {
				barrier()
				release()
				redistest.Eventually(t, "the removal came", func() bool { return s.Len("a") == 5 })
				close(arrived)
			}
		}
		return -1, nil
	})
	n.cut.Store(&f)
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("the loop has panicked: %v", p)
		}
	}()
	for range 10 {
		src.turn(t.Context(), now)
		now = now.Add(2 * time.Second)
	}
	await(t, "the removal came in the middle of find", arrived)
	if s.Len("a") != 5 || src.base != 15 {
		t.Errorf("%d items are left, base is %d", s.Len("a"), src.base)
	}
}

func TestARequestThatIsGivenUpIsNotWrittenToAfterwards(t *testing.T) { // with -race
	s := redistest.Start(t)
	r := startExplicit(t, s.Address(), "x")
	s.Push(DeadKey("a"), "{}\nitem 0")
	s.Signal(syscall.SIGSTOP)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	letters, total, err := r.loop.Dead(ctx, "a", 10)
	s.Signal(syscall.SIGCONT)
	if err == nil {
		t.Fatal("a server that is stopped has answered")
	}
	if err := round(t, r.loop); err != nil {
		t.Fatal(err)
	}
	if len(letters) != 0 || total != 0 || errors.Is(err, ErrNoList) {
		t.Error(letters, total, err)
	}
}

// The script writes its number before it fails, so a removal that failed is taken
// for one that was carried out.
func TestAnAcknowledgedItemDoesNotComeAgainWhereItsRemovalFails(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]trouble{
		"missing right": {begin: func(t *testing.T, s *redistest.Server) func() {
			do(t, s, "ACL", "SETUSER", "edged", "-lset")
			return func() { do(t, s, "ACL", "SETUSER", "edged", "+@all") }
		}},
		"dead letters of the wrong type": {begin: func(t *testing.T, s *redistest.Server) func() {
			do(t, s, "SET", DeadKey("a"), "no list")
			return func() { do(t, s, "DEL", DeadKey("a")) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startWithUser(t)
			s.Push("a", numbered(4)...)
			r := startExplicit(t, s.Address(), "x", func(o *Options, _ *relay.ExplicitOptions) { logIn(&o.Redis) })
			h := r.join(false)
			redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 4 })
			end := x.begin(t, s)
			var told atomic.Int32
			at := h.got[2]
			<-h.m.(*lateMembership).ready
			r.window.Stop()            // nothing new is wanted
			h.say(1, batch.Terminated) // first: without it the other could be removed by itself
			h.m.Acknowledge(at.seq, at.taken, batch.Ack{}, func(err error) {
				if err == nil {
					told.Add(1)
				}
			})
			tries := 0
			redistest.Eventually(t, "it has failed for a while", func() bool {
				if r.loop.Lists()[0].State == Failing {
					tries++
				}
				return tries > 200 || h.count() > 4 || told.Load() > 0
			})
			if h.count() != 4 || told.Load() > 0 {
				t.Errorf("%d deliveries of 4 items: %q; AckSync of item 2 was answered with success %d times; in flight are %q; dead letters %d, books %+v",
					h.count(), h.items(), told.Load(), s.Client().LRange(t.Context(), inFlightKey("a", "x"), 0, -1).Val(),
					s.Client().Exists(t.Context(), DeadKey("a")).Val(), r.window.Stats())
			}
			end()
		})
	}
}

// Stopped for longer than its lease, and nobody else was there.
func TestALeaseThatRanOutDoublesNoEqualItems(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := serveExplicit(t, s, func(*Options) {})
	s.Push("a", equalItems(10)...)
	redistest.Eventually(t, "they arrived", func() bool { return len(l.items()) == 10 })
	do(t, s, "DEL", aliveKey("a", "x"))
	redistest.Eventually(t, "all is gone", func() bool { l.confirm(); return l.empty() })
	if got := len(l.items()); got != 10 {
		t.Errorf("%d items, want 10", got)
	}
}

// A removal that comes late comes between the script and the LRANGE of the mover's find.
func TestALateRemovalInTheMiddleOfFindDoublesNoEqualItems(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	n := newSplitter(t, s)
	m, w := byHand(t, n.address, 500*time.Millisecond)
	h := joinExplicit(t, w)
	defer h.m.Leave()
	now := time.Now()
	s.Push("a", equalItems(3)...)
	settleDown(t, m, &now)
	if h.count() != 3 {
		t.Fatalf("%d items", h.count())
	}
	late, arrived := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(late) })
	t.Cleanup(release)
	var step atomic.Int32
	f := cut(func(request []byte) (int, func()) {
		at := bytes.Index(request, []byte("*4\r\n$6\r\nLRANGE"))
		switch {
		case step.Load() == 0 && bytes.Contains(request, []byte("EVALSHA")):
			step.Store(1)
			return 0, func() { <-late }
		case step.Load() == 1 && at >= 0:
			step.Store(2)
			return at, func() {
				release()
				redistest.Eventually(t, "the removal came", func() bool { return s.Len(inFlightKey("a", "x")) == 2 })
				close(arrived)
			}
		}
		return -1, nil
	})
	n.cut.Store(&f)
	h.m.Acknowledge(h.got[1].seq, h.got[1].taken, batch.Ack{}, nil)
	settleDown(t, m, &now)
	await(t, "the removal came in the middle of find", arrived)
	if st := w.Stats(); h.count() != 3 || st.Confirmed != 1 || st.Gone != 0 || s.Len(inFlightKey("a", "x")) != 2 {
		t.Errorf("%d deliveries of 3 items, one was acknowledged; in flight are %d; books %+v",
			h.count(), s.Len(inFlightKey("a", "x")), st)
	}
}
