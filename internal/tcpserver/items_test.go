package tcpserver

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/relay"
)

func wantConfirmed(t *testing.T, m *fakeMembership, want ...int) {
	t.Helper()
	eventually(t, fmt.Sprintf("confirmed is %v", want), func() bool { return slices.Equal(m.confirmed(), want) })
}

func TestAPongConfirmsItemsBeforeItsPing(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 5\r\n")
	m := l.member(t, 0)
	if m.group != "" || m.key != "5" {
		t.Fatalf("joined as group %q, key %q", m.group, m.key)
	}
	m.offer("one", "two")
	c.expect("MSG items 5 3", "one", "MSG items 5 3", "two", "PING")
	if got := m.confirmed(); !slices.Equal(got, []int{0}) {
		t.Fatalf("confirmed before PONG: %v", got)
	}

	// One PING is outstanding, so none follows items that are written meanwhile.
	m.offer("three")
	c.expect("MSG items 5 5", "three")
	m.offer("four")
	c.expect("MSG items 5 4", "four")
	c.sync()
	if got := s.Clients()[0].Owed; got != 4 {
		t.Errorf("owed is %d, want 4", got)
	}

	c.send("PONG\r\n")
	c.expect("PING")
	wantConfirmed(t, m, 1, 0, 0)
	c.send("PONG\r\n")
	wantConfirmed(t, m, 1, 1, 1)
	if got := s.Clients()[0].Owed; got != 0 {
		t.Errorf("owed is %d, want 0", got)
	}

	c.send("PONG\r\nPONG\r\n") // without a PING
	c.sync()
	m.offer("five")
	c.expect("MSG items 5 4", "five", "PING")
	wantConfirmed(t, m, 1, 1, 1, 0)
}

func TestAWriteConfirmsIfTheListIsConfiguredSo(t *testing.T) {
	t.Parallel()
	_, addr, l := withList(t, testOptions(), OnWrite)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	m.offer("one")
	m.offer("two")
	wantConfirmed(t, m, 1, 1)
	c.expect("MSG items 1 3", "one", "MSG items 1 3", "two")
	c.sync()
}

func TestItemsDeliveredDuringJoinArrive(t *testing.T) {
	t.Parallel()
	_, addr, l := withList(t, testOptions(), OnPong)
	l.greet = batch.Of("items", 0, []byte("early"))
	c := dial(t, addr)
	c.send("SUB > q 1\r\n")
	c.expect("MSG items 1 5", "early", "PING")
	c.send("PONG\r\n")
	m := l.member(t, 0)
	wantConfirmed(t, m, 1)
	if m.group != "q" {
		t.Errorf("the group is %q, want q", m.group)
	}
}

func TestPatternJoinsEveryListItMatches(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	a, b := &fakeList{subject: "items.a"}, &fakeList{subject: "items.b"}
	opts.Lists = []List{{Subject: "items.a", Joiner: a}, {Subject: "items.b", Joiner: b, Confirm: OnWrite}}
	_, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB items.* 1\r\n")
	c.sync()
	a.member(t, 0).offer("x")
	c.expect("MSG items.a 1 1", "x", "PING")
	b.member(t, 0).offer("y")
	c.expect("MSG items.b 1 1", "y")
	wantConfirmed(t, b.member(t, 0), 1)
	wantConfirmed(t, a.member(t, 0), 0)
	c.send("UNSUB 1\r\n")
	c.sync()

	for _, l := range []*fakeList{a, b} {
		if left, _ := l.member(t, 0).state(); left != 1 {
			t.Errorf("left %s %d times, want once", l.subject, left)
		}
	}
}

func TestUnsubLeavesAndUnwrittenItemsAreNotSent(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	m.offer("one")
	c.expect("MSG items 1 3", "one", "PING")
	c.send("UNSUB 1\r\n")
	c.sync()
	if left, _ := m.state(); left != 1 {
		t.Fatalf("left %d times, want once", left)
	}

	if n := m.offer("two"); n != 0 {
		t.Errorf("took %d items after it left", n)
	}

	if got := s.Clients()[0].Owed; got != 0 {
		t.Errorf("owed is %d, want 0", got)
	}
	c.send("PONG\r\n")
	c.sync()
	c.Close()
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 0 })
	if left, _ := m.state(); left != 1 {
		t.Errorf("left %d times, want once", left)
	}
}

