package tcpserver

import (
	"math"
	"slices"
	"strconv"
	"sync/atomic"

	"edged/internal/batch"
	"edged/internal/subject"
)

// subscription is one SUB of a client. It receives messages from clients, and is
// a member of every list whose subject it matches.
type subscription struct {
	client  *client
	subject string
	wild    bool
	queue   string // empty for none
	sid     string
	deny    []string // patterns of subjects that are denied to its user although subject stands for them

	// full is set once, under client.mu: nothing more is taken.
	full atomic.Bool

	// Guarded by client.mu.
	members []*member // changed with the server's joining held too
	max     int       // messages after which it ends; 0 for none
	sent    int       // messages queued for it, list items included
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
	membership batch.Membership // nil until Join has returned
	owed       int              // items not confirmed; not written, if they are acknowledged
	finished   bool             // gets nothing more
}

func newSubscription(c *client, cmd command, wild bool) *subscription {
	return &subscription{
		client:  c,
		subject: string(cmd.subject),
		wild:    wild,
		queue:   string(cmd.queue),
		sid:     string(cmd.sid),
		deny:    c.deniedBelow(string(cmd.subject)),
	}
}

// denies reports whether messages to a literal subject are kept from the subscription.
func (sub *subscription) denies(literal string) bool {
	return slices.ContainsFunc(sub.deny, func(d string) bool { return subject.Matches(d, literal) })
}

// takes reports whether a list's items are for the subscription.
func (sub *subscription) takes(l list) bool {
	return subject.Matches(sub.subject, l.Subject) && !sub.denies(l.Subject)
}

// open reports whether the subscription takes messages.
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

// retire ends a subscription that has got all it asked for. The items that it has taken
// stay owed.
func (sub *subscription) retire() {
	c := sub.client
	c.server.joining.RLock()
	defer c.server.joining.RUnlock()
	c.server.router.remove(sub)
	c.mu.Lock()
	for _, m := range sub.members {
		m.finished = true
		c.dropIfDone(m)
	}
	c.mu.Unlock()
	for _, m := range sub.members {
		m.membership.Finish(math.MaxInt)
	}
}

// encode makes the MSG frames of a batch, one after the other. With a name the
// items get a reply subject under it.
func encode(b *batch.Batch, sid, name string) *batch.Encoding {
	prefix := "MSG " + b.Subject() + " " + sid + " "
	reply := 0 // most bytes of the part that differs in reply subjects
	if name != "" {
		prefix += ackBegin(b, name)
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
		if name != "" {
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

// digits is the length of n in decimal.
func digits(n int) int {
	d := 1
	for ; n > 9; n /= 10 {
		d++
	}
	return d
}
