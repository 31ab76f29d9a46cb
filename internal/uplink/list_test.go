package uplink

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// fakeList is a list with its ledger and the durable consumer of an uplink: Redis and the relay.
type fakeList struct {
	name string

	mu     sync.Mutex // as the relay's: held in Deliver and Room
	feed   *Feed
	lost   bool // another process owns the list
	epochs int
	first  uint64   // number of the item at the head
	items  []string // in Redis
	acked  numbers.Set
	saved  numbers.Set // the part of acked that is in the ledger
	dead   map[string]string
	buried map[string]string // those of dead that the ledger has
	again  []uint64          // delivered once, and to be redelivered
	cursor uint64
	given  map[uint64]string // items held by the feed, with their epochs
}

func newFakeList(name string) *fakeList {
	return &fakeList{name: name, epochs: 1, first: 1, cursor: 1, dead: map[string]string{}, buried: map[string]string{}, given: map[uint64]string{}}
}

func (l *fakeList) epoch() string { return fmt.Sprint("epoch", l.epochs) }
func (l *fakeList) end() uint64   { return l.first + uint64(len(l.items)) }

func (l *fakeList) push(items ...string) {
	l.mu.Lock()
	l.items = append(l.items, items...)
	l.mu.Unlock()
}

// join makes a feed the member, as a new process does.
func (l *fakeList) join(f *Feed) {
	l.mu.Lock()
	l.feed = f
	l.mu.Unlock()
	f.Join(l)
	l.load(false)
}

// load reads the ledger, as after an error of Redis: confirmations that are not in it are lost.
func (l *fakeList) load(newEpoch bool) {
	l.feed.Reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	if newEpoch {
		l.epochs++
	}
	l.acked, l.dead = l.saved.Clone(), maps.Clone(l.buried)
	l.acked.Raise(l.first)
	l.cursor, l.again = l.acked.Floor(), nil
	clear(l.given)
}

// renew begins a new epoch in which the numbers stand for the same items, as after a restart of
// Redis that this process survives.
func (l *fakeList) renew() {
	l.mu.Lock()
	l.epochs++
	l.mu.Unlock()
}

// save is the script: it writes the ledger and removes finished items.
func (l *fakeList) save() {
	l.saved, l.buried = l.acked.Clone(), maps.Clone(l.dead)
	for l.first < l.acked.Floor() && len(l.items) > 0 {
		l.first, l.items = l.first+1, l.items[1:]
	}
}

// turn is a turn of the loop: the script, and a read if the feed has room.
func (l *fakeList) turn(most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.save()
	for len(l.again) > 0 && l.feed.Room() > 0 {
		if !l.deliver(l.again[0], 1) {
			return
		}
		l.again = l.again[1:]
	}

	from, to := l.acked.Gap(l.cursor)
	to = min(to, l.end())
	if room := l.feed.Room(); from < to && room > 0 {
		n := min(int(to-from), room, most)
		if l.deliver(from, n) {
			l.cursor = from + uint64(n)
		}
	}
}

func (l *fakeList) deliver(from uint64, n int) bool {
	var items [][]byte
	for i := range n {
		items = append(items, []byte(l.items[from-l.first+uint64(i)]))
	}
	b := batch.Of(l.name, from, items...).Stamp(l.epoch(), time.Now(), 0)
	defer b.Release()
	taken := l.feed.Deliver(b, 0, n, noReceipt{})
	for i := range taken {
		l.given[from+uint64(i)] = l.epoch()
	}
	return taken == n
}

type noReceipt struct{}

func (noReceipt) Confirm() {}

// insert adds items at the head: they get the numbers below it, in a new epoch.
func (l *fakeList) insert(items ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()

	n := uint64(len(items))
	if l.first <= n {
		return false
	}
	l.epochs++
	l.first -= n
	l.items = slices.Concat(items, l.items)
	l.acked.Remove(l.first, l.first+n)
	l.saved = l.acked.Clone() // the ledger is told in the same step
	l.buried = maps.Clone(l.dead)
	if l.cursor <= l.first+n {
		l.cursor = l.first
	} else {
		for i := range n {
			l.again = append(l.again, l.first+i)
		}
	}

	return true
}

// lose makes Redis lose its newest items, and begins a new epoch.
func (l *fakeList) lose(n int) (lost []string) {
	l.mu.Lock()
	n = min(n, len(l.items))
	lost = slices.Clone(l.items[len(l.items)-n:])
	l.items = l.items[:len(l.items)-n]
	l.saved.Cut(l.end())
	l.mu.Unlock()
	l.load(true)
	return lost
}

func (l *fakeList) compare(_ context.Context, _ string, from uint64, items [][]byte) (first uint64, equal int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = max(from, l.first)
	for i := first; i < min(l.end(), from+uint64(len(items))) && string(items[i-from]) == l.items[i-l.first]; i++ {
		equal++
	}
	return first, equal, nil
}

// owns reports whether the list belongs to this process.
func (l *fakeList) owns() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.lost
}

// idle reports whether all items are confirmed.
func (l *fakeList) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked.Floor() >= l.end()
}

func (l *fakeList) Leave()                                {}
func (l *fakeList) Finish(int)                            {}
func (l *fakeList) Owed() int                             { return 0 }
func (l *fakeList) Update()                               {}
func (l *fakeList) Pending(uint64) (n uint64, known bool) { return 0, true }
func (l *fakeList) Acknowledge(epoch string, n uint64, a batch.Ack, _ func(error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given[n] != epoch {
		return batch.ErrNotGiven
	}
	delete(l.given, n)
	l.acked.Add(n, n+1)
	if a.Kind == batch.Terminated {
		l.dead[l.items[n-l.first]] = a.Reason
	}
	return nil
}