func TestUnsubWithACountTakesTheRemainingItems(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	m.offer("a", "b")
	c.expect("MSG items 1 1", "a", "MSG items 1 1", "b", "PING")
	c.send("UNSUB 1 4\r\n")
	c.sync()
	if n := m.offer("c", "d", "e"); n != 2 {
		t.Errorf("took %d items, want 2", n)
	}

	c.expect("MSG items 1 1", "c", "MSG items 1 1", "d")
	if n := m.offer("f"); n != 0 {
		t.Errorf("took %d items when it was full", n)
	}

	eventually(t, "the membership is finished", func() bool {
		_, finished := m.state()
		return slices.Equal(finished, []int{math.MaxInt})
	})

	c.send("PONG\r\n")
	c.expect("PING")
	c.send("PONG\r\n")
	wantConfirmed(t, m, 1, 1)
	c.Close()
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 0 })
	if left, _ := m.state(); left != 0 {
		t.Errorf("left %d times, but owed nothing any more", left)
	}
}

func TestUnsubWithCountReachedExactlyFinishes(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 1\r\nUNSUB 1 2\r\n")
	c.sync()
	m := l.member(t, 0)
	if n := m.offer("a", "b"); n != 2 {
		t.Errorf("took %d items, want 2", n)
	}

	c.expect("MSG items 1 1", "a", "MSG items 1 1", "b", "PING")
	eventually(t, "the membership is finished", func() bool {
		_, finished := m.state()
		return slices.Equal(finished, []int{math.MaxInt})
	})

	c.Close() // without PONG: its items go to other clients
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 0 })
	if left, _ := m.state(); left != 1 {
		t.Errorf("left %d times, want once", left)
	}
	wantConfirmed(t, m, 0)
}

func TestUnsubWithCountAlreadyPassedKeepsTheFirst(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		confirmed bool
		max       int
		finished  []int
		left      int
	}{
		{"nothing confirmed", false, 3, []int{3}, 0},
		{"nothing confirmed, all of them", false, 4, []int{4}, 0},
		{"two confirmed", true, 3, []int{1}, 0},
		{"all of them confirmed", true, 2, nil, 1},
		{"fewer than were confirmed", true, 1, nil, 1},
		{"no count", true, 0, nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, addr, l := withList(t, testOptions(), OnPong)
			c := dial(t, addr)
			c.send("SUB items 1\r\n")
			m := l.member(t, 0)
			m.offer("a", "b")
			c.expect("MSG items 1 1", "a", "MSG items 1 1", "b", "PING")
			m.offer("c", "d")
			c.expect("MSG items 1 1", "c", "MSG items 1 1", "d")
			if tc.confirmed {
				c.send("PONG\r\n")
				c.expect("PING")
			}

			c.send(fmt.Sprintf("UNSUB 1 %d\r\n", tc.max))
			c.sync()
			left, finished := m.state()
			if left != tc.left || !slices.Equal(finished, tc.finished) {
				t.Errorf("left %d, finished %v; want %d, %v", left, finished, tc.left, tc.finished)
			}
		})
	}
}

func TestUnsubWithCountAlreadyPassedKeepsNothingOfSeveralLists(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	a, b := &fakeList{subject: "items.a"}, &fakeList{subject: "items.b"}
	opts.Lists = []List{{Subject: "items.a", Joiner: a}, {Subject: "items.b", Joiner: b}}
	s, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB items.* 1\r\n")
	c.sync()
	a.member(t, 0).offer("x", "y")
	c.expect("MSG items.a 1 1", "x", "MSG items.a 1 1", "y", "PING")
	b.member(t, 0).offer("z")
	c.expect("MSG items.b 1 1", "z")
	c.send("UNSUB 1 2\r\n")
	c.sync()
	for _, l := range []*fakeList{a, b} {
		if left, finished := l.member(t, 0).state(); left != 1 || finished != nil {
			t.Errorf("%s: left %d, finished %v", l.subject, left, finished)
		}
	}

	if got := s.Clients()[0].Owed; got != 0 {
		t.Errorf("owed is %d, want 0", got)
	}
}

