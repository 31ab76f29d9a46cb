package relay

import (
	"sort"
	"time"

	"edged/internal/batch"
)

const (
	// leastAge is the least time between two marks of ages. It doubles each time there
	// would be too many.
	leastAge = time.Second
	maxAges  = 1024
)

// ages remember when items were read for the first time, to about a second. Redis can
// have a copy.
type ages struct {
	marks []age // by number
	least time.Duration
	away  time.Duration // in which items could not be read again; see lag
	saved int           // of the marks, the first ones that Redis has
	gone  int           // marks that Redis still has in front of those
	anew  bool          // Redis has others: all are to be written again
}

// age is one mark.
type age struct {
	batch.Seen
	away time.Duration // of ages, then
}

// note notes that the items below a number have been read.
func (a *ages) note(below uint64, now time.Time) {
	last := len(a.marks) - 1
	switch {
	case last >= 0 && below <= a.marks[last].Below:
		return
	case last >= a.saved && now.Sub(a.marks[last].At) < max(a.least, leastAge):
		a.marks[last].Below = below
		return
	}
	if a.marks = append(a.marks, age{batch.Seen{Below: below, At: now}, a.away}); len(a.marks) > maxAges {
		kept := a.marks[:0]
		for i := 1; i < len(a.marks); i += 2 {
			kept = append(kept, a.marks[i])
		}
		a.marks, a.least, a.saved, a.anew = kept, 2*max(a.least, leastAge), 0, true
	}
}

// of returns when an item was read; zero: it is not known to have been.
func (a *ages) of(n uint64) time.Time {
	i := a.find(n)
	if i == len(a.marks) {
		return time.Time{}
	}
	return a.marks[i].At
}

// between returns the marks of the items from a number on, up to another one.
func (a *ages) between(from, to uint64) (seen []batch.Seen) {
	for i := a.find(from); i < len(a.marks) && (i == 0 || a.marks[i-1].Below < to); i++ {
		seen = append(seen, a.marks[i].Seen)
	}
	return seen
}

// find is the index of the first mark above an item.
func (a *ages) find(n uint64) int {
	return sort.Search(len(a.marks), func(i int) bool { return n < a.marks[i].Below })
}

// lag is the age of an item, without the time away; 0: it is not known to have been read.
func (a *ages) lag(n uint64, now time.Time) time.Duration {
	i := a.find(n)
	if i == len(a.marks) {
		return 0
	}
	return max(0, now.Sub(a.marks[i].At)-(a.away-a.marks[i].away))
}

// forget drops the items below a number.
func (a *ages) forget(below uint64) {
	i := a.find(below)
	a.gone += min(i, a.saved)
	a.saved = max(0, a.saved-i)
	if a.marks = a.marks[i:]; len(a.marks) == 0 {
		a.marks, a.least = nil, 0
	}
}

// cut drops the items from a number on.
func (a *ages) cut(from uint64) {
	if i := a.find(from); i < len(a.marks) {
		a.marks = a.marks[:i+1]
		a.marks[i].Below = from
		a.saved, a.anew = 0, true
	}
}

// load takes the marks that Redis has. The time before counts as away.
func (a *ages) load(marks []batch.Seen, now time.Time) {
	*a = ages{saved: len(marks)}
	for i, m := range marks {
		if i > 0 && m.Below <= marks[i-1].Below { // written by something else
			*a = ages{anew: true}
			return
		}
		a.marks = append(a.marks, age{m, m.At.Sub(now)})
	}
}

// unsaved are the marks that Redis does not have, without a last one that may still grow,
// unless nothing more is read.
func (a *ages) unsaved(now time.Time, ends bool) []batch.Seen {
	n := len(a.marks)
	if !ends && n > a.saved && now.Sub(a.marks[n-1].At) < leastAge {
		n--
	}
	var more []batch.Seen
	for _, m := range a.marks[a.saved:max(n, a.saved)] {
		more = append(more, m.Seen)
	}
	return more
}

// written notes that Redis has the marks that were unsaved, and not those that were gone.
func (a *ages) written(saved int) {
	a.saved, a.gone, a.anew = a.saved+saved, 0, false
}
