package tcpserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"edged/internal/batch"
)

const (
	// firstBuffer and largestBuffer bound the read buffer where no message asks
	// for more: a client that only takes items sends little.
	firstBuffer   = 1 << 10
	largestBuffer = 32 << 10
	// flushTimeout is what a client that has left or is told to gets to take
	// what is queued for it.
	flushTimeout = time.Second
)

// client is one connection.
type client struct {
	server *Server
	id     uint64
	conn   net.Conn
	since  time.Time
	wake   chan struct{} // capacity 1: the writer has something to do
	wrote  chan struct{} // closed when the writer has ended
	ended  atomic.Bool   // set once, under mu: nothing more is queued

	received atomic.Uint64 // messages
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64

	reader // owned by the reading goroutine
	writer // owned by the writing goroutine

	mu         sync.Mutex // guards everything below
	log        *zap.Logger
	connect    connectOptions
	connected  bool // CONNECT was read
	subs       map[string]*subscription
	members    map[*member]struct{} // of subs, and of past ones that still owe
	expired    []*subscription      // got all they asked for; the writer retires them
	sent       uint64               // messages, list items included
	queue      queue
	idle       bool // the writer waits for wake
	greeted    bool // a first PING or PONG has come: INFO may follow
	ldm        bool // INFO with ldm is owed, or was sent
	owed       int  // list items delivered and not confirmed
	progress   time.Time
	pinged     bool       // a PING is outstanding
	unanswered int        // intervals that passed with it
	covered    []delivery // written before the outstanding PING
	uncovered  []delivery // written after it
}

// reader is what only the reading goroutine uses.
type reader struct {
	to    receivers
	other receivers // for what is sent while to is in use
	line  []byte    // scratch
}

// ending is why a client is gone.
type ending struct {
	reason string
	level  zapcore.Level
	count  func(*Stats) // may be nil
	flush  bool         // what is queued is still written, for flushTimeout at most
}

var (
	endLeft    = ending{reason: "the client left", level: zap.DebugLevel, flush: true}
	endBroken  = ending{reason: "the connection broke", level: zap.DebugLevel}
	endClosed  = ending{reason: "the server is closing", level: zap.DebugLevel}
	endDrained = ending{reason: "it had not left at the end of the drain", level: zap.InfoLevel}
	endKicked  = ending{reason: "kicked", level: zap.InfoLevel}
	endSlow    = ending{reason: "too much was queued for it: it reads more slowly than others publish",
		level: zap.WarnLevel, count: func(st *Stats) { st.SlowConsumers++ }}
	endStuck = ending{reason: "it owed something and made no progress",
		level: zap.WarnLevel, count: func(st *Stats) { st.Stuck++ }, flush: true}
	endStale = ending{reason: "it did not answer PING",
		level: zap.WarnLevel, count: func(st *Stats) { st.Stale++ }, flush: true}
	endTimeout = ending{reason: "it did not send CONNECT in time",
		level: zap.InfoLevel, count: func(st *Stats) { st.ConnectTimeouts++ }, flush: true}
)

// endFor is the ending of a client that violated the protocol.
func endFor(v violation) ending {
	return ending{reason: "it was sent -ERR '" + string(v) + "'",
		level: zap.InfoLevel, count: func(st *Stats) { st.ProtocolErrors++ }, flush: true}
}

func newClient(s *Server, id uint64, conn net.Conn) *client {
	c := &client{
		server:  s,
		id:      id,
		conn:    conn,
		since:   time.Now(),
		wake:    make(chan struct{}, 1),
		wrote:   make(chan struct{}),
		log:     s.log.With(zap.Uint64("client", id), zap.Stringer("address", conn.RemoteAddr())),
		subs:    make(map[string]*subscription),
		members: make(map[*member]struct{}),
	}
	put(s, &c.queue, c.infoLine(false))
	return c
}

// turnAway says why a connection does not become a client. The few bytes fit in
// the socket's buffer.
func (c *client) turnAway() {
	c.log.Warn("connection refused: max_connections reached")
	c.conn.SetWriteDeadline(time.Now().Add(flushTimeout))
	c.conn.Write(append(c.infoLine(false), errLine(string(errConnections))...))
	c.conn.Close()
}

func (c *client) info() ClientInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ClientInfo{
		ID:            c.id,
		Name:          c.connect.Name,
		Lang:          c.connect.Lang,
		ClientVersion: c.connect.Version,
		Address:       c.conn.RemoteAddr().String(),
		Since:         c.since,
		Subscriptions: len(c.subs),
		Pending:       c.queue.bytes,
		Owed:          c.owed,
		Received:      c.received.Load(),
		Sent:          c.sent,
		BytesIn:       c.bytesIn.Load(),
		BytesOut:      c.bytesOut.Load(),
	}
}

