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
	defer l.unlock()
	key := batch.Name{Durable: true, Name: name}
	c := l.named[key]
	if c == nil {
		if !l.hasRoom(nil) {
			return ErrFull
		}
		c = l.newConsumer(consumer{name: key, terms: &d.Terms, from: d.From})
		l.begin(c)
	}
	c.terms, c.uplink = &d.Terms, d.Uplink
	if c.terms.Explicit && c.singles == nil {
		c.singles = make(map[uint64]*claim)
	}
	l.updateRoom(c)
	return nil
}

// RemoveDurable ends a durable consumer with its members. It reports whether there was one.
func (l *Log) RemoveDurable(name string) bool {
	l.mu.Lock()
	defer l.unlock()
	c := l.named[batch.Name{Durable: true, Name: name}]
	if c == nil {
		return false
	}
	for len(c.members) > 0 {
		c.members[0].finished = true
		l.dismiss(c.members[0])
	}
	l.drop(c)
	return true
}

// JoinDurable makes m a member of a durable consumer; nil if there is none of that name.
func (l *Log) JoinDurable(name, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	defer l.unlock()
	if c := l.named[batch.Name{Durable: true, Name: name}]; c != nil {
		return l.addMember(c, key, m)
	}
	return nil
}

// View makes m a viewer, which gets the items from a number on.
func (l *Log) View(from uint64, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	defer l.unlock()
	c := l.newConsumer(consumer{terms: &Terms{}, viewer: true, from: from})
	l.begin(c)
	return l.addMember(c, key, m)
}

// beginFrom gives a durable consumer or a viewer its place.
func (l *Log) beginFrom(c *consumer) {
	c.acked = numbers.Set{}
	c.acked.Raise(c.from)
	c.cursor, c.began = c.from, l.opts.Now()
	c.version++
	l.admit(c)
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
