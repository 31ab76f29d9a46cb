package relay

import (
	"errors"
	"slices"
	"time"

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
	Epoch  string // in which From stands for that item; in another one it begins at the head; empty: in any
	Uplink bool   // it may be away for as long as it likes
	Passes bool   // it is cut off if it lags more than MaxLag
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
		c = l.newConsumer(consumer{name: key, terms: &d.Terms, from: d.From, epoch: d.Epoch})
		l.begin(c)
	}
	bare := c.terms == &l.opts.Terms // restored before its terms were known
	c.terms, c.uplink, c.passes = &d.Terms, d.Uplink, d.Passes
	if bare {
		l.boundEarlier(c)
	}
	if c.terms.Explicit && c.singles == nil {
		c.singles = make(map[uint64]*claim)
	}
	l.updateRoom(c)
	return nil
}

// StartDurable lets a durable consumer that has had no member begin at another item.
func (l *Log) StartDurable(name string, from uint64, epoch string) {
	l.mu.Lock()
	if c := l.named[batch.Name{Durable: true, Name: name}]; c != nil {
		c.from, c.epoch = from, epoch
		if l.loaded {
			l.begin(c)
		}
	}
	l.mu.Unlock()
	l.opts.Changed()
}

// RemoveDurable ends a durable consumer with its members. It reports whether there was one.
// Acknowledgements that come later, by way of a member that is gone, count nothing.
func (l *Log) RemoveDurable(name string) bool {
	l.mu.Lock()
	c := l.named[batch.Name{Durable: true, Name: name}]
	if c == nil {
		l.mu.Unlock()
		return false
	}
	refused := l.takeEarly(func(e early) bool { return e.to.consumer == c })
	for len(c.members) > 0 {
		c.members[0].finished = true
		l.dismiss(c.members[0])
	}
	l.drop(c)
	c.cursor, c.earlier = 0, 0
	l.unlock()
	refuse(refused)
	return true
}

// JoinDurable makes m a member of a durable consumer; nil if there is none of that name. A
// batch.Metered must be the only one.
func (l *Log) JoinDurable(name, key string, m batch.Member) batch.Consumption {
	l.mu.Lock()
	defer l.unlock()
	if c := l.named[batch.Name{Durable: true, Name: name}]; c != nil {
		return l.addMember(c, key, m)
	}
	return nil
}

// View makes m a viewer, which gets the items from a number on.
func (l *Log) View(from uint64, key string, m batch.Member) batch.Consumption {
	l.mu.Lock()
	defer l.unlock()
	c := l.newConsumer(consumer{terms: &Terms{}, viewer: true, from: from})
	l.begin(c)
	return l.addMember(c, key, m)
}

// beginFrom gives a durable consumer or a viewer its place. It has not missed the items before
// the head: it begins after them.
func (l *Log) beginFrom(c *consumer) {
	if c.epoch != "" && c.epoch != l.epoch {
		c.from = l.first
	}
	c.from = max(c.from, l.first)
	c.acked = numbers.Set{}
	c.acked.Raise(c.from)
	c.cursor, c.began, c.below, c.earlier = c.from, l.opts.Now(), l.first, 0
	c.version++
	l.admit(c)
	c.away = c.began
	l.moved()
}

// choosesPlace reports whether a consumer may be behind the floor of the list.
func (c *consumer) choosesPlace() bool { return c.viewer || c.name.Durable }

// missAll lets those consumers pass over the items that Redis has no more, and over
// those that a durable consumer has been away from for too long.
func (l *Log) missAll(end uint64) {
	now := l.opts.Now()
	for _, c := range l.consumers {
		if !c.choosesPlace() {
			continue
		}
		if c.below != l.first { // it is higher after items were put in front
			l.pass(c, l.first)
		}
		if c.inUse() {
			c.away, c.drops = now, false
		} else if o := &l.opts; o.MaxAway > 0 && c.name.Durable && !c.uplink && end != never &&
			now.Sub(c.away) >= o.MaxAway && c.acked.Floor()+o.MaxAwayItems < end {
			l.pass(c, end-o.MaxAwayItems)
			if !c.drops {
				l.lagging.dropped = append(l.lagging.dropped, l.info(c, now))
			}
			c.drops = true
		}
	}
}

// inUse reports whether a durable consumer or a viewer takes items, or has some that are not
// confirmed.
func (c *consumer) inUse() bool {
	for _, m := range c.members {
		if m.owed > 0 || !m.finished && (c.meter == nil || c.meter.Room() > 0) {
			return true
		}
	}
	return false
}

// InUse reports whether a durable consumer is in use, whether or not its place is known.
func (l *Log) InUse(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.named[batch.Name{Durable: true, Name: name}]
	return c != nil && c.inUse()
}

