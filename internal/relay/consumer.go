package relay

import (
	"math"
	"slices"
	"time"

	"edged/internal/batch"
	"edged/internal/flow"
	"edged/internal/numbers"
)

// never is a number that no item has.
const never = math.MaxUint64

// consumer is a plain subscription, a queue group, a durable consumer or a viewer. Guarded
// by Log.mu.
type consumer struct {
	name    batch.Name // of a queue group or a durable consumer; empty for a plain subscription
	terms   *Terms
	members []*member

	acked   numbers.Set // items that it does not owe: confirmed by it, or from before it began
	cursor  uint64      // items below have been handed out, or are not owed
	again   numbers.Set // of those below, the ones that are to be handed out again now
	out     int         // numbers below cursor that are not in acked
	counted int         // of out, as Options.Pending has it
	bytes   int         // of the items in the hands of its members
	flow    flow.Window // bounds bytes, with Options.Delay

	delivered uint64 // items handed out in this process, redeliveries included

	front   bool
	blocked bool          // at the front and without room
	joined  time.Time     // the front
	until   time.Time     // it stays behind the front until then
	penalty time.Duration // for which it was left behind last
	next    uint64        // the first number from cursor on that it needs, as of the last Plan
	free    time.Time     // since when it has room behind the front; zero: it has none
	handed  time.Time     // when items were last delivered to it
	lack    uint64        // the number that it needs next, as of lacks

	runs    []*claim          // explicit: items in their first delivery, by number
	singles map[uint64]*claim // explicit: all others that were handed out

	returned time.Time // when an item was last added to again
	began    time.Time // when it got its place

	meter  batch.Metered // its only member, if that one takes as many items as it is asked for
	viewer bool          // owes nothing
	uplink bool          // durable: may be away for ever
	passes bool          // durable: is cut off if it lags, as an ephemeral one
	from   uint64        // viewer, durable: where it begins …
	epoch  string        // … in this epoch; in another one at the head; empty: in any
	away   time.Time     // durable: since when it is not in use
	below  uint64        // viewer, durable: all that it lacks below is set aside
	missed uint64        // viewer, durable: items that were gone before it got them
	drops  bool          // durable: it passes over items by MaxAway while it is away
	cut    bool          // it lagged too much

	earlier uint64 // durable: from cursor on, an end of the items that an earlier process may have handed out

	closing  bool // its last member is finished: it owes only the items that one still holds
	ready    bool // the ledger knows that it owes, so its items may go out
	recorded bool // the ledger has a record of it, or will have
	version  int  // counts changes of acked
	saved    int  // the version that the ledger has
}

// member is one subscription's place in a consumer. Guarded by Log.mu.
type member struct {
	log      *Log
	consumer *consumer
	key      string
	takes    batch.Member
	debts    []*debt // in the order in which they were handed out
	owed     int     // items in its hands that are not confirmed
	finished bool    // gets nothing more; leaves with its last debt
	gone     bool
}

// debt stands for the items of one Deliver, to be confirmed or, where items are acknowledged, to be
// written. Guarded by Log.mu.
type debt struct {
	log      *Log
	member   *member // nil when void
	from, to uint64
	bytes    int
	at       time.Time // when they were handed out
}

const (
	// debtSize is about how many bytes a debt takes, with the delivery in the member's queue.
	debtSize = 200
	// freeDebts is how many debts of a member take no memory of its budget: in each batch that
	// is on its way to a thousand members each has one.
	freeDebts = 16
)

func (c *consumer) active() bool { return c.pick(nil) != nil }

func (c *consumer) actives() (n int) {
	for _, m := range c.members {
		if !m.finished {
			n++
		}
	}
	return n
}

// pick chooses the member that owes least, and not before if there is another.
func (c *consumer) pick(before *member) *member {
	var best *member
	for _, m := range c.members {
		switch {
		case m.finished, c.meter != nil && c.meter.Room() <= 0:
		case best == nil || best == before:
			best = m
		case m != before && m.owed < best.owed:
			best = m
		}
	}
	return best
}

