package cursor

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

const (
	maxRecords = 64   // records of queue groups in the ledger
	maxGraves  = 100  // dead letters in one step
	maxWaiting = 8192 // acknowledgements that wait for an answer
)

// records compare the ledger with the state to be written. Guarded by Log.mu.
type records struct {
	ghost    *consumer // owes the items of the plain consumers from before the start
	saved    saved
	pending  *pending // the last Changes
	graves   []grave  // items that become dead letters
	marked   int      // of graves, those that count as confirmed already
	waiting  []func(error)
	admitted map[string]bool // groups that have a record, or will
	gone     []string        // groups whose record goes
	graceEnd bool            // the end of the grace is to be written
}

// saved is the ledger's state.
type saved struct {
	finished uint64 // how many are
	done     uint64
	plain    uint64
	hasPlain bool
}

// pending is the state being written.
type pending struct {
	saved
	versions map[*consumer]int
	graves   int
	waiting  int
	gone     []string
	graceEnd bool
}

// grave is an item that becomes a dead letter.
type grave struct {
	number     uint64
	consumer   *consumer // nil: none of them can have it
	reason     string
	deliveries int
	copied     bool // another consumer has given it up before
}

func (r *records) bury(g grave) { r.graves = append(r.graves, g) }

// dig takes back dead letters that are none any more.
func (r *records) dig(which func(n uint64) bool) {
	marked := r.graves[:r.marked]
	kept := slices.DeleteFunc(slices.Clone(marked), func(g grave) bool { return which(g.number) })
	rest := slices.DeleteFunc(slices.Clone(r.graves[r.marked:]), func(g grave) bool { return which(g.number) })
	r.graves, r.marked = append(kept, rest...), len(kept)
}

// forget says that the ledger may be an older one.
func (r *records) forget() {
	r.saved = saved{finished: never, done: never, plain: never, hasPlain: true}
}

// admit reports whether a queue group may have a record.
func (r *records) admit(group string) bool {
	if r.admitted == nil {
		r.admitted = make(map[string]bool)
	}
	if !r.admitted[group] && len(r.admitted) >= maxRecords {
		return false
	}
	r.gone = remove(r.gone, group)
	r.admitted[group] = true
	return true
}

// struck lets the record of a group that is gone go.
func (r *records) struck(c *consumer) {
	if c.recorded {
		delete(r.admitted, c.group)
		r.gone = append(r.gone, c.group)
	}
}

// errTooMany refuses an acknowledgement's answer, not the acknowledgement.
var errTooMany = errors.New("too many acknowledgements wait for an answer: this one counts, but its answer is not known")

// wait notes a function to be called when the ledger has an acknowledgement.
func (r *records) wait(saved func(error)) bool {
	if len(r.waiting) >= maxWaiting {
		return false
	}
	r.waiting = append(r.waiting, saved)
	return true
}

// moved says that the finished items, or the plain cursor, may be others now.
func (l *Log) moved() { l.stale = true }

