package dedup

import "slices"

// more is how many keys a Window has beside those that it compares: the items that are on
// their way need theirs when they are removed.
const more = 8192

// Window holds the keys of the last items of a list that it was given, in a ring, and a hash table
// of their places. Of items with equal keys the table has the last.
type Window struct {
	items uint64   // so many before an item count
	ring  []Key    // the key of item n at n % len(ring)
	table []uint32 // places in the ring, from 1 on; 0: free
	from  uint64   // number of the first item whose key it has
	next  uint64   // one past the last
	least uint64   // items below do not count for next
	cuts  []uint64 // from each of these items on, items below it do not count; ascending
}

// Memory is how many bytes a Window takes.
func Memory(items int) int { return (items+more)*KeySize + tableSize(items)*4 }

func tableSize(items int) int {
	size := 1
	for size < (items+more)*3/2 {
		size *= 2
	}
	return size
}

// NewWindow returns a Window in which so many items before an item count. Start begins it.
func NewWindow(items int) *Window {
	return &Window{items: uint64(items), ring: make([]Key, items+more), table: make([]uint32, tableSize(items))}
}

// Start empties the Window. The next item is n. For the items from a cut on, those below it do not
// count; the cuts are in ascending order.
func (w *Window) Start(n uint64, cuts []uint64) {
	clear(w.ring)
	clear(w.table)
	w.from, w.next, w.least, w.cuts = n, n, 0, slices.Clone(cuts)
}

// From is the number of the first item whose key the Window has.
func (w *Window) From() uint64 { return w.from }

// Next is the number of the item that Add takes.
func (w *Window) Next() uint64 { return w.next }

// Add adds the key of the next item, and reports whether the item is a duplicate.
func (w *Window) Add(k Key) (duplicate bool) {
	n := w.next
	place := n % uint64(len(w.ring))
	if n-w.from == uint64(len(w.ring)) {
		w.drop(place)
		w.from++
	}
	w.ring[place] = k
	w.next++
	for len(w.cuts) > 0 && w.cuts[0] <= n {
		w.least, w.cuts = w.cuts[0], w.cuts[1:]
	}
	if k == (Key{}) {
		return false
	}

	slot := w.find(k)
	if at := w.table[slot]; at != 0 {
		before := w.number(uint64(at - 1))
		duplicate = n-before <= w.items && before >= w.least
	}
	w.table[slot] = uint32(place + 1)
	return duplicate
}

// AppendKeys appends the keys of the items from from to to, to excluded. Items that the Window
// does not have get the zero Key.
func (w *Window) AppendKeys(b []byte, from, to uint64) []byte {
	for n := from; n < to; n++ {
		var k Key
		if n >= w.from && n < w.next {
			k = w.ring[n%uint64(len(w.ring))]
		}
		b = k.Append(b)
	}
	return b
}

// number is the item whose key is at a place of the ring, after the one at the place of next
// was overwritten.
func (w *Window) number(place uint64) uint64 {
	size := uint64(len(w.ring))
	last := w.next - 1
	return last - (last%size+size-place)%size
}

// find returns the slot of the table that has a key, or the free one that it would have.
func (w *Window) find(k Key) uint64 {
	mask := uint64(len(w.table) - 1)
	slot := k.low & mask
	for w.table[slot] != 0 && w.ring[w.table[slot]-1] != k {
		slot = (slot + 1) & mask
	}
	return slot
}

// drop takes the key at a place out of the table, unless a later item has it too. The keys after
// it in the table move up, so that find still reaches them.
func (w *Window) drop(place uint64) {
	if w.ring[place] == (Key{}) {
		return
	}
	slot := w.find(w.ring[place])
	if w.table[slot] != uint32(place+1) {
		return
	}
	mask := uint64(len(w.table) - 1)
	for free := slot; ; {
		slot = (slot + 1) & mask
		at := w.table[slot]
		if at == 0 {
			w.table[free] = 0
			return
		}
		home := w.ring[at-1].low & mask
		if (slot-home)&mask >= (slot-free)&mask {
			w.table[free] = at
			free = slot
		}
	}
}
