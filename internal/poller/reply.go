package poller

import (
	"edged/internal/batch"
	"edged/internal/ledger"
)

// gather is the sink that keeps the items of a batch. Memory is bounded whatever
// Redis sends: behind maxBytes, or maxLarge where the items are Large, it keeps
// nothing more, and of an item over maxItem only its mark.
type gather struct {
	maxBytes int // of the items kept; one is always kept
	maxLarge int
	maxItem  int // bytes of one item

	memory *batch.Memory
	size   int       // bytes of the items kept
	large  *tooLarge // the first item over maxItem, if it directly follows the items kept
	cut    bool      // items were left out, from this one on
	total  int       // items in the reply
	most   int       // bytes of the largest

	marking *ledger.Marker // of the current item while that is the large one
}

// tooLarge is an item over maxItem.
type tooLarge struct {
	size int
	mark ledger.Mark
}

func (g *gather) Begin(size int) (keep bool) {
	g.total++
	g.most = max(g.most, size)
	g.marking = nil
	if size > g.maxItem && !g.cut {
		g.cut, g.marking = true, new(ledger.Marker)
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
		g.marking.Add(p)
	}
}

func (g *gather) End(s batch.Span) {
	switch {
	case g.marking != nil:
		g.large = &tooLarge{g.most, g.marking.Mark()}
	case !g.cut:
		g.memory.Spans = append(g.memory.Spans, s)
	}
}