// Join makes m a member of the group or, where group is empty, a consumer of its own.
// Members with the same key share one encoding of each batch. A new consumer begins
// with the first item that no consumer has confirmed.
func (l *Log) Join(group, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	defer l.unlock()
	name := batch.Name{Name: group}
	c := l.named[name]
	if group == "" || c == nil || c.closing {
		c = l.newConsumer(consumer{name: name, terms: &l.opts.Terms})
		l.begin(c)
	}
	return l.addMember(c, key, m)
}

// newConsumer adds a consumer of this name, terms and kind.
func (l *Log) newConsumer(kind consumer) *consumer {
	c := &kind
	c.acked = everything()
	if c.terms.Explicit {
		c.singles = make(map[uint64]*claim)
	}
	if c.name.Name != "" {
		l.named[c.name] = c
	}
	l.consumers = append(l.consumers, c)
	return c
}

func (l *Log) addMember(c *consumer, key string, m batch.Member) *member {
	mem := &member{log: l, consumer: c, key: key, takes: m}
	c.flow = newFlow(l.opts.Delay) // its link may be another one
	c.members = append(c.members, mem)
	c.meter, _ = m.(batch.Metered)
	l.keys[key]++
	return mem
}

// everything is the set for a consumer without a place: it owes nothing yet.
func everything() numbers.Set {
	var s numbers.Set
	s.Add(0, never)
	return s
}

// begin gives a new consumer its place. If the list's is not known, Load does.
func (l *Log) begin(c *consumer) {
	switch {
	case !l.loaded:
		return
	case c.choosesPlace():
		l.beginFrom(c)
		return
	}
	start := l.doneFloor()
	if ghost := l.records.ghost; ghost != nil {
		start = min(start, ghost.acked.Floor())
	}
	c.acked = everything()
	l.moved()
	l.settle()
	c.acked = l.past.Clone()
	c.acked.Raise(start)
	for n := range l.aside.items {
		if ghost := l.records.ghost; !l.done.Has(n) || ghost != nil && !ghost.acked.Has(n) {
			c.acked.Remove(n, n+1)
		}
	}
	c.cursor, c.began = c.acked.Floor(), l.opts.Now()
	c.version++
	l.admit(c)
	l.moved()
}

// give hands to a consumer, for the first time, up to most items from its cursor on.
func (l *Log) give(c *consumer, b *batch.Batch, most int) {
	for {
		from, to := c.acked.Gap(c.cursor)
		if from < b.First() || from >= b.Next() {
			break
		}
		to = min(to, b.Next(), from+uint64(max(0, most)))
		n := l.hand(c, b, from, to)
		if n > 0 {
			c.cursor = from + uint64(n)
			c.out += n
		}
		if most -= n; uint64(n) < to-from || most <= 0 {
			break
		}
	}
	if next, _ := c.acked.Gap(c.cursor); next >= b.Next() && c.cursor < b.Next() && c.cursor >= b.First() {
		c.cursor = b.Next() // it does not need the rest of the batch
	}
	l.updateRoom(c)
}

// serve hands to a consumer the items it needs of a batch that was read by the sweep.
func (l *Log) serve(c *consumer, b *batch.Batch) {
	for {
		from, to := c.firstAgain(b.First())
		if to = min(to, b.Next()); from >= to {
			break
		}
		n := l.handAgain(c, b, from, to)
		c.again.Remove(from, from+uint64(n))
		l.stats.Redelivered += uint64(n)
		if uint64(n) < to-from {
			break
		}
	}
	if !c.front {
		l.give(c, b, min(l.room(c), l.fits(c, b)))
	}
}

// firstAgain is the first run, from a number on, of items to be handed out again.
func (c *consumer) firstAgain(n uint64) (from, to uint64) {
	if n < c.again.Floor() {
		return n, c.again.Floor()
	}
	for _, s := range c.again.Spans() {
		if n < s.To {
			return max(n, s.From), s.To
		}
	}
	return never, never
}

