package poller

import (
	"cmp"
	"math"
	"slices"
)

// classes decide which lists may be read. In a round of the loop those of the lowest class that has items
// to read and room for them may. A higher class waits, except that each share-th read is its own: so it
// is slowed down, but not stopped. Everything else is done for the lists of all classes: removals, renewals
// of leases, changes of the ledger.
//
// All fields are owned by the loop.
type classes struct {
	mixed  bool           // lists have different classes; otherwise nothing here is used
	share  int            // 0: a higher class has no reads of its own
	lowest int            // class of the first read of this round
	reads  uint64         // so far
	last   map[int]uint64 // by class: the number of its last read
}

// noClass is higher than all classes.
const noClass = math.MaxInt

// follow notes the classes of the lists.
func (c *classes) follow(readers []*reader) {
	c.mixed = slices.ContainsFunc(readers, func(r *reader) bool { return r.list.Class != readers[0].list.Class })
	c.last = make(map[int]uint64)
}

// order begins a round: lists of lower classes go first, and within a class the list that has not been read
// for longest.
func (c *classes) order(round []*reader) {
	if !c.mixed {
		return
	}
	c.lowest = noClass
	slices.SortStableFunc(round, func(a, b *reader) int {
		return cmp.Or(a.list.Class-b.list.Class, cmp.Compare(a.readAs, b.readAs))
	})
}

// admits reports whether a list that has items to read may be read in this round.
func (c *classes) admits(r *reader) bool {
	r.passedOver = c.mixed && r.list.Class > c.lowest && !c.hasShare(r)
	return !r.passedOver
}

// hasShare reports whether the next read is that of the list's class.
func (c *classes) hasShare(r *reader) bool {
	return c.share > 0 && c.reads-c.last[r.list.Class] >= uint64(c.share-1)
}

// read notes that a list is read.
func (c *classes) read(r *reader) {
	if !c.mixed {
		return
	}
	c.reads++
	c.last[r.list.Class], r.readAs = c.reads, c.reads
	if r.list.Class > c.lowest {
		r.note(func(st *Status) { st.Shared++ })
		return
	}
	c.lowest = r.list.Class
}