// left notes that a consumer's floor was before, and reports whether it may have held
// the floor of the list, or the plain cursor.
func (l *Log) left(c *consumer, before uint64) bool {
	if c.acked.Floor() == before || l.stale {
		return l.stale
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
func (c *consumer) plain() bool { return c.group == "" || !c.recorded }

// settle finds out which items are finished.
func (l *Log) settle() {
	if !l.stale || !l.loaded {
		return
	}
	l.stale = false
	l.low, l.lows, l.plainLow, l.plainLows = never, 0, never, 0
	finished := l.done.Clone()
	for _, c := range l.consumers {
		floor := c.acked.Floor()
		lowest(&l.low, &l.lows, floor)
		if c.plain() {
			lowest(&l.plainLow, &l.plainLows, floor)
		}
		if len(c.acked.Spans()) > 0 && len(finished.Spans()) > 0 || len(c.acked.Spans()) > 0 && finished.Floor() > floor {
			finished = numbers.Intersect(&finished, &c.acked)
		} else {
			finished.Cut(floor)
		}
	}
	l.finished = finished
	l.base += l.taken.Raise(finished.Floor()) // confirmed in an earlier life
	for _, s := range finished.Spans() {
		l.base += l.taken.Add(s.From, s.To)
	}
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
func (l *Log) now() saved {
	s := saved{finished: l.finished.Count(), done: l.done.Floor(), plain: l.plainLow, hasPlain: l.plainLow != never}
	if !s.hasPlain {
		s.plain = 0
	}
	return s
}

// dirty reports whether there is something to write.
func (l *Log) dirty() bool {
	r := &l.records
	if l.now() != r.saved || len(r.graves) > 0 || len(r.waiting) > 0 || len(r.gone) > 0 || r.graceEnd {
		return true
	}
	return slices.ContainsFunc(l.consumers, func(c *consumer) bool { return c.recorded && !c.closing && c.version != c.saved })
}

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
	l.buryMarked()
	l.settle()
	now := l.now()
	ch.Floor, ch.Confirmed = l.finished.Floor(), now.done
	p := &pending{saved: now, versions: make(map[*consumer]int), graves: r.marked, waiting: len(r.waiting), gone: slices.Clone(r.gone), graceEnd: r.graceEnd}
	if now.finished != r.saved.finished {
		ch.Finished = l.finished.String()
	}
	if now.done != r.saved.done {
		ch.Done = strconv.FormatUint(now.done, 10)
	}
	if now.hasPlain && (!r.saved.hasPlain || now.plain != r.saved.plain) {
		ch.Plain = strconv.FormatUint(now.plain, 10)
	}
	ch.NoPlain = !now.hasPlain && r.saved.hasPlain
	ch.GraceOver = r.graceEnd
	for _, group := range r.gone {
		ch.Groups = append(ch.Groups, batch.Record{Group: group})
	}
	for _, c := range l.consumers {
		if c.recorded && c.version != c.saved && !c.closing {
			ch.Groups = append(ch.Groups, batch.Record{Group: c.group, Acked: c.acked.String()})
			p.versions[c] = c.version
		}
	}
	for _, g := range r.graves[:r.marked] {
		if !g.copied {
			ch.Dead = append(ch.Dead, batch.Dead{Number: g.number, Reason: g.reason, Deliveries: g.deliveries})
		}
	}
	r.pending = p
	return ch
}

// buryMarked lets the next dead letters count as confirmed by those that gave them up:
// from now on they are a part of each Changes until they are saved.
func (l *Log) buryMarked() {
	r := &l.records
	for r.marked < min(len(r.graves), maxGraves) {
		g := &r.graves[r.marked]
		r.marked++
		if l.finished.Has(g.number) {
			g.copied = true
			continue
		}
		if g.copied = slices.Contains(l.dead, g.number); !g.copied {
			l.dead = append(l.dead, g.number)
		}
		for _, c := range l.consumers {
			if g.consumer != nil && g.consumer != c {
				continue
			}
			l.forget(c, g.number, g.number+1)
			c.again.Remove(g.number, g.number+1)
			if c.cursor == g.number {
				c.cursor++
				c.out++
			}
			l.confirm(c, g.number, g.number+1)
		}
		if g.consumer == nil {
			l.done.Add(g.number, g.number+1)
			l.stats.Taken += l.taken.Add(g.number, g.number+1)
			if l.front == g.number {
				l.front++
			}
		}
		l.moved()
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
	r.graves = slices.Delete(r.graves, 0, p.graves)
	r.marked -= p.graves
	r.gone = slices.DeleteFunc(r.gone, func(group string) bool { return slices.Contains(p.gone, group) })
	r.graceEnd = r.graceEnd && !p.graceEnd
	tell := slices.Clone(r.waiting[:p.waiting])
	r.waiting = slices.Delete(r.waiting, 0, p.waiting)
	l.mu.Unlock()
	for _, saved := range tell {
		saved(nil)
	}
}

// ready reports whether a consumer's items may go out: after a crash the ledger has to
// know that it owes them.
func (l *Log) ready(c *consumer) bool {
	if !c.ready {
		s := l.records.saved
		c.ready = c.recorded && c.saved > 0 || c.plain() && s.hasPlain && s.plain <= c.acked.Floor()
	}
	return c.ready
}

// Bury makes a dead letter of an item that no consumer can have: the item that the front
// or a consumer behind it needs next.
func (l *Log) Bury(n uint64, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loaded && !l.finished.Has(n) && !slices.ContainsFunc(l.records.graves, func(g grave) bool { return g.number == n && g.consumer == nil }) {
		l.records.bury(grave{number: n, reason: reason})
	}
}

// Load gives the Log its place in the list, and every consumer a new one.
func (l *Log) Load(s batch.Snapshot) {
	l.mu.Lock()
	l.begun(s.First, s.Finished)
	l.done.Raise(s.Done)
	r := &l.records
	tell := r.waiting
	*r = records{saved: saved{s.Finished.Count(), s.Done, s.Plain, s.HasPlain}, graceEnd: s.Grace <= 0}
	if s.Grace > 0 {
		l.graceEnds = l.opts.Now().Add(s.Grace)
		if s.HasPlain {
			r.ghost = &consumer{acked: l.finished.Clone()}
			r.ghost.acked.Raise(s.Plain)
			r.ghost.cursor = r.ghost.acked.Floor()
			l.consumers = append(l.consumers, r.ghost)
		}
	}
	for name, acked := range s.Groups {
		l.restore(name, acked, s.Grace > 0)
	}
	l.moved()
	for _, c := range l.consumers {
		if len(c.members) > 0 && c.version == 0 {
			l.begin(c)
		}
	}
	l.mu.Unlock()
	for _, saved := range tell {
		saved(ErrGone)
	}
	l.opts.Changed()
}

// Unload says that the list is another process's now. Load gives it back.
func (l *Log) Unload() {
	l.mu.Lock()
	l.loaded = false
	tell := l.records.waiting
	l.records.waiting = nil
	l.mu.Unlock()
	for _, saved := range tell {
		saved(ErrGone)
	}
}

// Reset says that nothing is known any more of the list's items: it begins with
// number first, and all of it is delivered to every consumer.
func (l *Log) Reset(first uint64) {
	l.mu.Lock()
	l.begun(first, numbers.Set{})
	tell := l.records.waiting
	l.records = records{}
	l.moved()
	for _, c := range l.consumers {
		l.begin(c)
	}
	l.mu.Unlock()
	for _, saved := range tell {
		saved(ErrGone)
	}
	l.opts.Changed()
}

// begun begins a list anew: nothing is on its way, and no consumer has a place.
func (l *Log) begun(first uint64, finished numbers.Set) {
	st := l.books()
	for _, c := range slices.Clone(l.consumers) {
		l.forget(c, 0, never)
		c.again, c.acked, c.cursor, c.out = numbers.Set{}, everything(), 0, 0
		c.version, c.saved, c.ready, c.recorded = 0, 0, false, false
		l.leaveFront(c)
		if len(c.members) == 0 {
			l.consumers = remove(l.consumers, c)
			if l.groups[c.group] == c {
				delete(l.groups, c.group)
			}
		}
	}
	l.loaded, l.first, l.graceEnds, l.front, l.swept = true, first, time.Time{}, 0, 0
	l.records.ghost, l.records.admitted, l.dead = nil, nil, nil
	l.finished = finished.Clone()
	l.finished.Raise(first)
	l.done, l.taken = l.finished.Clone(), l.finished.Clone()
	l.stats.Returned += st.InFlight
	l.base = l.finished.Count() - st.Confirmed - st.Dead - st.Gone
}

// restore takes up the ledger's record of a queue group. One without a member owes
// until the grace ends.
func (l *Log) restore(name string, acked numbers.Set, grace bool) {
	c := l.groups[name]
	if c == nil && !grace {
		l.records.gone = append(l.records.gone, name)
		return
	}
	if c == nil {
		c = l.newConsumer(name)
	}
	c.acked = acked.Clone()
	for _, s := range l.finished.Spans() {
		c.acked.Add(s.From, s.To)
	}
	c.acked.Raise(l.finished.Floor())
	c.cursor = c.acked.Floor()
	c.recorded = l.records.admit(name)
	c.version, c.saved = 2, 1
}

// endGrace lets those go that have not come back.
func (l *Log) endGrace(now time.Time) {
	if l.graceEnds.IsZero() || now.Before(l.graceEnds) || l.stopped {
		return
	}
	l.graceEnds, l.records.graceEnd, l.records.ghost = time.Time{}, true, nil
	for _, c := range slices.Clone(l.consumers) {
		if len(c.members) == 0 {
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
	lost := before.Raise(to)
	untaken := l.taken.Raise(to)
	l.base += untaken
	l.stats.Gone += lost - untaken
	l.done.Raise(to)
	for _, c := range l.consumers {
		l.forget(c, 0, to)
		c.again.Remove(0, to)
		c.acked.Raise(to)
		c.version++
		l.place(c, max(c.cursor, to))
	}
	if l.pace.members > 0 {
		l.front = max(l.front, to)
	}
	l.records.dig(func(n uint64) bool { return n < to })
	l.moved()
}

// Rollback says that the items from a number on are not the known ones: Redis has
// lost them, and has others in their place or will have.
func (l *Log) Rollback(end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.books()
	for _, c := range slices.Clone(l.consumers) {
		l.forget(c, end, never)
		c.again.Cut(end)
		if c.acked.Cut(end); c.closing {
			c.acked.Add(end, never)
		}
		c.version++
		l.place(c, min(c.cursor, end))
	}
	l.done.Cut(end)
	l.taken.Cut(end)
	l.front = min(l.front, end)
	l.records.dig(func(n uint64) bool { return n >= end })
	l.records.forget()
	for _, c := range l.consumers {
		c.saved = 0
	}
	l.moved()
	l.settle()
	l.base = l.finished.Count() - st.Confirmed - st.Dead - st.Gone
	l.stats.Returned += st.InFlight - l.inFlight()
	for _, c := range slices.Clone(l.consumers) {
		for _, m := range slices.Clone(c.members) {
			l.leaveIfDone(m)
		}
	}
}

// place moves a consumer's cursor; nothing is known of the items behind it.
func (l *Log) place(c *consumer, cursor uint64) {
	if c.closing {
		return
	}
	c.cursor = cursor
	behind := c.acked.Clone()
	behind.Cut(cursor)
	c.out = int(cursor - behind.Count())
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
	}
	for n, k := range c.singles { // behind the runs, which these are no part of
		if from <= n && n < to {
			l.takeBack(k)
			l.unschedule(k)
			delete(c.singles, n)
		}
	}
	if l.opts.Explicit {
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
		m.consumer.again.Add(min(to, d.to), d.to)
		d.to = from
	}
	m.owed -= int(owed - (d.to - d.from))
	if d.from == d.to {
		l.void(d)
	}
}
