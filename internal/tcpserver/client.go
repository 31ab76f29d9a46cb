package tcpserver

import (
	"container/list"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/budget"
)

// flushTimeout is how long the queued bytes of a client may take when its connection ends.
const flushTimeout = time.Second

// client is one connection.
type client struct {
	server *Server
	id     uint64
	conn   net.Conn        // as accepted
	ip     string          // of the client; empty if it has none
	origin string          // see originOf
	tls    *tlsConn        // over conn; nil for none
	raw    syscall.RawConn // of conn, to write without waiting; nil if that is not possible
	since  time.Time
	wrote  chan struct{} // closed when the last writer has ended
	ended  atomic.Bool   // set once, under mu: nothing more is queued
	place  *list.Element // among the server's newcomers; nil for none, guarded by its mu

	working atomic.Bool // the client waits for edged, not edged for it: in authenticate, and see beginTurn

	received atomic.Uint64 // messages
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64
	active   atomic.Int64 // when either side last sent anything except PING and PONG; in ns since 1970

	memory budget.Holder // held for the client by the server: output, subscriptions, input, acknowledgements

	reader // owned by the reader goroutine

	// writer is owned by the writer goroutine, or by Uncork; nil when the client is
	// idle, changed with mu held.
	writer *writer

	mu        sync.Mutex     // guards everything below
	admitted  *auth.Security // the Security under which it was authenticated; nil before
	user      *auth.User     // nil for a user with all rights; changed only by the reader
	connect   connectOptions
	connected bool // CONNECT was read
	subs      map[string]*subscription
	members   map[*member]struct{} // members of subs, and past ones that still owe or can acknowledge
	names     map[string]*ackNames // by list; see nameForAcks
	outlets   map[*member]struct{} // members of Outlets that have receipts; nil for none
	expired   []*subscription      // those with all messages that they asked for; the writer retires them
	sent      uint64               // messages, list items included
	noted     uint64               // value of sent when active was last set
	queue     queue
	charged   int // of memory, for queue
	pings     pings
	secured   secured
	idle      bool // no writer is running
	due       bool // the writer must call look
	timer     *time.Timer
	fires     time.Time // when timer fires; zero once it has fired

	infoAllowed bool // a first PING or PONG has come: INFO may be sent
	ldm         bool // INFO with ldm is due or was sent
}

// ending is the reason why a client is gone.
type ending struct {
	reason string
	level  zapcore.Level
	count  func(*Stats) // may be nil
	flush  bool         // queued bytes are still written, for at most flushTimeout
}

var (
	endLeft    = ending{reason: "the client left", level: zap.DebugLevel, flush: true}
	endBroken  = ending{reason: "the connection broke", level: zap.DebugLevel}
	endClosed  = ending{reason: "the server is closing", level: zap.DebugLevel}
	endDrained = ending{reason: "it had not left at the end of the drain", level: zap.InfoLevel}
	endKicked  = ending{reason: "kicked", level: zap.InfoLevel}
	endSlow    = ending{reason: "too much was queued for it: it reads more slowly than other clients publish",
		level: zap.WarnLevel, count: func(st *Stats) { st.SlowConsumers++ }}
	endMemory = ending{reason: "it held the most when tcp.memory was used up",
		level: zap.WarnLevel, count: func(st *Stats) { st.OverMemory++ }}
	endStuck = ending{reason: "it did not confirm items in time",
		level: zap.WarnLevel, count: func(st *Stats) { st.Stuck++ }, flush: true}
	endLagging = ending{reason: "it lagged behind other consumers for longer than max_lag",
		level: zap.WarnLevel, count: func(st *Stats) { st.Lagged++ }, flush: true}
	endStale = ending{reason: "it did not answer PING",
		level: zap.WarnLevel, count: func(st *Stats) { st.Stale++ }, flush: true}
	endReloaded = ending{reason: "its credentials are no longer valid, or not for the same",
		level: zap.InfoLevel, flush: true}
	endTimeout = ending{reason: "it was not authenticated in time",
		level: zap.InfoLevel, count: func(st *Stats) { st.ConnectTimeouts++ }, flush: true}
	endYielded = ending{reason: "it was not authenticated, and another connection needed its place",
		level: zap.InfoLevel, count: func(st *Stats) { st.Yielded++ }}
	endCrowded = ending{reason: "too many clients waited for a password's comparison or a TLS handshake",
		level: zap.InfoLevel, count: func(st *Stats) { st.Crowded++ }, flush: true}
	endAbandoned = ending{reason: "it left while it waited for a password's comparison or a TLS handshake",
		level: zap.DebugLevel, count: func(st *Stats) { st.Abandoned++ }}
)

// endTLS is the ending of a client whose handshake failed.
func endTLS(err error) ending {
	switch {
	case errors.Is(err, auth.ErrCrowded):
		return endCrowded
	case errors.Is(err, auth.ErrAbandoned):
		return endAbandoned
	}
	return ending{reason: "the TLS handshake: " + err.Error(),
		level: zap.InfoLevel, count: func(st *Stats) { st.TLSFailures++ }}
}

// endFor is the ending of a client that violated the protocol.
func endFor(v violation) ending {
	if v == errAuthorization {
		return ending{reason: "its login was refused", // refuseLogin has logged the details
			level: zap.DebugLevel, count: func(st *Stats) { st.AuthFailures++ }, flush: true}
	}
	return ending{reason: "it was sent -ERR '" + string(v) + "'",
		level: zap.InfoLevel, count: func(st *Stats) { st.ProtocolErrors++ }, flush: true}
}