// pass lets a consumer pass over the items below a number, and counts them.
func (l *Log) pass(c *consumer, to uint64) {
	if c.below = to; c.acked.Floor() >= to {
		return
	}
	if c.cursor < to {
		l.leaveFront(c) // its cursor moves alone
	}
	if missed := l.skip(c, to); missed > 0 {
		c.missed += missed
		c.version++
		l.moved()
	}
}

// Update implements batch.Consumption.
func (m *member) Update() {
	m.log.mu.Lock()
	m.log.updateRoom(m.consumer)
	m.log.mu.Unlock()
	m.log.opts.Changed()
}

// Pending implements batch.Consumption.
func (m *member) Pending(below uint64) (n uint64, known bool) {
	l, c := m.log, m.consumer
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.again.Count() + l.unread(c, below), l.loaded
}

// unread is how many items below a number a consumer is still to be handed for the first time.
func (l *Log) unread(c *consumer, below uint64) (n uint64) {
	for from, to := c.acked.Gap(max(c.cursor, l.first)); from < below; from, to = c.acked.Gap(to) {
		n += min(to, below) - from
	}
	if c.cursor >= l.first {
		return n
	}
	for aside := range l.aside.items {
		if c.cursor <= aside && aside < min(l.first, below) && !c.acked.Has(aside) {
			n++
		}
	}
	return n
}

// floorCount is how many deliveries there were before the first one of the first item that is
// not confirmed.
func (c *consumer) floorCount() uint64 {
	if c.out == 0 {
		return c.delivered
	}
	n := c.acked.Floor()
	k := c.singles[n]
	if k == nil {
		k, _ = c.run(n)
	}
	if k == nil || k.count == 0 { // it was not delivered in this process
		return 0
	}
	return k.count + n - k.from - 1
}

// DurableInfo is the state of a durable consumer.
type DurableInfo struct {
	Floor   uint64 // items below are confirmed, or not its
	Count   uint64 // deliveries before the first one of the item at the floor
	Next    uint64 // the item that it gets next, if none has to be delivered again
	Out     int    // items delivered and not acknowledged
	Again   int    // of those, the ones delivered more than once
	Missed  uint64 // items that were gone before it got them
	Pending uint64 // items that it is to be handed for the first time
	Away    time.Time
}

// Durable returns the state of a durable consumer; Pending counts the items below a number.
func (l *Log) Durable(name string, below uint64) (i DurableInfo, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.named[batch.Name{Durable: true, Name: name}]
	if c == nil || !l.loaded {
		return i, false
	}
	i = DurableInfo{Floor: c.acked.Floor(), Count: c.floorCount(), Next: c.cursor, Out: c.out, Missed: c.missed, Pending: l.unread(c, below)}
	for _, k := range c.singles {
		if k.tries > 1 {
			i.Again++
		}
	}
	if !c.inUse() {
		i.Away = c.away
	}
	return i, true
}

// Since is the number of the first item that was seen at a time or later, as far as is known.
func (l *Log) Since(t time.Time) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.first
	for _, mark := range l.ages.marks {
		if !mark.At.Before(t) {
			break
		}
		from = max(from, mark.Below)
	}
	return from
}

// Seen is when an item was seen first, to about a second; zero: that is not known.
func (l *Log) Seen(n uint64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded {
		return time.Time{}
	}
	return l.ages.of(n)
}

const (
	// maxEarly is how many acknowledgements a list can have before its place is known.
	maxEarly = 4096
	// earlyLasts is for how long one waits: as long as a lease by default, after which another
	// process takes the list over.
	earlyLasts = 30 * time.Second
)

// early is an acknowledgement that came before the place in the list was known: the client
// got the item from a process before this one, or from another one.
type early struct {
	to    *member // of a durable consumer
	epoch string
	n     uint64
	ack   batch.Ack
	saved func(error)
	until time.Time // it is refused then
}

// keepEarly keeps an acknowledgement until the place is known, if that may be of use.
func (l *Log) keepEarly(e early) bool {
	if !e.to.consumer.name.Durable || e.to.gone || len(l.early) >= maxEarly {
		return false
	}
	e.until = l.opts.Now().Add(earlyLasts)
	l.early = append(l.early, e)
	return true
}

// takeEarly takes some of the acknowledgements that wait for the place.
func (l *Log) takeEarly(which func(early) bool) (taken []early) {
	l.early = slices.DeleteFunc(l.early, func(e early) bool {
		if which(e) {
			taken = append(taken, e)
			return true
		}
		return false
	})
	return taken
}

// refuse answers acknowledgements that waited for the place in vain.
func refuse(all []early) {
	for _, e := range all {
		if e.saved != nil {
			e.saved(ErrGone)
		}
	}
}

// heedEarly follows the acknowledgements that waited for the place.
func (l *Log) heedEarly() {
	l.mu.Lock()
	all := l.early
	l.early = nil
	l.mu.Unlock()
	for _, e := range all {
		if err := e.to.Acknowledge(e.epoch, e.n, e.ack, e.saved); err != nil && e.saved != nil {
			e.saved(err)
		}
	}
}
