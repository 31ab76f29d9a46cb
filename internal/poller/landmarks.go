package poller

import (
	"bytes"
	"fmt"
	"slices"

	"edged/internal/batch"
	"edged/internal/ledger"
)

// remember writes the mark of the last known item that is confirmed, if it stays in the
// list: a later start has to see whether others have changed the list in front of it.
func (r *reader) remember(call *ledger.Call, trim uint64) {
	last, ok := r.marks.last(r.confirmed)
	if ok && last.number >= r.first+trim && last.number != r.noted {
		r.noted = last.number
		call.Set = append(call.Set, ledger.Field{Name: ledger.Known, Value: fmt.Sprintf("%d %s", last.number, last.Mark)})
	}
}

// vouch adds landmarks, besides the head, that hold if the first trim items are those that
// are known: the last of them, the first that differs from the head, and one more. If others
// remove items, and all items repeat in the very rhythm of the removed ones, that can't be seen.
//
// Lua reads each byte of an item. For large items that takes longer than everything else,
// so they get no landmark at random.
func (r *reader) vouch(call *ledger.Call, trim uint64) {
	last, _ := r.marks.last(r.first + trim)
	r.addLandmark(call, last)
	call.Next = last.next
	if trim <= 2 {
		return
	}

	differs := r.differing(min(trim-1, maxLandmarks))
	r.addHeld(call, r.first+differs)
	_, large := r.heldItem(r.first)
	if between := trim - 2; differs == 0 {
		r.addHeld(call, r.first+1+r.loop.opts.Random(between))
	} else if between > 1 && !large {
		more := 1 + r.loop.opts.Random(between-1)
		if more >= differs {
			more++
		}
		r.addHeld(call, r.first+more)
	}
}

// surround adds the landmark before a read. One that goes back over known items gets another
// at its end: between equal neighbours the first stays as it was if others change the list.
func (r *reader) surround(call *ledger.Call, from, to uint64) {
	if before, ok := r.marks.last(from); ok && before.number >= r.first {
		r.addLandmark(call, before)
	}
	if from >= r.top {
		return
	}
	if i := min(r.marks.from(to-1), len(r.marks)-1); i >= 0 && r.marks[i].number >= from {
		r.addLandmark(call, r.marks[i])
	}
}

// recognizes reports whether none of the items of a batch is known to be another one.
func (r *reader) recognizes(b *batch.Batch) bool {
	for _, one := range r.marks[r.marks.from(b.First()):] {
		if one.number >= b.Next() {
			break
		}
		if !one.is(printOf(r.seed, b.Item(int(one.number-b.First())))) {
			return false
		}
	}
	for _, held := range r.held {
		for n := max(held.First(), b.First()); n < min(held.Next(), b.Next()); n++ {
			if !bytes.Equal(held.Item(int(n-held.First())), b.Item(int(n-b.First()))) {
				return false
			}
		}
	}
	return true
}

// differing is the index of the first held item, of so many from the head on, that differs
// from the head; 0: there is none.
func (r *reader) differing(among uint64) uint64 {
	head, _ := r.heldItem(r.first)
	for i := uint64(1); i < among; i++ {
		if item, _ := r.heldItem(r.first + i); item != nil && !bytes.Equal(item, head) {
			return i
		}
	}
	return 0
}

// heldItem returns an item if it is held, and whether it is Large.
func (r *reader) heldItem(n uint64) (item []byte, large bool) {
	for _, b := range r.held {
		if b.First() <= n && n < b.Next() {
			return b.Item(int(n - b.First())), b.Large()
		}
	}
	return nil, false
}

// addHeld adds an item that is held as a landmark.
func (r *reader) addHeld(call *ledger.Call, n uint64) {
	if item, _ := r.heldItem(n); item != nil {
		r.addLandmark(call, landmark{number: n, print: print{Mark: ledger.MarkOf(item)}})
	}
}

func (r *reader) addLandmark(call *ledger.Call, one landmark) {
	index := int64(one.number - r.first)
	for _, l := range call.Landmarks {
		if l.Index == index {
			return
		}
	}
	call.Landmarks = append(call.Landmarks, ledger.Landmark{Index: index, Mark: one.Mark})
}

// hold keeps a batch, as long as its items are not finished and there are not too many.
func (r *reader) hold(b *batch.Batch) {
	r.forgetHeld(b.First(), b.Next()) // it was read once more
	r.held = append(r.held, b)
	r.holds += b.Held(1)
	for len(r.held) > 1 && (r.held[0].Next() <= r.first || r.holds > maxHeld*r.loop.opts.BatchBytes) {
		r.letGo()
	}
}

// maxHeld is how many times the bytes of a batch are held.
const maxHeld = 4

// forgetHeld lets go of the batches that have items of a range.
func (r *reader) forgetHeld(from, to uint64) {
	r.held = slices.DeleteFunc(r.held, func(b *batch.Batch) bool {
		if b.Next() <= from || b.First() >= to {
			return false
		}
		r.holds -= b.Held(1)
		b.Release()
		return true
	})
}

// letGo lets go of the oldest batch.
func (r *reader) letGo() {
	r.holds -= r.held[0].Held(1)
	r.held[0].Release()
	r.held[0] = nil
	r.held = r.held[1:]
}
