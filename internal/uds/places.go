package uds

import (
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// place is one of a socket's MaxConnections.
type place struct {
	net.Conn
	who peer
	why *Error // reason why another user has the place now; guarded by Server.mu, nil at first
}

// socket is a listener and its connections. Server.mu guards its fields.
type socket struct {
	net.Listener
	ceiling  Level
	places   []*place // in order of arrival
	refusing int      // connections that are being told that they are refused or have lost their place
	full     bool     // a connection was refused since there was a free place
}

// share returns the number of places that a user has.
func (k *socket) share(uid int) (n int) {
	for _, p := range k.places {
		if p.who.uid == uid {
			n++
		}
	}
	return n
}

// richest returns the oldest connection of the user with the most places.
func (k *socket) richest() (oldest *place, share int) {
	for _, p := range k.places {
		if n := k.share(p.who.uid); n > share {
			oldest, share = p, n
		}
	}
	return oldest, share
}

// admit starts the goroutine of a connection, within the limits. If all places are taken, a user
// with fewer places than another gets one of theirs.
func (s *Server) admit(c net.Conn, sock *socket, conns *sync.WaitGroup) {
	refusal := Errorf(TooManyConnections, "%d connections are open, which is the limit; close one and try again", s.maxConnections)
	who := peerOf(c, sock.ceiling)
	s.mu.Lock()
	defer s.mu.Unlock()

	switch {
	case s.isStopping():
		_ = c.Close()
		return
	case len(sock.places) < s.maxConnections || s.makePlace(sock, who.uid):
		p := &place{Conn: c, who: who}
		sock.places = append(sock.places, p)
		conns.Go(func() { s.serve(p, sock) })
	case sock.refusing < s.maxConnections:
		if !sock.full {
			sock.full = true
			s.log.Warn("the control socket refuses connections: there are too many",
				zap.Int("max_connections", s.maxConnections), zap.Int("uid", who.uid))
		}
		sock.refusing++
		conns.Go(func() {
			s.cutOff(c, refusal)
			s.forget(c, func() { sock.refusing-- })
		})
	default: // a flood: not worth a goroutine; the new socket takes the few bytes at once
		_ = s.send(c, render(nil, refusal, false))
		_ = c.Close()
		return
	}
	s.conns[c] = struct{}{}
}

// makePlace takes a place from the user with the most, if that leaves it at least as many as the
// user with the given number has then. mu is held.
func (s *Server) makePlace(sock *socket, uid int) bool {
	p, most := sock.richest()
	if most <= sock.share(uid)+1 {
		return false
	}
	s.log.Warn("the control socket closes a connection of the user with the most: there are too many",
		zap.Int("max_connections", s.maxConnections), zap.Int("uid", p.who.uid), zap.Int("connections", most), zap.Int("for_uid", uid))
	p.why = Errorf(TooManyConnections, "%d connections are open, which is the limit, and your user has the most; this one ends for another user's", s.maxConnections)
	sock.places = slices.DeleteFunc(sock.places, func(other *place) bool { return other == p })

	sock.refusing++
	if sock.refusing > s.maxConnections {
		_ = p.Close() // too many connections are being told
	}
	_ = p.SetDeadline(time.Now()) // wakes its goroutine
	return true
}

// serve answers the commands of a connection that has a place.
func (s *Server) serve(p *place, sock *socket) {
	s.answer(p)
	why := s.lost(p)
	if why != nil {
		s.cutOff(p.Conn, why)
	}
	s.forget(p.Conn, func() {
		if p.why != nil {
			sock.refusing--
			return
		}
		sock.places = slices.DeleteFunc(sock.places, func(other *place) bool { return other == p })
		sock.full = false
	})
}

// lost returns the reason why a connection has lost its place, or nil.
func (s *Server) lost(p *place) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.why
}

// forget closes a connection after its place is free, so that a client that sees the end of a
// connection can use the place.
func (s *Server) forget(c net.Conn, leave func()) {
	s.mu.Lock()
	delete(s.conns, c)
	leave()
	s.mu.Unlock()
	_ = c.Close()
}
