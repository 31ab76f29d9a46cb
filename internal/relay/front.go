package relay

import (
	"slices"
	"time"
)

const (
	// leastPatience is how long a few consumers may at least hold up the rest of the
	// front, and mostOfFront how long more than half may.
	leastPatience = 50 * time.Millisecond
	mostOfFront   = time.Second
	// firstPenalty is for how long one that did is left behind at first; doubled each
	// time, up to mostPenalty.
	firstPenalty = time.Second
	mostPenalty  = time.Minute
)

// pace watches how the front keeps up.
type pace struct {
	members int       // consumers at the front
	blocked int       // of them, those that have no room for another item
	some    time.Time // since when a part of the front waits for the rest; zero: it does not
	half    time.Time // since when at least half of the front does
	all     time.Time // since when the whole front waits for its clients; zero: it does not

	mark   uint64        // end of a batch that less than half of the front has confirmed; 0: none
	marked time.Time     // when it was offered
	passed int           // members that have confirmed it
	took   time.Duration // from the offer of the last such batch until half had confirmed it
}

// offer notes that the front is handed a batch that ends before a number.
func (p *pace) offer(next uint64, now time.Time) {
	if p.mark == 0 {
		p.mark, p.marked, p.passed = next, now, 0
	}
}

// pass counts members that have confirmed the marked batch; less than 0: that leave.
func (p *pace) pass(members int, now func() time.Time) {
	if p.passed += members; p.mark > 0 && p.passed > 0 && 2*p.passed >= p.members {
		p.took, p.mark = now().Sub(p.marked), 0
	}
}

// count notes a change of members or blocked.
func (p *pace) count(now func() time.Time) {
	since(&p.some, p.blocked > 0 && p.blocked < p.members, now)
	since(&p.half, p.blocked > 0 && 2*p.blocked <= p.members, now)
	since(&p.all, p.blocked > 0 && p.blocked == p.members, now)
}

// since keeps the time since when something holds.
func since(at *time.Time, holds bool, now func() time.Time) {
	switch {
	case !holds:
		*at = time.Time{}
	case at.IsZero():
		*at = now()
	}
}

// deadline is when those that hold up the front are left behind: they have as long as
// half of the front needs for a batch, or more if they are the larger part. Zero: none do.
func (p *pace) deadline() (at time.Time) {
	if p.some.IsZero() {
		return at
	}
	at = p.some.Add(max(4*p.took, mostOfFront))
	if half := p.half.Add(max(p.took, leastPatience)); !p.half.IsZero() && half.Before(at) {
		at = half
	}
	return at
}

// yields is when a front that waits for its clients is no longer the front, if another
// consumer is further. Zero: it does not wait.
func (p *pace) yields() (at time.Time) {
	if p.all.IsZero() {
		return at
	}
	return p.all.Add(max(p.took, leastPatience))
}

// room is how many more items a consumer may be handed for the first time.
func (l *Log) room(c *consumer) int {
	room := l.opts.Window - c.out
	if c.terms.Explicit {
		room = c.terms.MaxAckPending - c.out
		if p := l.opts.Pending; p != nil {
			room = min(room, max(p.left(), pendingShare-c.out))
		}
	}
	if c.meter != nil {
		room = min(room, c.meter.Room())
	}
	if c.bytes >= l.bound(c) {
		return 0
	}
	return max(0, room)
}

// updateRoom notes whether a consumer holds up the front. One that is asked for nothing
// leaves it: it may be asked again soon, or never.
func (l *Log) updateRoom(c *consumer) {
	l.countPending(c)
	if c.front && c.meter != nil && c.meter.Room() <= 0 {
		l.leaveFront(c)
		return
	}
	blocked := c.front && l.room(c) == 0
	if blocked == c.blocked {
		return
	}
	c.blocked = blocked
	if blocked {
		l.pace.blocked++
	} else {
		l.pace.blocked--
	}
	l.pace.count(l.opts.Now)
}

// lacks reports whether a consumer needs an item that the sweep can read, and notes
// which: one to be delivered again or, behind the front, its next one.
func (l *Log) lacks(c *consumer) bool {
	c.lack, _ = c.firstAgain(0)
	if c.front && c.lack == never || !l.hasShare(c) || !c.active() || !l.ready(c) {
		return false
	}
	if !c.front && l.room(c) > 0 {
		next, _ := c.acked.Gap(c.cursor)
		c.lack = min(c.lack, next)
	}
	return c.lack != never
}

