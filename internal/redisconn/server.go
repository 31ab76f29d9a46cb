package redisconn

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is one Redis server in use: the connection for its owner's round trips, its hints, and a
// client of go-redis for everything off the hot path. Each is made when it is first needed, and
// again after it broke.
type Server struct {
	Address string

	servers *Servers
	users   int
	conn    *Conn         // nil if no connection works
	client  *redis.Client // nil until it is needed
	hints   *hints
	tracked int64  // the client ID that receives hints; 0: none were requested
	refused string // reason why the server gives no hints
	breaks  int

	rested time.Duration // how long the connection was idle when the server closed it
	closed int           // closes in a row of an idle connection, each after the same time
}

func newServer(s *Servers, address string) *Server {
	return &Server{Address: address, servers: s, hints: newHints(&s.opts, address, s.callbacks.Changed)}
}

// Breaks returns how often the connection broke. Each time Redis may have come back with different
// data.
func (s *Server) Breaks() int { return s.breaks }

// Open returns the connection with tracking on, and makes it if there is none. Commands can be
// added to it.
func (s *Server) Open(ctx context.Context) (*Conn, error) {
	if s.conn == nil {
		c, err := s.servers.opts.dial(ctx, s.Address, true, s.servers.callbacks.Progress)
		if err != nil {
			return nil, err
		}
		if err := s.track(ctx, c); err != nil {
			c.Close()
			return nil, err
		}
		closed := s.servers.callbacks.Closed
		c.stop = onClose(c.conn, func() {
			c.closed.Store(true)
			if closed != nil {
				closed()
			}
		})
		s.conn = c
	}

	s.conn.out = s.conn.out[:0]
	return s.conn, nil
}

// Settle receives the open round trips, the oldest first, until at most left remain.
func (s *Server) Settle(left int) {
	if s.conn != nil {
		s.conn.settle(left)
	}
}

// Do receives all open round trips, sends one command and returns its reply.
func (s *Server) Do(ctx context.Context, words ...any) (any, error) {
	return s.DoWithin(ctx, maxValue, words...)
}

// DoWithin is Do for a reply that may take most bytes in memory.
func (s *Server) DoWithin(ctx context.Context, most int, words ...any) (any, error) {
	s.Settle(0)
	c, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	return c.DoWithin(ctx, most, words...)
}

// Run runs a script, and loads it if Redis does not know it.
func (s *Server) Run(ctx context.Context, script *Script, keys []string, args ...any) (any, error) {
	return script.run(func(words ...any) (any, error) { return s.Do(ctx, words...) }, keys, args)
}

// LoadScripts loads Callbacks.Scripts, for round trips that call some of them themselves.
func (s *Server) LoadScripts(ctx context.Context) error {
	for _, script := range s.servers.callbacks.Scripts {
		if _, err := s.Do(ctx, script.load()...); err != nil {
			return err
		}
	}
	return nil
}

// Failed notes the error of a call. A connection whose error is not a reply is
// closed.
func (s *Server) Failed(err error) {
	if IsReply(err) {
		return
	}
	s.breaks++
	if c := s.conn; c != nil {
		s.conn, s.tracked = nil, 0
		c.Close()
		if c.dead = err; Uncarried(err) {
			c.dead = errClosed // the later replies are not the fault
		}
		c.settle(0)
	}
}

// Heed handles changes of the connections since the last call: the server closed the idle
// connection, or the hints have a new one. It reports whether the connection broke.
func (s *Server) Heed(ctx context.Context) (broke bool) {
	if s.conn == nil {
		return false
	}

	if s.conn.closed.Load() && len(s.conn.waiting) == 0 {
		s.noteClose(time.Since(s.conn.used()))
		s.Failed(errClosed)
		return true
	}

	if s.tracked == s.hints.id.Load() {
		return false
	}
	breaks := s.breaks
	s.Settle(0)
	if s.conn != nil {
		if err := s.track(ctx, s.conn); err != nil {
			s.Failed(err)
		}
	}
	return s.breaks != breaks
}

// track turns client tracking on. In its default mode Redis sends one message for each key that was
// read and has then changed, so a busy producer cannot flood the hints' connection. NOLOOP leaves
// out this connection's own removals.
// https://redis.io/docs/latest/develop/reference/client-side-caching/
//
// It fails if the reply did not arrive. The connection must not be used then, since the reply may
// arrive later and be taken for another one.
func (s *Server) track(ctx context.Context, c *Conn) error {
	id := s.hints.id.Load()
	if id == 0 {
		s.tracked = 0
		return nil
	}
	_, err := c.Do(ctx, "CLIENT", "TRACKING", "ON", "REDIRECT", id, "NOLOOP")
	switch {
	case err == nil:
		s.tracked, s.refused = id, ""
	case IsReply(err) && strings.Contains(err.Error(), "does not exist"):
		// The hints' connection is closing; the next one has another ID.
	case IsReply(err):
		s.tracked, s.refused = id, Explain(err, s.Address)
	default:
		return err
	}

	return nil
}

// noteClose notes that the server closed the connection after it had been idle for a time.
func (s *Server) noteClose(rested time.Duration) {
	if s.closed == 0 || rested < s.rested*2/3 || rested > s.rested*3/2 {
		s.closed, s.rested = 0, rested
	}
	s.closed++
}

const (
	fewCloses   = 3                      // so many in a row are the server's setting
	shortestSet = 900 * time.Millisecond // Redis's timeout is at least a second
	fewFailures = 2                      // the first may be due to an outage
)

// Notices explain how the server, although it works, could serve edged better: why it gives no
// hints, and that it closes idle connections. Each may be empty.
func (s *Server) Notices() (unhinted, closes string) {
	if s.conn == nil {
		return "", "" // it does not work
	}

	switch {
	case s.refused != "" && s.tracked != 0:
		unhinted = s.refused
	case s.tracked == 0 && s.hints.failed.Load() >= fewFailures:
		unhinted, _ = s.hints.fault.Load().(string)
	}

	if unhinted != "" {
		unhinted = "Redis at " + s.Address + " does not tell of new items, so edged asks every 1 to 50 ms, which takes up to 7 % of a core: " + unhinted
	}
	switch {
	case s.closed < fewCloses || s.rested < shortestSet:
	case time.Since(s.conn.used()) > 2*s.rested:
		s.closed = 0 // the setting has changed
	default:
		closes = fmt.Sprintf("Redis at %s closes connections that rest for %s; set its timeout to 0", s.Address, s.rested.Round(time.Second))
	}
	return unhinted, closes
}

// Hinted reports whether Redis announces by itself that a list has changed.
func (s *Server) Hinted() bool {
	return s.tracked != 0 && s.tracked == s.hints.id.Load() && s.refused == "" && !s.conn.closed.Load()
}

// Client returns a client of go-redis for the server. It never resends a command by itself, bounds
// every round trip, and heeds the deadline of a context.
func (s *Server) Client() *redis.Client {
	if s.client == nil {
		s.client = s.servers.opts.client(s.Address)
	}
	return s.client
}

// close closes both connections and ends the hints.
func (s *Server) close() {
	s.hints.end()
	if s.conn != nil {
		s.conn.Close()
		s.conn, s.tracked = nil, 0
	}
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}
