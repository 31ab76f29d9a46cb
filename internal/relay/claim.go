package relay

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// claim is a debt to be acknowledged: a run of items that one member was
// handed for the first time, or a single item. An item of a run that is refused, gets more
// time, or is overdue becomes a single one. Guarded by Log.mu.
type claim struct {
	consumer *consumer
	epoch    string // of its first delivery
	from, to uint64
	left     int       // items of it that are neither acknowledged nor single claims now
	member   *member   // in whose hands it is; nil while it waits to be handed out again
	past     []*member // in whose hands it was before
	tries    int       // deliveries
	count    uint64    // consumer.delivered at the first delivery, of the first item; 0: there was none
	due      time.Time // when it is handed out again
	delayed  *member   // asked for due; nil: none did, or it is gone
	index    int       // in the heap; -1: not there
}

// claim notes a first delivery.
func (l *Log) claim(c *consumer, m *member, from, to uint64) {
	k := &claim{consumer: c, epoch: l.epoch, from: from, to: to, left: int(to - from), member: m, tries: 1, count: c.delivered - (to - from) + 1, index: -1}
	c.runs = append(c.runs, k)
	l.schedule(k, l.opts.Now().Add(c.wait(1)))
}

// wait is how long a consumer has to acknowledge its n-th delivery.
func (c *consumer) wait(n int) time.Duration {
	if k := len(c.terms.Backoff); k > 0 {
		return c.terms.Backoff[min(n, k)-1]
	}
	return c.terms.AckWait
}

func (l *Log) schedule(k *claim, at time.Time) {
	k.due = at
	if k.index < 0 {
		heap.Push(&l.due, k)
	} else {
		heap.Fix(&l.due, k.index)
	}
}

func (l *Log) unschedule(k *claim) {
	k.delayed = nil
	if k.index >= 0 {
		heap.Remove(&l.due, k.index)
	}
}

// run returns the run that an item is in, and its index. Whether the item is still a
// part of it say acked and singles.
func (c *consumer) run(n uint64) (*claim, int) {
	i, found := slices.BinarySearchFunc(c.runs, n, func(k *claim, n uint64) int { return cmp.Compare(k.from, n) })
	if !found {
		i--
	}
	if i < 0 || n >= c.runs[i].to {
		return nil, 0
	}
	return c.runs[i], i
}

// shrink takes one item out of a run.
func (l *Log) shrink(k *claim, i int) {
	if k.left--; k.left > 0 {
		return
	}
	l.unschedule(k)
	c := k.consumer
	if i == 0 {
		c.runs[0] = nil
		c.runs = c.runs[1:]
	} else {
		c.runs = slices.Delete(c.runs, i, i+1)
	}
}

// single returns the single claim of an item that is on its way; it makes one of an
// item of a run.
func (l *Log) single(c *consumer, n uint64) *claim {
	if k := c.singles[n]; k != nil {
		return k
	}
	run, i := c.run(n)
	if run == nil || c.acked.Has(n) {
		return nil
	}
	k := &claim{consumer: c, epoch: run.epoch, from: n, to: n + 1, left: 1, member: run.member, tries: run.tries, count: run.count + n - run.from, index: -1}
	c.singles[n] = k
	l.schedule(k, run.due)
	l.shrink(run, i)
	return k
}

// maxPast is how many former holders of an item are remembered, so that a late
// acknowledgement of theirs counts.
const maxPast = 64

// takeBack takes a single claim from the member that has it.
func (l *Log) takeBack(k *claim) {
	m := k.member
	if m == nil {
		return
	}
	k.member = nil
	m.owed--
	if !m.gone && !slices.Contains(k.past, m) {
		if len(k.past) == maxPast {
			k.past = k.past[1:]
		}
		k.past = append(k.past, m)
	}
}

// again lets a single claim be handed out again as soon as the item is read. Where the
// consumer has had its chances the item is a dead letter.
func (l *Log) againClaim(k *claim) {
	m := k.member
	l.takeBack(k)
	l.unschedule(k)
	c := k.consumer
	if c.terms.MaxDeliver > 0 && k.tries >= c.terms.MaxDeliver {
		l.giveUp(k, fmt.Sprintf("delivered %d times without an acknowledgement", k.tries))
	} else {
		l.deliverAgain(c, k.from, k.to)
	}
	if m != nil {
		l.leaveIfDone(m)
	}
}

// deliverAfresh lets items be handed out that are below a consumer's cursor and in no
// member's hands.
func (l *Log) deliverAfresh(c *consumer, from, to uint64) {
	l.deliverAgain(c, from, to)
	for n := from; c.terms.Explicit && n < to; n++ {
		c.singles[n] = &claim{consumer: c, epoch: l.epoch, from: n, to: n + 1, left: 1, index: -1}
	}
}

// givenUp is the reason of a dead letter that a client asked for.
func givenUp(a batch.Ack) string {
	why := "given up by a client"
	if a.Reason != "" {
		why += ": " + a.Reason
	}
	return why
}

