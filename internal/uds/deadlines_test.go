package uds

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipeListener is a listener whose connections are pipes, for tests in a
// synctest bubble.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// bubble runs a server on a pipeListener in a synctest bubble.
func bubble(t *testing.T, o Options, f func(t *testing.T, s *Server, ln *pipeListener)) {
	synctest.Test(t, func(t *testing.T) {
		o.Commands = append(o.Commands, commands()...)
		s, ln := New(o), newPipeListener()
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(ln, Admin); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})
		f(t, s, ln)
		s.Shutdown()
		serving.Wait()
	})
}

// ended reports whether the other end of a pipe is closed.
func ended(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := c.Read(make([]byte, 1))
	return err == io.EOF
}

func TestAConnectionThatCompletesNoLineIsClosedWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	bubble(t, Options{}, func(t *testing.T, _ *Server, ln *pipeListener) {
		c := ln.dial()
		time.Sleep(4 * time.Minute)
		go func() { _, _ = io.WriteString(c, "echo a\n") }()
		if _, err := io.ReadFull(c, make([]byte, len("a\nOK\n"))); err != nil {
			t.Fatal(err)
		}

		// A whole command restarts the time, half a command does not.
		for range 4 {
			time.Sleep(time.Minute)
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
		}

		time.Sleep(time.Minute - 2*time.Nanosecond)
		if ended(c) {
			t.Error("it was closed too early")
		}
		time.Sleep(2 * time.Nanosecond)
		if !ended(c) {
			t.Error("it is still open")
		}
	})
}

func TestAClientThatNeverReadsIsCutOff(t *testing.T) {
	t.Parallel()
	bubble(t, Options{}, func(t *testing.T, _ *Server, ln *pipeListener) {
		c := ln.dial()
		if _, err := io.WriteString(c, "status\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeTimeout)
		synctest.Wait()
		if !ended(c) {
			t.Error("it is still open")
		}
	})
}

func TestShutdownWaitsForACommandForASecondAndThenCancelsIt(t *testing.T) {
	t.Parallel()
	running := make(chan struct{})

	stubborn := Command{Name: "stubborn", Run: func(ctx context.Context, _ []string) (Answer, error) {
		close(running)
		<-ctx.Done()
		return nil, ctx.Err()
	}}

	bubble(t, Options{Commands: []Command{stubborn}}, func(t *testing.T, s *Server, ln *pipeListener) {
		c := ln.dial()
		if _, err := io.WriteString(c, "stubborn\n"); err != nil {
			t.Fatal(err)
		}
		<-running
		begin := time.Now()
		s.Shutdown()
		if d := time.Since(begin); d != shutdownGrace { // exact, by the bubble's clock
			t.Errorf("Shutdown took %v, want %v", d, shutdownGrace)
		}
		if !ended(c) {
			t.Error("the connection is still open")
		}
	})
}

func TestServeAfterShutdownClosesTheListener(t *testing.T) {
	t.Parallel()
	s, ln := New(Options{}), newPipeListener()
	s.Shutdown()
	if err := s.Serve(ln, Admin); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	<-ln.closed
}

func TestServeFailsIfAnotherGoroutineClosesTheListener(t *testing.T) {
	t.Parallel()
	s, ln := New(Options{}), newPipeListener()
	_ = ln.Close()
	if err := s.Serve(ln, Admin); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v, want net.ErrClosed", err)
	}
	s.Shutdown()
}

// exhausted is a listener that runs out of file descriptors a few times.
type exhausted struct {
	*pipeListener
	failures int // owned by the caller of Accept
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.pipeListener.Accept()
}

func TestServeOutlivesALackOfFileDescriptors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, pipes := New(Options{Commands: commands()}), newPipeListener()
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(&exhausted{pipes, 20}, Admin); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})
		c := pipes.dial()
		if _, err := io.WriteString(c, "pause jobs\n"); err != nil {
			t.Fatal(err)
		}

		if _, err := io.ReadFull(c, make([]byte, len("OK\n"))); err != nil {
			t.Error(err)
		}
		s.Shutdown()
		serving.Wait()
	})
}

func TestShutdownInterruptsTheWaitBetweenAttemptsToAccept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(&exhausted{newPipeListener(), 1 << 30}, Admin); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})

		synctest.Wait()
		begin := time.Now()
		s.Shutdown()
		serving.Wait()
		if d := time.Since(begin); d != 0 { // exact, by the bubble's clock
			t.Errorf("Shutdown took %v", d)
		}
	})
}
