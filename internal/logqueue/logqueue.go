// Package logqueue keeps the destination of a log from blocking the program: a pipe that is full
// because its reader has stopped, a journal that hangs.
//
// Entries go to a bounded queue, and one goroutine sends them in order. Entries that find the queue
// full, and those that cannot be sent, are dropped and counted. The next entry that gets through is
// followed by one with the count.
package logqueue

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	length     = 1024        // entries
	closeGrace = time.Second // for the queue to be sent at Close
)

// Queue is a queue of entries. Its methods may be called from any goroutine.
type Queue[Entry any] struct {
	send    func(Entry) error
	lost    func(n uint64) Entry
	dropped atomic.Uint64
	done    chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	closed  bool       // guarded by mu
	entries chan Entry // closed under mu
}

// New makes a queue and starts its goroutine, which Close ends. Only that goroutine calls send and
// lost; lost makes the entry with the number of dropped entries.
func New[Entry any](send func(Entry) error, lost func(n uint64) Entry) *Queue[Entry] {
	q := &Queue[Entry]{send: send, lost: lost, done: make(chan struct{}), entries: make(chan Entry, length)}
	go q.run()
	return q
}

// Put adds an entry, or drops it. It never waits.
func (q *Queue[Entry]) Put(e Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		select {
		case q.entries <- e:
			return
		default:
		}
	}
	q.dropped.Add(1)
}

// Dropped returns the number of entries that were dropped.
func (q *Queue[Entry]) Dropped() uint64 { return q.dropped.Load() }

// Close sends the entries in the queue and ends the goroutine. A destination that hangs delays it
// for at most a second. Later entries are dropped.
func (q *Queue[Entry]) Close() {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.entries)
	}
	q.mu.Unlock()

	select {
	case <-q.done:
	case <-time.After(closeGrace):
	}
}

func (q *Queue[Entry]) run() {
	defer close(q.done)
	var told uint64 // the part of dropped that was reported
	for e := range q.entries {
		if q.send(e) != nil {
			q.dropped.Add(1)
			continue
		}
		if n := q.dropped.Load(); n > told && q.send(q.lost(n-told)) == nil {
			told = n
		}
	}
}