// giveUp lets the next Changes make a dead letter of an item.
func (l *Log) giveUp(k *claim, why string) {
	l.unschedule(k)
	k.consumer.again.Remove(k.from, k.to)
	l.records.graves = append(l.records.graves, grave{number: k.from, consumer: k.consumer, reason: why, deliveries: k.tries})
}

// handClaim delivers an item again, and reports whether a member took it. pending is
// batch.Again's.
func (l *Log) handClaim(k *claim, b *batch.Batch, pending uint64) bool {
	c := k.consumer
	var last *member
	if len(k.past) > 0 {
		last = k.past[len(k.past)-1]
	}
	for {
		m := c.pick(last)
		if m == nil {
			return false
		}
		again := b.Again(int(k.from-b.First()), k.tries+1, int64(pending))
		n := l.deliver(m, again, k.from, k.to)
		again.Release()
		if n == 1 {
			k.member = m
			k.tries++
			k.count = cmp.Or(k.count, c.delivered)
			l.schedule(k, l.opts.Now().Add(c.wait(k.tries)))
			l.leaveIfDone(m)
			return true
		}
		if l.leaveIfDone(m); !m.finished {
			return false
		}
	}
}

// redeliverOverdue hands out again the items that were not acknowledged in time.
func (l *Log) redeliverOverdue(now time.Time) {
	for len(l.due) > 0 && !l.due[0].due.After(now) {
		k := l.due[0]
		if k.to-k.from == 1 && k.consumer.singles[k.from] == k {
			l.againClaim(k)
			continue
		}
		for _, n := range l.rest(k) {
			l.againClaim(l.single(k.consumer, n))
		}
	}
}

// rest returns the items that are left of a run.
func (l *Log) rest(k *claim) (left []uint64) {
	c := k.consumer
	for n := k.from; n < k.to; n++ {
		if n, _ = c.acked.Gap(n); n >= k.to {
			break
		}
		if c.singles[n] == nil {
			left = append(left, n)
		}
	}
	return left
}

// claimed returns the items in the hands of a member, in list order.
func (l *Log) claimed(m *member) (held []numbers.Span) {
	c := m.consumer
	for _, k := range c.runs {
		for _, n := range l.rest(k) {
			if k.member == m {
				held = append(held, numbers.Span{From: n, To: n + 1})
			}
		}
	}
	for n, k := range c.singles {
		if k.member == m {
			held = append(held, numbers.Span{From: n, To: n + 1})
		}
	}
	slices.SortFunc(held, func(a, b numbers.Span) int { return cmp.Compare(a.From, b.From) })
	return held
}

// giveUpClaims takes all claims of a member but the first keep ones. Other members of
// the group get the items.
func (l *Log) giveUpClaims(m *member, keep int) {
	if keep >= m.owed {
		return
	}
	for i, s := range l.claimed(m) {
		if i >= keep {
			l.againClaim(l.single(m.consumer, s.From))
		}
	}
}

// endDelays ends the delays that a member which is gone asked for.
func (l *Log) endDelays(m *member) {
	for _, k := range m.consumer.singles {
		if k.delayed == m {
			l.againClaim(k)
		}
	}
}

// dropClaims forgets a consumer's claims.
func (l *Log) dropClaims(c *consumer) {
	for _, k := range slices.AppendSeq(c.runs, maps.Values(c.singles)) {
		l.unschedule(k)
	}
	c.runs = nil
	clear(c.singles)
}

// MaxDelay is the longest that a member may put an item off.
const MaxDelay = 24 * time.Hour

// ErrGone is said of an item whose place in the list is not known any more: it may be
// delivered again.
var ErrGone = errors.New("the item is not on its way any more: it may be delivered again")

// Acknowledge implements batch.Acknowledger.
func (m *member) Acknowledge(epoch string, n uint64, a batch.Ack, saved func(error)) error {
	l := m.log
	l.mu.Lock()
	if !l.loaded && l.keepEarly(early{to: m, epoch: epoch, n: n, ack: a, saved: saved}) {
		l.mu.Unlock()
		l.opts.Changed()
		return nil
	}
	k, given := l.mine(m, epoch, n)
	if !given && !l.countsFromEarlier(m.consumer, epoch, n, a) {
		l.mu.Unlock()
		return batch.ErrNotGiven
	}
	l.heed(m, k, n, a)
	var answer error
	if a.Kind == batch.Acked || a.Kind == batch.AckedAll || a.Kind == batch.Terminated {
		switch r := &l.records; {
		case !l.loaded:
			answer = ErrGone
		case saved != nil && len(r.waiting) < maxWaiting:
			r.waiting = append(r.waiting, saved)
			saved = nil
		default:
			answer = errTooMany
		}
	}
	l.mu.Unlock()
	if saved != nil {
		saved(answer)
	}
	l.opts.Changed()
	return nil
}

