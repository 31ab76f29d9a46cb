package relay

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

const (
	maxRecords = 64   // of queue groups and durable consumers in the ledger
	maxGraves  = 100  // dead letters in one step
	maxWaiting = 8192 // acknowledgements that wait for an answer
)

// records compare the ledger with the state to be written. Guarded by Log.mu.
type records struct {
	ghost    *consumer // owes the items of the plain consumers from before the start
	saved    saved
	pending  *pending      // the last Changes
	graves   []grave       // items that become dead letters
	written  []grave       // those that are a part of Changes, and count as confirmed
	waiting  []func(error) // to be called when the ledger has the next Changes
	gone     []batch.Name  // whose record goes
	graceEnd bool          // the end of the grace is to be written
}

// saved is the ledger's state.
type saved struct {
	finished uint64 // how many are
	done     uint64
	plain    uint64 // never: no plain consumer owes anything
}

// unknown is for a number in the ledger that may be any.
const unknown = never - 1

// pending is the state being written.
type pending struct {
	saved
	batch.Changes
	versions map[*consumer]int
	graves   int
	waiting  int
}

// grave is an item that becomes a dead letter.
type grave struct {
	number     uint64
	consumer   *consumer // nil: none of them can have it
	reason     string
	deliveries int
	copied     bool // another consumer has given it up before
}

// dig takes back dead letters that are none any more.
func (r *records) dig(which func(n uint64) bool) {
	number := func(g grave) bool { return which(g.number) }
	r.graves, r.written = slices.DeleteFunc(r.graves, number), slices.DeleteFunc(r.written, number)
}

// forget says that the ledger may be an older one.
func (r *records) forget() { r.saved = saved{unknown, unknown, unknown} }

// hasRoom reports whether the ledger has room for a consumer's record beside all others.
func (l *Log) hasRoom(c *consumer) bool {
	others := 0
	for _, other := range l.named {
		if other != c && (other.recorded || other.name.Durable) {
			others++
		}
	}
	return others < maxRecords
}

// admit lets a consumer have a record, if there is room: SetDurable has looked for a
// durable one, and a plain one needs none.
func (l *Log) admit(c *consumer) {
	if c.name.Name != "" && (c.recorded || c.name.Durable || l.hasRoom(c)) {
		c.recorded = true
		l.records.gone = remove(l.records.gone, c.name)
	}
}

// errTooMany refuses an acknowledgement's answer, not the acknowledgement.
var errTooMany = errors.New("too many acknowledgements wait for an answer: this one counts, but its answer is not known")

// answer unlocks mu, and calls the first n functions that wait.
func (l *Log) answer(n int, err error) {
	r := &l.records
	first := slices.Clone(r.waiting[:n])
	r.waiting = slices.Delete(r.waiting, 0, n)
	l.mu.Unlock()
	for _, saved := range first {
		saved(err)
	}
}

// moved says that the finished items, or the plain cursor, may be others now.
func (l *Log) moved() { l.stale = true }

// left notes that a consumer has confirmed items, and reports whether others may be
// finished now. Its floor was before. While all consumers confirm in order, none are
// until the last one with the least floor does.
func (l *Log) left(c *consumer, before uint64) bool {
	if l.stale || l.spread || len(c.acked.Spans()) > 0 {
		return true
	}
	before = max(before, l.ever)
	if max(c.acked.Floor(), l.ever) == before {
		return false
	}
	if before == l.low {
		l.lows--
	}
	if c.plain() && before == l.plainLow {
		l.plainLows--
	}
	return l.lows <= 0 || c.plain() && l.plainLows <= 0
}

// plain reports whether the plain cursor stands for the consumer.
func (c *consumer) plain() bool { return !c.choosesPlace() && (c.name.Name == "" || !c.recorded) }

// settled are the items that the list need not keep for a consumer. A durable one may lack
// items that are finished, for ever, as it chose its place.
func (l *Log) settled(c *consumer) *numbers.Set {
	if !c.name.Durable || len(l.finished.Spans()) == 0 && c.acked.Floor() >= l.finished.Floor() {
		return &c.acked
	}
	all := c.acked.Clone()
	all.AddAll(&l.finished)
	return &all
}