// newClient is called with s.mu held. So a client that Reload does not see is made after Reload
// began, and gets the Gate's new Security.
func newClient(s *Server, id uint64, conn net.Conn) *client {
	c := &client{
		server:  s,
		id:      id,
		conn:    conn,
		since:   time.Now(),
		wrote:   make(chan struct{}),
		subs:    make(map[string]*subscription),
		members: make(map[*member]struct{}),
	}
	c.active.Store(c.since.UnixNano())
	c.origin = originOf(conn)
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.ip = addr.IP.String()
	}

	c.memory.Init(s.opts.Budget, func() { c.end(endMemory) })
	c.pub.server, c.own.server = s, s
	sec := s.opts.Gate.Security()
	if c.trusted = !sec.Closed(); c.trusted {
		c.admitted = sec
	}
	if sec.TLS != nil {
		c.tls = newTLS(c, sec)
	}

	if sc, ok := conn.(syscall.Conn); ok && c.tls == nil {
		c.raw, _ = sc.SyscallConn()
	}
	if c.tls == nil || c.tls.first {
		put(s, &c.queue, c.infoLine(false))
	}
	return c
}

// reject closes a connection that does not become a client. It sends the reason if that needs no
// TLS handshake; the few bytes fit into the socket's buffer.
func (c *client) reject(limit string) {
	c.log(zap.WarnLevel, "connection refused: "+limit+" reached")
	if c.tls == nil || !c.tls.first {
		c.conn.SetWriteDeadline(time.Now().Add(flushTimeout))
		c.conn.Write(append(c.infoLine(false), errLine(errConnections)...))
	}
	c.conn.Close()
}

// info describes the client, except for the items that it owes.
func (c *client) info() ClientInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ClientInfo{
		ID:            c.id,
		User:          auth.NameOf(c.user),
		Name:          c.connect.Name,
		Lang:          c.connect.Lang,
		ClientVersion: c.connect.Version,
		Address:       c.conn.RemoteAddr().String(),
		Since:         c.since,
		Subscriptions: len(c.subs),
		Pending:       c.queue.bytes,
		Received:      c.received.Load(),
		Sent:          c.sent,
		BytesIn:       c.bytesIn.Load(),
		BytesOut:      c.bytesOut.Load(),
		Active:        time.Unix(0, c.active.Load()),
		RTT:           c.pings.rtt.Seconds(),
		TLSVersion:    c.secured.version,
		TLSCipher:     c.secured.cipher,
	}
}

// owed returns the number of list items that the client has not confirmed. It must not be called
// with a lock held.
func (c *client) owed() (n int) {
	c.mu.Lock()
	memberships := make([]batch.Membership, 0, len(c.members))
	for m := range c.members {
		memberships = append(memberships, m.membership)
	}
	c.mu.Unlock()
	for _, m := range memberships {
		n += m.Owed()
	}
	return n
}

// end ends the connection; only the first call counts. It must not be called with a lock held.
func (c *client) end(why ending) {
	owed := 0
	if !c.ended.Load() {
		owed = c.owed()
	}

	c.mu.Lock()
	if c.ended.Load() {
		c.mu.Unlock()
		if !why.flush {
			c.conn.Close() // a flush may be in progress
		}
		return
	}

	c.ended.Store(true)
	if why.flush {
		c.conn.SetWriteDeadline(time.Now().Add(flushTimeout))
	}

	c.wakeWriter()
	c.mu.Unlock()
	c.server.settle(c)
	if !why.flush {
		c.conn.Close()
	}
	if why.count != nil {
		c.server.count(why.count)
	}
	fields := []zap.Field{zap.String("reason", why.reason), zap.Int("owed", owed)}
	if why.level >= zap.WarnLevel {
		fields = append(fields, zap.String("event", "client-cut-off"))
	}
	c.log(why.level, "client disconnected", fields...)
}

// log writes a line that names the client. A logger for each client would hold kilobytes for a line
// or two.
func (c *client) log(level zapcore.Level, text string, fields ...zap.Field) {
	entry := c.server.log.Check(level, text)
	if entry == nil {
		return
	}
	about := []zap.Field{zap.Uint64("client", c.id), zap.Stringer("address", c.conn.RemoteAddr())}
	c.mu.Lock()
	if c.connected {
		about = append(about, zap.String("name", c.connect.Name))
	}
	c.mu.Unlock()
	entry.Write(append(about, fields...)...)
}

// send queues a line for the client.
func (c *client) send(line string) {
	c.mu.Lock()
	slow := c.queue.bytes > c.server.limits.Load().MaxPending
	if !slow && !c.ended.Load() {
		c.wakeWriter()
		put(c.server, &c.queue, line)
	}
	over := c.charge()
	c.mu.Unlock()
	over.Cut()
	if slow {
		c.end(endSlow)
	}
}

// charge reports the queued memory to the budget. The first chunk is free, or a thousand clients
// that get a PONG at the same time would use the budget up. mu is held.
func (c *client) charge() (over budget.Condemned) {
	now := max(0, c.queue.chunks-1) * chunkSize
	over = c.memory.Take(now - c.charged)
	c.charged = now
	return over
}

// ok answers a command with +OK if the client is verbose.
func (c *client) ok() {
	if c.connect.Verbose {
		c.send("+OK\r\n")
	}
}

// lameDuck tells the client that the server is shutting down. Clients do not expect INFO before the
// answer to their first PING, so it may have to wait.
func (c *client) lameDuck() {
	line := c.infoLine(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ldm || c.ended.Load() {
		return
	}
	c.ldm = true
	if c.infoAllowed {
		c.wakeWriter()
		put(c.server, &c.queue, line)
	}
}

// allowInfo notes that INFO may be sent, and sends one that has waited. mu is held.
func (c *client) allowInfo() {
	if c.infoAllowed {
		return
	}
	c.infoAllowed = true
	if c.ldm {
		c.wakeWriter()
		put(c.server, &c.queue, c.infoLine(true))
	}
}
