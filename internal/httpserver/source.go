package httpserver

import (
	"context"
	"time"
)

// List is a list whose items are shown.
type List struct{ Key, Subject string }

// Source reads lists outside the loop. Its method may be called from any goroutine.
type Source interface {
	// Read returns up to n items of a list, from a place on. They have at most so many bytes,
	// except that one item is always returned. It removes nothing from the list.
	Read(ctx context.Context, key string, from From, n, bytes int) (Part, error)
}

// From is the beginning of a Read.
type From struct {
	Number uint64    // with this item, or with the head if it is gone
	Since  time.Time // not zero: with the first item that was seen then, in place of Number
	AtEnd  bool      // no items are asked for
}

// Part is a part of a list.
type Part struct {
	Epoch string // of the numbers; empty: the list has no ledger yet
	First uint64 // the number of the head
	End   uint64 // one past the last item
	Owner string // of another process that serves the list, if there is one
	Items []Item
}

// Item is one of a Part.
type Item struct {
	Number uint64
	Seen   time.Time // when edged first saw it; zero: unknown
	Data   []byte

	Duplicate bool // no stream shows it
}

// seenBy returns when the item was first seen, which is now at the latest.
func (it Item) seenBy(now time.Time) time.Time {
	if it.Seen.IsZero() {
		return now
	}
	return it.Seen
}

// begin returns the place at which a viewer that has reached a place goes on. lost says that it may
// miss items between the two: Redis no longer has them, or the numbers of another epoch stand for
// different items.
func (p Part) begin(at place) (next place, lost bool) {
	next = place{p.Epoch, at.next}
	lost = at.epoch != p.Epoch && at.epoch != ""
	switch {
	case at.next < p.First, lost && at.next > p.End:
		next.next, lost = p.First, true
	case at.next > p.End: // items were removed at the tail
		next.next, lost = p.End, true
	}
	return next, lost
}