// settle finds out which items are finished.
func (l *Log) settle() {
	if !l.stale || !l.loaded {
		return
	}
	l.stale, l.spread = false, false
	l.low, l.lows, l.plainLow, l.plainLows = never, 0, never, 0
	finished := l.done.Clone()
	for _, c := range l.consumers {
		if c.viewer {
			continue
		}
		acked := l.settled(c)
		floor := acked.Floor()
		lowest(&l.low, &l.lows, floor)
		if c.plain() {
			lowest(&l.plainLow, &l.plainLows, floor)
		}
		spans := len(acked.Spans()) > 0
		l.spread = l.spread || spans
		if spans && (len(finished.Spans()) > 0 || finished.Floor() > floor) {
			finished = numbers.Intersect(&finished, acked)
		} else {
			finished.Cut(floor)
		}
	}
	l.finished = finished
	l.settleAside()
	l.ever = l.past.Floor()
	l.base += l.taken.AddAll(&finished) // confirmed in an earlier life
	l.dead = slices.DeleteFunc(l.dead, func(n uint64) bool {
		if !finished.Has(n) {
			return false
		}
		l.stats.Dead++
		return true
	})
}

func lowest(low *uint64, lows *int, floor uint64) {
	switch {
	case floor < *low:
		*low, *lows = floor, 1
	case floor == *low:
		*lows++
	}
}

// now is the state that the ledger is to have.
func (l *Log) now() saved { return saved{l.past.Count(), l.doneFloor(), l.plainLow} }

// dirty reports whether there is something to write. If only done has changed, that waits
// while a consumer is about to confirm more.
func (l *Log) dirty(now time.Time) bool {
	r := &l.records
	if l.opts.Times && (len(l.ages.unsaved(now, l.stopped || !l.active())) > 0 || l.ages.anew) {
		return true
	}
	is := l.now()
	if l.pace.blocked > 0 && !l.stopped {
		is.done = r.saved.done
	}
	return is != r.saved || l.aside.unsaved > 0 || r.graceEnd ||
		len(l.aside.restored)+len(r.graves)+len(r.written)+len(r.waiting)+len(r.gone) > 0 || slices.ContainsFunc(l.consumers, (*consumer).dirty)
}

// dirty reports whether the record of a consumer is to be written.
func (c *consumer) dirty() bool { return c.recorded && !c.closing && c.version != c.saved }

// Changes returns the changes to be written now. Saved is called with their outcome before
// the next call.
func (l *Log) Changes() batch.Changes {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ch batch.Changes
	if !l.loaded {
		return ch
	}
	r := &l.records
	for len(r.graves) > 0 && len(r.written) < maxGraves {
		r.written = append(r.written, r.graves[0])
		r.graves = r.graves[1:]
		l.bury(&r.written[len(r.written)-1])
	}
	l.settle()
	now := l.now()
	versions := make(map[*consumer]int)
	ch.Floor, ch.Confirmed, ch.GraceOver = l.past.Floor(), l.done.Top(), r.graceEnd
	if now.finished != r.saved.finished {
		ch.Finished = l.past.String()
	}
	if now.done != r.saved.done {
		ch.Done = strconv.FormatUint(now.done, 10)
	}
	if ch.NoPlain = now.plain == never && r.saved.plain != never; now.plain != never && now.plain != r.saved.plain {
		ch.Plain = strconv.FormatUint(now.plain, 10)
	}
	for _, name := range r.gone {
		ch.Records = append(ch.Records, batch.Record{Name: name})
	}
	for _, c := range l.consumers {
		if c.dirty() {
			ch.Records = append(ch.Records, batch.Record{Name: c.name, Acked: c.acked.String()})
			versions[c] = c.version
		}
	}
	for _, g := range r.written {
		if !g.copied {
			ch.Dead = append(ch.Dead, batch.Dead{Number: g.number, Reason: g.reason, Deliveries: g.deliveries, Aside: l.aside.copied(g.number)})
		}
	}
	if ch.Restored = slices.Clone(l.aside.restored); l.aside.unsaved > 0 {
		for n, saved := range l.aside.items {
			if !saved {
				ch.Aside = append(ch.Aside, n)
			}
		}
	}
	if a := &l.ages; l.opts.Times {
		ch.Times, ch.TimesGone, ch.TimesAnew = slices.Clone(a.unsaved(l.opts.Now(), l.stopped || !l.active())), a.gone, a.anew
	}
	r.pending = &pending{saved: now, Changes: ch, versions: versions, graves: len(r.written), waiting: len(r.waiting)}
	return ch
}