func TestUnsubCountsMessagesAndItemsTogether(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	l := &fakeList{subject: "items.a"}
	opts.Lists = []List{{Subject: "items.a", Joiner: l}}
	_, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB items.* 1\r\nUNSUB 1 3\r\nPUB items.b 1\r\nx\r\n")
	c.expect("MSG items.b 1 1", "x")
	m := l.member(t, 0)
	m.offer("a")
	c.expect("MSG items.a 1 1", "a", "PING")
	c.send("PUB items.b 1\r\ny\r\nPUB items.b 1\r\nz\r\n")
	c.expect("MSG items.b 1 1", "y")
	c.sync()

	if n := m.offer("b"); n != 0 {
		t.Errorf("took %d items when it was full", n)
	}
}

func TestClientThatDisconnectsLeavesOnce(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c, other := dial(t, addr), dial(t, addr)
	c.send("SUB items 1\r\nSUB > q 2\r\n")
	l.member(t, 1)
	other.send("SUB items 3\r\n")
	l.member(t, 2)
	l.member(t, 0).offer("a")
	c.Close()
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 1 })

	for i, want := range []int{1, 1, 0} {
		m := l.member(t, i)
		if left, _ := m.state(); left != want {
			t.Errorf("member %d left %d times, want %d", i, left, want)
		}
		if n := m.offer("b"); (n > 0) != (i == 2) {
			t.Errorf("member %d took %d items", i, n)
		}
	}
}

func TestBatchIsEncodedOncePerSidAndShared(t *testing.T) {
	t.Parallel()
	_, addr, l := withList(t, testOptions(), OnPong)
	var clients []*conn
	for i, sid := range []string{"1", "1", "2", "1"} {
		c := dial(t, addr)
		c.send("SUB items " + sid + "\r\n")
		l.member(t, i)
		clients = append(clients, c)
	}

	item := strings.Repeat("x", 300)
	b := batch.Of("items", 0, []byte(item), []byte("\r\n\x00"), nil)
	l.mu.Lock()
	for _, m := range l.joined {
		m.deliver(b)
	}
	l.mu.Unlock()

	for i, c := range clients {
		sid := l.member(t, i).key
		c.expect("MSG items "+sid+" 300", item, "MSG items "+sid+" 3", "", "\x00", "MSG items "+sid+" 0", "", "PING")
	}
	for _, sid := range []string{"1", "2"} {
		b.Encoded(sid, func(*batch.Batch) *batch.Encoding {
			t.Errorf("the batch is not encoded for sid %s", sid)
			return &batch.Encoding{}
		})
	}
}

func TestPongFollowsTheItemsQueuedBeforeIt(t *testing.T) {
	t.Parallel()
	_, addr, l := withList(t, testOptions(), OnWrite)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	for i := range 200 {
		item := fmt.Sprint(i)
		m.offer(item)
		c.send("PING\r\nPUB foo 0\r\n\r\n")
		c.expect(fmt.Sprintf("MSG items 1 %d", len(item)), item, "PONG")
	}
}

func TestItemsOfAMegabyte(t *testing.T) {
	t.Parallel()
	_, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	item := strings.Repeat("0123456789abcdef", 1<<16)
	for range 5 {
		m.offer(item)
	}

	for i := 0; i < 5; {
		switch line := c.line(); line {
		case "PING":
			c.send("PONG\r\n")
		case "MSG items 1 1048576":
			got := make([]byte, len(item)+2)
			if _, err := io.ReadFull(c.r, got); err != nil {
				t.Fatal(err)
			}
			if string(got) != item+crlf {
				t.Fatal("the item came changed")
			}
			i++
		default:
			t.Fatalf("got %q", line)
		}
	}

	c.expect("PING")
	c.send("PONG\r\n")
	wantConfirmed(t, m, 1, 1, 1, 1, 1)
}

// newLog is the relay of a list with number 0 at its head.
func newLog(o relay.Options) *relay.Log {
	l := relay.New(o)
	l.Load(batch.Snapshot{})
	return l
}

// feed does the loop's work for a list, as far as the relay is concerned. It offers as many of the
// items below end as the list's clients take.
func feed(l *relay.Log, end uint64, item func(n uint64) []byte) {
	for {
		p := l.Plan(0, end)
		if p.Items == 0 && !p.Dirty {
			return
		}
		l.Changes()
		l.Saved(true)
		if p.Items > 0 {
			l.Offer(batch.Of("items", p.From, item(p.From)), p.Sweep)
		}
	}
}