// goes reports whether the sweep may read now for a consumer that lacks an item: one to be
// delivered again, or the next one of its wave.
func (l *Log) goes(c *consumer, now time.Time) bool {
	if c.lack < c.cursor {
		return true
	}
	w := l.waveAt(c.lack)
	return w != nil && w.goes(now)
}

// hasShare reports whether the sweep may read for a consumer: half of its share is free, or
// its reads would be for a few items each.
func (l *Log) hasShare(c *consumer) bool { return c.bytes <= l.share/2 }

// findFront makes the consumers that are furthest the front, if there is none or if it
// yields, and lets those join that have caught up.
func (l *Log) findFront(now time.Time) {
	if at := l.pace.yields(); !at.IsZero() && !now.Before(at) && l.overtaken() {
		for _, c := range l.consumers {
			l.leaveFront(c)
		}
	}
	if l.pace.members > 0 {
		l.rejoinFront(now)
		return
	}
	var furthest *consumer
	for _, c := range l.consumers {
		if c.active() && l.ready(c) && (furthest == nil || c.cursor > furthest.cursor) {
			furthest = c
		}
	}
	if furthest == nil {
		return
	}
	l.front = furthest.cursor
	l.joinFront(furthest, now)
	l.rejoinFront(now)
}

// overtaken reports whether a consumer is further than the front. One that was left behind
// can be: the sweep does not end at a front that waits for its clients.
func (l *Log) overtaken() bool {
	return slices.ContainsFunc(l.consumers, func(c *consumer) bool {
		return !c.front && c.cursor > l.front && c.active() && l.ready(c)
	})
}

// rejoinFront lets the consumers join that have caught up with the front.
func (l *Log) rejoinFront(now time.Time) {
	if l.pace.members == 0 || l.pace.members == len(l.consumers) {
		return
	}
	for _, c := range l.consumers {
		if c.front || c.cursor > l.front || !c.active() || !l.ready(c) || now.Before(c.until) {
			continue
		}
		if next, _ := c.acked.Gap(c.cursor); next >= l.front {
			c.cursor = l.front
			l.joinFront(c, now)
		}
	}
}

func (l *Log) joinFront(c *consumer, now time.Time) {
	c.front, c.joined = true, now
	l.pace.members++
	if c.passed(l.pace.mark) {
		l.pace.pass(1, l.opts.Now)
	}
	l.pace.count(l.opts.Now)
	l.updateRoom(c)
}

// passed reports whether a consumer has confirmed the marked batch, if there is one.
func (c *consumer) passed(mark uint64) bool { return mark > 0 && c.acked.Floor() >= mark }

// leaveFront takes a consumer out of the front.
func (l *Log) leaveFront(c *consumer) {
	if !c.front {
		return
	}
	c.front = false
	l.pace.members--
	passed := 0
	if c.passed(l.pace.mark) {
		passed = -1
	}
	l.pace.pass(passed, l.opts.Now)
	if c.blocked {
		c.blocked = false
		l.pace.blocked--
	}
	l.pace.count(l.opts.Now)
}

// leaveBehind leaves those behind that have held up the front for too long. One that
// has kept up for longer than its last penalty begins with the shortest again.
func (l *Log) leaveBehind(now time.Time) {
	if at := l.pace.deadline(); at.IsZero() || now.Before(at) {
		return
	}
	for _, c := range l.consumers {
		if !c.blocked {
			continue
		}
		if now.Sub(c.joined) > c.penalty {
			c.penalty = 0
		}
		c.penalty = min(max(2*c.penalty, firstPenalty), mostPenalty)
		c.until = now.Add(c.penalty)
		l.leaveFront(c)
	}
}

// nextWake is when Plan has to be called even if nothing happens.
func (l *Log) nextWake(now time.Time) time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	later := func(t time.Time) {
		if t.After(now) {
			sooner(t)
		}
	}
	for _, t := range []time.Time{l.pace.deadline(), l.asideWake(), l.graceEnds, l.lagging.wake} {
		sooner(t)
	}
	if len(l.due) > 0 {
		sooner(l.due[0].due)
	}
	if at := l.pace.yields(); !at.IsZero() && !l.stopped && l.overtaken() {
		sooner(at)
	}
	if !l.stopped {
		for _, w := range l.waves {
			later(w.deadline())
		}
		later(l.held)
	}
	if l.pace.members < len(l.consumers) {
		for _, c := range l.consumers {
			if !c.front && c.cursor == l.front {
				later(c.until)
			}
		}
	}
	return next
}
