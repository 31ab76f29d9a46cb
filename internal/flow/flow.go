// Package flow bounds the bytes in flight over a link by the time that their confirmations take. On
// a slow link, bytes in flight delay all later ones.
package flow

import (
	"math"
	"time"
)

// Window is the number of bytes that may be in flight. One goroutine owns it, or its owner's lock
// guards it.
type Window struct {
	Bytes int

	least int
	delay time.Duration
	base  time.Duration // the shortest time that a confirmation took: that of an idle link
	since time.Time     // time of the last cut
}

// New makes a Window that begins with first bytes and never has fewer than least. Its bytes should
// delay a confirmation by at most delay.
func New(first, least int, delay time.Duration) Window {
	return Window{Bytes: first, least: min(least, first), delay: delay, base: math.MaxInt64}
}

// Confirmed notes that bytes sent at a given time are confirmed now. Fast confirmations double the
// window in the time that one of them takes, up to most bytes, if full says that more would have
// been sent. A slow confirmation cuts it once in that time.
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
