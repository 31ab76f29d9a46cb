// Package relay holds the one delivery rule:
//
//	An item leaves Redis when at least one consumer has confirmed it and no
//	consumer still owes it. Until then Redis holds it.
//
// A Log keeps account of one Redis list: each item has a number, and each
// consumer a cursor of its own in the list.
//
//	first              floor              done                front
//	  │  kept           │  owed by some    │  not confirmed     │  not yet read
//	──┴─────────────────┴──────────────────┴────────────────────┴──────────────▶ number
//
// A consumer is a plain subscription, or a queue group of subscriptions of which
// one gets each item. It owes every item from where it began on until it has
// confirmed it. The Log keeps numbers only, no items: an item to be delivered once
// more is read from Redis once more. So memory holds the items on their way to clients,
// whatever lies between the slowest consumer and the fastest.
//
// Reads. The consumers that are furthest and keep up with each other are the front:
// one read serves all of them. A consumer that holds up the others is left behind
// for a while. Those behind, and items that have to be delivered again, are served
// by a sweep from the lowest number to the front; each batch that is read goes to
// every consumer that needs a part of it. Front and sweep take turns, and the sweep
// has half of the memory. Consumers behind the front go on in waves: those at the same
// place wait for each other, as the front does, and there are few waves at a time. So the
// sweep's reads stay few, however many consumers are behind.
//
// Order: a consumer gets the items in list order, apart from those that it gets
// again.
//
// The package does no I/O and starts no goroutine. All methods may be called from any
// goroutine; Plan, Offer, Bury, Changes, Saved, Load, Gone, Reset and Rollback belong to
// the loop, which calls them one at a time. Members are called with the lock held,
// so that all see one order.
package relay