// end lets the connection end; only the first call counts. It must not be
// called with a lock held.
func (c *client) end(why ending) {
	c.mu.Lock()
	if c.ended.Load() {
		c.mu.Unlock()
		if !why.flush {
			c.conn.Close() // a flush may be under way
		}
		return
	}
	c.ended.Store(true)
	if why.flush {
		c.conn.SetWriteDeadline(time.Now().Add(flushTimeout))
	}
	c.wakeWriter()
	log, owed := c.log, c.owed
	c.mu.Unlock()
	if !why.flush {
		c.conn.Close()
	}
	if why.count != nil {
		c.server.count(why.count)
	}
	log.Log(why.level, "client disconnected", zap.String("reason", why.reason), zap.Int("owed", owed))
}

// wakeWriter tells the writer that there is something to do. mu is held.
func (c *client) wakeWriter() {
	if !c.idle {
		return
	}
	c.idle = false
	select {
	case c.wake <- struct{}{}:
	default: // it is being woken already
	}
}

// send queues a line for the client.
func (c *client) send(line string) {
	c.mu.Lock()
	slow := c.queue.bytes > c.server.opts.MaxPending
	if !slow && !c.ended.Load() {
		put(c.server, &c.queue, line)
		c.wakeWriter()
	}
	c.mu.Unlock()
	if slow {
		c.end(endSlow)
	}
}

func errLine(text string) string { return "-ERR '" + text + "'\r\n" }

// ok answers a command where the client wants that.
func (c *client) ok() {
	if c.connect.Verbose {
		c.send("+OK\r\n")
	}
}

