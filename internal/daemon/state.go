package daemon

import (
	"slices"
	"sync"
	"time"

	"edged/internal/config"
	"edged/internal/progress"
	"edged/internal/relay"
	"edged/internal/tcpserver"
)

// lifecycle takes the orders to end, and tells how far the end has come.
type lifecycle struct {
	orders  chan stop     // orders to drain or to quit; holds one
	begun   chan struct{} // closed when the drain begins
	drained chan struct{} // closed with the books

	drain *progress.Task // nil before the drain; main alone uses it

	mu  sync.Mutex
	why string // guarded by mu; why the daemon drains, empty while it serves
}

func newLifecycle() *lifecycle {
	return &lifecycle{orders: make(chan stop, 1), begun: make(chan struct{}), drained: make(chan struct{})}
}

// stop is an order to end.
type stop struct {
	why     string
	timeout time.Duration // for the clients to leave
	quit    bool          // waits for no client
	code    int           // the exit code
}

// order hands on a stop. If one is waiting already, that one stands, unless the new
// one is a quit, which takes its place.
func (l *lifecycle) order(s stop) {
	for {
		select {
		case l.orders <- s:
			return
		default:
		}
		if !s.quit {
			return
		}
		select {
		case <-l.orders:
		default:
		}
	}
}

// beginDrain notes that the drain has begun, and the task that it is; it is called once.
func (l *lifecycle) beginDrain(why string, drain *progress.Task) {
	l.drain = drain
	l.mu.Lock()
	l.why = why
	l.mu.Unlock()
	close(l.begun)
}

// draining returns why the daemon drains; it is empty while the daemon serves.
func (l *lifecycle) draining() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// served is the configuration in force, and the lists with their books.
type served struct {
	mu    sync.Mutex
	cfg   *config.Config         // guarded by mu; never changed in place
	all   []relayed              // guarded by mu; in the order of cfg, never changed in place
	ended map[string]relay.Stats // guarded by mu; by key: the books of lists that reload has removed
}

// relayed is a list that is served.
type relayed struct {
	config.List
	window
	before relay.Stats // its books until a reload removed it and added it again
}

// Stats returns the books of the list since the start of the process.
func (l relayed) Stats() relay.Stats {
	s := l.window.Stats()
	addBooks(&s, l.before)
	return s
}

// window is a list's place in the relay, whatever its items are confirmed by.
type window interface {
	tcpserver.Joiner
	Stats() relay.Stats
	Set(relay.Options)
	State() relay.State
	Durable(name string, below uint64) (i relay.DurableInfo, known bool)
	InUse(name string) bool
	RemoveDurable(name string) bool
	Stop()
	Unload()
}

// config returns the configuration in force, with the changes of reload.
func (s *served) config() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// lists returns the lists that are served now.
func (s *served) lists() []relayed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// fromRight reports whether the right end of a list is its head.
func (s *served) fromRight(key string) bool {
	return slices.ContainsFunc(s.lists(), func(l relayed) bool { return l.Key == key && l.TakeFrom == config.TakeRight })
}

// replace puts a configuration into force, with its lists. One that reload has removed goes on with its books.
func (s *served) replace(cfg *config.Config, lists []relayed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lists = slices.Clone(lists)
	for i, l := range lists {
		if books, ok := s.ended[l.Key]; ok {
			addBooks(&lists[i].before, books)
			delete(s.ended, l.Key)
		}
	}
	s.cfg, s.all = cfg, lists
}

// remove drops lists, whose books stay.
func (s *served) remove(which func(relayed) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		if which(l) {
			b := l.Stats()
			b.Returned += uint64(b.InFlight)
			if s.ended == nil {
				s.ended = make(map[string]relay.Stats)
			}
			s.ended[l.Key] = b
		}
	}
	s.all = slices.DeleteFunc(slices.Clone(s.all), which)
}

// books adds up the books of all lists, and of those that are not served any more.
func (s *served) books() relay.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	var total relay.Stats
	for _, b := range s.ended {
		addBooks(&total, b)
	}
	for _, l := range s.all {
		b := l.Stats()
		addBooks(&total, b)
		total.InFlight += b.InFlight
		if total.Oldest.IsZero() || !b.Oldest.IsZero() && b.Oldest.Before(total.Oldest) {
			total.Oldest = b.Oldest
		}
	}
	return total
}

func addBooks(total *relay.Stats, s relay.Stats) {
	total.Taken += s.Taken
	total.Confirmed += s.Confirmed
	total.Returned += s.Returned
	total.Dead += s.Dead
	total.Gone += s.Gone
	total.Redelivered += s.Redelivered
	total.Duplicates += s.Duplicates
}