// items returns items of size bytes.
func items(size int) func(uint64) []byte { return func(uint64) []byte { return make([]byte, size) } }

func TestAfterUnsubTheServerKeepsNothingOfTheItems(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{false, true} {
		t.Run(fmt.Sprintf("reads=%v", reads), func(t *testing.T) {
			window := newLog(relay.Options{Window: 100, Memory: 4 << 20})
			opts := testOptions()
			opts.Lists = []List{{Subject: "items", Joiner: window}}
			s, addr := serve(t, opts)
			c := dial(t, addr)
			if reads { // but does not answer PINGs
				go io.Copy(io.Discard, c)
			}

			for i := range 20 {
				c.send(fmt.Sprintf("SUB items %d\r\n", i))
				eventually(t, "the client joined", func() bool { return window.Stats().Members == 1 })
				feed(window, math.MaxUint64, items(1<<20))
				c.send(fmt.Sprintf("UNSUB %d\r\n", i))
				eventually(t, "the client left", func() bool { return window.Stats().Members == 0 })
			}

			client := s.snapshot()[0]
			client.mu.Lock()
			defer client.mu.Unlock()

			kept := len(client.pings.covered) + len(client.pings.uncovered)
			for _, seg := range client.queue.segments {
				if seg.batch != nil {
					kept++
				}
			}
			if kept > 0 {
				t.Errorf("%d deliveries are remembered that no client owes", kept)
			}
		})
	}
}

func pinging(c *client) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pings.outstanding
}

func TestAPongThatComesBeforeItsPingConfirmsNothingUnwritten(t *testing.T) {
	t.Parallel()
	window := newLog(relay.Options{Window: 100, Memory: 64 << 20})
	opts := testOptions()
	opts.Lists = []List{{Subject: "items", Joiner: window}}
	s, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	eventually(t, "the client joined", func() bool { return window.Stats().Members == 1 })
	feed(window, 1, items(30<<20)) // more than the socket's buffers
	eventually(t, "it is being written", func() bool { return pinging(s.snapshot()[0]) })
	c.send("PONG\r\nSUB done 2\r\n")
	eventually(t, "the PONG was read", func() bool { return s.Clients()[0].Subscriptions == 2 })
	if floor := window.Plan(0, 1).Floor; floor != 0 {
		t.Fatal("an item is confirmed whose last byte has not left the server")
	}
}

func TestAClientThatOwesAReceiptIsCutOffAlthoughClientsWriteToIt(t *testing.T) {
	window := newLog(relay.Options{Window: 100, Memory: 1 << 20})
	opts := testOptions()
	opts.ReceiptTimeout = 200 * time.Millisecond
	opts.Lists = []List{{Subject: "items", Joiner: window}}
	s, addr := serve(t, opts)
	c := dial(t, addr)
	go io.Copy(io.Discard, c) // it reads, but does not answer PINGs
	c.send("SUB items 1\r\nSUB chat 2\r\n")
	eventually(t, "the client joined", func() bool { return window.Stats().Members == 1 })
	feed(window, 1, items(1))
	other := dial(t, addr)
	go io.Copy(io.Discard, other)

	eventually(t, "the client is cut off", func() bool {
		other.send("PUB chat 5\r\nhello\r\n")
		return s.Stats().Stuck == 1
	})
}

// A client that stops reading costs only its window; when it reads again, it gets every item.
// refilled returns a log that is fed with n items whenever it has room. An item begins with its
// number, in eight digits.
func refilled(t *testing.T, o relay.Options, n uint64, size int) *relay.Log {
	t.Helper()
	wake, stop := make(chan struct{}, 1), make(chan struct{})
	o.Changed = func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	log := newLog(o)

	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			select {
			case <-wake:
				feed(log, n, func(n uint64) []byte {
					item := make([]byte, size)
					copy(item, fmt.Sprintf("%08d", n))
					return item
				})
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		loop.Wait()
	})
	return log
}

