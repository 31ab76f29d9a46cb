package dedup

import (
	"encoding/binary"
	"slices"
)

// more is how many keys a Window has beside those that it compares: the items that are on
// their way need theirs when they are removed.
const more = 8192

// Window holds the keys of the last items of a list that it was given, in a ring, and a hash table
// of their places. Of items with equal keys the table has the last.
type Window struct {
	items uint64 // so many before an item count
	ring  []Key  // the key of item n at n % len(ring)
	table []entry
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
	return &Window{items: uint64(items), ring: make([]Key, items+more), table: make([]entry, tableSize(items))}
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
	if e := w.table[slot]; e != 0 {
		before := w.number(e.place())
		duplicate = n-before <= w.items && before >= w.least
	}
	w.table[slot] = entryOf(place, w.home(k))
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
		b = append(b, k[:]...)
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

// entry is a slot of the table: 0 if it is free, otherwise a place in the ring, from 1 on, and above it
// the last bits of the key's home, the slot that it would have in an empty table. So most searches read
// one line of the processor's cache, and no key but the right one.
type entry uint32

const (
	placeBits = 20
	homeMask  = 1<<(32-placeBits) - 1
)

// MaxItems is how many items before an item can count: their places have placeBits.
const MaxItems = 1_000_000

func (e entry) place() uint64 { return uint64(e&(1<<placeBits-1)) - 1 }

func (e entry) home() uint64 { return uint64(e >> placeBits) }

func entryOf(place, home uint64) entry { return entry(home&homeMask<<placeBits | place + 1) }

func (w *Window) home(k Key) uint64 {
	return binary.LittleEndian.Uint64(k[:]) & uint64(len(w.table)-1)
}

// find returns the slot of the table that has a key, or the free one that it would have.
func (w *Window) find(k Key) uint64 {
	home := w.home(k)
	for slot := home; ; slot = (slot + 1) & uint64(len(w.table)-1) {
		e := w.table[slot]
		if e == 0 || e.home() == home&homeMask && w.ring[e.place()] == k {
			return slot
		}
	}
}

// drop takes the key at a place out of the table, unless a later item has it too. The keys after
// it in the table move up, so that find still reaches them.
func (w *Window) drop(place uint64) {
	if w.ring[place] == (Key{}) {
		return
	}
	slot := w.find(w.ring[place])
	if w.table[slot] == 0 || w.table[slot].place() != place {
		return
	}
	mask := uint64(len(w.table) - 1)
	for free := slot; ; {
		slot = (slot + 1) & mask
		e := w.table[slot]
		if e == 0 {
			w.table[free] = 0
			return
		}
		if away := (slot - e.home()) & mask & homeMask; away >= (slot-free)&mask {
			w.table[free] = e
			free = slot
		}
	}
}
