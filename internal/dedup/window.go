package dedup

import (
	"encoding/binary"
	"slices"
	"unsafe"
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

	warmed entry // keeps the reads of warm
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

// Add adds the keys of the next items. It appends to found which of them are duplicates, as indexes of keys.
func (w *Window) Add(keys []Key, found []int) []int {
	const chunk = 64
	for at := 0; at < len(keys); at += chunk {
		some := keys[at:min(at+chunk, len(keys))]
		w.warm(some)
		for i, k := range some {
			if w.add(k) {
				found = append(found, at+i)
			}
		}
	}
	return found
}

// warm reads the slots that add needs for some keys. The processor waits for its slow memory once for
// many slots then, in place of twice for each key.
func (w *Window) warm(keys []Key) {
	var sum entry
	for _, k := range keys {
		sum += w.table[w.home(k)]
	}
	if size := uint64(len(w.ring)); w.next+uint64(len(keys))-w.from > size {
		for i := range uint64(len(keys)) {
			sum += w.table[w.home(w.ring[(w.next+i)%size])]
		}
	}
	w.warmed = sum
}

// add adds the key of the next item, and reports whether the item is a duplicate.
func (w *Window) add(k Key) (duplicate bool) {
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

	slot := w.find(&k)
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
	size := uint64(len(w.ring))
	for from < to {
		n := min(to-from, size-from%size)
		if from < w.from {
			n = min(n, w.from-from)
		}
		if from < w.from || from >= w.next {
			b = append(b, make([]byte, n*KeySize)...)
		} else {
			n = min(n, w.next-from)
			keys := w.ring[from%size:][:n]
			b = append(b, unsafe.Slice(&keys[0][0], n*KeySize)...)
		}
		from += n
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
func (w *Window) find(k *Key) uint64 {
	home := w.home(*k)
	tag := entry(home&homeMask) << placeBits
	for slot := home; ; slot++ {
		slot &= uint64(len(w.table) - 1)
		e := w.table[slot]
		if e == 0 || (e^tag)>>placeBits == 0 && w.ring[e.place()] == *k {
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
	mask := uint64(len(w.table) - 1)
	slot := w.home(w.ring[place])
	for ; w.table[slot].place() != place; slot = (slot + 1) & mask {
		if w.table[slot] == 0 {
			return
		}
	}
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
