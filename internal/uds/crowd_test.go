package uds

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// also serves a further socket.
func (s *server) also(t *testing.T, ceiling Level) *server {
	t.Helper()
	path := socketPath(t)
	ln, err := Listen(path, 0o666, "")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, ceiling) }()
	t.Cleanup(func() {
		s.Shutdown()
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	return &server{s.Server, path}
}

func TestEachListenerHasItsOwnNumberOfConnections(t *testing.T) {
	t.Parallel()
	s := start(t, Options{MaxConnections: 1})
	monitors := s.also(t, User)
	c := monitors.dial(t)
	c.send("echo a\n")
	c.expect("a\nOK\n")
	if got := monitors.ask(t, "echo b\n"); !strings.HasPrefix(got, "ERR TooManyConnections ") {
		t.Errorf("got %q, want a refusal", got)
	}
	if got := s.ask(t, "echo c\n"); got != "c\nOK\n" {
		t.Errorf("monitors locked the operator out: %q", got)
	}
}

func TestSilentConnectionsLockNoClientOutForGood(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	var silent []*client
	for range 16 {
		silent = append(silent, s.dial(t))
	}

	if got := s.ask(t, "status\n"); !strings.HasPrefix(got, "ERR TooManyConnections ") {
		t.Errorf("got %q, want a refusal", got)
	}
	silent[7].send("echo a\n")
	silent[7].expect("a\nOK\n")
	_ = silent[7].CloseWrite()
	if got := silent[7].rest(); got != "" {
		t.Errorf("got %q", got)
	}

	if got := s.ask(t, "echo b\n"); got != "b\nOK\n" {
		t.Errorf("the place of one that has gone was not given to another: %q", got)
	}
}

// userConn is a connection in memory that belongs to a user.
type userConn struct {
	net.Conn
	uid int
}

func (c userConn) Credentials() (pid, uid int) { return 1, c.uid }

// dialAs connects as a user.
func (l *pipeListener) dialAs(uid int) net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- userConn{theirs, uid}
	return ours
}

// answered reports whether the server answers on a connection.
func answered(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "echo a\n") // fails if the server has closed it
	line, _ := bufio.NewReader(c).ReadString('\n')
	return line == "a\n"
}

func TestUsersShareTheConnectionsOfASocket(t *testing.T) {
	t.Parallel()
	bubble(t, Options{MaxConnections: 4}, func(t *testing.T, _ *Server, ln *pipeListener) {
		const greedy, modest = 1000, 1001
		var first, second []net.Conn
		for range 4 {
			first = append(first, ln.dialAs(greedy))
		}
		synctest.Wait()
		for range 3 {
			second = append(second, ln.dialAs(modest))
			synctest.Wait()
		}

		why, _ := bufio.NewReader(first[0]).ReadString('\n')
		if want := "ERR TooManyConnections 4 connections are open, which is the limit, and your user has the most; this one ends for another user's\n"; why != want {
			t.Errorf("the oldest connection reads %q, want %q", why, want)
		}
		for i, want := range []bool{false, false, true, true} {
			if got := answered(t, first[i]); got != want {
				t.Errorf("connection %d of the user that had all is answered: %v, want %v", i, got, want)
			}
		}
		for i, want := range []bool{true, true, false} {
			if got := answered(t, second[i]); got != want {
				t.Errorf("connection %d of the other user is answered: %v, want %v", i, got, want)
			}
		}
		for _, c := range append(first, second...) {
			_ = c.Close()
		}
	})
}

func TestAConnectionInTheMiddleOfAnAnswerLosesItsPlaceToo(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 2)
	bubble(t, Options{MaxConnections: 2, Commands: []Command{counting(0, func(err error) { gone <- err })}}, func(t *testing.T, _ *Server, ln *pipeListener) {
		for range 2 {
			c := ln.dialAs(1000) // reads nothing
			defer c.Close()
			_, _ = io.WriteString(c, "count\n")
		}
		synctest.Wait()

		c := ln.dialAs(1001)
		defer c.Close()
		if !answered(t, c) {
			t.Error("a user without a connection is not answered")
		}
		synctest.Wait()
		if n := len(gone); n != 1 {
			t.Errorf("%d streams have ended, want 1", n)
		}
	})
}
