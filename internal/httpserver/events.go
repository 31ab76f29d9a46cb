package httpserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/subject"
)

// Events shows the items of lists as Server-Sent Events. Its viewers are no consumers: they do not
// cause a list to be served, owe nothing and hold nothing back.
//
// Each list that is shown has one feed, which follows its tail. It gets batches that the loop reads
// for consumers (Show keeps a reference and returns), and reads the list itself if the loop does
// not. It keeps the last 256 KiB in a ring, encoded once a form. A stream is a place in the ring of
// each of its lists, so a thousand streams take no more memory for items than one. A slow stream
// that falls out of the ring is told of the gap. A stream that resumes reads from Redis, piece by
// piece, until it reaches a place in the ring.
//
// A viewer in the relay could replace all of that. But the ledger bounds consumers at 64 a list, a
// consumer at the tail takes every second turn of the loop from a consumer with a backlog, and it
// makes its instance claim the list, which keeps the consumers of another instance waiting.
type Events struct {
	opts  EventsOptions
	shown atomic.Pointer[map[string]*feed] // by key; for the loop

	mu       sync.Mutex
	version  atomic.Uint64        // counts changes of lists
	lists    []List               // guarded by mu; never changed in place
	feeds    map[string]*feed     // guarded by mu; by key
	streams  map[*stream]struct{} // guarded by mu
	draining chan struct{}        // closed when all streams are to end for good
}

// EventsOptions are the options of Events.
type EventsOptions struct {
	Source     Source
	Lists      []List
	MaxStreams int
	Random     func(n uint64) uint64 // returns a number below n; nil means math/rand
}

// Bounds of a stream.
const (
	// maxLists is the maximum number of lists of a stream. An id holds a place of each list, and a
	// browser returns it in a header of at most 8 KiB.
	maxLists  = 64
	heartbeat = 15 * time.Second

	fullRetry  = 30 * time.Second // for a stream over the limit; up to as long again is added
	leastRetry = time.Second      // after the end of a stream
	mostRetry  = 10 * time.Second
)

// NewEvents makes Events, a handler for "/events" and "/events/{subject...}".
func NewEvents(o EventsOptions) *Events {
	if o.Random == nil {
		o.Random = func(n uint64) uint64 { return rand.Uint64N(n) }
	}
	e := &Events{
		opts: o, lists: o.Lists, feeds: make(map[string]*feed), streams: make(map[*stream]struct{}),
		draining: make(chan struct{}),
	}
	e.publish()
	return e
}

// Show takes a batch that the loop has read from a list and handed to consumers. It does not block.
func (e *Events) Show(key string, b *batch.Batch) {
	if f := (*e.shown.Load())[key]; f != nil {
		f.show(b)
	}
}

// AddLists adds lists. From now on, streams with a matching subject show them.
func (e *Events) AddLists(lists ...List) {
	e.change(func(old []List) []List { return append(old, lists...) })
}

// RemoveLists takes lists out of all streams.
func (e *Events) RemoveLists(keys ...string) {
	e.change(func(old []List) []List {
		return slices.DeleteFunc(old, func(l List) bool { return slices.Contains(keys, l.Key) })
	})
}

func (e *Events) change(do func([]List) []List) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lists = do(slices.Clone(e.lists))
	e.version.Add(1)
	for s := range e.streams {
		s.rouse()
	}
}

// Drain ends all streams, and each new one at once, because the daemon shuts down. It tells the
// clients to reconnect after a random time.
func (e *Events) Drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.draining:
	default:
		close(e.draining)
	}
}

// Renew ends the streams of users that keeps rejects, so that their clients reconnect and are
// authenticated again.
func (e *Events) Renew(keeps func(*auth.User) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.streams {
		if !s.expired && !keeps(s.user) {
			s.expired = true
			close(s.renewed)
		}
	}
}

// Streams returns the number of streams.
func (e *Events) Streams() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.streams)
}