// mine returns the claim of an item, and whether the member was ever given it. Without a
// claim nothing is left to be acknowledged. If a new epoch has begun since, it is the
// claim that proves that the number stands for the same item.
func (l *Log) mine(m *member, epoch string, n uint64) (k *claim, given bool) {
	c := m.consumer
	if n >= c.cursor && !c.closing {
		return nil, false
	}
	if c.acked.Has(n) {
		return nil, epoch == l.epoch
	}
	if k = c.singles[n]; k == nil {
		k, _ = c.run(n)
	}
	if k == nil || epoch != k.epoch && epoch != l.epoch || k.member != m && !slices.Contains(k.past, m) {
		return nil, false
	}
	return k, true
}

// boundEarlier finds out which items a process before this one may have handed to a durable
// consumer, by the ledger's record. The consumer had at most MaxAckPending items in flight. The
// record may lack the acknowledgements of as many more, those since the last write: items are
// handed out only after a write. No such process handed out items that the list does not have.
func (l *Log) boundEarlier(c *consumer) {
	left := 2 * uint64(max(0, c.terms.MaxAckPending))
	c.earlier = 0
	for from, to := c.acked.Gap(0); left > 0 && from < l.end; from, to = c.acked.Gap(to) {
		n := min(to-from, left, l.end-from)
		c.earlier = from + n
		left -= n
	}
}

// countsFromEarlier reports whether an acknowledgement counts that may be one of an item which a
// process before this one has handed out: it knew the claims. The item may be delivered again at
// any moment, so to ask for that counts too. To ask for a delay or for more time does not.
func (l *Log) countsFromEarlier(c *consumer, epoch string, n uint64, a batch.Ack) bool {
	if !c.name.Durable || epoch != l.epoch || n < c.cursor || n >= c.earlier {
		return false
	}
	return a.Kind != batch.InProgress && (a.Kind != batch.Refused || a.Delay <= 0)
}

// heed follows an acknowledgement. Without a claim the item is confirmed already, or a process
// before this one has handed it out.
func (l *Log) heed(m *member, k *claim, n uint64, a batch.Ack) {
	c := m.consumer
	switch {
	case a.Kind == batch.AckedAll:
		l.acknowledgedAll(c, n)
		l.leaveIfDone(m)
		return
	case k == nil:
		switch {
		case c.acked.Has(n):
		case a.Kind == batch.Acked:
			l.confirm(c, n, n+1)
		case a.Kind == batch.Terminated:
			l.records.graves = append(l.records.graves, grave{number: n, consumer: c, reason: givenUp(a), deliveries: 1})
		}
		return
	}
	switch a.Kind {
	case batch.Acked:
		l.acknowledged(c, n)
	case batch.Terminated:
		k = l.single(c, n)
		l.takeBack(k)
		l.giveUp(k, givenUp(a))
		l.leaveIfDone(m)
	case batch.Refused:
		if k.member != m {
			return // it is with another member, or waits already
		}
		k = l.single(c, n)
		if a.Delay <= 0 {
			l.againClaim(k)
			return
		}
		l.takeBack(k)
		k.delayed = m
		l.schedule(k, l.opts.Now().Add(min(a.Delay, MaxDelay)))
		l.leaveIfDone(m)
	case batch.InProgress:
		if k.member == m {
			k = l.single(c, n)
			l.schedule(k, l.opts.Now().Add(c.wait(k.tries)))
		}
	}
}

// acknowledged ends the claim of an item.
func (l *Log) acknowledged(c *consumer, n uint64) {
	var holder *member
	if k := c.singles[n]; k != nil {
		holder = k.member
		l.unschedule(k)
		delete(c.singles, n)
		c.again.Remove(n, n+1)
	} else if run, i := c.run(n); run != nil {
		holder = run.member
		l.shrink(run, i)
	}
	l.confirm(c, n, n+1)
	if holder != nil {
		holder.owed--
		l.leaveIfDone(holder)
	}
}

// acknowledgedAll ends the claims of an item and of all before it, except items that the
// consumer was never handed: they have come to the head since.
func (l *Log) acknowledgedAll(c *consumer, n uint64) {
	for m, _ := c.acked.Gap(0); m <= n && m < c.cursor; m, _ = c.acked.Gap(m + 1) {
		if k := c.singles[m]; k == nil || k.tries > 0 {
			l.acknowledged(c, m)
		}
	}
	if n >= c.cursor {
		l.confirm(c, c.cursor, n+1)
	}
}

// claims is a heap by due.
type claims []*claim

func (h claims) Len() int           { return len(h) }
func (h claims) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h claims) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *claims) Push(x any) {
	k := x.(*claim)
	k.index = len(*h)
	*h = append(*h, k)
}
func (h *claims) Pop() any {
	old := *h
	k := old[len(old)-1]
	old[len(old)-1] = nil
	k.index = -1
	*h = old[:len(old)-1]
	return k
}