// hand delivers items to the members of a consumer, until no member takes any more, and
// returns how many were taken. Where each item is acknowledged the members of a group
// get shares.
func (l *Log) hand(c *consumer, b *batch.Batch, from, to uint64) (taken int) {
	for from < to {
		m := c.pick(nil)
		if m == nil {
			break
		}
		share := to - from
		if k := uint64(c.actives()); c.terms.Explicit && k > 1 {
			share = (share + k - 1) / k
		}
		n := l.deliver(m, b, from, from+share)
		if n > 0 && c.terms.Explicit {
			l.claim(c, m, from, from+uint64(n))
		}
		from += uint64(n)
		taken += n
		l.leaveIfDone(m)
		if n == 0 && !m.finished {
			break
		}
	}
	return taken
}

// handAgain is hand for items that were handed out before.
func (l *Log) handAgain(c *consumer, b *batch.Batch, from, to uint64) (taken int) {
	if !c.terms.Explicit {
		return l.hand(c, b, from, to)
	}
	pending := l.unread(c, max(l.end, b.Next()+uint64(b.Pending())))
	for n := from; n < to; n++ {
		if !l.handClaim(c.singles[n], b, pending) {
			break
		}
		taken++
	}
	return taken
}

// deliver hands items to one member and returns how many it took.
func (l *Log) deliver(m *member, b *batch.Batch, from, to uint64) int {
	d := &debt{log: l, member: m, from: from}
	n := m.takes.Deliver(b, int(from-b.First()), int(to-b.First()), d)
	if uint64(n) < to-from && m.consumer.meter == nil {
		m.finished = true
	}
	if n == 0 {
		d.member = nil
		return 0
	}
	d.to = from + uint64(n)
	m.consumer.delivered += uint64(n)
	if !m.consumer.viewer {
		l.stats.Taken += l.taken.Add(d.from, d.to)
	}
	d.bytes = b.Held(len(l.keys)) * n / b.Len()
	if m.debts = append(m.debts, d); len(m.debts) > freeDebts {
		m.hold(debtSize)
	}
	m.owed += n
	d.at = l.opts.Now()
	m.consumer.handed = d.at
	m.consumer.bytes += d.bytes
	return n
}

// Confirm implements batch.Receipt.
func (d *debt) Confirm() {
	l := d.log
	l.mu.Lock()
	m := d.member
	if m == nil {
		l.mu.Unlock()
		return
	}

	c := m.consumer
	before := l.signs(c)
	l.measure(d)
	l.void(d)
	if c.terms.Explicit {
		l.updateRoom(c)
	} else {
		m.owed -= int(d.to - d.from)
		l.confirm(c, d.from, d.to)
	}
	l.leaveIfDone(m)
	news := l.freed(c) || l.signs(c) != before
	l.mu.Unlock()
	if news {
		l.opts.Changed()
	}
}

// signs tell that Plan may say something new.
type signs struct {
	stale, blocked bool
	deadline       time.Time
	done           uint64
	version        int
}

// signs returns those that a confirmation of a consumer may change.
func (l *Log) signs(c *consumer) signs {
	s := signs{stale: l.stale, blocked: l.pace.blocked > 0, deadline: l.pace.deadline()}
	if !s.blocked { // see dirty
		s.done = l.done.Floor()
	}
	if c.recorded {
		s.version = c.version
	}
	return s
}

// confirm notes that a consumer has confirmed items.
func (l *Log) confirm(c *consumer, from, to uint64) {
	before, done, passed := c.acked.Floor(), l.done.Floor(), c.passed(l.pace.mark)
	if added := int(c.acked.Add(from, to)); from < c.cursor { // otherwise it was given it in an earlier life
		c.out -= added
	}
	if c.viewer {
		l.updateRoom(c)
		return
	}
	c.version++
	l.done.Add(from, to)
	if l.left(c, before) || l.done.Floor() != done && l.low > l.finished.Floor() || len(l.aside.items) > 0 {
		l.moved()
	}
	if c.front && !passed && c.passed(l.pace.mark) {
		l.pace.pass(1, l.opts.Now)
	}
	l.updateRoom(c)
}

// hold tells a member of the memory that its debts take.
func (m *member) hold(n int) {
	if h, ok := m.takes.(batch.Holder); ok {
		h.Hold(n)
	}
}

