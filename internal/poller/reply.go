package poller

import (
	"crypto/sha1"
	"encoding/hex"
	"hash/maphash"
	"slices"

	"edged/internal/batch"
)

// gather is the sink that keeps the items of a batch. Memory is bounded whatever
// Redis sends: behind maxBytes, or maxLarge where the items are Large, it keeps
// nothing more, and of an item over maxItem only its mark.
type gather struct {
	maxBytes int // of the items kept; one is always kept
	maxLarge int
	maxItem  int // bytes of one item

	memory *batch.Memory
	size   int   // bytes of the items kept
	large  *mark // the first item over maxItem, where it directly follows what was kept
	cut    bool  // items were left out, from this one on
	total  int   // items in the reply
	most   int   // bytes of the largest

	marking *marker // of the current item while that is the large one
}

func (g *gather) Begin(size int) (keep bool) {
	g.total++
	g.most = max(g.most, size)
	g.marking = nil
	if size > g.maxItem && !g.cut {
		g.cut, g.marking = true, new(marker)
	}
	return g.fits(size)
}

// fits tells whether an item fits in, and counts it.
func (g *gather) fits(size int) bool {
	n := len(g.memory.Spans)
	if g.cut = g.cut || n > 0 && g.size+size > g.bound(n+1, g.size+size); g.cut {
		return false
	}
	g.size += size
	return true
}

// bound is how many bytes n items of so many may have.
func (g *gather) bound(n, bytes int) int {
	if batch.IsLarge(bytes, n) {
		return g.maxLarge
	}
	return g.maxBytes
}

func (g *gather) Part(p []byte) {
	if g.marking != nil {
		g.marking.add(p)
	}
}

func (g *gather) End(s batch.Span) {
	switch {
	case g.marking != nil:
		m := g.marking.mark()
		g.large = &m
	case !g.cut:
		g.memory.Spans = append(g.memory.Spans, s)
	}
}

// reverse turns the items round, for lists whose head is the right end.
func (g *gather) reverse() { slices.Reverse(g.memory.Spans) }

// markEnd is how many bytes of either end count for the mark of a large item.
const markEnd = 512

// mark is enough of an item to know it again inside Redis: its length and its
// SHA-1, or where it is longer than two markEnds that of its ends.
type mark struct {
	size int
	sum  string // hex
}

func markOf(item []byte) mark {
	var m marker
	m.add(item)
	return m.mark()
}

// marker makes the mark of an item whose bytes come piece by piece.
type marker struct {
	size       int
	head, tail []byte
}

func (m *marker) add(p []byte) {
	m.size += len(p)
	if room := min(markEnd-len(m.head), len(p)); room > 0 {
		m.head = append(m.head, p[:room]...)
		p = p[room:]
	}
	m.tail = append(m.tail, p[max(0, len(p)-markEnd):]...)
	if over := len(m.tail) - markEnd; over > 0 {
		m.tail = append(m.tail[:0], m.tail[over:]...)
	}
}

func (m *marker) mark() mark {
	h := sha1.New()
	h.Write(m.head)
	h.Write(m.tail)
	return mark{size: m.size, sum: hex.EncodeToString(h.Sum(nil))}
}

// prints is the sink that keeps a hash of each item, to find out where in the
// list what was read before stands now.
type prints struct {
	seed    maphash.Seed
	maxItem int // of larger ones it is that of their mark
	hash    maphash.Hash
	marking *marker
	sums    []uint64
}

func newPrints(seed maphash.Seed, maxItem int) *prints {
	p := &prints{seed: seed, maxItem: maxItem}
	p.hash.SetSeed(seed)
	return p
}

func (p *prints) Begin(size int) (keep bool) {
	p.hash.Reset()
	p.marking = nil
	if size > p.maxItem {
		p.marking = new(marker)
	}
	return false
}

func (p *prints) Part(b []byte) {
	if p.marking != nil {
		p.marking.add(b)
	} else {
		p.hash.Write(b)
	}
}

func (p *prints) End(batch.Span) {
	if p.marking != nil {
		p.sums = append(p.sums, p.marking.mark().hash(p.seed))
	} else {
		p.sums = append(p.sums, p.hash.Sum64())
	}
}

func (m mark) hash(seed maphash.Seed) uint64 { return maphash.Comparable(seed, m) }