import (
	"slices"
	"sync"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// Terms say when a consumer has confirmed an item, and when it gets one again.
type Terms struct {
	Explicit      bool            // each item is acknowledged by itself, not by a receipt
	AckWait       time.Duration   // explicit: after which an item that was not acknowledged is delivered again
	Backoff       []time.Duration // explicit: waits in place of AckWait; after the first delivery, the second, …; the last one repeats
	MaxDeliver    int             // explicit: deliveries before the item is a dead letter; 0 means no bound
	MaxAckPending int             // explicit: in place of Window
}

// Options bound a Log.
type Options struct {
	Window int // items that one consumer may owe and have been handed; at least 1; see MaxAckPending
	Memory int // bytes of items on their way, encodings included; one item is always allowed

	// Delay is how long the items on their way to a consumer may delay a confirmation, apart from large ones. So few
	// bytes are on their way over a slow link. 0 means no bound.
	Delay time.Duration

	Terms      // of plain subscriptions and queue groups
	Times bool // Redis is to know when items were seen first

	MaxAway      time.Duration // a durable consumer without a member for so long owes the newest MaxAwayItems at most; 0 means no bound
	MaxAwayItems uint64
	Dropped      func(ConsumerInfo) // called once an absence, without the lock, for a consumer that passes over items by MaxAway

	MaxLag time.Duration      // age of an item that a consumer does not have and another has confirmed; 0 means no bound
	CutOff func(ConsumerInfo) // called once, without the lock, for a consumer over MaxLag: its members are to leave

	Pending *Pending // of explicit consumers, shared by several lists; nil means no bound

	// Duplicate reports whether an item repeats an earlier one, and whether that is known. It is called by Plan,
	// with the lock held; nil: no item does.
	Duplicate func(n uint64) (is, known bool)

	Changed func()           // called without the lock when Plan or Changes may say something new; must not block
	Now     func() time.Time // nil means time.Now
}

// Stats are a Log's books. Taken = Confirmed + Dead + Gone + Returned + InFlight, and
// in the end the items InFlight stay in Redis.
type Stats struct {
	Taken       uint64    // items handed to a consumer for the first time
	Confirmed   uint64    // finished: confirmed by a consumer, and owed by none
	Duplicates  uint64    // of those taken: they repeat an earlier one, and were confirmed without a delivery
	Dead        uint64    // finished as a dead letter
	Gone        uint64    // removed from Redis by another program before they were finished
	Returned    uint64    // taken, and to be taken again: the place in the list was lost
	Redelivered uint64    // handed to the same consumer once more
	InFlight    int       // taken and not finished
	Consumers   int       // that take items
	Members     int       // of all consumers
	Owed        int       // items in their hands, one that is in several counts as many
	Behind      int       // consumers that are not at the front
	Oldest      time.Time // when the oldest of those InFlight was read; zero if there are none
}

// Log is one list and its consumers.
type Log struct {
	opts Options

	mu        sync.Mutex // guards everything below, consumers and members included
	loaded    bool       // the place in the list is known
	over      bool       // too many items await acknowledgements, when last looked
	stopped   bool       // nothing more is taken, and a consumer that leaves still owes
	epoch     string     // in which the numbers stand for the items that they stand for
	first     uint64     // number of the item at the head of the Redis list
	end       uint64     // one past the last item of the list, as far as is known
	done      numbers.Set
	taken     numbers.Set // handed to a consumer, or finished in an earlier life
	ages      ages        // of those
	consumers []*consumer
	named     map[batch.Name]*consumer
	keys      map[string]int // encoding key -> members that use it

	front uint64 // cursor of the consumers at the front
	pace  pace
	swept uint64    // the sweep has come so far
	waves []*wave   // the oldest first
	held  time.Time // when a consumer that waits at no wave gets one; zero: none waits
	turn  bool      // the sweep is next
	share int       // bytes on their way for each consumer behind the front

	stale           bool        // the fields below, up to finished, have to be found again
	low, plainLow   uint64      // least floor of all consumers, and of the plain ones; never: there is none
	lows, plainLows int         // consumers with that floor
	spread          bool        // a consumer has confirmed items above its floor
	dead            []uint64    // dead letters that are not finished, as other consumers owe them
	finished        numbers.Set // confirmed, and owed by none
	ever            uint64      // the floor of past
	past            numbers.Set // finished, or set aside

	aside     aside
	mostHeld  uint64    // see mostHeld; another one in tests
	graceEnds time.Time // zero: no grace
	records   records
	lagging   lagging
	due       claims // heap: the earliest first
	early     []early
	stats     Stats  // the counters only
	base      uint64 // of finished, those that are not in stats
}

// New makes the Log of a list whose place is not known yet: Load says it.
func New(opts Options) *Log {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	if opts.CutOff == nil {
		opts.CutOff = func(ConsumerInfo) {}
	}
	if opts.Dropped == nil {
		opts.Dropped = func(ConsumerInfo) {}
	}
	return &Log{opts: opts, named: make(map[batch.Name]*consumer), keys: make(map[string]int), mostHeld: mostHeld}
}

// Stop ends the taking for good: once it has returned no new item is handed out, and
// a consumer that leaves still owes the items it had not confirmed. Items on their way go on.
func (l *Log) Stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
}

// Set changes the options except Explicit, CutOff, Dropped, Changed and Now. Items on their way stay, and
// so do waits that have begun.
func (l *Log) Set(o Options) {
	l.mu.Lock()
	defer l.unlock()
	to := &l.opts
	to.Window, to.Memory, to.Times = o.Window, o.Memory, o.Times
	delay := to.Delay != o.Delay
	to.Delay = o.Delay
	o.Explicit = to.Explicit
	to.Terms, to.MaxLag, to.MaxAway, to.MaxAwayItems = o.Terms, o.MaxLag, o.MaxAway, o.MaxAwayItems
	for _, c := range l.consumers {
		if delay {
			c.flow = newFlow(o.Delay)
		}
		l.updateRoom(c)
	}
}

// unlock unlocks mu after a call that Plan may have to hear of.
func (l *Log) unlock() {
	l.mu.Unlock()
	l.opts.Changed()
}

// Plan says which items are finished and which can be read. The list begins at the number
// first, and has nothing from end on. Times that have come take their effect: overdue items
// are delivered again, a consumer that holds up the front is left behind, one that lags too
// much is cut off.
func (l *Log) Plan(first, end uint64) batch.Place {
	l.mu.Lock()
	now := l.opts.Now()
	var late []early
	if len(l.early) > 0 && !l.early[0].until.After(now) {
		late = l.takeEarly(func(e early) bool { return !e.until.After(now) })
	}
	l.heedPending()
	p := l.plan(first, end, now)
	cut, dropped := l.lagging.cut, l.lagging.dropped
	l.lagging.cut, l.lagging.dropped = nil, nil
	l.mu.Unlock()
	refuse(late)
	for _, c := range cut {
		l.opts.CutOff(c)
	}
	for _, c := range dropped {
		l.opts.Dropped(c)
	}
	return p
}

