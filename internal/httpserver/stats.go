package httpserver

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Bounds of the stream of snapshots.
const (
	statsInterval = time.Second
	statsTimeout  = 10 * time.Second // for a write
	statsViewers  = 32               // pages at a time
	statsLater    = 30 * time.Second // when a page over the limit retries
)

// Stats sends snapshots to the pages as Server-Sent Events: first the history, then a snapshot a
// second. A snapshot is taken once for all pages, and only if there is a page.
type Stats struct {
	history  func() []byte
	snapshot func() []byte
	started  time.Time

	mu      sync.Mutex
	viewers int    // guarded by mu
	tick    int64  // when latest was taken, in intervals since started; guarded by mu
	latest  []byte // guarded by mu; nil before the first
}

// NewStats returns a Stats that sends the JSON of these functions, which must have no line breaks.
func NewStats(history, snapshot func() []byte) *Stats {
	return &Stats{history: history, snapshot: snapshot, started: time.Now()}
}

// ServeHTTP streams until the browser leaves or the server ends. A browser does not reconnect after
// a status other than 200, so pages over the limit get a stream that ends.
func (s *Stats) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect the snapshots
	if r.Method == http.MethodHead {
		return
	}
	if !s.enter() {
		fmt.Fprintf(w, "retry: %d\nevent: full\ndata: %[1]d\n\n", statsLater.Milliseconds())
		return
	}
	defer s.leave()
	s.stream(statsStream{w, http.NewResponseController(w)}, r)
}

func (s *Stats) stream(to statsStream, r *http.Request) {
	ending := r.Context().Done()
	if to.send("event: history\ndata: %s\n\n", s.history()) != nil {
		return
	}

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			text, next := s.now()
			if to.send("data: %s\n\n", text) != nil {
				return
			}
			timer.Reset(time.Until(next))
		case <-ending:
			retry := time.Second + rand.N(2*time.Second) // spreads the reconnects of the pages
			to.send("retry: %d\nevent: end\ndata: %[1]d\n\n", retry.Milliseconds())
			return
		}
	}
}

// now returns the snapshot of this interval, and when the next interval begins. The first
// caller in an interval takes the snapshot.
func (s *Stats) now() (text []byte, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tick := int64(time.Since(s.started) / statsInterval)
	if s.latest == nil || tick != s.tick {
		s.tick, s.latest = tick, s.snapshot()
	}
	return s.latest, s.started.Add(time.Duration(tick+1) * statsInterval)
}

func (s *Stats) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.viewers == statsViewers {
		return false
	}
	s.viewers++
	return true
}

func (s *Stats) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewers--
}

// statsStream is an answer that stays open.
type statsStream struct {
	w          http.ResponseWriter
	controller *http.ResponseController
}

// send writes an event at once, within statsTimeout.
func (s statsStream) send(format string, args ...any) error {
	s.controller.SetWriteDeadline(time.Now().Add(statsTimeout))
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.controller.Flush()
}
