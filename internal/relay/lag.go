package relay

import (
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// A consumer lags behind others, never behind a producer: an item counts if another
// consumer has confirmed it and all before it, and the consumer does not have it in its
// hands. An item is in its hands from its delivery on, while a delay that the consumer asked for
// lasts too. Delivery may have to wait for Redis; that time does not count.

// lagInterval is the least time between two looks at the consumers' lag.
const lagInterval = time.Second

// lagging is the state of the search for consumers that lag. Guarded by Log.mu.
type lagging struct {
	next  time.Time // no look before
	wake  time.Time // when Plan has to look; zero: no consumer lags
	asked time.Time // since when the sweep waits for its read; zero: it does not
	cut   []ConsumerInfo

	dropped []ConsumerInfo // durables that have passed over items by MaxAway
}

// ConsumerInfo describes a consumer.
type ConsumerInfo struct {
	Name     batch.Name // empty for a plain subscription, and for a viewer
	Viewer   bool
	Missed   uint64         // viewer, durable: items that were gone before it got them
	Away     time.Time      // durable: since when it is not in use; zero: it is
	Members  []batch.Member // empty if it has not come back since the start
	Next     uint64         // the item that it gets next
	LagItems uint64         // items that count for its lag
	Lag      time.Duration  // the age of the oldest of them
	Owed     int            // items in the hands of its members, not confirmed
	Oldest   time.Time      // when the oldest item that it has not confirmed was read; zero: it was not
	Front    bool
}

// State is the place of a list and of its consumers.
type State struct {
	First, Floor, Done, Next uint64 // the head; items below are finished, confirmed once, read
	Consumers                []ConsumerInfo
	Unclaimed                uint64    // items that consumers which began after them passed over, and that none owes
	OldestUnclaimed          time.Time // when the first of them was read; zero: it was not
}

// State returns the place of the list and of its consumers. It is all zero if the place is
// not known.
func (l *Log) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded {
		return State{}
	}
	l.settle()
	s := State{First: l.first, Floor: l.past.Floor(), Done: l.doneFloor(), Next: l.taken.Top()}
	s.Unclaimed, s.OldestUnclaimed = l.unclaimed()
	now := l.opts.Now()
	for _, c := range l.consumers {
		s.Consumers = append(s.Consumers, l.info(c, now))
	}
	return s
}

// Done is State's Done.
func (l *Log) Done() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded {
		return 0
	}
	l.settle()
	return l.doneFloor()
}

// unclaimed counts the items that no consumer has confirmed and none owes, below the last one
// that is confirmed. The next consumer that begins at done gets them.
func (l *Log) unclaimed() (n uint64, oldest time.Time) {
	if len(l.done.Spans()) == 0 {
		return 0, oldest
	}
	var free numbers.Set
	free.Raise(l.done.Top())
	for _, c := range l.consumers {
		if !c.viewer {
			free = numbers.Intersect(&free, &c.acked)
		}
	}
	confirmed := numbers.Intersect(&free, &l.done)
	if n = free.Count() - confirmed.Count(); n > 0 {
		if first, _ := confirmed.Gap(l.first); free.Has(first) {
			oldest = l.ages.of(first)
		}
	}
	return n, oldest
}

func (l *Log) info(c *consumer, now time.Time) ConsumerInfo {
	i := ConsumerInfo{
		Name: c.name, Viewer: c.viewer, Missed: c.missed, Next: c.cursor, LagItems: l.lagItems(c), Lag: l.lag(c, now),
		Oldest: l.ages.of(c.acked.Floor()), Front: c.front,
	}
	if c.closing {
		i.Next = c.acked.Floor()
	}
	if c.name.Durable && !c.inUse() {
		i.Away = c.away
	}
	for _, m := range c.members {
		i.Members = append(i.Members, m.takes)
		i.Owed += m.owed
	}
	return i
}

// lag is the age of the oldest item that counts, but no more than the consumer's own.
func (l *Log) lag(c *consumer, now time.Time) (lag time.Duration) {
	if !l.loaded || c.viewer || !c.active() && !c.name.Durable {
		return 0
	}
	if !l.lagging.asked.IsZero() {
		now = l.lagging.asked
	}
	done := l.doneFloor()
	if next, _ := c.acked.Gap(c.cursor); next < done {
		lag = l.ages.lag(next, now)
	}
	if next, _ := c.firstAgain(0); next < done {
		lag = max(lag, min(l.ages.lag(next, now), now.Sub(c.returned)))
	}
	return min(lag, max(0, now.Sub(c.began)))
}

// lagItems is how many items count.
func (l *Log) lagItems(c *consumer) (n uint64) {
	done := l.doneFloor()
	n = c.again.Below(done)
	if c.cursor < done {
		n += done - c.cursor - (c.acked.Below(done) - c.acked.Below(c.cursor))
	}
	return n
}

// findLagging looks for consumers that lag more than MaxLag. Plan cuts them off.
func (l *Log) findLagging(now time.Time) {
	g := &l.lagging
	if l.opts.MaxLag == 0 || l.stopped {
		g.wake = time.Time{}
		return
	}
	if now.Before(g.next) {
		if g.wake.IsZero() && len(l.consumers) > l.pace.members {
			g.wake = g.next // one of those behind may lag by then
		}
		return
	}
	g.next, g.wake = now.Add(lagInterval), time.Time{}
	for _, c := range l.consumers {
		lag := l.lag(c, now)
		switch {
		case c.cut || lag == 0 || c.name.Durable && !c.passes:
		case lag >= l.opts.MaxLag:
			c.cut = true
			g.cut = append(g.cut, l.info(c, now))
		default:
			at := now.Add(max(l.opts.MaxLag-lag, lagInterval))
			if g.wake.IsZero() || at.Before(g.wake) {
				g.wake = at
			}
		}
	}
}

// askSweep notes whether the sweep has something to read.
func (l *Log) askSweep(wants bool, now time.Time) {
	switch asked := &l.lagging.asked; {
	case !wants:
		*asked = time.Time{}
	case asked.IsZero():
		*asked = now
	}
}

// sweepCame notes that the sweep has its read. The time that it had to wait, for Redis
// or because the list was paused, counts for no consumer's lag.
func (l *Log) sweepCame(now time.Time) {
	if asked := l.lagging.asked; !asked.IsZero() && now.Sub(asked) >= leastAge {
		l.ages.away += now.Sub(asked)
	}
	l.lagging.asked = time.Time{}
}

// deliverAgain lets items that were in the hands of a consumer be handed out once more.
func (l *Log) deliverAgain(c *consumer, from, to uint64) {
	c.again.Add(from, to)
	c.returned = l.opts.Now()
}

// Owed implements batch.Membership.
func (m *member) Owed() int {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	return m.owed
}
