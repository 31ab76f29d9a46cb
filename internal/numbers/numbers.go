// Package numbers keeps sets of item numbers, such as those that a consumer has confirmed or that
// are finished.
//
// Items are confirmed roughly in order, so a set is everything below a floor and a few spans above
// it. A change near the floor or near the top costs the same for any number of spans.
package numbers

import (
	"math"
	"slices"
	"sort"
)

// Set is a set of item numbers. The zero Set is empty.
//
// A copy made by assignment shares memory with the original: use Clone. The number
// math.MaxUint64 is never in a set.
type Set struct {
	floor uint64
	spans []Span // sorted, above the floor, with a gap before each
	count uint64 // numbers in the set
}

// Span is a run of consecutive numbers.
type Span struct{ From, To uint64 } // To is excluded

// Floor returns the lowest number that is not in the set.
func (s *Set) Floor() uint64 { return s.floor }

// Spans returns the numbers above the floor. The caller must not change them; they are valid until
// the set changes.
func (s *Set) Spans() []Span { return s.spans }

// Count returns the size of the set.
func (s *Set) Count() uint64 { return s.count }

// Below returns how many numbers below n are in the set.
func (s *Set) Below(n uint64) uint64 {
	below := min(n, s.floor)
	for _, p := range s.spans {
		below += p.overlap(0, n)
	}
	return below
}

// Top returns one past the highest number in the set, 0 if it is empty.
func (s *Set) Top() uint64 {
	if n := len(s.spans); n > 0 {
		return s.spans[n-1].To
	}
	return s.floor
}

// Has reports whether n is in the set.
func (s *Set) Has(n uint64) bool {
	if n < s.floor {
		return true
	}
	i := s.find(n)
	return i < len(s.spans) && s.spans[i].From <= n
}

// Gap returns the first run of numbers from n on that are not in the set. Above the
// last span it ends at math.MaxUint64.
func (s *Set) Gap(n uint64) (from, to uint64) {
	from = max(n, s.floor)
	i := s.find(from)
	if i < len(s.spans) && s.spans[i].From <= from {
		from = s.spans[i].To
		i++
	}
	if i < len(s.spans) {
		return from, s.spans[i].From
	}
	return from, math.MaxUint64
}

// find returns the index of the first span that ends above n. Both ends are tried
// first, since most changes are there.
func (s *Set) find(n uint64) int {
	last := len(s.spans) - 1
	switch {
	case last < 0 || s.spans[0].To > n:
		return 0
	case s.spans[last].To <= n:
		return last + 1
	case s.spans[last].From <= n:
		return last
	}
	return sort.Search(last, func(i int) bool { return s.spans[i].To > n })
}

// Raise adds all numbers below to, and returns how many were not in the set.
func (s *Set) Raise(to uint64) (added uint64) { return s.Add(0, to) }

// Add adds the numbers from from to to, to excluded, and returns how many were not
// in the set.
func (s *Set) Add(from, to uint64) (added uint64) {
	from = max(from, s.floor)
	if from >= to {
		return 0
	}

	joined := Span{from, to}
	added = to - from
	i := s.find(max(from, 1) - 1) // a span that ends at from is joined too
	j := i
	for ; j < len(s.spans) && s.spans[j].From <= to; j++ {
		added -= s.spans[j].overlap(from, to)
		joined.From = min(joined.From, s.spans[j].From)
		joined.To = max(joined.To, s.spans[j].To)
	}
	s.count += added

	switch {
	case joined.From == s.floor:
		s.floor = joined.To
		s.dropFirst(j)
	case i == j:
		s.spans = slices.Insert(s.spans, i, joined)
	default:
		s.spans[i] = joined
		s.spans = slices.Delete(s.spans, i+1, j)
	}
	return added
}

// AddAll adds the numbers of another set, and returns how many were not in the set.
func (s *Set) AddAll(other *Set) (added uint64) {
	added = s.Raise(other.floor)
	for _, p := range other.spans {
		added += s.Add(p.From, p.To)
	}
	return added
}

// dropFirst removes the first n spans without moving the rest. The memory of an
// empty set is used again.
func (s *Set) dropFirst(n int) {
	if n == len(s.spans) {
		s.spans = s.spans[:0]
	} else {
		s.spans = s.spans[n:]
	}
}

// overlap returns how many numbers of p are also in the run.
func (p Span) overlap(from, to uint64) uint64 {
	from, to = max(from, p.From), min(to, p.To)
	if from >= to {
		return 0
	}
	return to - from
}

// Cut removes all numbers from to on.
func (s *Set) Cut(to uint64) { s.Remove(to, math.MaxUint64) }

// Remove removes the numbers from from to to, to excluded. If from is below the floor, the floor
// sinks to it.
func (s *Set) Remove(from, to uint64) {
	if from >= to {
		return
	}

	if from < s.floor {
		floor := s.floor
		s.floor = from
		s.count -= min(to, floor) - from
		if to < floor {
			s.spans = slices.Insert(s.spans, 0, Span{to, floor})
			return
		}
	}

	i := s.find(from)
	j := i
	var rest []Span
	for ; j < len(s.spans) && s.spans[j].From < to; j++ {
		p := s.spans[j]
		s.count -= p.overlap(from, to)
		if p.From < from {
			rest = append(rest, Span{p.From, from})
		}
		if p.To > to {
			rest = append(rest, Span{to, p.To})
		}
	}
	s.spans = slices.Replace(s.spans, i, j, rest...)
}

// Clone returns a copy that shares no memory with s.
func (s *Set) Clone() Set {
	return Set{floor: s.floor, spans: slices.Clone(s.spans), count: s.count}
}

// Intersect returns the numbers that are in both sets.
func Intersect(a, b *Set) Set {
	var both Set
	for i, j := -1, -1; i < len(a.spans) && j < len(b.spans); {
		p, q := a.run(i), b.run(j)
		both.Add(max(p.From, q.From), min(p.To, q.To))
		if p.To < q.To {
			i++
		} else {
			j++
		}
	}
	return both
}

// run returns span i, or for -1 the run below the floor.
func (s *Set) run(i int) Span {
	if i < 0 {
		return Span{0, s.floor}
	}
	return s.spans[i]
}
