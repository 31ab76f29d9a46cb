// Package tcpserver serves the NATS client protocol to programs that take the items of Redis lists,
// and carries the messages that clients publish for each other.
//
// Every client has one reader goroutine, and one writer goroutine while there are bytes to write.
// Items and messages for a client share one queue and reach it in that order. A PONG follows every
// message that was queued before the PING was read; a PING of the server follows the list items
// that it covers.
//
// An idle client takes about 8 KiB, because there may be a thousand of them: its buffers and its
// writer are in pools, and its reader has a stack of 2 KiB.
//
// Only a client's own goroutines wait for it. Messages between clients are copied into the
// receiver's queue; a receiver with more than MaxPending bytes there is cut off. List items need no
// such limit: their source delivers only as many as the receiver's window of unconfirmed items
// allows.
//
// A client answers a PING after it has read everything before it, so its PONG confirms all items
// that were written before that PING. At most one PING is outstanding; items that are written
// meanwhile are covered by the next one.
//
// Items of a list that is Acknowledged are confirmed one by one instead, by messages that the
// client publishes to their reply subjects. Those messages, and messages to a Sink, go to no other
// client. They may be answered from any goroutine.
//
// The Gate says which clients may connect, and which rights they have; Reload follows its changes
// while clients are connected. The daemon's own answers to a client do not reach subscribers to
// which the client could not publish.
//
// Lists are added and removed while clients are connected: subscriptions that match become members,
// and ordinary ones again.
//
// Locks are taken in this order: the server's joining, then those of the caller of Deliver, then a
// client's mu. Only joining is held while a List's Joiner, a Membership, a Receipt or a Sink is
// called. The router's mu and the server's are never held together with a client's, except that the
// server's may be taken first.
package tcpserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/budget"
	"edged/internal/subject"
)

// List is a Redis list as the server sees it: subscriptions to its subject join it.
type List struct {
	Name    string       // its key
	Stream  string       // a token of the items' reply subjects, if they have one; unique among lists
	Subject string       // a literal; belongs to the daemon, clients must not publish to it
	Confirm Confirmation // when a delivery counts as confirmed
	Joiner  Joiner       // if Confirm is Acknowledged, its memberships are batch.Acknowledgers
}

// Joiner makes subscriptions members of a list's parties.
type Joiner interface {
	// Join makes m a member of the queue group named group or, if group is empty, of a party of its
	// own. Members with the same key share one encoding of every batch. Deliver may be called
	// before Join has returned.
	Join(group, key string, m batch.Member) batch.Membership
}

// Confirmation says when a delivery counts as confirmed.
type Confirmation int

const (
	OnPong  Confirmation = iota // the client answered a PING that was sent after the items
	OnWrite                     // the items were written to the client's socket

	// Acknowledged means that the client publishes to the item's reply subject when it is done with
	// the item; the batches are explicit ones. Here a client makes progress, and counts as owing,
	// until the items are written. With Limits.Receipts that lasts until it answers a PING, and the
	// delivery is confirmed then.
	Acknowledged
)

// Sink takes the messages that clients publish to a subject, instead of other clients. Headers
// other than Nats-Msg-Id are dropped.
type Sink struct {
	Subject string // a literal or with wildcards; belongs to the daemon
	// Write takes a payload, which it must not keep, and its Nats-Msg-Id, empty if there is none.
	// It must not block. It calls answer once, at once or later and from any goroutine, with the
	// reply to the publisher; answer is nil if the publisher wants none.
	Write func(id string, payload []byte, answer func(reply []byte))
}

// Options are the options of a Server. All limits and times must be positive, unless a field says
// otherwise.
type Options struct {
	Name      string // server_name in INFO
	Version   string // of the program; a semantic version
	Lists     []List
	Services  []Service
	Discovery bool   // the Services answer to $SRV
	Sinks     []Sink // the first that matches gets a message; literal subjects come before patterns
	API       API    // for JetStream clients; nil for none

	Gate *auth.Gate // nil admits every client

	MaxPayload     int // bytes of a message, headers included
	MaxControlLine int // bytes of a command's arguments

	Limits // until SetLimits

	Budget *budget.Budget // of all clients together; nil means no bound
	Log    *zap.Logger    // nil means none
}