// bury lets an item count as confirmed by the consumers that gave it up.
func (l *Log) bury(g *grave) {
	n := g.number
	g.copied = l.finished.Has(n) || slices.Contains(l.dead, n)
	if !g.copied {
		l.dead = append(l.dead, n)
	}
	l.passOver(g.consumer, n)
	if g.consumer == nil {
		l.done.Add(n, n+1)
		l.stats.Taken += l.taken.Add(n, n+1)
		if l.front == n {
			l.front++
		}
	}
	l.moved()
}

// passOver lets an item that is a dead letter count as confirmed by a consumer, or by all.
func (l *Log) passOver(only *consumer, n uint64) {
	for _, c := range l.consumers {
		if only != nil && only != c || c.acked.Has(n) {
			continue
		}
		l.forget(c, n, n+1)
		c.again.Remove(n, n+1)
		if c.cursor == n {
			c.cursor++
			c.out++
		}
		l.confirm(c, n, n+1)
	}
}

// Saved says whether the ledger has the last Changes. If that is not known it has
// not.
func (l *Log) Saved(ok bool) {
	l.mu.Lock()
	r := &l.records
	p := r.pending
	r.pending = nil
	if p == nil || !ok {
		l.mu.Unlock()
		return
	}
	r.saved = p.saved
	for c, version := range p.versions {
		c.saved = version
	}
	for _, record := range p.Records {
		if record.Acked == "" {
			r.gone = remove(r.gone, record.Name)
		}
	}
	r.written = slices.Delete(r.written, 0, p.graves)
	r.graceEnd = r.graceEnd && !p.GraceOver
	for _, n := range p.Aside {
		l.aside.saved(n)
	}
	l.aside.restored = slices.Delete(l.aside.restored, 0, len(p.Restored))
	if l.opts.Times {
		l.ages.written(len(p.Times)) // the loop has read nothing meanwhile
	}
	l.answer(p.waiting, nil)
}

// ready reports whether a consumer's items may go out: after a crash the ledger has to
// know that it owes them.
func (l *Log) ready(c *consumer) bool {
	if !c.ready {
		plain := l.records.saved.plain
		c.ready = c.viewer || c.recorded && c.saved > 0 || c.plain() && plain != never && plain <= c.acked.Floor()
	}
	return c.ready
}

// Bury makes a dead letter of an item that no consumer can have: the item that the front
// or a consumer behind it needs next.
func (l *Log) Bury(n uint64, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.records
	switch {
	case !l.loaded:
	case l.finished.Has(n), slices.ContainsFunc(r.written, func(g grave) bool { return g.number == n && g.consumer == nil }):
		l.passOver(nil, n) // one that begins behind the floor is to get it nevertheless
	default:
		r.written = append(r.written, grave{number: n, reason: reason})
		l.bury(&r.written[len(r.written)-1])
	}
}

// Load gives the Log its place in the list, and every consumer a new one.
func (l *Log) Load(s batch.Snapshot) {
	l.mu.Lock()
	l.begun(s.Epoch, s.First, s.Finished, s.Aside)
	l.end = max(s.First, s.End)
	l.raise(&l.done, s.Done)
	l.ages.load(s.Times, l.opts.Now())
	r := &l.records
	*r = records{saved: saved{s.Finished.Count(), s.Done, s.Plain}, graceEnd: s.Grace <= 0, waiting: r.waiting}
	if !s.HasPlain {
		r.saved.plain = never
	}
	if s.Grace > 0 {
		l.graceEnds = l.opts.Now().Add(s.Grace)
		if s.HasPlain {
			r.ghost = &consumer{terms: new(Terms), acked: l.finished.Clone()}
			r.ghost.acked.Raise(s.Plain)
			r.ghost.cursor = r.ghost.acked.Floor()
			l.consumers = append(l.consumers, r.ghost)
		}
	}
	for _, durable := range []bool{true, false} { // groups have the room that is left
		for name, acked := range s.Records {
			if name.Durable == durable {
				l.restore(name, acked, s.Grace > 0 || durable)
			}
		}
	}
	l.moved()
	for _, c := range l.consumers {
		if c.version == 0 && c != r.ghost {
			l.begin(c)
		}
	}
	l.answer(len(r.waiting), ErrGone)
	l.heedEarly()
	l.opts.Changed()
}

// Unload says that the list is another process's now. Load gives it back.
func (l *Log) Unload() {
	l.mu.Lock()
	l.loaded = false
	for _, c := range l.consumers {
		l.uncountPending(c)
	}
	l.answer(len(l.records.waiting), ErrGone)
}

