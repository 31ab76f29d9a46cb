package relay

import (
	"maps"
	"slices"
	"time"

	"edged/internal/numbers"
)

// An item that is finished later than many behind it would keep all of them in Redis.
// It is set aside: the ledger's script copies it, and it counts as finished in the list.
// Consumers that owe it go on to owe it, and get it from its copy.
const (
	// mostHeld is how many finished items one item may hold in the list, if its items are
	// acknowledged one by one. Otherwise a receipt comes, or the client goes.
	mostHeld = 10_000
	// longestHold is for how long it may hold any.
	longestHold = time.Minute
	// maxAside is how many items are set aside in one step.
	maxAside = 100
)

// aside are the items set aside. Guarded by Log.mu.
type aside struct {
	items    map[uint64]bool // by number; true: Redis has the copy
	unsaved  int             // of them, those that Redis does not have
	restored []uint64        // numbers whose copy is to be deleted
	holds    uint64          // this item holds others in the list …
	since    time.Time       // … since then; zero: none does
}

func (a *aside) add(n uint64, saved bool) {
	if a.items == nil {
		a.items = make(map[uint64]bool)
	}
	if _, there := a.items[n]; !there && !saved {
		a.unsaved++
	}
	a.items[n] = saved
}

// saved notes that Redis has the copy of an item.
func (a *aside) saved(n uint64) {
	if saved, ok := a.items[n]; ok && !saved {
		a.items[n] = true
		a.unsaved--
	} else if !ok {
		a.restored = append(a.restored, n) // it was finished meanwhile
	}
}

// copied reports whether Redis has a copy of an item.
func (a *aside) copied(n uint64) bool { return a.items[n] || slices.Contains(a.restored, n) }

// numbers returns the items, the lowest first.
func (a *aside) numbers() []uint64 { return slices.Sorted(maps.Keys(a.items)) }

// drop forgets an item. If Redis has a copy of it that goes too.
func (a *aside) drop(n uint64) {
	saved, ok := a.items[n]
	switch {
	case !ok:
		return
	case saved:
		a.restored = append(a.restored, n)
	default:
		a.unsaved--
	}
	delete(a.items, n)
}

// setAside sets items aside that hold too many others in the list, or for too long. Before that it has to be
// known that they are no duplicates: it returns one past the item of which it is not, or 0.
func (l *Log) setAside(now time.Time) (judge uint64) {
	a, spans := &l.aside, l.past.Spans()
	if len(spans) == 0 {
		a.since = time.Time{}
		return 0
	}
	explicit := slices.ContainsFunc(l.consumers, func(c *consumer) bool { return c.terms.Explicit })
	if floor := l.past.Floor(); a.since.IsZero() || a.holds != floor {
		a.holds, a.since = floor, now
	}
	tooMany := explicit && l.past.Count()-l.past.Floor() >= l.mostHeld
	if a.unsaved > 0 || l.stopped || !l.active() || !tooMany && now.Before(a.since.Add(longestHold)) {
		return 0
	}
	passed := false
	for n := l.past.Floor(); n < spans[0].From && a.unsaved < maxAside && l.owes(n); n++ {
		duplicate, known := l.isDuplicate(n)
		if !known {
			judge = n + 1
			break
		}
		if !duplicate {
			a.add(n, false)
			continue
		}
		passed = true
		for _, c := range l.consumers {
			if !c.closing && !c.acked.Has(n) {
				l.passDuplicate(c, n, n+1)
			}
		}
	}
	if a.unsaved > 0 || passed {
		l.moved()
		l.settle()
	} else if judge == 0 {
		a.since = now // an item that no consumer owes stays where it is
	}
	return judge
}

func (l *Log) isDuplicate(n uint64) (is, known bool) {
	if l.opts.Duplicate == nil {
		return false, true
	}
	return l.opts.Duplicate(n)
}

// owes reports whether a consumer owes an item.
func (l *Log) owes(n uint64) bool {
	return slices.ContainsFunc(l.consumers, func(c *consumer) bool { return !c.viewer && !c.acked.Has(n) })
}

// asideWake is when setAside has to be called even if nothing happens.
func (l *Log) asideWake() time.Time {
	if l.aside.since.IsZero() || l.aside.unsaved > 0 || l.stopped || !l.active() {
		return time.Time{}
	}
	return l.aside.since.Add(longestHold)
}

// settleAside ends it for the items that are finished, and finds out which items
// count as finished in the list.
func (l *Log) settleAside() {
	if len(l.aside.items) == 0 {
		l.past = l.finished
		return
	}
	l.past = l.finished.Clone()
	for n := range l.aside.items {
		if l.finished.Has(n) {
			l.aside.drop(n)
		}
		l.past.Add(n, n+1)
	}
}

// doneFloor is the first item that a consumer may still have to confirm for the first time.
func (l *Log) doneFloor() uint64 {
	if len(l.aside.items) == 0 {
		return l.done.Floor()
	}
	done := l.done.Clone()
	for _, n := range l.aside.numbers() {
		done.Add(n, n+1)
	}
	return done.Floor()
}

// raise adds all numbers below a number to a set, but for the items set aside that it
// lacks. It returns how many it added.
func (l *Log) raise(s *numbers.Set, to uint64) (added uint64) {
	var lacks []uint64
	for n := range l.aside.items {
		if n < to && !s.Has(n) {
			lacks = append(lacks, n)
		}
	}
	added = s.Raise(to)
	for _, n := range lacks {
		s.Remove(n, n+1)
	}
	return added - uint64(len(lacks))
}

// Aside says which items Redis has set aside. All others are in the list, from the number
// first on, or lost.
func (l *Log) Aside(first uint64, there []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &l.aside
	a.restored = nil
	for _, n := range there {
		if _, ok := a.items[n]; ok {
			a.items[n] = true
		} else {
			a.restored = append(a.restored, n)
		}
	}
	a.unsaved = 0
	for _, n := range a.numbers() {
		switch {
		case slices.Contains(there, n):
		case n >= first:
			a.items[n] = false
			a.unsaved++
		default:
			delete(a.items, n)
			l.lost(n)
		}
	}
	l.moved()
}

// skip lets a consumer owe the items below a number no longer, but for those set aside. It
// returns how many it owed. Items set aside that it was not handed yet stay in front of its
// cursor: it gets them before later ones.
func (l *Log) skip(c *consumer, to uint64) (skipped uint64) {
	from := uint64(0)
	for _, n := range append(l.aside.numbers(), to) {
		if n = min(n, to); from < n {
			l.forget(c, from, n)
			c.again.Remove(from, n)
		}
		from = max(from, n+1)
	}
	skipped = l.raise(&c.acked, to)
	next, _ := c.acked.Gap(c.cursor)
	l.place(c, max(c.cursor, min(next, to)))
	return skipped
}

// lost says that nothing has an item any more that was set aside.
func (l *Log) lost(n uint64) {
	untaken := l.taken.Add(n, n+1)
	l.base += untaken
	l.stats.Gone += 1 - untaken
	l.done.Add(n, n+1)
	for _, c := range l.consumers {
		l.forget(c, n, n+1)
		c.again.Remove(n, n+1)
		if c.acked.Add(n, n+1) > 0 && n < c.cursor {
			c.out--
		}
		c.version++
		l.updateRoom(c)
	}
	l.bringBack(func(dead uint64) bool { return dead == n })
}
