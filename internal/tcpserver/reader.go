package tcpserver

import (
	"container/heap"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/subject"
)

// reader is the state of the reader goroutine. Other goroutines use only the fields whose comments
// say so.
type reader struct {
	in     *input // nil until the TLS handshake is done
	frugal bool   // it uses little memory, see fewClients; set before the client starts

	pub sender // for messages that the client publishes
	own sender // for answers of the daemon to them
	// given has the members that can acknowledge, by their names in reply subjects; see
	// nameForAcks. It is used with the server's joining held; goroutines other than the reader hold
	// joining for writing.
	given map[string][]*member

	trusted bool // it is authenticated: commands other than CONNECT are executed
}

// read is the first reader goroutine.
func (c *client) read() {
	from := io.Reader(c.conn)
	if c.tls != nil {
		err := c.handshake()
		if err != nil {
			c.end(endTLS(err))
		}
		close(c.tls.ready) // after c.end, or the writer would end it for a different reason
		if err != nil {
			defer c.server.wg.Done()
			c.quit(err)
			return
		}
		from = c.tls
	}

	c.conn.SetReadDeadline(c.since.Add(c.server.limits.Load().ConnectTimeout))
	c.in = newInput(&c.server.inputs, &c.memory, c.conn, from)
	go c.readOn()
}

// readOn is the reader goroutine. A frugal one executes the commands that have arrived, and then a
// new goroutine waits for more: a stack that has grown does not shrink to the 2 KiB that suffice
// for waiting. So this function and fill use little stack. TLS uses more in any case.
func (c *client) readOn() {
	defer c.server.wg.Done()
	err := c.in.fill()
	for err == nil {
		if err = c.executeAll(); err != nil {
			break
		}
		if c.frugal && c.tls == nil {
			c.server.wg.Add(1)
			go c.readOn()
			return
		}
		err = c.in.fill()
	}
	c.quit(err)
}

// quit ends the client when its connection has ended, for any reason.
func (c *client) quit(err error) {
	var v violation
	switch {
	case errors.As(err, &v):
		c.send(errLine(v))
		c.end(endFor(v))
	case errors.Is(err, os.ErrDeadlineExceeded): // also auth.ErrLate, which is the same
		c.send(errLine(errAuthTimeout))
		c.end(endTimeout)
	case errors.Is(err, auth.ErrCrowded):
		c.send(errLine(errConnections))
		c.end(endCrowded)
	case errors.Is(err, auth.ErrAbandoned):
		c.end(endAbandoned)
	case errors.Is(err, io.EOF):
		c.end(endLeft)
	default:
		c.end(endBroken)
	}

	if c.in != nil {
		c.in.release()
	}

	c.leave()
	<-c.wrote
	c.server.forget(c)
}

// leave ends the client's subscriptions and memberships.
func (c *client) leave() {
	c.server.joining.RLock()
	defer c.server.joining.RUnlock()
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
	c.memory.Give(membershipSize * len(c.members))
	clear(c.members)
	clear(c.subs) // a list that is added now finds none
	receipts := c.takeReceipts()
	c.mu.Unlock()
	c.withdraw(subs...)
	for _, m := range left {
		m.Leave()
	}

	for _, r := range receipts {
		r.Confirm()
	}

	for _, sub := range subs {
		c.server.interest(sub)
	}

	if c.server.opts.API != nil {
		c.server.opts.API.Left(c.id)
	}
}

// executeAll executes the commands that have arrived.
func (c *client) executeAll() error {
	in := c.in
	c.bytesIn.Add(uint64(in.n))
	lim := limits{controlLine: c.server.opts.MaxControlLine, payload: c.server.opts.MaxPayload}
	done, active := 0, false
	for in.have-done >= in.need {
		if !c.trusted && in.buf[done]|0x20 != 'c' { // at once, before its payload is read
			return c.refuseLogin("", "it sent another command before CONNECT")
		}
		cmd, length, more, err := parse(in.buf[done:in.have], lim)
		if err != nil {
			return err
		}
		if length == 0 {
			in.need = more
			break
		}
		if err := c.execute(cmd); err != nil {
			return err
		}
		active = active || cmd.op != opPing && cmd.op != opPong
		done += length
		in.need = 1
	}

	if active {
		c.active.Store(time.Now().UnixNano())
	}

	in.drop(done)
	return nil
}