// Reset says that nothing is known any more of the list's items: it begins with
// number first, and all of it is delivered to every consumer.
func (l *Log) Reset(epoch string, first uint64) {
	l.mu.Lock()
	l.begun(epoch, first, numbers.Set{}, nil)
	l.records = records{waiting: l.records.waiting}
	l.moved()
	for _, c := range l.consumers {
		c.from = first
		l.begin(c)
	}
	l.answer(len(l.records.waiting), ErrGone)
	l.opts.Changed()
}

// begun begins a list anew: nothing is on its way, and no consumer has a place.
func (l *Log) begun(epoch string, first uint64, finished numbers.Set, there []uint64) {
	st := l.books()
	for _, c := range slices.Clone(l.consumers) {
		l.forget(c, 0, never)
		c.again, c.acked, c.cursor, c.out = numbers.Set{}, everything(), 0, 0
		l.uncountPending(c)
		c.version, c.saved, c.ready, c.recorded, c.below, c.earlier = 0, 0, false, false, 0, 0
		l.leaveFront(c)
		if len(c.members) == 0 && !c.name.Durable {
			l.consumers = remove(l.consumers, c)
			if l.named[c.name] == c {
				delete(l.named, c.name)
			}
		}
	}
	l.loaded, l.epoch, l.first, l.end, l.graceEnds, l.front, l.swept = true, epoch, first, first, time.Time{}, 0, 0
	l.records.ghost, l.dead = nil, nil
	l.finished, l.aside = finished.Clone(), aside{}
	l.finished.Raise(first)
	for _, n := range there {
		l.finished.Remove(n, n+1)
		l.aside.add(n, true)
	}
	l.done, l.taken, l.ever = l.finished.Clone(), l.finished.Clone(), max(first, finished.Floor())
	l.stats.Returned += uint64(st.InFlight)
	l.ages, l.lagging = ages{anew: true}, lagging{}
	l.base = l.finished.Count() - st.Confirmed - st.Dead - st.Gone
}

// restore takes up the ledger's record of a consumer. A queue group without a member owes
// until the grace ends.
func (l *Log) restore(name batch.Name, acked numbers.Set, owes bool) {
	c := l.named[name]
	if c == nil && !owes {
		l.records.gone = append(l.records.gone, name)
		return
	}
	if c == nil {
		c = l.newConsumer(consumer{name: name, terms: &l.opts.Terms})
	}
	if c.acked = acked.Clone(); name.Durable {
		l.raise(&c.acked, l.first)
	} else {
		c.acked.AddAll(&l.finished)
	}
	c.cursor = c.acked.Floor()
	if l.admit(c); !c.recorded { // the plain cursor stands for it from now on
		l.records.gone = append(l.records.gone, name)
	}
	c.version, c.saved, c.began, c.away, c.below = 2, 1, l.opts.Now(), l.opts.Now(), l.first
	if name.Durable {
		l.boundEarlier(c)
	}
}

// endGrace lets those go that have not come back. When edged itself goes, consumers leave
// that still owe: all stay, and the ledger says that the next start has a grace of its own.
func (l *Log) endGrace(now time.Time) {
	if l.graceEnds.IsZero() || now.Before(l.graceEnds) {
		return
	}
	l.graceEnds, l.records.graceEnd = time.Time{}, true
	if l.stopped {
		return
	}
	l.records.ghost = nil
	for _, c := range slices.Clone(l.consumers) {
		if len(c.members) == 0 && !c.name.Durable {
			l.drop(c)
		}
	}
}

// Gone says that another program has removed the items below a number. No consumer
// owes them from now on.
func (l *Log) Gone(to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle()
	l.first = max(l.first, to)
	before := l.finished.Clone()
	lost := l.raise(&before, to)
	untaken := l.raise(&l.taken, to)
	l.base += untaken
	l.stats.Gone += lost - untaken
	l.raise(&l.done, to)
	for _, c := range l.consumers {
		if l.skip(c, to); c.cursor < to {
			l.leaveFront(c) // its next item is set aside
		}
		c.version++
	}
	if l.pace.members > 0 {
		l.front = max(l.front, to)
	}
	l.bringBack(func(n uint64) bool {
		_, aside := l.aside.items[n]
		return n < to && !aside
	})
	l.moved()
}