func (l *Log) plan(first, end uint64, now time.Time) batch.Place {
	var p batch.Place
	if !l.loaded {
		p.Active = l.active() || len(l.early) > 0
		if len(l.early) > 0 {
			p.Wake = l.early[0].until
		}
		return p
	}

	if l.first = first; end != never {
		l.end = end
	}
	l.missAll(end)
	l.endGrace(now)
	l.redeliverOverdue(now)
	l.leaveBehind(now)
	l.settle()
	p.Judge = l.setAside(now)
	l.ages.forget(first)
	p.Floor, p.Active, p.Dirty = l.past.Floor(), l.active() || len(l.records.waiting) > 0, l.dirty(now)
	p.Idle = !slices.ContainsFunc(l.consumers, func(c *consumer) bool { return !c.choosesPlace() || c.inUse() })
	if p.Active && !l.stopped {
		l.planRead(&p, end, now)
	}
	l.findLagging(now)
	p.Wake = l.nextWake(now)
	return p
}

// planRead chooses between the front and the sweep.
func (l *Log) planRead(p *batch.Place, end uint64, now time.Time) {
	l.findFront(now)
	front, sweep := batch.Place{}, batch.Place{}
	l.planFront(&front)
	l.planSweep(&sweep, end, now)
	p.Full = l.pace.members > 0 && front.Items == 0 && sweep.Items == 0
	l.askSweep(sweep.Items > 0, now)
	if front.From >= end {
		front.Items = 0
	}
	read := &front
	if sweep.Items > 0 && (l.turn || front.Items == 0) {
		read = &sweep
	}
	p.From, p.Items, p.Bytes, p.Large, p.Sweep = read.From, read.Items, read.Bytes, read.Large, read.Sweep
}

// planFront plans the front's read: as much as the one of them with the
// least room takes.
func (l *Log) planFront(p *batch.Place) {
	if l.pace.members == 0 || l.pace.blocked > 0 {
		return
	}
	items, left, from := l.opts.Window, l.opts.Memory, uint64(never)
	for _, c := range l.consumers {
		if c.front {
			items, left = min(items, l.room(c)), min(left, l.bound(c)-c.bytes)
			next, _ := c.acked.Gap(c.cursor)
			from = min(from, next)
		}
	}
	if from > l.front { // none of them needs the items between
		for _, c := range l.consumers {
			if c.front {
				c.cursor = from
			}
		}
		l.front = from
	}
	bytes, large := batch.Room(left, len(l.keys))
	if bytes = max(bytes, 1); items > 0 {
		p.From, p.Items, p.Bytes, p.Large = l.front, items, bytes, max(large, bytes)
	}
}

// planSweep plans the sweep's read: from the lowest number that is to be delivered again or
// at which a wave goes on, beginning where it has come to. It does not read from end on.
func (l *Log) planSweep(p *batch.Place, end uint64, now time.Time) {
	l.setShare()
	l.planWaves(end, now)
	var next *consumer
	for _, c := range l.consumers { // the differences of those below swept wrap round, so they come last
		if l.lacks(c) && l.goes(c, now) && c.lack < end && (next == nil || c.lack-l.swept < next.lack-l.swept) {
			next = c
		}
	}
	if next == nil {
		return
	}
	items := 0
	for _, c := range l.consumers {
		if c.lack == next.lack && l.lacks(c) {
			items = max(items, l.sweeps(c))
		}
	}
	if next.lack < l.front {
		items = int(min(uint64(items), l.front-next.lack))
	}
	bytes, large := batch.Room(min(l.share, l.bound(next))-next.bytes, len(l.keys))
	bytes = max(bytes, 1)
	p.From, p.Items, p.Bytes, p.Large, p.Sweep = next.lack, items, bytes, max(large, bytes), true
}

// near is up to how many items that a consumer does not need are read between two that it does.
const near = 64

