// Package flow bounds the bytes on their way over a link by the time that their confirmations take: on a slow
// link, bytes that are on their way delay all that is sent after them.
package flow

import (
	"math"
	"time"
)

// Window is how many bytes may be on their way. It is owned by one goroutine, or guarded by its owner's lock.
type Window struct {
	Bytes int

	least int
	delay time.Duration
	base  time.Duration // the shortest time that a confirmation took: that of a link without other bytes on it
	since time.Time     // when it was cut last
}

// New makes a Window that begins with so many bytes and never has fewer than least. The bytes should
// delay a confirmation by delay at most.
func New(first, least int, delay time.Duration) Window {
	return Window{Bytes: first, least: min(least, first), delay: delay, base: math.MaxInt64}
}

// Confirmed notes that bytes which were sent at a time are confirmed now. Fast confirmations double the window in the
// time that one takes, up to most bytes, if full says that more would have been sent; a slow one cuts it once in that time.
func (w *Window) Confirmed(bytes int, sent, now time.Time, full bool, most int) {
	took := now.Sub(sent)
	w.base = min(w.base, took)
	switch delay := took - w.base; {
	case delay > w.delay && sent.After(w.since):
		w.Bytes = max(w.Bytes*5/8, w.least)
		w.since = now
	case delay < w.delay/2 && full:
		w.Bytes = max(w.Bytes, min(w.Bytes+min(bytes, w.Bytes), most))
	}
}