// Limits are the limits that may change while clients are connected.
type Limits struct {
	MaxConnections   int
	MaxPerAddress    int // of one IP address; 0 means no bound
	MaxSubscriptions int // of one client
	MaxPending       int // bytes queued for one client, without list items

	ConnectTimeout time.Duration // from accept to being authenticated, including TLS handshake and hash
	PingInterval   time.Duration // between PINGs; two without an answer end the connection
	Receipts       bool          // a PING also follows items that are Acknowledged, to measure their time in flight

	ReceiptTimeout time.Duration // for the PONG to items, plus a second for each KiB before it that the client takes
}

// SetLimits replaces the limits. It disconnects no client: a client that is over a limit already
// stays. A client's next PING is sent when it was due before.
func (s *Server) SetLimits(l Limits) { s.limits.Store(&l) }

// Server accepts clients and carries messages to them. Its methods may be
// called from any goroutine.
type Server struct {
	opts      Options
	id        string
	log       *zap.Logger
	router    *router
	services  *services
	sinks     map[string]*Sink // those with a literal subject
	wildSinks []*Sink          // sinks with a pattern
	chunks    sync.Pool        // of *[chunkSize]byte
	inputs    inputs
	writers   sync.Pool      // of *writer
	sealed    sync.Pool      // of *[]byte: TLS records to be written
	pieces    sync.Pool      // the same, for frugal clients
	stop      chan struct{}  // closed when no more connections are accepted
	empty     chan struct{}  // closed when, after that, the last client is gone
	leaving   chan struct{}  // holds one value for each client that has made room and is still connected
	first     time.Duration  // from accept to the first PING
	wg        sync.WaitGroup // goroutines of clients

	corking sync.Mutex // guards corked; taken after a client's mu
	corked  corked
	spare   []*client // memory for corked.clients, owned by Uncork

	limits atomic.Pointer[Limits]
	lists  atomic.Pointer[lists] // stored with joining held

	// joining is held for reading while a subscription begins or ends and while an item is
	// acknowledged, and for writing while a list is added or removed. So each subscription joins
	// each list once. It is taken before all other locks.
	joining sync.RWMutex

	mu        sync.Mutex // guards everything below
	stopped   bool
	listeners map[net.Listener]struct{}
	clients   map[uint64]*client
	addresses map[string]int // clients of each IP address
	newcomers newcomers
	lastID    uint64
	past      Stats // counters; those of a client are added when it is gone
}

// Stats are counters since the start.
type Stats struct {
	Clients         int    `json:"clients"`          // connected now
	Accepted        uint64 `json:"accepted"`         // connections that became clients
	Refused         uint64 `json:"refused"`          // connections over MaxConnections or MaxPerAddress
	TLSFailures     uint64 `json:"tls_failures"`     // handshakes that failed
	AuthFailures    uint64 `json:"auth_failures"`    // clients that did not have the right to connect
	SlowConsumers   uint64 `json:"slow_consumers"`   // clients cut off: more than MaxPending was queued
	OverMemory      uint64 `json:"over_memory"`      // clients cut off: they held most when the Budget was used up
	Stuck           uint64 `json:"stuck"`            // clients cut off: items were not confirmed in time, see ReceiptTimeout
	Lagged          uint64 `json:"lagged"`           // clients cut off: they lagged too far, see CutOff
	Stale           uint64 `json:"stale"`            // clients cut off: PINGs were not answered
	ConnectTimeouts uint64 `json:"connect_timeouts"` // clients that were not authenticated in time
	Yielded         uint64 `json:"yielded"`          // clients cut off: not authenticated, and places were needed
	Crowded         uint64 `json:"crowded"`          // clients refused: too many waited for a password's comparison or a TLS handshake
	Abandoned       uint64 `json:"abandoned"`        // clients that left while they waited for one of these
	ProtocolErrors  uint64 `json:"protocol_errors"`  // clients disconnected for violating the protocol
	Denied          uint64 `json:"denied"`           // messages not delivered: a list's subject, an invalid one, or one that the user has no right to
	AcksRefused     uint64 `json:"acks_refused"`     // acknowledgements of items that the client was never given, or with an unknown payload
	MessagesIn      uint64 `json:"messages_in"`
	MessagesOut     uint64 `json:"messages_out"` // list items included
	BytesIn         uint64 `json:"bytes_in"`
	BytesOut        uint64 `json:"bytes_out"`
	Subscriptions   int    `json:"subscriptions"` // of the clients that are connected
	Subscribed      uint64 `json:"subscribed"`    // subscriptions that clients have made
}