// execute executes a command. An error ends the connection.
func (c *client) execute(cmd command) error {
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
		c.allowInfo()
		c.mu.Unlock()
	case opPong:
		c.pong()
	case opConnect:
		return c.readConnect(cmd.options)
	}

	return nil
}

// readConnect executes CONNECT. It may be repeated.
func (c *client) readConnect(options []byte) error {
	o, err := parseConnect(options)
	if err != nil {
		return err
	}

	if err := c.admit(o); err != nil {
		return err
	}

	c.conn.SetReadDeadline(time.Time{})
	o.Password, o.Token = "", "" // no longer needed
	c.mu.Lock()
	c.connect, c.connected = o, true
	c.mu.Unlock()
	c.server.settle(c)
	c.pub.to.except = nil
	if o.Echo != nil && !*o.Echo {
		c.pub.to.except = c
	}
	c.ok()
	return nil
}

// admit authenticates the client. A later CONNECT cannot change its user, because the new user
// might not have the right to its subscriptions.
func (c *client) admit(o connectOptions) error {
	for gate := c.server.opts.Gate; ; {
		sec := gate.Security()
		u, err := c.authenticate(sec, o)
		switch {
		case err != nil:
			return err
		case c.trusted && auth.NameOf(u) != auth.NameOf(c.user):
			return c.refuseLogin(o.User, "it is connected as another user")
		case c.trusted: // it keeps the rights of its subscriptions until Reload
			return nil
		}
		c.mu.Lock()
		c.user, c.admitted = u, sec
		c.mu.Unlock()

		if gate.Security() == sec { // otherwise Reload may have missed it
			c.trusted = true
			return nil
		}
	}
}

// subscribe executes SUB. The subscription is complete when it returns.
func (c *client) subscribe(cmd command) {
	if c.ended.Load() { // perhaps because of the memory that it holds
		return
	}

	valid, wild := subject.Valid(cmd.subject)
	if !valid {
		c.refuse(errSubject)
		return
	}
	if len(cmd.queue) > maxName || len(cmd.sid) > maxName {
		c.refuse(errName, cmd.subject)
		return
	}
	sub := newSubscription(c, cmd, wild)
	if !c.maySubscribe(sub.subject) {
		if sub.queue == "" {
			c.refuse(errSubscribe, sub.subject)
		} else {
			c.refuse(errSubscribeQueue, sub.subject, sub.queue)
		}
		return
	}

	if wild && subject.Tokens(sub.subject) > maxTokens {
		c.refuse(errTokens, sub.subject)
		return
	}
	c.server.joining.RLock()
	defer c.server.joining.RUnlock()
	c.mu.Lock()
	known := c.subs[sub.sid] != nil // keeps its meaning, as in nats-server
	full := len(c.subs) >= c.server.limits.Load().MaxSubscriptions
	if !known && !full {
		c.subs[sub.sid] = sub
	}
	c.mu.Unlock()

	if full && !known {
		c.refuse(errSubscriptions)
		return
	}

	if !known {
		c.memory.Take(sub.size()).Cut()
		c.server.router.add(sub)
		for _, l := range c.server.lists.Load().all {
			if sub.takes(l) {
				c.join(sub, l)
			}
		}
		c.server.interest(sub)
	}

	c.ok()
}

// join makes a subscription a member of a list.
func (c *client) join(sub *subscription, l List) {
	c.memory.Take(membershipSize).Cut()
	m := &member{sub: sub, list: l.Name, confirm: l.Confirm, key: sub.sid}
	m.encode = func(b *batch.Batch) *batch.Encoding { return encode(b, sub.sid, "") }
	if l.Confirm == Acknowledged {
		c.nameForAcks(m, l)
		m.encode = func(b *batch.Batch) *batch.Encoding { return encode(b, sub.sid, ackBegin(b, m.name)) }
	}
	membership := l.Joiner.Join(sub.queue, m.key, m)
	c.mu.Lock()
	m.membership = membership
	sub.members = append(sub.members, m)
	c.members[m] = struct{}{}
	c.mu.Unlock()
}

