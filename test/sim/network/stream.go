package network

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var errTimeout = os.ErrDeadlineExceeded

// piece is how many bytes arrive at once where bandwidth is bounded.
const piece = 512

// stream is one direction of a connection.
type stream struct {
	window int
	wake   chan struct{} // for the reader; capacity 1
	room   chan struct{} // for the writer; capacity 1

	mu        sync.Mutex
	rules     Rules
	arrived   []byte
	flight    []segment
	queued    int       // bytes in arrived and flight
	busy      time.Time // when the last byte in flight arrives
	frozen    bool
	cut       int // bytes until the stream is cut; -1: it is not
	silent    bool
	lost      bool  // what is written is lost
	vain      int   // bytes that were not read when that began, or were written since
	ended     error // what a reader gets after the last byte
	readBy    time.Time
	writeBy   time.Time
	unread    bool // the reader has closed its end
	unwritten bool // the writer has closed its end
}

// segment are the bytes of one write.
type segment struct {
	at   time.Time
	data []byte
	end  error // not nil: the stream's end
}

func newStream(window int) *stream {
	return &stream{window: window, cut: -1, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// wait returns when something has changed, at the latest at t.
func wait(wake chan struct{}, t time.Time) {
	if t.IsZero() {
		<-wake
		return
	}
	timer := time.NewTimer(time.Until(t))
	select {
	case <-wake:
	case <-timer.C:
	}
	timer.Stop()
}

func (s *stream) read(p []byte) (int, error) {
	for {
		s.mu.Lock()
		n, until, err := s.take(p)
		s.mu.Unlock()
		if n > 0 || err != nil {
			signal(s.room)
			return n, err
		}
		wait(s.wake, until)
	}
}

// take reads bytes that have arrived. If there are none yet, it returns the time at
// which to look again.
func (s *stream) take(p []byte) (n int, until time.Time, err error) {
	until = s.readBy
	switch {
	case s.unread:
		return 0, until, net.ErrClosed
	case passed(s.readBy):
		return 0, until, errTimeout
	case s.frozen:
		return 0, until, nil
	case len(p) == 0:
		return 0, until, nil
	}
	for len(s.flight) > 0 && !s.flight[0].at.After(time.Now()) {
		f := s.flight[0]
		s.flight = s.flight[1:]
		s.arrived = append(s.arrived, f.data...)
		if f.end != nil {
			s.ended, s.flight = f.end, nil
		}
	}
	if len(s.arrived) > 0 {
		n = copy(p, s.arrived)
		if s.arrived = s.arrived[n:]; len(s.arrived) == 0 {
			s.arrived = nil
		}
		s.queued -= n
		return n, until, nil
	}
	if s.ended != nil {
		return 0, until, s.ended
	}
	if len(s.flight) > 0 && (until.IsZero() || s.flight[0].at.Before(until)) {
		until = s.flight[0].at
	}
	return 0, until, nil
}

// write queues p. It reports whether the link is cut by it, with or without a word.
func (s *stream) write(p []byte) (done int, cut bool, err error) {
	for done < len(p) {
		s.mu.Lock()
		n := len(p) - done
		switch {
		case s.unwritten:
			s.mu.Unlock()
			return done, false, net.ErrClosed
		case passed(s.writeBy):
			s.mu.Unlock()
			return done, false, errTimeout
		case s.lost:
			s.vain += len(p) - done
			s.mu.Unlock()
			return len(p), false, nil
		case s.ended != nil, s.unread:
			s.mu.Unlock()
			return done, false, syscall.EPIPE
		case s.window > 0 && s.queued >= s.window:
			until := s.writeBy
			s.mu.Unlock()
			wait(s.room, until)
			continue
		case s.window > 0:
			n = min(n, s.window-s.queued)
		}
		if s.cut >= 0 {
			if n > s.cut {
				n, cut = s.cut, true
			}
			s.cut -= n
		}
		s.fly(p[done : done+n])
		done += n
		if cut && s.silent {
			s.vain += len(p) - done
		}
		s.mu.Unlock()
		if cut && s.silent {
			return len(p), true, nil
		}
		if cut {
			return done, true, syscall.ECONNRESET
		}
	}
	return done, false, nil
}

// fly puts bytes on their way.
func (s *stream) fly(p []byte) {
	if len(p) == 0 {
		return
	}
	s.queued += len(p)
	if s.rules == (Rules{}) && len(s.flight) == 0 {
		s.arrived = append(s.arrived, p...)
		signal(s.wake)
		return
	}
	for size := len(p); len(p) > 0; p = p[size:] {
		at := time.Now()
		if s.rules.Rate > 0 {
			size = min(piece, len(p))
			at = later(at, s.busy.Add(-s.rules.Delay)).Add(time.Duration(size) * time.Second / time.Duration(s.rules.Rate))
		}
		s.busy = later(at.Add(s.rules.Delay), s.busy)
		s.flight = append(s.flight, segment{at: s.busy, data: append([]byte(nil), p[:size]...)})
	}
	signal(s.wake)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// end lets the reader come to an end after the bytes in flight, and a writer fail.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return
	}
	if n := len(s.flight); n > 0 {
		s.flight = append(s.flight, segment{at: s.flight[n-1].at, end: err})
	} else {
		s.ended = err
	}
	signal(s.wake)
	signal(s.room)
}

// closeWriter is Close at the writer's end.
func (s *stream) closeWriter() {
	s.mu.Lock()
	s.unwritten = true
	lost := s.lost
	s.mu.Unlock()
	if !lost {
		s.end(io.EOF)
	}
	signal(s.room)
}

// closeReader is Close at the reader's end.
func (s *stream) closeReader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = true
	s.arrived, s.flight, s.queued = nil, nil, 0
	signal(s.wake)
	signal(s.room)
}