// ClientInfo describes a connected client.
type ClientInfo struct {
	ID            uint64    `json:"id"`
	Name          string    `json:"name"`
	Lang          string    `json:"lang"`
	ClientVersion string    `json:"client_version"`
	Address       string    `json:"address"`
	User          string    `json:"user"` // empty for none
	Since         time.Time `json:"since"`
	Subscriptions int       `json:"subscriptions"`
	Pending       int       `json:"pending"`  // bytes queued, without list items
	Owed          int       `json:"owed"`     // list items not confirmed
	Received      uint64    `json:"received"` // messages from it
	Sent          uint64    `json:"sent"`     // messages to it, list items included
	BytesIn       uint64    `json:"bytes_in"`
	BytesOut      uint64    `json:"bytes_out"`
	Active        time.Time `json:"last_activity"`         // of either side, without PING and PONG
	RTT           float64   `json:"rtt_seconds"`           // of the last PING and the items before it; 0: unknown
	TLSVersion    string    `json:"tls_version,omitempty"` // "1.3"
	TLSCipher     string    `json:"tls_cipher,omitempty"`
}

// New makes a server; Serve starts it.
func New(opts Options) *Server {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Gate == nil {
		opts.Gate = auth.New(auth.Options{})
	}

	s := &Server{
		opts:   opts,
		id:     rand.Text(),
		log:    opts.Log,
		router: newRouter(),
		sinks:  make(map[string]*Sink),
		sealed: sync.Pool{New: func() any { return new([]byte) }},
		pieces: sync.Pool{New: func() any { return new([]byte) }},
		chunks: sync.Pool{New: func() any { return new([chunkSize]byte) }},
		inputs: inputs{
			small: sync.Pool{New: func() any { return new([smallInput]byte) }},
			large: sync.Pool{New: func() any { return new([largeInput]byte) }},
		},
		writers:   sync.Pool{New: func() any { return new(writer) }},
		stop:      make(chan struct{}),
		empty:     make(chan struct{}),
		leaving:   make(chan struct{}, maxLeaving),
		first:     min(firstPing, opts.PingInterval),
		listeners: make(map[net.Listener]struct{}),
		clients:   make(map[uint64]*client),
		addresses: make(map[string]int),
	}

	s.newcomers.from = make(map[string]int)
	s.services = newServices(s.id, opts)
	s.SetLimits(opts.Limits)
	s.lists.Store(newLists(opts.Lists))
	for i := range opts.Sinks {
		sink := &opts.Sinks[i]
		if _, wild := subject.Valid([]byte(sink.Subject)); wild {
			s.wildSinks = append(s.wildSinks, sink)
		} else if s.sinks[sink.Subject] == nil {
			s.sinks[sink.Subject] = sink
		}
	}

	return s
}

// Serve accepts clients on ln until Drain or Close, then returns nil. It closes ln, and waits for
// no client. It returns an error if another goroutine closed ln. Other errors, such as too many
// open files, are logged, and it tries again.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	stopped := s.stopped
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()

	if stopped {
		return nil
	}

	const first, longest = 5 * time.Millisecond, time.Second
	pause := first
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			pause = first
			s.admit(conn)
			continue
		case s.isStopped():
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue // the deadline only checks that this loop runs
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting clients on %s: %w", ln.Addr(), err)
		}
		s.log.Warn("cannot accept a client, trying again",
			zap.Stringer("listener", ln.Addr()), zap.Duration("in", pause), zap.Error(err))
		select {
		case <-time.After(pause):
		case <-s.stop:
			return nil
		}
		pause = min(2*pause, longest)
	}
}

