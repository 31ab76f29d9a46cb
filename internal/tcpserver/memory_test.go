package tcpserver

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"edged/internal/batch"
	"edged/internal/budget"
)

// TestSubscriptionsAreChargedTheMemoryThatTheyTake compares the memory that subscriptions of several shapes
// take with the memory that is charged for them. It measures the heap, so it is not parallel.
func TestSubscriptionsAreChargedTheMemoryThatTheyTake(t *testing.T) {
	deep, long := strings.Repeat(".a", maxTokens-2), strings.Repeat("x", 200)
	for name, line := range map[string]func(i, j int) command{
		"literal":          func(i, j int) command { return sub(fmt.Sprint("a.", i, ".", j), "", j) },
		"of long subject":  func(i, j int) command { return sub(fmt.Sprint(strings.Repeat(long, 10), i, ".", j), "", j) },
		"all the same":     func(_, j int) command { return sub("a", "", j) },
		"one group each":   func(i, j int) command { return sub("a", fmt.Sprint(i, "-", j), j) },
		"long group names": func(i, j int) command { return sub("a", fmt.Sprint(long, i, "-", j), j) },
		"grouped apart":    func(i, j int) command { return sub(fmt.Sprint("a.", i, ".", j), "q", j) },
		"pattern":          func(i, j int) command { return sub(fmt.Sprint(i, "-", j, ".*"), "", j) },
		"deep pattern":     func(i, j int) command { return sub(fmt.Sprint(i, "-", j, deep, ".*"), "", j) },
		"forks":            func(i, j int) command { return sub(fmt.Sprint(i, ".", j/2, ".", j%2, ".*"), "", j) },
	} {
		r := newRouter()
		clients := make([]*client, 10)
		counted, before := 0, inUse()
		for i := range clients {
			c := &client{subs: make(map[string]*subscription)}
			clients[i] = c
			for j := range 1000 {
				cmd := line(i, j)
				one := newSubscription(c, cmd, strings.HasSuffix(string(cmd.subject), "*"))
				c.subs[one.sid] = one
				r.add(one)
				counted += one.size()
			}
		}

		taken := inUse() - before
		if taken > counted*11/10 || counted > taken*9/4*(64/strconv.IntSize) { // the charge assumes 64 bits
			t.Errorf("%s: 10,000 subscriptions take %d bytes, and count as %d", name, taken, counted)
		}

		runtime.KeepAlive(r)
		runtime.KeepAlive(clients)
	}
}

func sub(subject, queue string, sid int) command {
	return command{subject: []byte(subject), queue: []byte(queue), sid: []byte(fmt.Sprint(sid))}
}

// inUse returns the number of heap bytes in use.
func inUse() int {
	runtime.GC()
	runtime.GC() // pools keep their contents for one cycle
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestSubscriptionsOfOneClientDoNotUseUpTheMemory has one client that subscribes to ever more
// subjects while another has a few.
func TestSubscriptionsOfOneClientDoNotUseUpTheMemory(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(".a", maxTokens-2)
	for name, line := range map[string]string{
		"patterns":        "SUB %d" + deep + ".* %[1]d\r\n",
		"literals":        "SUB %d." + strings.Repeat("x", 4000) + " %[1]d\r\n",
		"groups":          "SUB a q%d" + strings.Repeat("q", 200) + " %[1]d\r\n",
		"items":           "SUB items %d\r\n",
		"ended, of items": "SUB items %d\r\nUNSUB %[1]d 1\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := testOptions()
			opts.MaxSubscriptions, opts.Budget = 1_000_000, budget.New(1<<20)
			s, addr, _ := withList(t, opts, OnPong)
			honest, greedy := dial(t, addr), dial(t, addr)
			honest.send("SUB mine.* 1\r\nSUB mine.a crew 2\r\n")
			honest.sync()

			for i := 0; s.Stats().OverMemory == 0 && i < 100_000; i++ {
				if _, err := fmt.Fprintf(greedy, line, i); err != nil {
					break
				}
			}
			eventually(t, "the greedy client is cut off", func() bool { st := s.Stats(); return st.OverMemory == 1 && st.Clients == 1 })
			honest.send("PUB mine.b 2\r\nhi\r\n")
			honest.expect("MSG mine.b 1 2", "hi")

			honest.send("UNSUB 1\r\nUNSUB 2\r\n")
			honest.sync()
			if n := opts.Budget.Used(); n != 0 {
				t.Errorf("%d bytes count as held, and there are no subscriptions", n)
			}
		})
	}
}

