package dedup

import (
	"encoding/binary"
	"slices"
	"unsafe"
)

// more is how many keys a Window has beside those that it compares: the items that are on
// their way need theirs when they are removed.
const more = 8192

// Window holds the keys of the last items of a list that it was given, in a ring, and finds them by
// chains: all keys with the same home are linked, from the last to the first. An overwritten place
// ends its chain, so nothing has to be taken out of a chain when its key leaves the ring. Of items
// with equal keys the chain has the last.
type Window struct {
	items uint64   // so many before an item count
	ring  []Key    // the key of item n at n % len(ring)
	links []entry  // the entry after each place's, at the place + 1
	heads []entry  // the first entry of each home
	from  uint64   // number of the first item whose key it has
	next  uint64   // one past the last
	place uint64   // of next
	round uint64   // next / len(ring)
	least uint64   // items below do not count for next
	cuts  []uint64 // from each of these items on, items below it do not count; ascending

	warmed entry // keeps the reads of warm
}

// Memory is how many bytes a Window takes.
func Memory(items int) int { return (items+more)*(KeySize+4) + homes(items)*4 }

// homes is how many chains there are: one for each key, give or take a half.
func homes(items int) int {
	n := 1
	for n < (items+more)*3/4 {
		n *= 2
	}
	return n
}

// NewWindow returns a Window in which so many items before an item count. Start begins it.
func NewWindow(items int) *Window {
	size := items + more
	return &Window{items: uint64(items), ring: make([]Key, size), links: make([]entry, size+1), heads: make([]entry, homes(items))}
}

// Start empties the Window. The next item is n. For the items from a cut on, those below it do not
// count; the cuts are in ascending order.
func (w *Window) Start(n uint64, cuts []uint64) {
	clear(w.heads)
	size := uint64(len(w.ring))
	w.place, w.round = n%size, n/size
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
		for i := range some {
			if w.add(&some[i]) {
				found = append(found, at+i)
			}
		}
	}
	return found
}

// warm reads the entries that add needs for some keys. The processor waits for its slow memory once for
// many of them then, in place of twice for each key.
func (w *Window) warm(keys []Key) {
	var sum entry
	for i := range keys {
		sum += w.links[w.heads[w.home(&keys[i])]&placeMask]
	}
	w.warmed = sum
}

// add adds the key of the next item, and reports whether the item is a duplicate.
func (w *Window) add(k *Key) (duplicate bool) {
	n, place := w.next, w.place
	for len(w.cuts) > 0 && w.cuts[0] <= n {
		w.least, w.cuts = w.cuts[0], w.cuts[1:]
	}
	if *k != (Key{}) {
		head := &w.heads[w.home(k)]
		if at, age := w.find(head, k); at != nil {
			duplicate = n-age >= w.least
			*at = w.links[*at&placeMask]
		}
		w.links[place+1] = *head
		*head = w.entryOf(place, k)
	}

	w.ring[place] = *k
	if w.next++; w.next-w.from > uint64(len(w.ring)) {
		w.from++
	}
	if w.place++; w.place == uint64(len(w.ring)) {
		w.place, w.round = 0, w.round+1
	}
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

// entry is a place in the ring, from 1 on, with the last bits of its round and a byte of its key. 0 ends a chain.
type entry uint32

const (
	placeBits = 20
	placeMask = 1<<placeBits - 1
	roundBits = 4
	roundMask = 1<<roundBits - 1
	tagAt     = placeBits + roundBits
)

// MaxItems is how many items before an item can count: their places have placeBits.
const MaxItems = 1_000_000

func (w *Window) entryOf(place uint64, k *Key) entry {
	return entry(place + 1 | w.round&roundMask<<placeBits | uint64(k[KeySize-1])<<tagAt)
}

// home is the chain that a key belongs to.
func (w *Window) home(k *Key) uint64 {
	return binary.LittleEndian.Uint64(k[:]) & uint64(len(w.heads)-1)
}

// find returns the entry of a key, and how many items before the next one its item is. The entry is the
// head of a chain, or a link; nil if none of the items that count has the key.
//
// An entry whose place was overwritten ends the search. One of 16 rounds ago looks like one that was not: the search
// goes on in another chain then, finds no such key there, and ends since it only goes to older items.
func (w *Window) find(head *entry, k *Key) (at *entry, age uint64) {
	tag, most := entry(k[KeySize-1]), min(w.items, w.next-w.from)
	for at = head; *at != 0; at = &w.links[*at&placeMask] {
		place, round, last := uint64(*at&placeMask)-1, w.round, age
		if age = w.place - place; place > w.place {
			age += uint64(len(w.ring))
			round--
		}
		if age <= last || age > most || uint64(*at)>>placeBits&roundMask != round&roundMask {
			break
		}
		if *at>>tagAt == tag && w.ring[place] == *k {
			return at, age
		}
	}
	return nil, 0
}
