package relay

import "math/bits"

// bitset marks items of a slot.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) clone() bitset { return append(bitset(nil), b...) }

func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// set marks from (included) to to (excluded).
func (b bitset) set(from, to int) {
	for i := from; i < to; {
		if i%64 == 0 && to-i >= 64 {
			b[i/64] = ^uint64(0)
			i += 64
			continue
		}
		b[i/64] |= 1 << (i % 64)
		i++
	}
}

// count is the number of marks among the first n.
func (b bitset) count(n int) int {
	total := 0
	for i, w := range b {
		if left := n - i*64; left < 64 {
			if left > 0 {
				total += bits.OnesCount64(w & (1<<left - 1))
			}
			break
		}
		total += bits.OnesCount64(w)
	}
	return total
}

// all tells whether the first n are marked.
func (b bitset) all(n int) bool { return b.count(n) == n }

// run is the number of marks from the first on without a gap.
func (b bitset) run(n int) int {
	i := 0
	for i < n && b.has(i) {
		i++
	}
	return i
}

// gap returns the next unmarked range at or behind from; from == to when there
// is none.
func (b bitset) gap(from, n int) (int, int) {
	for from < n && b.has(from) {
		from++
	}
	to := from
	for to < n && !b.has(to) {
		to++
	}
	return from, to
}