// void ends a debt. What is owed of it stays owed.
func (l *Log) void(d *debt) {
	m := d.member
	if len(m.debts) > freeDebts {
		m.hold(-debtSize)
	}
	if len(m.debts) > 0 && m.debts[0] == d { // nearly always
		m.debts[0] = nil
		m.debts = m.debts[1:]
	} else if i := slices.Index(m.debts, d); i >= 0 {
		m.debts = slices.Delete(m.debts, i, i+1)
	}
	m.consumer.bytes -= d.bytes
	d.member = nil
}

// Leave ends the membership; see batch.Membership.
func (m *member) Leave() { m.Finish(0) }

// Finish ends deliveries; see batch.Membership. Where edged itself goes (Stop) the
// consumer goes on to owe all that it has not confirmed.
func (m *member) Finish(keep int) {
	l := m.log
	l.mu.Lock()
	defer l.unlock()
	if m.gone {
		return
	}
	m.finished = true
	if m.consumer.terms.Explicit {
		l.giveUpClaims(m, keep)
	} else {
		l.giveUpDebts(m, keep)
	}
	l.leaveIfDone(m)
}

// giveUpDebts ends the debts of a member but for the first keep items. Other members
// of the group get the items.
func (l *Log) giveUpDebts(m *member, keep int) {
	c := m.consumer
	for _, d := range slices.Clone(m.debts) {
		from := min(d.from+uint64(keep), d.to)
		keep -= int(from - d.from)
		if from < d.to {
			l.deliverAgain(c, from, d.to)
			l.forgive(d, from, d.to)
		}
	}
}

// leaveIfDone removes a finished member that holds nothing, and its consumer when it
// was the last one.
func (l *Log) leaveIfDone(m *member) {
	if m.gone || !m.finished {
		return
	}
	c := m.consumer
	if !c.active() {
		l.leaveFront(c)
		if !l.stopped && !c.choosesPlace() {
			l.close(c)
		}
	}
	if m.owed > 0 {
		return
	}
	l.dismiss(m)
	switch {
	case len(c.members) > 0 || l.stopped && !c.viewer:
		l.endDelays(m)
	case c.name.Durable:
		c.away = l.opts.Now()
		l.endDelays(m)
		if c.uplink {
			l.rewind(c)
		}
	default:
		l.drop(c)
	}
}

// rewind lets an uplink that has left begin at its floor again: its next member gets what it owes in
// list order, and not items that are new before those that are delivered again.
func (l *Log) rewind(c *consumer) {
	l.dropClaims(c)
	c.again = numbers.Set{}
	l.place(c, c.acked.Floor())
}

// dismiss takes a member out of its consumer.
func (l *Log) dismiss(m *member) {
	for len(m.debts) > 0 {
		l.void(m.debts[0])
	}
	m.gone = true
	m.consumer.members = remove(m.consumer.members, m)
	if l.keys[m.key]--; l.keys[m.key] == 0 {
		delete(l.keys, m.key)
	}
}

// close lets a consumer without active members owe only the items that they still hold.
func (l *Log) close(c *consumer) {
	if c.closing || !l.loaded {
		return
	}
	c.closing = true
	acked := everything()
	for _, m := range c.members {
		for _, s := range l.holds(m) {
			acked.Remove(s.From, s.To)
		}
	}
	for n, k := range c.singles {
		if k.member == nil { // it waits to be handed out again
			l.unschedule(k)
			delete(c.singles, n)
		}
	}
	c.acked, c.again, c.cursor = acked, numbers.Set{}, never
	c.version++
	l.moved()
}

// holds returns the items in a member's hands that are not confirmed.
func (l *Log) holds(m *member) (held []numbers.Span) {
	if m.consumer.terms.Explicit {
		return l.claimed(m)
	}
	for _, d := range m.debts {
		held = append(held, numbers.Span{From: d.from, To: d.to})
	}
	return held
}

// drop forgets a consumer.
func (l *Log) drop(c *consumer) {
	l.leaveFront(c)
	l.dropClaims(c)
	l.uncountPending(c)
	l.consumers = remove(l.consumers, c)
	if l.named[c.name] == c {
		delete(l.named, c.name)
		if c.recorded {
			l.records.gone = append(l.records.gone, c.name)
		}
	}
	l.moved()
}

func remove[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