// sweeps is how many items the sweep may read for a consumer from what it lacks on: as many as
// it may be handed for the first time, or those that are to be delivered again.
func (l *Log) sweeps(c *consumer) int {
	if c.lack >= c.cursor {
		return l.room(c)
	}
	_, end := c.firstAgain(c.lack)
	for from, to := c.firstAgain(end); from < c.cursor && from-end <= near && to-c.lack <= uint64(l.opts.Window); from, to = c.firstAgain(end) {
		end = to
	}
	return int(min(end-c.lack, uint64(l.opts.Window)))
}

// leastShare is how many bytes a consumer behind the front may always have on their way.
const leastShare = 64 << 10

// setShare finds out how many bytes each consumer behind the front may have on their
// way: together they have half of the memory.
func (l *Log) setShare() {
	behind := len(l.consumers) - l.pace.members
	l.share = max(l.opts.Memory/2/max(1, behind), leastShare)
}

// Offer hands a batch to the consumers that need it. sweep is the Plan's.
// Items that no consumer needs any more are left out.
func (l *Log) Offer(b *batch.Batch, sweep bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded || l.stopped {
		return
	}
	b.Date(l.ages.between(b.First(), b.Next()))
	l.ages.note(b.Next(), l.opts.Now())
	l.end = max(l.end, b.Next())
	if sweep {
		l.sweepCame(l.opts.Now())
		l.swept, l.turn = b.Next(), false
		for _, c := range slices.Clone(l.consumers) {
			l.passDuplicates(c, b)
			if l.lacks(c) {
				l.serve(c, b)
			}
		}
		l.moveWaves(b.First(), b.Next(), l.opts.Now())
	} else if b.First() == l.front {
		l.turn = true
		l.pace.offer(b.Next(), l.opts.Now())
		for _, c := range slices.Clone(l.consumers) {
			if c.front {
				l.passDuplicates(c, b)
				l.give(c, b, b.Len())
			}
		}
		l.front = b.Next()
	}
	for _, c := range l.consumers {
		if c.front && c.cursor != l.front {
			l.leaveFront(c) // it took less than it had room for
		}
	}
	l.rejoinFront(l.opts.Now())
}

// SkipSweep says that the sweep's read was used for something else: the front has the next one.
func (l *Log) SkipSweep() {
	l.mu.Lock()
	l.turn = false
	l.mu.Unlock()
}

// passDuplicates lets the duplicates of a batch count as confirmed by a consumer that has come to
// it. Those far ahead of its cursor wait until it has: what is known of a consumer stays small.
func (l *Log) passDuplicates(c *consumer, b *batch.Batch) {
	if len(b.Duplicates()) == 0 || c.closing {
		return
	}
	next, _ := c.acked.Gap(c.cursor)
	for _, s := range b.Duplicates() {
		for n, to := c.firstAgain(s.From); n < s.To; n, to = c.firstAgain(to) {
			l.passDuplicate(c, n, min(to, s.To))
		}
		if from := max(s.From, next); from < s.To && next >= b.First() {
			l.passDuplicate(c, from, s.To)
		}
	}
}

// passDuplicate lets items count as confirmed by a consumer.
func (l *Log) passDuplicate(c *consumer, from, to uint64) {
	if from < c.cursor {
		l.forget(c, from, to)
		c.again.Remove(from, to)
	}
	if !c.viewer {
		new := l.taken.Add(from, to)
		l.stats.Taken += new
		l.stats.Duplicates += new
	}
	if c.meter != nil {
		c.meter.Passed(int(to - from))
	}
	l.confirm(c, from, to)
}

// active reports whether a consumer takes items.
func (l *Log) active() bool { return slices.ContainsFunc(l.consumers, (*consumer).active) }

// Stats returns the books as they stand.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.books()
	for _, c := range l.consumers {
		if c.active() {
			st.Consumers++
			if !c.front {
				st.Behind++
			}
		}
		st.Members += len(c.members)
		for _, m := range c.members {
			st.Owed += m.owed
		}
	}
	if st.InFlight > 0 {
		st.Oldest = l.ages.of(l.finished.Floor())
	}
	return st
}

// books are the counters of Stats.
func (l *Log) books() Stats {
	l.settle()
	st := l.stats
	st.Confirmed = l.finished.Count() - l.base - st.Dead - st.Gone
	st.InFlight = int(st.Taken - st.Confirmed - st.Dead - st.Gone - st.Returned)
	return st
}
