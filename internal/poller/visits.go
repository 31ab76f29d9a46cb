package poller

import (
	"container/heap"
	"slices"
	"sync"
	"time"
)

// visits say which lists the loop has to look at: those for which something has happened,
// and those whose time has come. Lists with nothing to do cost nothing, however many there are.
type visits struct {
	mu   sync.Mutex
	rung []*reader // guarded by mu, with reader.rung: in the order in which it happened

	waiting dues // owned by the loop
}

// ring has the loop look at a list, from any goroutine. The loop may have to be woken for it.
func (v *visits) ring(r *reader) {
	v.mu.Lock()
	if !r.rung {
		r.rung = true
		v.rung = append(v.rung, r)
	}
	v.mu.Unlock()
}

// next returns the lists to look at now: first those that were rung.
func (v *visits) next(now time.Time) []*reader {
	for len(v.waiting) > 0 && !now.Before(v.waiting[0].visitAt) {
		v.ring(heap.Pop(&v.waiting).(*reader))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.rung
	v.rung = nil
	for _, r := range next {
		r.rung = false
	}
	return next
}

// wait has the loop look at a list again when it is due.
func (v *visits) wait(r *reader) {
	r.visitAt = r.due
	if r.waits == 0 {
		heap.Push(&v.waiting, r)
	} else {
		heap.Fix(&v.waiting, r.waits-1)
	}
}

// forget ends the visits to a list.
func (v *visits) forget(r *reader) {
	if r.waits > 0 {
		heap.Remove(&v.waiting, r.waits-1)
	}
	v.mu.Lock()
	v.rung = slices.DeleteFunc(v.rung, func(other *reader) bool { return other == r })
	v.mu.Unlock()
}

// dues is a heap of lists by visitAt.
type dues []*reader

func (h dues) Len() int           { return len(h) }
func (h dues) Less(i, j int) bool { return h[i].visitAt.Before(h[j].visitAt) }
func (h dues) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].waits, h[j].waits = i+1, j+1
}
func (h *dues) Push(x any) {
	r := x.(*reader)
	*h = append(*h, r)
	r.waits = len(*h)
}
func (h *dues) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	r.waits = 0
	*h = old[:len(old)-1]
	return r
}
