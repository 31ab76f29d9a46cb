package relay

import (
	"errors"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// Besides plain subscriptions and queue groups there are durable consumers, which owe
// items while they have no member, and viewers, which owe nothing and confirm nothing. Both
// may begin anywhere in the list, so they get finished items too that Redis still has. Such
// items are theirs alone: the list does not wait for them.

// ErrFull refuses a durable consumer: the ledger has no room for its record.
var ErrFull = errors.New("the list has 64 durable consumers and queue groups already: delete one first")

// Durable describes a durable consumer.
type Durable struct {
	Terms
	From   uint64 // if it is new: the first item that it owes
	Uplink bool   // it may be away for as long as it likes
}

// SetDurable makes a durable consumer, or gives the one of this name other terms.
func (l *Log) SetDurable(name string, d Durable) error {
	l.mu.Lock()
	key := batch.Name{Durable: true, Name: name}
	c := l.named[key]
	if c == nil {
		if !l.records.admit(key) {
			l.mu.Unlock()
			return ErrFull
		}
		c = l.newConsumer(key, &d.Terms)
		c.from = d.From
		if l.loaded {
			l.begin(c)
		}
	}
	c.terms, c.uplink = &d.Terms, d.Uplink
	if c.terms.Explicit && c.singles == nil {
		c.singles = make(map[uint64]*claim)
	}
	l.updateRoom(c)
	l.mu.Unlock()
	l.opts.Changed()
	return nil
}

// RemoveDurable ends a durable consumer with its members. It reports whether there was one.
func (l *Log) RemoveDurable(name string) bool {
	l.mu.Lock()
	c := l.named[batch.Name{Durable: true, Name: name}]
	if c != nil {
		for _, m := range c.members {
			m.finished, m.gone = true, true
			for len(m.debts) > 0 {
				l.void(m.debts[0])
			}
			l.unkey(m.key)
		}
		c.members = nil
		l.drop(c)
	}
	l.mu.Unlock()
	l.opts.Changed()
	return c != nil
}

// JoinDurable makes m a member of a durable consumer; nil if there is none of that name.
func (l *Log) JoinDurable(name, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	c := l.named[batch.Name{Durable: true, Name: name}]
	if c == nil {
		l.mu.Unlock()
		return nil
	}
	mem := l.addMember(c, key, m)
	l.mu.Unlock()
	l.opts.Changed()
	return mem
}

// View makes m a viewer, which gets the items from a number on.
func (l *Log) View(from uint64, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	c := l.newConsumer(batch.Name{}, &Terms{})
	c.viewer, c.from = true, from
	if l.loaded {
		l.begin(c)
	}
	mem := l.addMember(c, key, m)
	l.mu.Unlock()
	l.opts.Changed()
	return mem
}

// beginFrom gives a durable consumer or a viewer its place.
func (l *Log) beginFrom(c *consumer) {
	c.acked = numbers.Set{}
	c.acked.Raise(c.from)
	c.cursor, c.began = c.from, l.opts.Now()
	c.version++
	c.recorded = c.name.Durable && l.records.admit(c.name)
	c.away = c.began
	l.pass(c, l.first)
	l.moved()
}

// choosesPlace reports whether a consumer may be behind the floor of the list.
func (c *consumer) choosesPlace() bool { return c.viewer || c.name.Durable }

// missAll lets those consumers pass over the items that Redis has no more, and over
// those that a durable consumer has been away from for too long.
func (l *Log) missAll(end uint64) {
	for _, c := range l.consumers {
		if !c.choosesPlace() {
			continue
		}
		if c.below < l.first {
			l.pass(c, l.first)
		}
		if o := &l.opts; o.MaxAway > 0 && c.name.Durable && !c.uplink && len(c.members) == 0 && end != never &&
			l.opts.Now().Sub(c.away) >= o.MaxAway && c.acked.Floor()+o.MaxAwayItems < end {
			l.pass(c, end-o.MaxAwayItems)
		}
	}
}

// pass lets a consumer pass over the items below a number, and counts them.
func (l *Log) pass(c *consumer, to uint64) {
	if c.below = to; c.acked.Floor() >= to {
		return
	}
	if missed := l.skip(c, to); missed > 0 {
		c.missed += missed
		c.version++
		l.moved()
	}
}
