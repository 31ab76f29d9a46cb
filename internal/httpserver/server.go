// Package httpserver is the HTTP listener of edged: a status page, items as Server-Sent Events, and
// further Routes that its owner adds. All of it only reads.
//
// A request is answered if its Host header names this box, its client is authenticated as on the
// TCP side, and the rights of that user cover it. Each connection is bounded in header size, idle
// time and time for a write. The number of connections is bounded too: the connection that has been
// idle longest is closed to admit a new one.
//
// Serve returns when the listener is closed. End closes all connections and returns when the last
// handler has returned.
package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapio"

	"edged/internal/auth"
)

// Bounds of a connection.
const (
	headerTimeout = 5 * time.Second  // for the TLS handshake and the header of a request
	writeTimeout  = 30 * time.Second // for an answer; a stream has as long for each write
	idleTimeout   = time.Minute      // between two requests
	maxHeader     = 8 << 10          // bytes
)

// Options are the options of a Server.
type Options struct {
	Gate       *auth.Gate // credentials, rights and TLS
	Routes     []Route
	Hosts      []string // names accepted in the Host header besides localhost; addresses always are
	Origins    []string // whose pages may read, such as "https://example.com"
	MaxClients int      // connections at a time
	Log        *zap.Logger
}

// Route is a path, and the handler that answers GET and HEAD requests for it.
type Route struct {
	Pattern string // as in http.ServeMux, without a method: "/metrics"
	Open    bool   // answered without authentication
	Subject string // the user needs the right to publish there; empty: the handler checks the rights
	Handler http.Handler
}

// Server serves HTTP.
type Server struct {
	opts  Options
	users *auth.Remembered
	http  http.Server
	conns conns

	ending context.Context // done when the server ends; handlers of streams watch it
	end    context.CancelFunc
	errors *zapio.Writer
}

// New makes a Server, which serves when Serve is called.
func New(o Options) *Server {
	s := &Server{opts: o, users: auth.Remember(o.Gate), conns: conns{most: o.MaxClients}}
	s.ending, s.end = context.WithCancel(context.Background())
	s.errors = &zapio.Writer{Log: o.Log, Level: zap.DebugLevel}
	s.http = http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader - slop,
		ConnState:         s.conns.change,
		BaseContext:       func(net.Listener) context.Context { return s.ending },
		ErrorLog:          log.New(s.errors, "", 0),
	}
	return s
}

// slop is added to MaxHeaderBytes by net/http.
const slop = 4096

// Serve accepts connections until the listener is closed. The error says why it ended earlier.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(tlsListener{l, s.opts.Gate})
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// endTimeout bounds the time for answers in progress at the end.
const endTimeout = time.Second

// End ends all streams, lets answers in progress be written, and closes the connections. It is
// called after Serve has returned.
func (s *Server) End() {
	s.end()
	s.http.SetKeepAlivesEnabled(false)
	s.conns.awaitRequests(endTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.conns.wait()
	s.errors.Close()
}

// handler checks the Host, the method and the rights of every request, and sets the headers.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.opts.Routes {
		mux.Handle(r.Pattern, s.admit(r))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.recover(w, r)
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		s.allowOrigin(h, r)

		switch {
		case !s.knownHost(r.Host):
			http.Error(w, "the Host header names none of this box's names; ask for its address, or add the name to http.hosts", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "everything here only reads: use GET", http.StatusMethodNotAllowed)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// recover answers a request whose handler panicked: one page must not end the daemon.
func (s *Server) recover(w http.ResponseWriter, r *http.Request) {
	switch fault := recover(); fault {
	case nil:
	case http.ErrAbortHandler:
		panic(fault) // net/http closes the connection
	default:
		s.opts.Log.Error("a handler panicked", zap.String("path", r.URL.Path), zap.Any("fault", fault), zap.Stack("stack"))
		http.Error(w, "edged failed to answer; its log says more", http.StatusInternalServerError)
	}
}

// knownHost reports whether a Host header is one that a browser sends for this box, and not a name
// that another site makes its visitors resolve to it (DNS rebinding).
func (s *Server) knownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(host, ".")
	if net.ParseIP(strings.Trim(host, "[]")) != nil || strings.EqualFold(host, "localhost") {
		return true
	}
	for _, known := range s.opts.Hosts {
		if strings.EqualFold(host, known) {
			return true
		}
	}
	return false
}

// allowOrigin lets a page of a configured origin read the answer.
func (s *Server) allowOrigin(h http.Header, r *http.Request) {
	origin := r.Header.Get("Origin")
	for _, known := range s.opts.Origins {
		if origin == known {
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Credentials", "true")
			h.Add("Vary", "Origin")
		}
	}
}

// conns bounds the connections of a server.
type conns struct {
	most int

	mu   sync.Mutex
	idle map[net.Conn]time.Time // guarded by mu; since when: new connections and those between requests
	busy map[net.Conn]struct{}  // guarded by mu
	mute map[net.Conn]time.Time // guarded by mu; the new connections in idle
	all  chan struct{}          // guarded by mu; closed when no connection is mute; nil if End does not wait for that
	gone sync.WaitGroup         // counts all of them
}

// change is called as http.Server.ConnState.
func (c *conns) change(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle == nil {
		c.idle, c.busy, c.mute = make(map[net.Conn]time.Time), make(map[net.Conn]struct{}), make(map[net.Conn]time.Time)
	}
	if state != http.StateNew {
		delete(c.mute, conn)
		c.noteMute()
	}

	switch state {
	case http.StateNew:
		c.gone.Add(1)
		c.idle[conn] = time.Now()
		c.mute[conn] = c.idle[conn]
		if len(c.idle)+len(c.busy) > c.most {
			c.closeOldest()
		}
	case http.StateIdle:
		delete(c.busy, conn)
		c.idle[conn] = time.Now()
	case http.StateActive:
		delete(c.idle, conn)
		c.busy[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(c.idle, conn)
		delete(c.busy, conn)
		c.gone.Done()
	}
}

// closeOldest closes the connection that has been idle longest; that may be the new one. mu is held.
func (c *conns) closeOldest() {
	var oldest net.Conn
	for conn, since := range c.idle {
		if oldest == nil || since.Before(c.idle[oldest]) {
			oldest = conn
		}
	}
	if t, ok := oldest.(*tls.Conn); ok {
		oldest = t.NetConn() // tls.Conn.Close may wait for the client
	}
	oldest.Close() // its goroutine reports the close
}

// awaitRequests waits for the first request of each new connection, at most this long after it was
// accepted. Otherwise net/http would close it without an answer, although the client was just
// admitted.
func (c *conns) awaitRequests(most time.Duration) {
	c.mu.Lock()
	var last time.Time
	for conn, since := range c.mute {
		if time.Since(since) >= most {
			delete(c.mute, conn)
		} else if since.After(last) {
			last = since
		}
	}
	all := make(chan struct{})
	c.all = all
	c.noteMute()
	c.mu.Unlock()

	timer := time.NewTimer(time.Until(last.Add(most)))
	defer timer.Stop()
	select {
	case <-all:
	case <-timer.C:
	}
}

// noteMute closes all once no connection is mute. mu is held.
func (c *conns) noteMute() {
	if c.all != nil && len(c.mute) == 0 {
		close(c.all)
		c.all = nil
	}
}

// wait returns when all connections are closed.
func (c *conns) wait() { c.gone.Wait() }