// matching returns the lists that the patterns of a request cover.
func (e *Events) matching(patterns []string) (lists []List, version uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lists {
		if slices.ContainsFunc(patterns, func(p string) bool { return subject.Matches(p, l.Subject) }) {
			lists = append(lists, l)
		}
	}
	return lists, e.version.Load()
}

// enter counts a stream, unless there are too many.
func (e *Events) enter(s *stream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.streams) >= e.opts.MaxStreams {
		return false
	}
	e.streams[s] = struct{}{}
	return true
}

func (e *Events) exit(s *stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, s)
}

// follow returns the feed of a list to a stream, which leaves it with unfollow.
func (e *Events) follow(l List, s *stream) *feed {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.feeds[l.Key]
	if f == nil || f.list != l {
		f = newFeed(e, l)
		e.feeds[l.Key] = f
		e.publish()
	}
	f.join(s)
	return f
}

// unfollow removes a stream from a feed. The last one ends the feed.
func (e *Events) unfollow(f *feed, s *stream) {
	e.mu.Lock()
	last := f.leave(s)
	if last {
		if e.feeds[f.list.Key] == f {
			delete(e.feeds, f.list.Key)
			e.publish()
		}
		f.end()
	}
	e.mu.Unlock()
	if last {
		<-f.ended
		f.drop() // the loop may have handed over a last batch
	}
}

// publish lets the loop see the feeds. mu is held.
func (e *Events) publish() {
	shown := make(map[string]*feed, len(e.feeds))
	for key, f := range e.feeds {
		shown[key] = f
	}
	e.shown.Store(&shown)
}

// pollEvery returns how long a feed waits for the loop before it reads the list itself.
func (e *Events) pollEvery() time.Duration {
	return max(pollInterval, time.Duration(len(*e.shown.Load()))*pollShare)
}

func (e *Events) read(ctx context.Context, key string, from From) (Part, error) {
	return e.opts.Source.Read(ctx, key, from, pieceItems, pieceBytes)
}

// retry returns a random waiting time for a client.
func (e *Events) retry(least, most time.Duration) time.Duration {
	return least + time.Duration(e.opts.Random(uint64(most-least)/1e6+1))*time.Millisecond
}

// ServeHTTP serves a stream until it ends.
func (e *Events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ask, err := parseRequest(r, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s := &stream{events: e, request: ask, user: UserOf(r), out: w, control: http.NewResponseController(w), woken: make(chan struct{}, 1), renewed: make(chan struct{}), last: time.Now()}
	if status, why := s.refuse(); status != 0 {
		http.Error(w, why, status)
		return
	}

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx
	if r.Method == http.MethodHead {
		return
	}
	if !e.enter(s) {
		s.say(appendEvent(nil, "full", struct {
			Streams int `json:"streams"`
		}{e.opts.MaxStreams}))
		s.say(appendRetry(nil, e.retry(fullRetry, 2*fullRetry)))
		s.flush()
		return
	}
	defer e.exit(s)
	s.serve(r.Context())
}

// refuse returns a status other than 0 for a request that gets no stream. Browsers do not retry
// then.
func (s *stream) refuse() (status int, why string) {
	for _, pattern := range s.request.patterns {
		if !s.user.MaySubscribe(pattern) {
			return http.StatusForbidden, "this user may not subscribe to " + pattern
		}
		if lists, _ := s.events.matching([]string{pattern}); len(lists) == 0 {
			return http.StatusNotFound, "no list has the subject " + pattern + "; a browser does not ask again"
		}
	}
	switch lists, _ := s.lists(); {
	case len(lists) == 0:
		return http.StatusForbidden, "this user may not subscribe to any list of these subjects"
	case len(lists) > maxLists:
		return http.StatusBadRequest, fmt.Sprintf("the subjects match %d lists, and a stream shows %d at most: ask for fewer", len(lists), maxLists)
	}
	return 0, ""
}

// lists returns the lists of the stream.
func (s *stream) lists() (lists []List, version uint64) {
	lists, version = s.events.matching(s.request.patterns)
	return slices.DeleteFunc(lists, func(l List) bool { return !s.user.MaySubscribe(l.Subject) }), version
}