// lameDuck tells the client that the server is going. Clients do not expect INFO
// before their first PING is answered, so it may have to wait for that.
func (c *client) lameDuck() {
	line := c.infoLine(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ldm || c.ended.Load() {
		return
	}
	c.ldm = true
	if c.greeted {
		put(c.server, &c.queue, line)
		c.wakeWriter()
	}
}

// greet notes that the client has shown that INFO may follow. mu is held.
func (c *client) greet() {
	if c.greeted {
		return
	}
	c.greeted = true
	if c.ldm {
		put(c.server, &c.queue, c.infoLine(true))
		c.wakeWriter()
	}
}

// read is the reading goroutine. It takes the client down when the connection
// ends, whoever ended it.
func (c *client) read() {
	defer c.server.wg.Done()
	err := c.readAll()
	var v violation
	switch {
	case errors.As(err, &v):
		c.send(errLine(string(v)))
		c.end(endFor(v))
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.send(errLine(string(errAuthTimeout)))
		c.end(endTimeout)
	case errors.Is(err, io.EOF):
		c.end(endLeft)
	default:
		c.end(endBroken)
	}
	c.leave()
	<-c.wrote
	c.server.forget(c)
}

// leave takes the client out of everything it takes part in.
func (c *client) leave() {
	c.mu.Lock()
	subs := c.expired
	c.expired = nil
	for _, sub := range c.subs {
		subs = append(subs, sub)
	}
	left := make([]batch.Membership, 0, len(c.members))
	for m := range c.members {
		left = append(left, m.membership)
	}
	clear(c.members)
	c.mu.Unlock()
	c.server.router.remove(subs...)
	for _, m := range left {
		m.Leave()
	}
}

// readAll reads and obeys commands until the connection ends.
func (c *client) readAll() error {
	c.conn.SetReadDeadline(c.since.Add(c.server.opts.ConnectTimeout))
	lim := limits{controlLine: c.server.opts.MaxControlLine, payload: c.server.opts.MaxPayload}
	buf := make([]byte, firstBuffer)
	have, need := 0, 1 // bytes in buf; how many it takes to go on
	for {
		n, err := c.conn.Read(buf[have:])
		if err != nil {
			return err
		}
		c.bytesIn.Add(uint64(n))
		have += n
		full := have == len(buf)
		done := 0
		for have-done >= need {
			cmd, length, more, err := parse(buf[done:have], lim)
			if err != nil {
				return err
			}
			if length == 0 {
				need = more
				break
			}
			if err := c.obey(cmd); err != nil {
				return err
			}
			done += length
			need = 1
		}
		have = copy(buf, buf[done:have])
		switch {
		case have == 0 && len(buf) > largestBuffer:
			buf = make([]byte, firstBuffer) // a large message has passed
		case full && (have > 0 || len(buf) < largestBuffer):
			// Grown by what has come, not by what was announced.
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// obey does what a command asks for. An error ends the connection.
func (c *client) obey(cmd command) error {
	switch cmd.op {
	case opPub:
		return c.publish(cmd)
	case opSub:
		c.subscribe(cmd)
	case opUnsub:
		c.unsubscribe(cmd)
	case opPing:
		c.send("PONG\r\n")
		c.mu.Lock()
		c.greet()
		c.mu.Unlock()
	case opPong:
		c.pong()
	case opConnect:
		return c.introduce(cmd.options)
	}
	return nil
}

// introduce reads CONNECT. It may come again.
func (c *client) introduce(options []byte) error {
	o, err := parseConnect(options)
	if err != nil {
		return err
	}
	c.conn.SetReadDeadline(time.Time{})
	c.mu.Lock()
	if !c.connected {
		c.log = c.log.With(zap.String("name", o.Name))
	}
	c.connect, c.connected = o, true
	c.mu.Unlock()
	c.to.except = nil
	if o.Echo != nil && !*o.Echo {
		c.to.except = c
	}
	c.ok()
	return nil
}

// subscribe reads SUB. The subscription is complete when it returns.
func (c *client) subscribe(cmd command) {
	valid, wild := validSubject(cmd.subject)
	if !valid {
		c.send(errLine("Invalid Subject"))
		return
	}
	sub := newSubscription(c, cmd, wild)
	if wild && tokens(sub.subject) > maxTokens {
		c.send(errLine(fmt.Sprintf("Permissions Violation for Subscription to %q, too many tokens", sub.subject)))
		return
	}
	c.mu.Lock()
	known := c.subs[sub.sid] != nil // keeps its meaning, as in nats-server
	full := len(c.subs) >= c.server.opts.MaxSubscriptions
	if !known && !full {
		c.subs[sub.sid] = sub
	}
	c.mu.Unlock()
	if full && !known {
		c.send(errLine("maximum subscriptions exceeded"))
		return
	}
	if !known {
		c.server.router.add(sub)
		for _, l := range c.server.opts.Lists {
			if subjectMatches(sub.subject, l.Subject) {
				c.join(sub, l)
			}
		}
	}
	c.ok()
}

// join makes a subscription a member of a list.
func (c *client) join(sub *subscription, l List) {
	m := &member{sub: sub, confirm: l.Confirm}
	membership := l.Joiner.Join(sub.queue, sub.sid, m)
	c.mu.Lock()
	m.membership = membership
	sub.members = append(sub.members, m)
	c.members[m] = struct{}{}
	c.mu.Unlock()
}

// unsubscribe reads UNSUB.
func (c *client) unsubscribe(cmd command) {
	c.mu.Lock()
	sub := c.subs[string(cmd.sid)]
	switch {
	case sub == nil:
	case cmd.max > sub.sent:
		sub.max = cmd.max
		sub = nil // goes on
	default:
		sub.full.Store(true)
		delete(c.subs, sub.sid)
	}
	c.mu.Unlock()
	if sub != nil {
		c.server.router.remove(sub)
		c.finish(sub, cmd.max)
	}
	c.ok()
}

// finish ends the memberships of a subscription that has got max messages or
// more already: the client passes over those beyond. What it owes beyond them
// goes to others at once; without max that is everything.
//
// Messages of other clients are taken to have come first. If they did not, an
// item too few is confirmed, which comes again, and never one too many, which
// would be lost.
func (c *client) finish(sub *subscription, max int) {
	c.mu.Lock()
	keep := max - sub.sent
	for _, m := range sub.members {
		keep += m.owed
	}
	keeps := make([]int, len(sub.members))
	if keep <= 0 {
		sub.left.Store(true)
	}
	for i, m := range sub.members {
		if keep > 0 {
			keeps[i] = min(keep, m.owed)
			keep -= keeps[i]
		}
		if sub.left.Load() {
			c.owed -= m.owed
			m.owed = 0
		}
		m.finished = true
		c.dropIfDone(m)
	}
	c.mu.Unlock()
	for i, m := range sub.members {
		if keeps[i] > 0 {
			m.membership.Finish(keeps[i])
		} else {
			m.membership.Leave()
		}
	}
}

// dropIfDone forgets a member that gets nothing more and owes nothing. mu is held.
func (c *client) dropIfDone(m *member) {
	if m.finished && m.owed == 0 {
		delete(c.members, m)
	}
}

// pong reads PONG, which confirms what was written before the PING.
func (c *client) pong() {
	c.mu.Lock()
	c.greet()
	if !c.pinged {
		c.mu.Unlock()
		return // nobody asked
	}
	c.pinged, c.unanswered = false, 0
	c.progress = time.Now()
	confirmed := c.covered
	c.covered = nil
	if len(c.uncovered) > 0 {
		c.wakeWriter() // for the next PING
	}
	c.mu.Unlock()
	c.confirm(confirmed)
}

// confirm settles deliveries. It is called without a lock.
func (c *client) confirm(all []delivery) {
	if len(all) == 0 {
		return
	}
	c.mu.Lock()
	for _, d := range all {
		m := d.member
		if m.sub.left.Load() {
			continue
		}
		m.owed -= d.items
		c.owed -= d.items
		c.dropIfDone(m)
	}
	c.mu.Unlock()
	for _, d := range all {
		d.receipt.Confirm()
	}
}

// publish reads PUB and HPUB.
func (c *client) publish(cmd command) error {
	if cmd.isHPub && !c.connect.Headers {
		return errHeaders
	}
	c.received.Add(1)
	switch {
	case !validLiteral(cmd.subject), len(cmd.reply) > 0 && !validLiteral(cmd.reply):
		c.server.count(func(st *Stats) { st.Denied++ })
		if c.connect.Pedantic {
			c.send(errLine("Invalid Publish Subject"))
		}
		return nil
	case c.server.own[string(cmd.subject)]:
		c.server.count(func(st *Stats) { st.Denied++ })
		c.send(errLine(fmt.Sprintf("Permissions Violation for Publish to %q", cmd.subject)))
		return nil
	}
	c.ok()
	served := c.serve(cmd)
	sent := c.route(&c.to, message{cmd.subject, cmd.reply, cmd.header, cmd.payload})
	if !served && !sent && len(cmd.reply) > 0 && c.connect.NoResponders {
		c.noResponders(cmd.reply)
	}
	return nil
}

// serve lets the daemon answer a request, where it has a service for it.
func (c *client) serve(cmd command) bool {
	service := c.server.opts.Services[string(cmd.subject)]
	if service == nil {
		return false
	}
	if len(cmd.reply) > 0 {
		c.route(&c.other, message{subject: cmd.reply, payload: service(cmd.payload)})
	}
	return true
}

// noResponders tells the client that nobody is there to answer, the way
// nats-server does: a status without payload to its own subscription.
func (c *client) noResponders(reply []byte) {
	const status = "NATS/1.0 503\r\n\r\n"
	c.server.router.match(reply, &c.other)
	for _, sub := range c.other.plain {
		if sub.client == c {
			c.deliver(sub, message{subject: reply, header: []byte(status)})
			break
		}
	}
	c.other.reset()
}

// message is what is sent on. Its slices belong to the sender's read buffer.
type message struct {
	subject, reply, header, payload []byte
}

// route sends a message to whoever is subscribed to its subject and reports
// whether anybody took it.
func (c *client) route(to *receivers, msg message) bool {
	r := c.server.router
	r.match(msg.subject, to)
	sent := false
	for _, sub := range to.plain {
		sent = c.deliver(sub, msg) || sent
	}
	var again []string
	for _, g := range to.groups {
		if c.deliver(g.sub, msg) {
			sent = true
		} else {
			again = append(again, g.name)
		}
	}
	// Somebody was chosen in the moment they stopped taking messages: they are
	// not chosen again, so this comes to an end.
	for _, name := range again {
		for done := false; !done; {
			r.match(msg.subject, to)
			done = true
			for _, g := range to.groups {
				if g.name == name {
					done = c.deliver(g.sub, msg)
					sent = sent || done
				}
			}
		}
	}
	to.reset()
	return sent
}

// deliver queues a message for the client that sub belongs to. It is called by
// the goroutine that reads from c.
func (c *client) deliver(sub *subscription, msg message) bool {
	to := sub.client
	to.mu.Lock()
	if sub.room(1) == 0 {
		to.mu.Unlock()
		return false
	}
	if to.queue.bytes > c.server.opts.MaxPending {
		to.mu.Unlock()
		to.end(endSlow)
		return false
	}
	if !to.connect.Headers {
		msg.header = nil
	}
	c.line = appendHead(c.line[:0], sub.sid, msg)
	put(c.server, &to.queue, c.line)
	put(c.server, &to.queue, msg.header)
	put(c.server, &to.queue, msg.payload)
	put(c.server, &to.queue, crlf)
	sub.took(1)
	to.wakeWriter()
	to.mu.Unlock()
	return true
}

// appendHead appends the control line of MSG or HMSG.
func appendHead(line []byte, sid string, msg message) []byte {
	verb := "MSG "
	if len(msg.header) > 0 {
		verb = "HMSG "
	}
	line = append(line, verb...)
	line = append(line, msg.subject...)
	line = append(line, ' ')
	line = append(line, sid...)
	line = append(line, ' ')
	if len(msg.reply) > 0 {
		line = append(line, msg.reply...)
		line = append(line, ' ')
	}
	if len(msg.header) > 0 {
		line = strconv.AppendInt(line, int64(len(msg.header)), 10)
		line = append(line, ' ')
	}
	line = strconv.AppendInt(line, int64(len(msg.header)+len(msg.payload)), 10)
	return append(line, crlf...)
}
