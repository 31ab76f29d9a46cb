package tcpserver

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sinceStart returns a function that returns the time since now.
func sinceStart() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

func TestPingTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions()
		opts.PingInterval = 2 * time.Minute
		s, ln := servePipes(t, opts)
		s.first = firstPing
		passed := sinceStart()
		c := ln.dial(t)
		c.send("CONNECT {}\r\n")

		expectAt := func(line string, want time.Duration) {
			t.Helper()
			c.expect(line)
			if got := passed(); got != want {
				t.Errorf("%s came after %v, want %v", line, got, want)
			}
		}
		expectAt("PING", 2*time.Second)
		c.send("PONG\r\n")
		expectAt("PING", 122*time.Second)
		c.send("PONG\r\n")
		expectAt("PING", 242*time.Second)
		expectAt("-ERR 'Stale Connection'", 482*time.Second)
		c.expectEnd()
		if st := s.Stats(); st.Stale != 1 {
			t.Errorf("stats are %+v, want 1 stale", st)
		}
	})
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions()
		opts.ConnectTimeout = 3 * time.Second
		s, ln := servePipes(t, opts)
		passed := sinceStart()
		in, c := ln.dial(t), ln.dial(t)
		in.send("CONNECT {}\r\n")
		c.send("SUB foo 1\r\n")
		c.expect("-ERR 'Authentication Timeout'")
		if got := passed(); got != opts.ConnectTimeout {
			t.Errorf("it came after %v, want %v", got, opts.ConnectTimeout)
		}

		c.expectEnd()
		in.expect("PING")
		in.sync()
		if st := s.Stats(); st.ConnectTimeouts != 1 {
			t.Errorf("stats are %+v, want 1 connect timeout", st)
		}
	})
}

// TestSlowReaderIsKeptAndDribblerCutOff checks that every KiB taken gives a second more.
func TestSlowReaderIsKeptAndDribblerCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions()
		opts.ReceiptTimeout = 10 * time.Second
		l := &fakeList{subject: "items"}
		opts.Lists = []List{{Subject: "items", Joiner: l}}
		s, ln := servePipes(t, opts)
		c := ln.dial(t)
		c.send("CONNECT {}\r\nSUB items 1\r\n")
		c.sync()
		read := func(bytes int) error {
			time.Sleep(time.Second)
			_, err := io.ReadFull(c.Conn, make([]byte, bytes))
			return err
		}

		l.member(t, 0).offer(strings.Repeat("x", 100_000))
		for range 60 {
			if err := read(1 << 10); err != nil {
				t.Fatal(err)
			}
		}
		io.ReadFull(c.Conn, make([]byte, len("MSG items 1 100000\r\n")+100_000+2-60<<10))
		c.expect("PING")
		c.send("PONG\r\n")

		passed := sinceStart()
		l.member(t, 0).offer(strings.Repeat("x", 100_000))
		for read(165) == nil {
		}
		if got := passed(); got < opts.ReceiptTimeout || got > 15*time.Second {
			t.Errorf("a client that takes 165 bytes a second was cut off after %v, want little more than %v", got, opts.ReceiptTimeout)
		}
		synctest.Wait()
		if left, _ := l.member(t, 0).state(); left != 1 {
			t.Errorf("left %d times, want once", left)
		}
		if st := s.Stats(); st.Stuck != 1 {
			t.Errorf("stats are %+v, want 1 stuck", st)
		}
	})
}

func TestClientThatReadsButNeverAnswersIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions()
		opts.ReceiptTimeout = 10 * time.Second
		l := &fakeList{subject: "items"}
		opts.Lists = []List{{Subject: "items", Joiner: l}}
		s, ln := servePipes(t, opts)
		c := ln.dial(t)
		c.send("CONNECT {}\r\nSUB items 1\r\n")
		c.sync()
		m := l.member(t, 0)
		c.expect("PING")
		c.send("PONG\r\n")
		time.Sleep(time.Minute) // nothing is owed, so no time runs
		passed := sinceStart()
		m.offer("one")
		c.expect("MSG items 1 3", "one", "PING", "-ERR 'Stale Connection'")
		if got := passed(); got < opts.ReceiptTimeout || got > opts.ReceiptTimeout+time.Second {
			t.Errorf("it was cut off after %v, want %v and some milliseconds for its bytes", got, opts.ReceiptTimeout)
		}

		c.expectEnd()
		if st := s.Stats(); st.Stuck != 1 {
			t.Errorf("stats are %+v, want 1 stuck", st)
		}
	})
}

// TestKernelSendingOnCounts checks that written bytes may take their time to arrive.
func TestKernelSendingOnCounts(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	opts := testOptions()
	opts.ReceiptTimeout = time.Second
	c := newClient(New(opts), 1, server)
	written := 0
	eventually(t, "the sockets hold no more", func() bool {
		server.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := server.Write(make([]byte, 1<<20))
		written += n
		held, known := sendQueue(server)
		return err != nil && known && held > 0
	})

	at := time.Now()
	c.bytesOut.Store(uint64(written))
	c.pings.begin(at, uint64(written))
	if c.tooSlow(at.Add(500*time.Millisecond)) || !c.tooSlow(at.Add(time.Second)) {
		t.Error("its time is not a second when nothing moves")
	}
	eventually(t, "the kernel sent something on, and its time is longer", func() bool {
		peer.Read(make([]byte, 64<<10))
		return !c.tooSlow(at.Add(2 * time.Second))
	})
}
