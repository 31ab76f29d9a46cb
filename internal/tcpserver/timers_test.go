package tcpserver

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sinceStart returns a function that tells the time that has passed.
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

// TestSlowReaderIsKeptAndStuckOneCutOff: every byte that is taken is progress.
func TestSlowReaderIsKeptAndStuckOneCutOff(t *testing.T) {
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
		l.member(t, 0).offer(strings.Repeat("x", 1000))
		var b [20]byte
		for range 20 {
			time.Sleep(9 * time.Second)
			if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
				t.Fatal(err)
			}
		}
		passed := sinceStart()
		for s.Stats().Stuck == 0 && passed() < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if got := passed(); got < 10*time.Second || got > 13*time.Second {
			t.Errorf("it was cut off after %v, want about %v", got, opts.ReceiptTimeout)
		}
		synctest.Wait()
		if left, _ := l.member(t, 0).state(); left != 1 {
			t.Errorf("left %d times, want once", left)
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
		time.Sleep(time.Minute) // nothing is owed, so nothing is missed
		passed := sinceStart()
		m.offer("one")
		c.expect("MSG items 1 3", "one", "PING", "-ERR 'Stale Connection'")
		if got := passed(); got != opts.ReceiptTimeout {
			t.Errorf("it was cut off after %v, want %v", got, opts.ReceiptTimeout)
		}
		c.expectEnd()
		if st := s.Stats(); st.Stuck != 1 {
			t.Errorf("stats are %+v, want 1 stuck", st)
		}
	})
}

// TestKernelSendingOnIsProgress: what is written may take its time to arrive.
func TestKernelSendingOnIsProgress(t *testing.T) {
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
	eventually(t, "the sockets hold no more", func() bool {
		server.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := server.Write(make([]byte, 1<<20))
		held, known := sendQueue(server)
		return err != nil && known && held > 0
	})

	at := time.Now()
	c.pings.progress = at
	if c.stuck(at.Add(500 * time.Millisecond)) {
		t.Error("stuck before the time is over")
	}
	eventually(t, "the kernel sent something on", func() bool {
		peer.Read(make([]byte, 64<<10))
		held, _ := sendQueue(server)
		return held < c.pings.unsent
	})
	at = at.Add(2 * time.Second)
	if c.stuck(at) {
		t.Error("stuck though the kernel sent something on")
	}
	eventually(t, "stuck when nothing moves any more", func() bool {
		at = at.Add(time.Second)
		return c.stuck(at)
	})
}
