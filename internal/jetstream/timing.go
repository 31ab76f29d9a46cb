package jetstream

import (
	"container/heap"
	"context"
	"time"
)

// status is a message without payload that is due.
type status struct {
	outlet Outlet
	header string // empty: none is sent
	reply  string
	last   bool // the Outlet is closed afterwards
}

// say queues a status to be sent soon. It may be called with a consumer's mu held.
func (a *API) say(s status) {
	a.timing.Lock()
	a.statuses = append(a.statuses, s)
	a.timing.Unlock()
	a.poke()
}

func (a *API) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// keepTime sends statuses, and calls tick of consumers that are due.
func (a *API) keepTime(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		a.timing.Lock()
		statuses := a.statuses
		a.statuses = nil
		now := time.Now()
		var due []*consumer
		for len(a.due) > 0 && !a.due[0].next.After(now) {
			due = append(due, heap.Pop(&a.due).(*consumer))
		}
		sleep := time.Hour
		if len(a.due) > 0 {
			sleep = a.due[0].next.Sub(now)
		}
		a.timing.Unlock()

		for _, s := range statuses {
			if s.header != "" {
				s.outlet.Send(s.header, s.reply)
			}
			if s.last {
				s.outlet.Close()
			}
		}
		for _, c := range due {
			c.tick(now)
		}
		if len(statuses)+len(due) > 0 {
			continue
		}
		timer.Reset(sleep)
		select {
		case <-timer.C:
		case <-a.wake:
		case <-ctx.Done():
			return
		}
	}
}

// tick does everything that is due: heartbeats, expired requests, the end of a consumer that was
// not used for long.
func (c *consumer) tick(now time.Time) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	changed := c.tickPulls(now)
	c.tickPush(now)
	over := c.inactive(now)
	c.schedule(now)
	c.mu.Unlock()

	if changed {
		c.membership.Update()
	}
	if over {
		c.api.expire(c)
	}
}

// closedInterval is the time between two checks for requests without a subscription.
const closedInterval = 30 * time.Second

// tickPulls ends expired requests, and reports whether there were any. mu is held.
func (c *consumer) tickPulls(now time.Time) (ended bool) {
	if before := len(c.waiting); !now.Before(c.checked.Add(closedInterval)) {
		c.dropClosed()
		c.checked = now
		ended = len(c.waiting) < before
	}

	kept := c.waiting[:0]
	for _, p := range c.waiting {
		switch {
		case !p.expires.IsZero() && !now.Before(p.expires):
			c.finish(p, unfilled("408 Request Timeout", p))
			ended = true
			continue
		case p.heartbeat > 0 && !now.Before(p.beat):
			if !p.outlet.Open() {
				c.finish(p, "")
				ended = true
				continue
			}
			c.api.say(status{outlet: p.outlet, header: c.heartbeat()})
			p.beat = now.Add(p.heartbeat)
		}
		kept = append(kept, p)
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
	return ended
}

// inactive reports whether the consumer is to be deleted because it lags too much or no client uses
// it. mu is held.
func (c *consumer) inactive(now time.Time) bool {
	if c.lags {
		return true
	}
	if threshold := c.threshold(); threshold == 0 || now.Before(c.active.Add(threshold)) {
		return false
	}
	if c.config.push() && c.subscribed() {
		c.active = now
	}
	for _, p := range c.waiting {
		if p.outlet.Open() {
			c.active = now
		}
	}
	return !c.active.Equal(now)
}

// threshold returns how long the consumer stays without use; 0: for ever. A viewer whose client is
// gone stays no longer than the default. mu is held.
func (c *consumer) threshold() time.Duration {
	if c.views && c.maker != nil && !c.maker.Connected() {
		return min(c.config.InactiveThreshold, defaultInactive)
	}
	return c.config.InactiveThreshold
}

// schedule sets the time of the next tick. mu is held.
func (c *consumer) schedule(now time.Time) {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, p := range c.waiting {
		sooner(p.expires)
		if p.heartbeat > 0 {
			sooner(p.beat)
		}
	}

	if len(c.waiting) > 0 {
		sooner(c.checked.Add(closedInterval))
	}

	sooner(c.push.beat)
	if threshold := c.threshold(); threshold > 0 {
		sooner(later(c.active.Add(threshold), now.Add(leastTick)))
	}
	if c.views {
		sooner(now.Add(defaultInactive)) // its client may be gone by then
	}
	if c.lags {
		sooner(now.Add(leastTick))
	}
	c.api.schedule(c, next)
}

// leastTick is the least time between two checks whether a consumer is used.
const leastTick = 100 * time.Millisecond

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// schedule sets the time of a consumer's next tick; zero: never.
func (a *API) schedule(c *consumer, at time.Time) {
	a.timing.Lock()
	switch c.next = at; {
	case at.IsZero() && c.index >= 0:
		heap.Remove(&a.due, c.index)
	case at.IsZero():
	case c.index >= 0:
		heap.Fix(&a.due, c.index)
	default:
		heap.Push(&a.due, c)
	}
	first := len(a.due) > 0 && a.due[0] == c
	a.timing.Unlock()
	if first {
		a.poke()
	}
}

func (a *API) unschedule(c *consumer) { a.schedule(c, time.Time{}) }

// timers is a heap by next.
type timers []*consumer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].next.Before(h[j].next) }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *timers) Push(x any) {
	c := x.(*consumer)
	c.index = len(*h)
	*h = append(*h, c)
}
func (h *timers) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	c.index = -1
	*h = old[:len(old)-1]
	return c
}