// kill fails the reader at once.
func (s *stream) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived, s.flight, s.queued, s.frozen = nil, nil, 0, false
	s.ended = syscall.ECONNRESET
	signal(s.wake)
	signal(s.room)
}

// swallow loses the bytes written from now on.
func (s *stream) swallow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lost {
		s.vain += s.queued
	}
	s.lost = true
	signal(s.room)
}

// truncate loses the bytes in flight beyond keep.
func (s *stream) truncate(keep int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flight {
		s.arrived = append(s.arrived, f.data...)
		if f.end != nil {
			s.ended = f.end
		}
	}
	s.flight = nil
	s.arrived = s.arrived[:min(keep, len(s.arrived))]
	s.queued = len(s.arrived)
	signal(s.wake)
}

func (s *stream) freeze(frozen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = frozen
	signal(s.wake)
}

func (s *stream) follow(r Rules) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = r
}

// Conn is one end of a connection. On the path of a Unix socket the other end is
// root, as far as it can tell.
type Conn struct {
	link          *Link
	in, out       *stream
	local, remote net.Addr
	closed        atomic.Bool
}

// Read reads bytes that have arrived.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write writes all of p, or fails.
func (c *Conn) Write(p []byte) (int, error) {
	n, cut, err := c.out.write(p)
	switch {
	case cut && c.out.silent:
		c.link.Silence()
	case cut:
		c.link.Reset()
	}
	return n, err
}

// Close ends both directions, for the peer after it has read all bytes.
func (c *Conn) Close() error {
	c.out.closeWriter()
	c.in.closeReader()
	if !c.closed.Swap(true) {
		c.link.client.network.remove(c.link)
	}
	return nil
}

func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends a read at t.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.readBy = t
	signal(c.in.wake)
	return nil
}

// SetWriteDeadline ends a write at t.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.writeBy = t
	signal(c.out.room)
	return nil
}

// Credentials say that the other end is root.
func (c *Conn) Credentials() (pid, uid int) { return 1, 0 }
