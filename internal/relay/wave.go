package relay

import (
	"slices"
	"time"
)

const (
	// maxWaves is the most waves that a list has at a time. Each is about half as fast as the
	// next, so all of them together read little more than the front.
	maxWaves = 4
	// waveTurn is how long a wave lasts at least, and the longest that half of its members
	// wait for the other half.
	waveTurn = 3 * time.Second
)

// wave is a place behind the front at which consumers wait for each other, so that one read
// serves all of them. It leaves consumers that are too slow where they are. A consumer at no
// wave waits until one comes to its place or begins there.
type wave struct {
	pace            // of the consumers at this place
	place uint64    // number of the item that they need next
	came  time.Time // when items were last delivered there
	began time.Time // when its turn began
}

// goes reports whether the wave's next batch may be read: all members have room, or the
// others have had their time.
func (w *wave) goes(now time.Time) bool {
	return w.blocked < w.members && (w.blocked == 0 || !now.Before(w.deadline()))
}

// note notes a change of members or blocked.
func (w *wave) note(now func() time.Time) {
	if w.half.IsZero() {
		w.took = min(now().Sub(w.came), waveTurn)
	}
	w.count(now)
}

// waveAt returns the wave at a place; nil: there is none.
func (l *Log) waveAt(place uint64) *wave {
	for _, w := range l.waves {
		if w.place == place {
			return w
		}
	}
	return nil
}

// planWaves begins waves for consumers that have room and are at no wave, the lowest first.
// If there are maxWaves already, the oldest one ends for the consumer that has waited longest.
func (l *Log) planWaves(end uint64, now time.Time) {
	l.countWaves(now)
	for l.held = (time.Time{}); ; l.countWaves(now) {
		var lowest, longest *consumer
		for _, c := range l.consumers {
			if c.free.IsZero() || c.next >= end || l.waveAt(c.next) != nil {
				continue
			}
			if lowest == nil || c.next < lowest.next {
				lowest = c
			}
			if longest == nil || c.free.Before(longest.free) {
				longest = c
			}
		}
		if lowest == nil {
			return
		}

		if len(l.waves) == maxWaves {
			lowest, l.held = longest, longest.free
			if began := l.waves[0].began; began.After(l.held) {
				l.held = began
			}
			if l.held = l.held.Add(waveTurn); now.Before(l.held) {
				return
			}
			l.waves = slices.Delete(l.waves, 0, 1)
		}
		l.waves = append(l.waves, &wave{place: lowest.next, came: lowest.handed, began: now})
	}
}

// countWaves counts the consumers at each wave. A wave without any ends.
func (l *Log) countWaves(now time.Time) {
	at := func() time.Time { return now }
	for _, w := range l.waves {
		w.members, w.blocked = 0, 0
	}
	for _, c := range l.consumers {
		since(&c.free, l.free(c), at)
		c.next, _ = c.acked.Gap(c.cursor)
		if w := l.waveAt(c.next); w != nil && !c.front && c.active() {
			w.members++
			if c.free.IsZero() {
				w.blocked++
			}
		}
	}

	l.waves = slices.DeleteFunc(l.waves, func(w *wave) bool { return w.members == 0 })
	for _, w := range l.waves {
		w.note(at)
	}
}

// free reports whether a consumer behind the front has room for its next item.
func (l *Log) free(c *consumer) bool {
	return !c.front && l.hasShare(c) && l.room(c) > 0 && c.active() && l.ready(c)
}

// freed notes that a consumer has confirmed items, and reports whether a wave can begin or go
// on now, or at another time than Plan said.
func (l *Log) freed(c *consumer) bool {
	if !c.free.IsZero() || !l.free(c) {
		return false
	}
	c.free = l.opts.Now()
	w := l.waveAt(c.next)
	if w == nil {
		return len(l.waves) < maxWaves || l.held.IsZero()
	}
	before := w.deadline()
	w.blocked--
	w.note(l.opts.Now)
	return w.blocked == 0 || w.deadline() != before
}

// moveWaves moves the waves in a batch to its end and makes one of them.
func (l *Log) moveWaves(from, to uint64, now time.Time) {
	var moved *wave
	l.waves = slices.DeleteFunc(l.waves, func(w *wave) bool {
		if w.place < from || w.place > to {
			return false
		}
		if moved == nil {
			moved = w
			*w = wave{place: to, came: now, began: w.began}
		}
		return moved != w
	})
}
