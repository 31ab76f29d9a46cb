package tcpserver

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"edged/internal/budget"
)

// stuffed is more than the sockets' buffers of both sides.
var stuffed = strings.Repeat("x", 1<<20)

func TestOnlyTheClientThatReadsNothingIsCutOff(t *testing.T) {
	opts := testOptions()
	opts.ReceiptTimeout = 50 * time.Millisecond
	s, addr, l := withList(t, opts, OnPong)
	slow, c := dialNarrow(t, addr), dial(t, addr)
	slow.send("CONNECT {}\r\nSUB items 1\r\n")
	m := l.member(t, 0)
	for range 64 {
		m.offer(stuffed)
	}

	c.send("SUB foo 1\r\nPUB foo 2\r\nhi\r\n")
	c.expect("MSG foo 1 2", "hi")
	eventually(t, "the slow client is gone", func() bool { st := s.Stats(); return st.Clients == 1 && st.Stuck == 1 })
	if left, _ := m.state(); left != 1 {
		t.Errorf("left %d times, want once", left)
	}
	c.sync()
}

func TestClientWithTooMuchQueuedIsCutOff(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxPending = 1 << 20
	s, addr := serve(t, opts)
	slow, c, pub := dial(t, addr), dial(t, addr), dial(t, addr)
	slow.send("SUB foo 1\r\n")
	slow.sync()
	c.send("SUB bar 1\r\n")
	c.sync()
	message := "PUB foo 1048576\r\n" + stuffed + "\r\n"
	eventually(t, "it is a slow consumer", func() bool {
		pub.send(message)
		pub.sync()
		return s.Stats().SlowConsumers > 0
	})

	eventually(t, "the slow client is gone", func() bool { return s.Stats().Clients == 2 })
	pub.send("PUB bar 2\r\nhi\r\n")
	c.expect("MSG bar 1 2", "hi")
	if st := s.Stats(); st.SlowConsumers != 1 {
		t.Errorf("stats are %+v, want 1 slow consumer", st)
	}
}

func TestClientThatPingsAndNeverReadsIsBounded(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxPending = 1 << 16
	s, addr := serve(t, opts)
	c := dial(t, addr)
	pings := []byte(strings.Repeat("PING\r\n", 10_000))
	c.SetWriteDeadline(time.Now().Add(patience))
	eventually(t, "it is a slow consumer", func() bool {
		c.Write(pings) // fails when the server has had enough
		return s.Stats().SlowConsumers > 0
	})
}

func TestListItemsAreNotCountedAsPending(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxPending = 1000
	s, addr, l := withList(t, opts, OnPong)
	c, pub := dial(t, addr), dial(t, addr)
	c.send("SUB items 1\r\nSUB foo 2\r\n")
	m := l.member(t, 0)
	c.sync()
	for range 32 {
		m.offer(stuffed)
	}

	pub.send("PUB foo 2\r\nhi\r\n")
	pub.sync()
	for i := range 32 {
		if line := c.line(); line == "PING" {
			c.expect("MSG items 1 1048576")
		}
		if _, err := c.r.Discard(len(stuffed) + 2); err != nil {
			t.Fatal(i, err)
		}
	}

	for line := c.line(); line != "hi"; line = c.line() {
	}
	if st := s.Stats(); st.SlowConsumers != 0 {
		t.Errorf("stats are %+v, want no slow consumer", st)
	}
}

// Whatever memory one client makes the server hold, the rest goes on.
func TestTheClientThatHoldsTheMostIsCutOffWhenTheBudgetIsUsedUp(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Budget = budget.New(8 << 20)
	s, addr := serve(t, opts)
	hoarders := []*conn{dialNarrow(t, addr), dialNarrow(t, addr)}
	for i, c := range hoarders {
		c.send(fmt.Sprintf("CONNECT {}\r\nSUB hoard.%d 1\r\n", i))
	}
	other := dial(t, addr)
	other.send("SUB foo 1\r\n")
	eventually(t, "all are subscribed", func() bool {
		n := 0
		for _, c := range s.Clients() {
			n += c.Subscriptions
		}
		return n == 3
	})

	message := strings.Repeat("x", 1<<16)
	for n := 0; s.Stats().OverMemory == 0; n++ {
		if n > 1000 {
			t.Fatal("none is cut off though more is queued than the budget allows")
		}
		// The first one holds the most, however much of it their sockets take.
		for _, i := range []int{0, 0, 0, 1} {
			other.send(fmt.Sprintf("PUB hoard.%d %d\r\n%s\r\n", i, len(message), message))
		}
		other.sync()
	}
	other.send("PUB foo 2\r\nhi\r\n")
	other.expect("MSG foo 1 2", "hi")
	eventually(t, "the first one is gone", func() bool { return s.Stats().Clients == 2 })
	if clients := s.Clients(); clients[0].ID != 2 || s.Stats().OverMemory != 1 {
		t.Errorf("left are %+v, want the one that had less", clients)
	}
	s.Close()
	if used := opts.Budget.Used(); used != 0 {
		t.Errorf("%d bytes are used without a client", used)
	}
}

func TestAcknowledgementsThatWaitForAnAnswerCount(t *testing.T) {
	t.Parallel()
	l := &explicitList{fakeList: fakeList{subject: "items"}}
	opts := testOptions()
	opts.Lists = []List{{Name: "my list", Stream: "my_list", Subject: "items", Confirm: Acknowledged, Joiner: l}}
	opts.Budget = budget.New(1 << 20)
	s, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	a := l.acker(t, 0)
	c.sync()
	before := opts.Budget.Used()
	ask := pub(ackSubject(0), "inbox", "")
	for range 3 {
		c.send(ask)
	}
	c.sync()
	held := opts.Budget.Used() - before
	if held < 3*len("inbox") {
		t.Fatalf("%d bytes are held for three acknowledgements", held)
	}
	a.calls()[0].saved(nil)
	if now := opts.Budget.Used() - before; now != held/3*2 {
		t.Errorf("%d bytes are held for two acknowledgements, and %d for three", now, held)
	}

	for range 1<<20/held*3 + 3 {
		if _, err := io.WriteString(c, ask); err != nil {
			break
		}
	}
	eventually(t, "it is cut off", func() bool { st := s.Stats(); return st.OverMemory == 1 && st.Clients == 0 })
	for _, call := range a.calls()[1:] {
		call.saved(nil)
	}
	eventually(t, "nothing is held", func() bool { return opts.Budget.Used() == 0 })
}
