package cursor

import "time"

const (
	// leastPatience is how long a consumer may at least hold up the rest of the front.
	leastPatience = 50 * time.Millisecond
	// firstPenalty is for how long one that did is left behind at first; doubled each
	// time, up to mostPenalty.
	firstPenalty = time.Second
	mostPenalty  = time.Minute
)

// pace watches how the front keeps up.
type pace struct {
	members int       // consumers at the front
	blocked int       // of them, those that have no room for another item
	offered time.Time // the last time: when the front was handed a batch
	half    time.Time // since when at least half of the front waits for the rest; zero: it does not
}

// offer notes that the front is handed a batch.
func (p *pace) offer(now time.Time) { p.offered = now }

// count notes a change of members or blocked.
func (p *pace) count(now func() time.Time) {
	switch waits := p.blocked > 0 && 2*p.blocked <= p.members; {
	case !waits:
		p.half = time.Time{}
	case p.half.IsZero():
		p.half = now()
	}
}

// deadline is when those that hold up the front are left behind: they have as long as
// the first half took.
func (p *pace) deadline() (at time.Time, ok bool) {
	if p.half.IsZero() {
		return at, false
	}
	return p.half.Add(max(p.half.Sub(p.offered), leastPatience)), true
}

// room is how many more items a consumer may be handed for the first time.
func (l *Log) room(c *consumer) int {
	room := l.opts.Window - c.out
	if l.opts.Explicit {
		room = min(room, l.opts.MaxAckPending-c.out)
	}
	if c.bytes >= l.opts.Memory {
		return 0
	}
	return max(0, room)
}

// updateRoom notes whether a consumer holds up the front.
func (l *Log) updateRoom(c *consumer) {
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
	if !c.active() || !l.ready(c) || c.bytes > 0 && c.bytes >= l.share {
		return false
	}
	c.lack, _ = c.firstAgain(0)
	if !c.front && l.room(c) > 0 {
		next, _ := c.acked.Gap(c.cursor)
		c.lack = min(c.lack, next)
	}
	return c.lack != never
}

// findFront makes the consumers that are furthest the front, where there is none, and
// lets those join that have caught up.
func (l *Log) findFront(now time.Time) {
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

// rejoinFront lets the consumers join that have caught up with the front.
func (l *Log) rejoinFront(now time.Time) {
	if l.pace.members == 0 {
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
	l.pace.count(l.opts.Now)
	l.updateRoom(c)
}

// leaveFront takes a consumer out of the front.
func (l *Log) leaveFront(c *consumer) {
	if !c.front {
		return
	}
	c.front = false
	l.pace.members--
	if c.blocked {
		c.blocked = false
		l.pace.blocked--
	}
	l.pace.count(l.opts.Now)
}

// leaveBehind leaves those behind that have held up the front for too long. One that
// has kept up for longer than its last penalty begins with the shortest again.
func (l *Log) leaveBehind(now time.Time) {
	at, waits := l.pace.deadline()
	if !waits || now.Before(at) {
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
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if at, waits := l.pace.deadline(); waits {
		sooner(at)
	}
	if len(l.due) > 0 {
		sooner(l.due[0].due)
	}
	if !l.graceEnds.IsZero() && !l.stopped {
		sooner(l.graceEnds)
	}
	for _, c := range l.consumers {
		if !c.front && c.cursor == l.front && c.until.After(now) {
			sooner(c.until)
		}
	}
	return next
}