func TestClientThatPausesSlowsItsListDownAndMissesNothing(t *testing.T) {
	t.Parallel()
	const n, size = 100, 1 << 20 // more than sockets and the window hold
	window := refilled(t, relay.Options{Window: 10, Memory: 8 << 20}, n, size)
	opts := testOptions()
	opts.MaxPending = 1 << 20
	opts.Lists = []List{{Subject: "items", Joiner: window}}
	s, addr := serve(t, opts)
	c, other := dial(t, addr), dial(t, addr)
	c.send("SUB items 1\r\n")
	c.sync()
	eventually(t, "the sockets are full", func() bool {
		unsent, known := sendQueue(s.snapshot()[0].conn)
		return known && unsent > 0
	})
	if taken := window.Stats().Taken; taken > 10 {
		t.Errorf("%d items were taken, want no more than the window", taken)
	}
	other.sync() // no other client waits

	item := make([]byte, size+len(crlf))
	for want := 0; want < n; {
		switch line := c.line(); line {
		case "PING":
			c.send("PONG\r\n")
		case fmt.Sprintf("MSG items 1 %d", size):
			if _, err := io.ReadFull(c.r, item); err != nil {
				t.Fatal(err)
			}
			if got := string(item[:8]); got != fmt.Sprintf("%08d", want) {
				t.Fatalf("got item %s, want %d", got, want)
			}
			want++
		default:
			t.Fatalf("got %q", line)
		}
	}
	if line := c.line(); line == "PING" {
		c.send("PONG\r\n")
	}
	eventually(t, "all are confirmed", func() bool { return window.Stats().Confirmed == n })
	if st := s.Stats(); st.SlowConsumers+st.Stuck != 0 {
		t.Errorf("stats are %+v, want no client cut off", st)
	}
}

// A client that reads but does not answer is cut off even if there are always bytes to write to it.
func TestClientThatIsAlwaysWrittenToIsStillLookedAt(t *testing.T) {
	opts := testOptions()
	opts.PingInterval = 20 * time.Millisecond
	s, addr, l := withList(t, opts, OnWrite)
	c := dialRaw(t, addr)
	c.send("CONNECT {}\r\nSUB items 1\r\n")
	m := l.member(t, 0)
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(io.Discard, c.r) })
	t.Cleanup(reading.Wait)
	t.Cleanup(func() { c.Close() })
	encore{m.takes, batch.Of("items", 0, []byte("one"))}.Confirm()
	eventually(t, "it is cut off", func() bool { return s.Stats().Stale == 1 })
}

func TestOwedCountsItemsUntilTheyAreAcknowledged(t *testing.T) {
	t.Parallel()
	log := relay.New(relay.Options{Window: 100, Memory: 1 << 20, Terms: relay.Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 100}})
	log.Load(batch.Snapshot{Epoch: "e"})
	opts := testOptions()
	opts.Lists = []List{{Name: "items", Stream: "items", Subject: "items", Confirm: Acknowledged, Joiner: log}}
	s, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	c.sync()
	log.Plan(0, 3)
	log.Changes()
	log.Saved(true)
	p := log.Plan(0, 3)
	x := []byte("x")
	log.Offer(batch.Of("items", p.From, x, x, x).Stamp("e", time.Now(), 0), p.Sweep)
	var replies []string
	for range 3 {
		replies = append(replies, strings.Fields(c.line())[3])
		c.expect("x")
	}

	c.sync()
	if got := s.Clients()[0].Owed; got != 3 {
		t.Errorf("it owes %d items, want the 3 that it has", got)
	}

	c.send("PUB " + replies[1] + " 0\r\n\r\n")
	c.sync()
	if got := s.Clients()[0].Owed; got != 2 {
		t.Errorf("it owes %d items, want 2", got)
	}
}

func TestCutOffDisconnectsTheClientOfAMember(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c, other := dial(t, addr), dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	if id, ok := s.ClientOf(m.takes); !ok || id != s.Clients()[0].ID {
		t.Errorf("the member is client %d's, want %d", id, s.Clients()[0].ID)
	}

	s.CutOff(m.takes)
	c.expect("-ERR 'Stale Connection'")
	c.expectEnd()
	eventually(t, "it has left", func() bool { left, _ := m.state(); return left == 1 })
	other.sync()
	if st := s.Stats(); st.Lagged != 1 || st.Stuck+st.Stale != 0 {
		t.Errorf("stats are %+v, want 1 lagged", st)
	}
}