// Renew says that a new epoch has begun, in which numbers stand for the items that they
// stood for before.
func (l *Log) Renew(epoch string) {
	l.mu.Lock()
	l.epoch = epoch
	l.mu.Unlock()
}

// Rollback says that a new epoch has begun: the items from a number on are not the
// known ones, as Redis has lost them, and has others in their place or will have.
func (l *Log) Rollback(epoch string, end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = min(l.end, end)
	l.front = min(l.front, end)
	for _, n := range l.aside.numbers() {
		if n >= end {
			l.aside.drop(n)
		}
	}
	l.ages.cut(end)
	l.renumber(epoch, end, never)
}

// renumber begins a new epoch, in which the numbers from from to to, to excluded, stand for
// items that every consumer owes.
func (l *Log) renumber(epoch string, from, to uint64) {
	st := l.books()
	onWay := l.taken.Count() - l.finished.Count()
	l.epoch, l.ever = epoch, min(l.ever, from)
	for _, c := range l.consumers {
		l.forget(c, from, to)
		c.again.Remove(from, to)
		c.version++
		c.saved, c.earlier = 0, 0
		switch c.acked.Remove(from, to); {
		case c.closing:
			c.acked.Add(from, to)
		case c.cursor > to:
			l.deliverAfresh(c, from, to)
			l.place(c, c.cursor)
		default: // it has none of the items after them
			l.place(c, min(c.cursor, from))
		}
	}
	l.done.Remove(from, to)
	l.taken.Remove(from, to)
	l.finished.Remove(from, to)

	l.bringBack(func(n uint64) bool { return from <= n && n < to })
	l.records.forget()
	l.moved()
	l.settle()
	l.base = l.finished.Count() - st.Confirmed - st.Dead - st.Gone
	l.stats.Returned += onWay - (l.taken.Count() - l.finished.Count())
	for _, c := range slices.Clone(l.consumers) {
		for _, m := range slices.Clone(c.members) {
			l.leaveIfDone(m)
		}
	}
}

// bringBack takes it back that items are dead letters.
func (l *Log) bringBack(which func(n uint64) bool) {
	l.dead = slices.DeleteFunc(l.dead, which)
	l.records.dig(which)
}

// Free reports whether new items may get the numbers from from to to, to excluded: no item
// that is set aside has one of them.
func (l *Log) Free(from, to uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range l.aside.items {
		if from <= n && n < to {
			return false
		}
	}
	return true
}

// Insert says that a new epoch has begun: the items at the head, with the numbers from from
// to to, to excluded, are new, or not known. Every consumer owes them. Numbers from to on
// stand for the items that they stood for before.
func (l *Log) Insert(epoch string, from, to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.consumers {
		if c.cursor <= to {
			l.leaveFront(c)
		}
	}
	l.first = from
	l.renumber(epoch, from, to)
}

// place moves a consumer's cursor; nothing is known of the items behind it.
func (l *Log) place(c *consumer, cursor uint64) {
	if c.closing {
		return
	}
	c.cursor = cursor
	c.out = int(cursor - c.acked.Below(cursor))
	l.updateRoom(c)
}

// forget takes items out of the hands of a consumer's members. It does not say whether the
// consumer owes them.
func (l *Log) forget(c *consumer, from, to uint64) {
	for _, run := range slices.Clone(c.runs) {
		for _, n := range l.rest(run) {
			if from <= n && n < to {
				run.member.owed--
				_, i := c.run(n)
				l.shrink(run, i)
			}
		}
		if from < run.to && run.to <= to {
			run.to = max(from, run.from) // the items there may be other ones now
		}
	}
	for n, k := range c.singles { // behind the runs, which these are no part of
		if from <= n && n < to {
			l.takeBack(k)
			l.unschedule(k)
			delete(c.singles, n)
		}
	}
	if c.terms.Explicit {
		return // the debts stand for memory
	}
	for _, m := range c.members {
		for _, d := range slices.Clone(m.debts) {
			l.forgive(d, from, to)
		}
	}
}

// forgive takes items out of a debt. If they stand in its middle the whole end goes.
func (l *Log) forgive(d *debt, from, to uint64) {
	m, owed := d.member, d.to-d.from
	switch {
	case d.to <= from || to <= d.from:
		return
	case from <= d.from:
		d.from = min(to, d.to)
	default:
		l.deliverAgain(m.consumer, min(to, d.to), d.to)
		d.to = from
	}
	m.owed -= int(owed - (d.to - d.from))
	if d.from == d.to {
		l.void(d)
	}
}
