package tcpserver

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/batch"
)

// offerCorked offers items between Cork and Uncork, as the loop does.
func (m *fakeMembership) offerCorked(s *Server, items ...string) {
	s.Cork()
	m.offer(items...)
	s.Uncork()
}

// Uncork and the writer goroutine write a client's items and messages in one order, and
// every item is confirmed.
func TestUncorkKeepsTheOrderOfItemsAndMessages(t *testing.T) {
	t.Parallel()
	const items = 2000
	s, addr, l := withList(t, testOptions(), OnPong)
	c, other := dial(t, addr), dial(t, addr)
	c.send("SUB items 1\r\nSUB news 2\r\n")
	c.sync()
	m := l.member(t, 0)
	var sending sync.WaitGroup
	defer sending.Wait()

	sending.Go(func() {
		for i := range items {
			m.offerCorked(s, fmt.Sprint("item ", i))
		}
	})

	sending.Go(func() {
		for i := range items {
			other.send(fmt.Sprintf("PUB news 20\r\n%-20d\r\n", i))
		}
	})

	next := map[string]int{}
	for next["1"] < items || next["2"] < items {
		switch line := c.line(); {
		case line == "PING":
			c.send("PONG\r\n")
		case strings.HasPrefix(line, "MSG "):
			sid := strings.Fields(line)[2]
			got := strings.TrimSpace(strings.TrimPrefix(c.line(), "item "))
			if got != fmt.Sprint(next[sid]) {
				t.Fatalf("%q of subscription %s came, want %d", got, sid, next[sid])
			}
			next[sid]++
		default:
			t.Fatalf("the server says %q", line)
		}
	}

	sending.Wait()
	sending.Go(c.answerPings)

	eventually(t, "all items are confirmed", func() bool {
		for _, n := range m.confirmed() {
			if n != 1 {
				return false
			}
		}
		return true
	})

	c.Close()
}

// A full socket blocks nothing; the client gets the rest when it reads on.
func TestUncorkDoesNotWaitForAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnWrite)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	c.sync()
	item := strings.Repeat("x", corkedBytes/2)
	offered := 0
	for unsent := 0; unsent == 0 || offered < 100; offered++ { // until the socket is full
		m.offerCorked(s, item)
		unsent = 0
		for _, n := range m.confirmed() {
			unsent += 1 - n
		}
		if offered > 10000 {
			t.Fatal("the socket takes everything")
		}
	}

	for range offered {
		c.expect(fmt.Sprintf("MSG items 1 %d", len(item)), item)
	}
}

// There are more clients than Uncork writes to, and then one whose connection cannot be written to
// without waiting.
func TestTheWriterGoroutineWritesTheRestOfUncork(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	var clients []*conn
	for i := range corkedClients + 2 {
		c := dial(t, addr)
		c.send("SUB items 1\r\n")
		l.member(t, i)
		clients = append(clients, c)
	}
	s.Cork()
	for i := range clients {
		l.member(t, i).offer("one", "two")
	}
	s.Uncork()
	for _, c := range clients {
		c.expect("MSG items 1 3", "one", "MSG items 1 3", "two", "PING")
	}

	l = &fakeList{subject: "items"}
	opts := testOptions()
	opts.Lists = []List{{Subject: "items", Joiner: l}}
	s, pipes := servePipes(t, opts)
	c := pipes.dial(t)
	c.send("CONNECT {}\r\nSUB items 1\r\n")
	c.sync()
	l.member(t, 0).offerCorked(s, "one")
	c.expect("MSG items 1 3", "one", "PING")
}

// A subscription that has got all its items also ends when Uncork wrote the last one.
func TestASubscriptionEndsWhoeverWroteItsLastItem(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 1\r\nUNSUB 1 2\r\n")
	c.sync()
	m := l.member(t, 0)
	m.offerCorked(s, "one")
	c.expect("MSG items 1 3", "one", "PING")
	m.offerCorked(s, "two", "three")
	c.expect("MSG items 1 3", "two")
	eventually(t, "the membership ends", func() bool {
		_, finished := m.state()
		return len(finished) == 1
	})
}

// encore is a receipt: once it is confirmed the same items are delivered again.
type encore struct {
	to batch.Member
	b  *batch.Batch
}

func (e encore) Confirm() { e.to.Deliver(e.b, 0, e.b.Len(), e) }

// Uncork leaves items that are queued while it writes to the writer goroutine. Otherwise it might
// never return.
func TestUncorkReturnsThoughMoreIsQueuedAllTheTime(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnWrite)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	c.sync()
	c.SetReadDeadline(time.Time{})
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(io.Discard, c.r) })
	t.Cleanup(reading.Wait)
	t.Cleanup(func() { c.Close() })

	s.Cork()
	encore{m.takes, batch.Of("items", 0, []byte("one"))}.Confirm()
	flushed := make(chan struct{})
	go func() {
		s.Uncork()
		close(flushed)
	}()
	select {
	case <-flushed:
	case <-time.After(patience):
		t.Error("Uncork goes on writing")
		c.Close()
		<-flushed
	}
}
