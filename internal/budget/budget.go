// Package budget bounds memory that many holders share. If they hold too much, it names the largest
// holder.
package budget

import (
	"container/heap"
	"sync"
)

// Budget is an amount of memory. Its methods may be called from any goroutine; its lock is the last
// to be taken. The nil Budget has no bound.
type Budget struct {
	mu      sync.Mutex
	limit   int
	used    int
	holders holders // the holders that hold something and are not condemned, the largest first
}

// New makes a budget of limit bytes.
func New(limit int) *Budget { return &Budget{limit: limit} }

// SetLimit changes the bound. It takes effect with the next Take.
func (b *Budget) SetLimit(limit int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
}

// Used returns the number of bytes held, without those of condemned holders.
func (b *Budget) Used() int {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Holder holds memory of a budget. The zero Holder, or a Holder of a nil Budget, is not counted.
type Holder struct {
	budget *Budget
	cut    func()

	// Guarded by budget.mu.
	held      int
	index     int // in holders; meaningless if it holds nothing or is condemned
	condemned bool
}

// Init makes h a holder of b. cut makes it give back all that it holds, at once or soon;
// Condemned.Cut calls it.
func (h *Holder) Init(b *Budget, cut func()) { h.budget, h.cut = b, cut }

// Condemned are holders that have to give back the memory that they hold.
type Condemned []*Holder

// Cut calls the cut function of each. It must not be called with a lock held.
func (c Condemned) Cut() {
	for _, h := range c {
		h.cut()
	}
}

// Take notes that h holds n bytes more, or fewer if n is negative. If the total is over the bound,
// the largest holders are condemned until the rest is within it. They count as if they had given
// back all that they hold. The caller has to call Cut.
func (h *Holder) Take(n int) (over Condemned) {
	b := h.budget
	if b == nil || n == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h.held += n
	if h.condemned {
		return nil
	}
	b.used += n
	switch {
	case h.held == 0:
		heap.Remove(&b.holders, h.index)
	case h.held == n:
		heap.Push(&b.holders, h)
	default:
		heap.Fix(&b.holders, h.index)
	}

	for n > 0 && b.used > b.limit && len(b.holders) > 0 {
		largest := heap.Pop(&b.holders).(*Holder)
		largest.condemned = true
		b.used -= largest.held
		over = append(over, largest)
	}

	return over
}

// Give notes that h holds n bytes fewer.
func (h *Holder) Give(n int) { h.Take(-n) }

// holders is a heap by held, the largest first.
type holders []*Holder

func (h holders) Len() int           { return len(h) }
func (h holders) Less(i, j int) bool { return h[i].held > h[j].held }
func (h holders) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *holders) Push(x any) {
	holder := x.(*Holder)
	holder.index = len(*h)
	*h = append(*h, holder)
}
func (h *holders) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
