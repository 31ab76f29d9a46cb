package tcpserver

import (
	"math"
	"slices"
	"strconv"
	"sync/atomic"

	"edged/internal/batch"
	"edged/internal/subject"
)

// subscription is one SUB of a client. It receives messages from clients, and is a member of every
// list whose subject it matches.
type subscription struct {
	client  *client
	subject string
	wild    bool
	queue   string // empty for none
	sid     string
	deny    []string // patterns that are denied to its user although subject matches them

	// full is set once, under client.mu: nothing more is taken.
	full atomic.Bool

	// Its place in the router. Guarded by router.mu.
	set   *set // nil: it is not there
	group *group
	at    int // index among the set's plain ones, or among the group's members

	// Guarded by client.mu.
	members []*member // changed with the server's joining held too
	max     int       // messages after which it ends; 0 for none
	sent    int       // messages queued for it, list items included
}

// Approximate memory in bytes of a subscription's parts, including their share of the router. A
// test compares them with the memory that they take.
const (
	subscriptionSize = 320
	patternSize      = 64 // additional, of a pattern
	tokenSize        = 72 // of each token of a pattern
	groupSize        = 320
	membershipSize   = 1024 // including the consumer of the list
)

// size returns the approximate memory of the subscription in bytes, without its memberships. The
// router has a copy of its subject and of its group's name.
func (sub *subscription) size() int {
	n := subscriptionSize + 2*len(sub.subject) + len(sub.sid)
	if sub.wild {
		n += patternSize + tokenSize*subject.Tokens(sub.subject)
	}
	if sub.queue != "" {
		n += groupSize + 2*len(sub.queue)
	}
	return n
}

// withdraw removes subscriptions from the router.
func (c *client) withdraw(subs ...*subscription) {
	c.server.router.remove(subs...)
	for _, sub := range subs {
		c.memory.Give(sub.size())
	}
}

// dropMember forgets a member, if it is not forgotten already. mu is held.
func (c *client) dropMember(m *member) {
	if _, ok := c.members[m]; ok {
		delete(c.members, m)
		c.memory.Give(membershipSize)
	}
}

// member is a subscription's place in a list.
type member struct {
	sub     *subscription
	list    string // its name
	confirm Confirmation
	name    string // in the reply subjects of items, if they are acknowledged
	key     string // of its encodings
	encode  func(*batch.Batch) *batch.Encoding

	// left is set once: other clients owe the items that are still queued.
	left atomic.Bool

	// Guarded by client.mu.
	membership batch.Membership // nil until Join has returned, and of an Outlet
	receipts   []batch.Receipt  // of an Outlet: for items that are not confirmed, in order
	owed       int              // items not confirmed; if they are acknowledged one by one: not written
	finished   bool             // gets nothing more
	names      *ackNames        // if items are acknowledged one by one: the source of its name's number
	number     int
}

func newSubscription(c *client, cmd command, wild bool) *subscription {
	return &subscription{
		client:  c,
		subject: string(cmd.subject),
		wild:    wild,
		queue:   string(cmd.queue),
		sid:     string(cmd.sid),
		deny:    c.user.DeniedBelow(string(cmd.subject)),
	}
}

// denies reports whether the subscription must not get messages to a literal subject.
func (sub *subscription) denies(literal string) bool {
	return slices.ContainsFunc(sub.deny, func(d string) bool { return subject.Matches(d, literal) })
}

// takes reports whether the subscription gets a list's items.
func (sub *subscription) takes(l List) bool {
	return subject.Matches(sub.subject, l.Subject) && !sub.denies(l.Subject)
}

// open reports whether the subscription still takes messages.
func (sub *subscription) open() bool {
	return !sub.full.Load() && !sub.client.ended.Load()
}

// accepts returns how many of n messages the subscription takes. client.mu is held.
func (sub *subscription) accepts(n int) int {
	if !sub.open() {
		return 0
	}
	if sub.max > 0 {
		n = min(n, sub.max-sub.sent)
	}
	return n
}

// took counts n more messages. client.mu is held.
func (sub *subscription) took(n int) {
	c := sub.client
	sub.sent += n
	c.sent += uint64(n)
	if sub.sent == sub.max {
		sub.full.Store(true)
		delete(c.subs, sub.sid)
		c.expired = append(c.expired, sub)
	}
}

// Deliver implements batch.Member. The items are encoded when they are written.
func (m *member) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) (taken int) {
	c := m.sub.client
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.queue(b, from, to, receipt)
}

// queue is Deliver with the client's mu held.
func (m *member) queue(b *batch.Batch, from, to int, receipt batch.Receipt) (taken int) {
	c := m.sub.client
	n := m.sub.accepts(to - from)
	if n == 0 {
		return 0
	}
	c.server.wakeForItems(c)
	b.Retain() // until it is written
	m.owed += n
	c.owe(n)
	m.sub.took(n)
	c.queue.segments = append(c.queue.segments, segment{
		delivery: delivery{member: m, items: n, receipt: receipt},
		batch:    b, from: from, to: from + n,
	})
	return n
}

// Hold implements batch.Holder. Another goroutine cuts off the clients over the budget, because
// that calls the relay.
func (m *member) Hold(n int) {
	c := m.sub.client
	if over := c.memory.Take(n); over != nil {
		c.server.wg.Go(over.Cut)
	}
}

// retire ends a subscription that has got all its messages. The items that it has taken stay owed.
func (sub *subscription) retire() {
	c := sub.client
	c.server.joining.RLock()
	defer c.server.joining.RUnlock()
	c.withdraw(sub)
	c.mu.Lock()
	for _, m := range sub.members {
		m.finish()
		c.dropIfDone(m)
	}
	c.mu.Unlock()
	for _, m := range sub.members {
		m.membership.Finish(math.MaxInt)
	}
	c.server.interest(sub)
}

// encode makes the MSG frames of a batch. The items get reply subjects that begin with begin,
// unless begin is empty.
func encode(b *batch.Batch, sid, begin string) *batch.Encoding {
	prefix := "MSG " + b.Subject() + " " + sid + " " + begin
	reply := 0 // maximum length of the part of reply subjects that differs
	if begin != "" {
		reply = maxAckEnd
	}

	large := b.Large()
	size := b.Len() * (len(prefix) + reply + digits(b.Size()) + 2*len(crlf))
	if !large {
		size += b.Size()
	}

	m := b.Memory(size)
	for i := range b.Len() {
		item := b.Item(i)
		from := len(m.Data)
		m.Data = append(m.Data, prefix...)
		if begin != "" {
			m.Data = appendAckEnd(m.Data, b, i)
			m.Data = append(m.Data, ' ')
		}
		m.Data = strconv.AppendInt(m.Data, int64(len(item)), 10)
		m.Data = append(m.Data, crlf...)
		if !large {
			m.Data = append(m.Data, item...)
			m.Data = append(m.Data, crlf...)
		}
		m.Mark(from)
	}

	return batch.NewEncoding(b, m)
}

// digits returns the length of n in decimal.
func digits(n int) int {
	d := 1
	for ; n > 9; n /= 10 {
		d++
	}
	return d
}