func (s *Server) isStopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// admit makes conn a client, or rejects it. Another client may have to make room for it.
func (s *Server) admit(conn net.Conn) {
	mayYield := s.awaitLeaving()
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.lastID++
	c := newClient(s, s.lastID, conn)
	yields, limit := s.room(c, mayYield)
	if limit != "" {
		s.past.Refused++
	} else {
		if yields != nil {
			s.drop(yields)
		}
		s.past.Accepted++
		c.frugal = len(s.clients) >= fewClients
		s.clients[c.id] = c
		s.addresses[c.ip]++
		s.newcomers.add(c)
		s.wg.Add(3) // of start
	}
	s.mu.Unlock()

	if mayYield && yields == nil {
		<-s.leaving
	}
	if limit != "" {
		c.reject(limit)
		return
	}
	if yields != nil {
		yields.end(endYielded)
	}
	c.log(zap.DebugLevel, "client connected")
	c.start()
}

// awaitLeaving adds a value to leaving, after a client has gone if there are too many. It reports
// whether it did: if edged is still working for a client, that may take longer.
func (s *Server) awaitLeaving() bool {
	const longest = 100 * time.Millisecond
	select {
	case s.leaving <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case s.leaving <- struct{}{}:
		return true
	case <-timer.C:
	case <-s.stop:
	}
	return false
}

// room returns the client that makes room for c, nil if none has to, or the limit that refuses c.
// mu is held.
func (s *Server) room(c *client, mayYield bool) (yields *client, limit string) {
	bounds := s.limits.Load()
	switch {
	case len(s.clients) > bounds.MaxConnections: // SetLimits has lowered it
		return nil, "max_connections"
	case bounds.MaxPerAddress > 0 && c.ip != "" && s.addresses[c.ip] >= bounds.MaxPerAddress:
		yields, limit = s.newcomers.yields(c, c.ip), "max_connections_per_address"
	case len(s.clients) == bounds.MaxConnections || s.newcomers.order.Len() >= share(bounds.MaxConnections):
		yields, limit = s.newcomers.yields(c, ""), "max_connections"
	}
	if yields == nil || !mayYield {
		return nil, limit
	}
	return yields, ""
}

// settle notes that a client is no newcomer any more: its CONNECT was accepted, or its connection
// ends.
func (s *Server) settle(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newcomers.remove(c)
}

// drop removes a client from the connected ones. mu is held.
func (s *Server) drop(c *client) {
	delete(s.clients, c.id)
	if s.addresses[c.ip]--; s.addresses[c.ip] == 0 {
		delete(s.addresses, c.ip)
	}
	s.newcomers.remove(c)
}

// fewClients is the number of clients that may use more memory to be faster: 8 KiB each for a
// stack, and TLS records of a whole round. Further clients are frugal: for them a new goroutine for
// each read costs some microseconds, and so does a system call for each record.
const fewClients = 64

// Footprint returns the maximum number of bytes that connections take in addition to those that the
// Budget counts, before and after they are authenticated. secure is for TLS.
func Footprint(connections, maxControlLine int, secure bool) int {
	const (
		plain = 36 << 10 // output 16 KiB, an unfinished command 4 KiB, two goroutines, the client
		more  = 80 << 10 // for TLS: records, 40 KiB in and 16 KiB out, an unfinished message of TLS itself, its keys
	)
	size := connections * (plain + maxControlLine) // CONNECT's options are kept
	if secure {
		size += connections*more + min(connections, fewClients)*roundSize
	}
	return size
}

// forget removes a client and adds its counters to those of the past. Its goroutines still run, but
// nothing more is written to it.
func (s *Server) forget(c *client) {
	info := c.info()
	c.mu.Lock()
	c.queue = queue{}
	c.charge()
	c.mu.Unlock()

	if c.tls != nil {
		c.tls.out.kept = 0
		c.tls.out.hold(0)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.past.add(info)
	if s.clients[c.id] == nil { // it has made room for another client
		<-s.leaving
		return
	}
	s.drop(c)
	if s.stopped && len(s.clients) == 0 {
		close(s.empty)
	}
}

// count changes the counters that belong to no client.
func (s *Server) count(change func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.past)
}

// stopAccepting closes the listeners. It reports whether it was the first call.
func (s *Server) stopAccepting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.stopped = true
	close(s.stop)
	for ln := range s.listeners {
		ln.Close()
	}
	if len(s.clients) == 0 {
		close(s.empty)
	}
	return true
}