// TestUnfinishedCommandsCount has two clients that begin a message and stop, one with more bytes
// than the other. The budget is used up before the second one is done.
func TestUnfinishedCommandsCount(t *testing.T) {
	t.Parallel()
	for name, secured := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts, a := testOptions(), newAuthority(t)
			opts.Budget = budget.New(3 << 19)
			if secured {
				opts.Gate = gated(a.secured())
			}
			s, addr := serve(t, opts)
			begin := func(announced, size int) *conn {
				var c *conn
				if secured {
					c = a.mustDialTLS(addr, false, nil)
				} else {
					c = dialRaw(t, addr)
				}
				c.send("CONNECT {}\r\n")
				c.sync()
				c.send(fmt.Sprintf("PUB a %d\r\n%s", announced, strings.Repeat("x", size)))
				return c
			}

			small, large := begin(700_000, 20_000), begin(1_000_000, 900_000)
			eventually(t, "they count", func() bool { return opts.Budget.Used() > 20_000+900_000-2*freeInput })
			small.send(strings.Repeat("x", 600_000))
			eventually(t, "the larger one is cut off", func() bool { st := s.Stats(); return st.OverMemory == 1 && st.Clients == 1 })
			large.Close()

			small.send(strings.Repeat("x", 80_000) + "\r\n")
			small.sync()
			if n := opts.Budget.Used(); n != 0 {
				t.Errorf("%d bytes count as held after the message has come", n)
			}
		})
	}
}

// TestUnfinishedMessagesOfTLSCount has two clients that begin the handshake and stop, one with more
// bytes than the other.
func TestUnfinishedMessagesOfTLSCount(t *testing.T) {
	t.Parallel()
	opts, a := testOptions(), newAuthority(t)
	opts.Gate, opts.Budget = gated(a.secured()), budget.New(150_000)
	s, addr := serve(t, opts)
	begin := func(size int) net.Conn {
		c := dialRaw(t, addr)
		hello := append([]byte{1, 0, 0xff, 0xff}, make([]byte, size)...)
		for record := range slices.Chunk(hello, 16_000) {
			c.send(string([]byte{22, 3, 1, byte(len(record) >> 8), byte(len(record))}) + string(record))
		}
		return c
	}

	small := begin(40_000)
	eventually(t, "it counts", func() bool { return opts.Budget.Used() >= 2*(40_000-freeRecords) })
	begin(60_000)
	eventually(t, "the larger one is cut off", func() bool { st := s.Stats(); return st.OverMemory == 1 && st.Clients == 1 })
	small.Close()
	eventually(t, "nothing counts", func() bool { return opts.Budget.Used() == 0 && s.Stats().Clients == 0 })
}

func TestTheClientWithTheMostDebtsIsCutOff(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Budget = budget.New(20_000)
	s, addr, l := withList(t, opts, OnPong)
	few, many := dial(t, addr), dial(t, addr)
	few.send("SUB items 1\r\n")
	first := l.member(t, 0)
	many.send("SUB items 1\r\n")
	second := l.member(t, 1)
	before := opts.Budget.Used()

	hold := func(m *fakeMembership, n int) { // as the relay does
		l.mu.Lock()
		defer l.mu.Unlock()
		m.takes.(batch.Holder).Hold(n)
	}
	hold(first, 5000)
	hold(second, 20_000)
	eventually(t, "the second is cut off", func() bool { st := s.Stats(); return st.OverMemory == 1 && st.Clients == 1 })
	hold(second, -20_000)
	few.sync()
	hold(first, -5000)
	if n := opts.Budget.Used(); n != before/2 {
		t.Errorf("%d bytes count as held, want %d", n, before/2)
	}
}
