package relay

import "sync/atomic"

// Pending bounds the items that await acknowledgements, of all lists that share it: each may take
// ClaimMemory, for an item of any size. While Limit await one, a consumer is handed items only
// as long as it has fewer than pendingShare of them, so that each goes on.
type Pending struct {
	Limit int // at least 1
	count atomic.Int64
}

// pendingShare is how many items may await acknowledgements of a consumer, however many others do.
const pendingShare = 128

// ClaimMemory is about how many bytes an item takes that one consumer is to acknowledge, when it
// was refused, put off or delivered again: a claim, its place in a map, in the heap and among the
// former holders.
const ClaimMemory = 200

// add notes that n items more await acknowledgements, or fewer if n is negative.
func (p *Pending) add(n int) {
	if p != nil && n != 0 {
		p.count.Add(int64(n))
	}
}

// left is how many items more may await acknowledgements.
func (p *Pending) left() int { return max(0, p.Limit-int(p.count.Load())) }

// over reports whether none may.
func (p *Pending) over() bool { return p != nil && p.left() == 0 }

// countPending notes how many items await acknowledgements of a consumer: none in a list that
// another process serves.
func (l *Log) countPending(c *consumer) {
	if c.terms.Explicit && l.loaded {
		l.opts.Pending.add(c.out - c.counted)
		c.counted = c.out
	}
}

// heedPending lets consumers take more items, or fewer, after other lists have changed whether too
// many await acknowledgements.
func (l *Log) heedPending() {
	if over := l.opts.Pending.over(); over != l.over {
		l.over = over
		for _, c := range l.consumers {
			l.updateRoom(c)
		}
	}
}

// uncountPending notes that none do any more: the consumer is gone.
func (l *Log) uncountPending(c *consumer) {
	l.opts.Pending.add(-c.counted)
	c.counted = 0
}