// Drain closes the listeners, tells every client once that the server is shutting down, and waits
// until they have left: they keep full service until then. From 80 % of timeout on it closes the
// remaining clients, spread evenly, the last one at timeout. When ctx is done it closes them all at
// once. It returns when all clients are gone and their goroutines have ended.
func (s *Server) Drain(ctx context.Context, timeout time.Duration) {
	start := time.Now()
	s.stopAccepting()
	for _, c := range s.snapshot() {
		c.lameDuck()
	}

	spread := timeout / 5
	if s.sleep(ctx, timeout-spread) {
		left := s.snapshot()
		for i, c := range left {
			due := start.Add(timeout - spread + spread*time.Duration(i+1)/time.Duration(len(left)))
			if !s.sleep(ctx, time.Until(due)) {
				break
			}
			c.end(endDrained)
		}
	}

	if ctx.Err() != nil {
		s.Close()
	}
	<-s.empty
	s.wg.Wait()
}

// sleep waits for d. It returns false as soon as the last client is gone or ctx is done.
func (s *Server) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.empty:
	case <-ctx.Done():
	}
	return false
}

// Close closes the listeners and every client at once, and waits for the goroutines of the clients.
func (s *Server) Close() {
	s.stopAccepting()
	for _, c := range s.snapshot() {
		c.end(endClosed)
	}
	s.wg.Wait()
}

// Kick closes one client.
func (s *Server) Kick(id uint64) error {
	s.mu.Lock()
	c := s.clients[id]
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("no client has the ID %d: it may have left already", id)
	}
	c.end(endKicked)
	return nil
}

// snapshot returns the clients, ordered by ID.
func (s *Server) snapshot() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *client) int { return cmp.Compare(a.id, b.id) })
	return all
}

// ID returns the server's name in INFO, which is unique among servers.
func (s *Server) ID() string { return s.id }

// SubscriptionInfo describes a subscription.
type SubscriptionInfo struct {
	ID, Subject, Queue string
	Sent, Max          int // messages, list items included; Max is 0 for no end
}

// Subscriptions describes the subscriptions of a client, ordered by subject. There are none if the
// client is gone.
func (s *Server) Subscriptions(client uint64) (all []SubscriptionInfo) {
	s.mu.Lock()
	c := s.clients[client]
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	for _, sub := range c.subs {
		all = append(all, SubscriptionInfo{ID: sub.sid, Subject: sub.subject, Queue: sub.queue, Sent: sub.sent, Max: sub.max})
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b SubscriptionInfo) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Clients describes the connected clients, ordered by ID.
func (s *Server) Clients() []ClientInfo {
	all := s.snapshot()
	infos := make([]ClientInfo, len(all))
	for i, c := range all {
		infos[i] = c.info()
		infos[i].Owed = c.owed()
	}
	return infos
}

// ClientOf returns the ID of the client that a Member's subscription belongs to. ok is false if
// there is none.
func (s *Server) ClientOf(m batch.Member) (id uint64, ok bool) {
	one, ok := m.(*member)
	if !ok {
		return 0, false
	}
	return one.sub.client.id, true
}

// CutOff closes the client that a Member's subscription belongs to, because it lags too much. The
// client gets the text that makes every NATS client reconnect: after other texts some of them stay
// closed.
func (s *Server) CutOff(m batch.Member) {
	one, ok := m.(*member)
	if !ok {
		return
	}
	c := one.sub.client
	c.send(errLine(errStale))
	c.end(endLagging)
}

// Stats returns the current counters.
func (s *Server) Stats() Stats {
	subscribed := s.router.subscribed()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.past
	st.Subscribed = subscribed
	for _, c := range s.clients {
		info := c.info()
		st.add(info)
		st.Subscriptions += info.Subscriptions
	}
	st.Clients = len(s.clients)
	return st
}

// add adds the counters of one client.
func (st *Stats) add(c ClientInfo) {
	st.MessagesIn += c.Received
	st.MessagesOut += c.Sent
	st.BytesIn += c.BytesIn
	st.BytesOut += c.BytesOut
}
