package tcpserver

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// drain drains in the background.
func drain(s *Server, ctx context.Context, timeout time.Duration) (done chan struct{}) {
	done = make(chan struct{})
	go func() { s.Drain(ctx, timeout); close(done) }()
	return done
}

func (c *conn) expectLameDuck() {
	c.t.Helper()
	if line := c.line(); !strings.HasPrefix(line, "INFO {") || !strings.Contains(line, `"ldm":true`) {
		c.t.Fatalf("got %q, want INFO with ldm", line)
	}
}

func TestDrainWithoutClientsEndsAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, testOptions())
	s.Drain(context.Background(), time.Hour)
}

func TestDrainTellsEachClientOnceAndEndsWithTheLast(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	a, b := dial(t, addr), dial(t, addr)
	a.send("SUB items 1\r\nSUB foo 2\r\n")
	a.sync()
	done := drain(s, context.Background(), time.Hour)
	a.expectLameDuck()
	b.expectLameDuck()
	if nc, err := net.Dial("tcp", addr); err == nil {
		t.Error("a new connection was possible")
		nc.Close()
	}

	// Both clients keep full service.
	l.member(t, 0).offer("x")
	a.expect("MSG items 1 1", "x", "PING")
	a.send("PONG\r\n")
	wantConfirmed(t, l.member(t, 0), 1)
	b.send("PUB foo 2\r\nhi\r\n")
	a.expect("MSG foo 2 2", "hi")
	a.sync()
	b.sync()

	again := drain(s, context.Background(), time.Hour)
	a.sync() // no second INFO
	a.Close()
	b.Close()
	<-done
	<-again
	if left, _ := l.member(t, 0).state(); left != 1 {
		t.Errorf("left %d times, want once", left)
	}
}

func TestDrainIsToldAfterTheHandshake(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	c := dialRaw(t, addr)
	c.send("CONNECT {\"verbose\":true}\r\n")
	c.expect("+OK")
	done := drain(s, context.Background(), time.Hour)
	eventually(t, "the drain has begun", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})

	c.send("SUB foo 1\r\n")
	c.expect("+OK")
	c.send("PING\r\n")
	c.expect("PONG")
	c.expectLameDuck()
	c.sync()
	c.Close()
	<-done
}

func TestCancelledDrainClosesEverything(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	a, b := dial(t, addr), dial(t, addr)
	ctx, cancel := context.WithCancel(context.Background())
	done := drain(s, ctx, time.Hour)
	a.expectLameDuck()
	b.expectLameDuck()
	cancel()
	a.expectEnd()
	b.expectEnd()
	<-done
}

func TestCloseEndsEverythingAndMayBeCalledAgain(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	c := dial(t, addr)
	s.Close()
	c.expectEnd()
	s.Close()
	s.Drain(context.Background(), time.Hour)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	if err := s.Serve(ln); err != nil {
		t.Error("Serve after Close:", err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

func TestDrainClosesTheRestSpreadOverItsLastPart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, ln := servePipes(t, testOptions())
		start := time.Now()
		ends := make(chan time.Duration, 4)
		for range 4 {
			c := ln.dial(t)
			c.send("CONNECT {}\r\n")
			c.sync()
			go func() {
				io.Copy(io.Discard, c.r)
				ends <- time.Since(start)
			}()
		}

		s.Drain(t.Context(), 10*time.Second)
		for i := range 4 {
			want := 8*time.Second + time.Duration(i+1)*500*time.Millisecond
			if got := <-ends; got != want {
				t.Errorf("client %d was closed after %v, want %v", i, got, want)
			}
		}
	})
}

func TestFailingAcceptIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, ln := servePipes(t, testOptions())
		start := time.Now()
		for range 20 {
			ln.errs <- errors.New("too many open files")
		}
		ln.dial(t)
		// 5 ms, doubled up to a second.
		if got, want := time.Since(start), 1275*time.Millisecond+12*time.Second; got != want {
			t.Errorf("20 failures took %v, want %v", got, want)
		}
		ln.errs <- errors.New("too many open files")
		s.Close() // does not wait for the next attempt
	})
}

func TestAListenerClosedByAnotherGoroutineIsAnError(t *testing.T) {
	t.Parallel()
	s := New(testOptions())
	ln := newPipes()
	ln.Close()
	if err := s.Serve(ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	s.Close()
}