// unsubscribe executes UNSUB.
func (c *client) unsubscribe(cmd command) {
	c.server.joining.RLock()
	defer c.server.joining.RUnlock()
	c.mu.Lock()
	sub := c.subs[string(cmd.sid)]
	switch {
	case sub == nil:
	case cmd.max > sub.sent:
		sub.max = cmd.max
		sub = nil // it goes on
	default:
		sub.full.Store(true)
		delete(c.subs, sub.sid)
	}
	c.mu.Unlock()

	if sub != nil {
		c.withdraw(sub)
		c.finish(sub, cmd.max)
		c.server.interest(sub)
	}

	c.ok()
}

// finish ends the memberships of a subscription that already has limit messages or more; the client
// ignores those beyond. Items beyond the limit that it owes go to other members at once; with a
// limit of 0 these are all items.
//
// The order of messages and items is no longer known. So messages are assumed to have come first,
// and if items of several lists are owed, none is kept. An item that the client has seen may be
// redelivered, but no item that it ignored is confirmed. Items that are acknowledged one by one
// need no such care: they stay owed, and those that the client ignored are redelivered when they
// are overdue.
func (c *client) finish(sub *subscription, limit int) {
	c.mu.Lock()
	owing, owed := 0, 0
	for _, m := range sub.members {
		if m.owed > 0 && m.confirm != Acknowledged {
			owing++
			owed += m.owed
		}
	}

	keep := limit - (sub.sent - owed)
	for _, m := range sub.members {
		m.finish()
		leaves := keep <= 0 || owing != 1 || m.owed == 0
		if m.confirm == Acknowledged {
			leaves = limit <= 0
		}
		if leaves {
			m.abandon()
		}
		c.dropIfDone(m)
	}
	c.dropAbandoned()
	c.mu.Unlock()

	for _, m := range sub.members {
		switch {
		case m.left.Load():
			m.membership.Leave()
		case m.confirm == Acknowledged:
			m.membership.Finish(math.MaxInt)
		default:
			m.membership.Finish(keep)
		}
	}
}

// dropAbandoned drops the deliveries that other clients owe now. mu is held.
func (c *client) dropAbandoned() {
	left := func(d delivery) bool { return d.member != nil && d.member.left.Load() }
	c.queue.segments = slices.DeleteFunc(c.queue.segments, func(s segment) bool { return left(s.delivery) })
	c.pings.drop(left)
}

// finish notes that the member gets nothing more, so that another member may have its name. The
// client's mu is held.
func (m *member) finish() {
	if !m.finished && m.names != nil {
		heap.Push(&m.names.free, m.number)
	}
	m.finished = true
}

// abandon ends the member's debt: other clients owe its items now. The client's mu is held.
func (m *member) abandon() {
	m.left.Store(true)
	m.sub.client.pings.settle(m.owed)
	m.owed = 0
}

// dropIfDone forgets a member that gets nothing more and owes nothing. Debts for items that are
// acknowledged one by one are not known here. mu is held.
func (c *client) dropIfDone(m *member) {
	if m.finished && m.owed == 0 && m.confirm != Acknowledged {
		c.dropMember(m)
	}
}

// pong executes PONG, which confirms the items that were written before the PING.
func (c *client) pong() {
	now := time.Now()
	c.mu.Lock()
	c.allowInfo()
	confirmed := c.pings.pong(now)
	if c.pings.wanted() {
		c.wakeWriter()
	}
	c.mu.Unlock()
	c.confirm(confirmed)
}

// confirm settles deliveries. No lock is held.
func (c *client) confirm(all []delivery) {
	if len(all) == 0 {
		return
	}
	c.mu.Lock()
	for _, d := range all {
		m := d.member
		if m.left.Load() {
			continue
		}
		m.owed -= d.items
		c.pings.settle(d.items)
		c.dropIfDone(m)
		c.dropReceipt(m)
	}
	c.mu.Unlock()

	for _, d := range all {
		d.receipt.Confirm()
	}
}
