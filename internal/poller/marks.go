package poller

import (
	"cmp"
	"hash/maphash"
	"slices"

	"edged/internal/ledger"
)

// maxMarks is how many items of a list are remembered to be recognized. Where there
// would be more, every other one is forgotten.
const maxMarks = 128

// marks are the marks of some items of a list, by number.
type marks []landmark

type landmark struct {
	number uint64
	print
	next ledger.Mark // of the item behind it; empty: not known
}

// print recognizes an item: by its mark inside Redis, and here, if it is
// known, a hash of all of it.
type print struct {
	ledger.Mark
	hash uint64 // 0: not known
}

func (p print) is(other print) bool {
	if p.hash != 0 && other.hash != 0 {
		return p.hash == other.hash
	}
	return p.Mark == other.Mark
}

func printOf(seed maphash.Seed, item []byte) print {
	return print{ledger.MarkOf(item), maphash.Bytes(seed, item)}
}

// add notes an item.
func (m *marks) add(n uint64, item print) {
	i := m.from(n)
	if i < len(*m) && (*m)[i].number == n {
		(*m)[i].print = item
		return
	}
	*m = slices.Insert(*m, i, landmark{number: n, print: item})
	if len(*m) > maxMarks {
		m.thin()
	}
}

// follow notes the item behind item n, if n is remembered.
func (m marks) follow(n uint64, next []byte) {
	if i := m.from(n); i < len(m) && m[i].number == n {
		m[i].next = ledger.MarkOf(next)
	}
}

// thin forgets every other mark but the first ones and the last.
func (m *marks) thin() {
	kept := (*m)[:0]
	for i, one := range *m {
		if i%2 == 0 || i == len(*m)-1 {
			kept = append(kept, one)
		}
	}
	*m = kept
}

// last is the last mark of an item below number n.
func (m marks) last(n uint64) (one landmark, ok bool) {
	i := m.from(n)
	if i == 0 {
		return one, false
	}
	return m[i-1], true
}

// cut forgets the items below from, and those from to on.
func (m *marks) cut(from, to uint64) {
	*m = slices.DeleteFunc(*m, func(one landmark) bool { return one.number < from || one.number >= to })
	if i := len(*m) - 1; i >= 0 && (*m)[i].number == to-1 {
		(*m)[i].next = ""
	}
}

// from is the index of the first mark of an item from number n on.
func (m marks) from(n uint64) int {
	i, _ := slices.BinarySearchFunc(m, n, func(one landmark, n uint64) int { return cmp.Compare(one.number, n) })
	return i
}
