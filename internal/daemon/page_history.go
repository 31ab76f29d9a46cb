package daemon

import (
	"context"
	"sync"
	"time"

	"edged/internal/poller"
)

// The history is for the plots of a page that is just opened: 15 minutes.
const (
	historyInterval = 5 * time.Second
	historySamples  = 180
	historyLists    = 20 // lists with a plot of their own
)

// The rates of a snapshot count from the snapshot before, if that is neither too close nor
// too old.
const (
	tooClose = 500 * time.Millisecond
	tooOld   = 3 * time.Second
)

// history keeps samples of the last 15 minutes, a column for each number.
type history struct {
	mu        sync.Mutex
	n         int // samples taken so far; guarded by mu, as all below
	at        [historySamples]int64
	taken     [historySamples]float64
	confirmed [historySamples]float64
	backlog   [historySamples]int64
	clients   [historySamples]int
	lists     map[string]*[historySamples]int64 // the backlog, or unknown

	sampled  tally // when the last sample was taken
	snapshot tally // when the last snapshot was
}

// unknown is the backlog of a list that was not served at the time.
const unknown = -1

// pageSample is the last sample of the rates.
type pageSample struct {
	At int64 `json:"at"` // milliseconds since 1970
	rates
}

// pageHistory is the history in columns, the oldest sample first.
type pageHistory struct {
	Interval  float64            `json:"interval_seconds"`
	At        []int64            `json:"at"`
	Taken     []float64          `json:"taken"`
	Confirmed []float64          `json:"confirmed"`
	Backlog   []int64            `json:"backlog"`
	Clients   []int              `json:"clients"`
	Lists     map[string][]int64 `json:"lists"` // the backlog of each; -1: it was not served
}

// remember takes a sample for the history now and then, until ctx is done.
func (d *daemon) remember(ctx context.Context) {
	ticker := time.NewTicker(historyInterval)
	defer ticker.Stop()
	for {
		d.samples.add(d.tally(), d.loop.Lists(), d.tcp.Stats().Clients)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// add adds a sample, whose rates are those since the sample before.
func (h *history) add(now tally, lists []poller.Status, clients int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.n % historySamples
	r := rates{}
	if h.n > 0 {
		r = now.total.since(h.sampled.total, now.at.Sub(h.sampled.at))
	}
	h.at[i], h.taken[i], h.confirmed[i] = now.at.UnixMilli(), r.Taken, r.Confirmed
	h.clients[i], h.backlog[i] = clients, 0

	for _, column := range h.lists {
		column[i] = unknown
	}
	served := make(map[string]bool, len(lists))
	for _, l := range lists {
		served[l.Key] = true
	}
	for _, l := range lists {
		h.backlog[i] += l.Backlog
		h.chart(l.Key, served)
		if column := h.lists[l.Key]; column != nil {
			column[i] = l.Backlog
		}
	}
	h.n++
	h.sampled = now
}

// chart begins a column for a list, if there is room: columns of lists that are not served are
// given up for it. mu is held.
func (h *history) chart(key string, served map[string]bool) {
	if h.lists[key] != nil {
		return
	}
	if h.lists == nil {
		h.lists = make(map[string]*[historySamples]int64)
	}

	for gone := range h.lists {
		if !served[gone] && len(h.lists) == historyLists {
			delete(h.lists, gone)
		}
	}

	if len(h.lists) < historyLists {
		column := new([historySamples]int64)
		for i := range column {
			column[i] = unknown
		}
		h.lists[key] = column
	}
}

// shown keeps the tally of a snapshot for the rates of the next one.
func (h *history) shown(t tally) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshot = t
}

// before returns the tally that the rates of a snapshot count from: that of the snapshot
// before, or of the last sample if there was no page.
func (h *history) before(now time.Time) tally {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since := now.Sub(h.snapshot.at); since >= tooClose && since <= tooOld {
		return h.snapshot
	}
	return h.sampled
}

// last returns the last sample; nil if there is none.
func (h *history) last() *pageSample {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n == 0 {
		return nil
	}
	i := (h.n - 1) % historySamples
	return &pageSample{h.at[i], rates{h.taken[i], h.confirmed[i]}}
}

func (h *history) columns() pageHistory {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := pageHistory{
		Interval: historyInterval.Seconds(), At: ordered(&h.at, h.n), Taken: ordered(&h.taken, h.n), Confirmed: ordered(&h.confirmed, h.n),
		Backlog: ordered(&h.backlog, h.n), Clients: ordered(&h.clients, h.n), Lists: make(map[string][]int64, len(h.lists)),
	}
	for key, column := range h.lists {
		c.Lists[key] = ordered(column, h.n)
	}
	return c
}

// ordered returns the last of n values that were written to a ring, the oldest first.
func ordered[T any](ring *[historySamples]T, n int) []T {
	if n <= historySamples {
		return append([]T{}, ring[:n]...)
	}
	i := n % historySamples
	return append(append(make([]T, 0, historySamples), ring[i:]...), ring[:i]...)
}
