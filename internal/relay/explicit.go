package relay

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"edged/internal/batch"
)

// ExplicitOptions bound an Explicit.
type ExplicitOptions struct {
	Window        int             // items on their way at once; at least 1
	Memory        int             // bytes they may take, encodings included; one item is always allowed. What is kept may be twice as much
	AckWait       time.Duration   // after which an item that was not acknowledged is handed out again
	Backoff       []time.Duration // waits in place of AckWait: after the first delivery, the second, …; the last one repeats
	MaxDeliver    int             // deliveries to a party after which it has had its chance; 0 means no bound
	MaxAckPending int             // items that one party may owe at once
	Changed       func()          // called without the lock when Plan or Settled may say something new; must not block
	Now           func() time.Time
}

// Explicit is the window of a list whose items are acknowledged one by one, in
// any order. The loop Offers what it has moved to the in-flight list, removes
// what is Settled, says so with Removed, and calls Tick for what is overdue.
//
//	offered ──▶ owed by each party ──▶ settled ──▶ removed
//	              ▲          │
//	              └──────────┘ refused, overdue, or its member left: handed out again
//
// An item is settled when nobody owes it any more and somebody has acknowledged
// it, or given it up: then it is dead. A party that owes MaxAckPending items
// gets no more, and so slows the list down.
//
// What List promises of members, locking and goroutines holds here too.
type Explicit struct {
	opts ExplicitOptions

	mu      sync.Mutex // guards everything below, and what hangs on it
	stopped bool       // nothing more is taken
	items   map[uint64]*item
	order   []*item // by sequence number; at most half of them are removed already
	holes   int     // items in order that are removed
	next    uint64
	bytes   int
	parties []*taking
	keys    map[string]int // encoding key -> members that use it
	due     claims         // heap: the earliest first
	settled []*item        // not yet handed to the loop
	stats   Stats          // the counters only
}

// item is on its way. Guarded by Explicit.mu.
type item struct {
	seq     uint64
	b       *batch.Batch
	i       int   // which of b
	pack    *pack // the items of b; nil when b is this item alone
	cost    int
	claims  []*claim  // one for each party that owes it
	former  []*taking // parties that owed it and don't any more
	acked   bool
	dead    string // why a party gave it up; empty when none did
	tries   int    // the most deliveries to one party
	settled bool
	removed bool
	waiting []func(error) // to be told when it is removed
}

// pack is the items of one batch. One of them keeps the whole batch in memory, so
// when less than a quarter of its bytes are on their way they are copied: at half,
// acknowledgements in order had every other item copied. Guarded by Explicit.mu.
type pack struct {
	b     *batch.Batch
	items []*item
	left  int // items not removed
	live  int // bytes of those
}

// claim is what a party owes for an item. Guarded by Explicit.mu.
type claim struct {
	item   *item
	party  *taking
	member *worker   // who has it; nil while it waits to be handed out again
	past   []*worker // who had it before
	tries  int       // deliveries
	due    time.Time // when it is handed out again
	index  int       // in the heap; -1 when it is not there
}

// taking is a party: a plain subscription or a queue group. Guarded by Explicit.mu.
type taking struct {
	group   string
	workers []*worker
	owed    int // claims
}

// worker is one subscription's place in a party. Guarded by Explicit.mu.
type worker struct {
	list     *Explicit
	party    *taking
	key      string
	takes    batch.Member
	claims   map[*claim]struct{}
	finished bool // gets nothing more; leaves with its last claim
	gone     bool
}

// NewExplicit makes the window of one list, with nobody there.
func NewExplicit(opts ExplicitOptions) *Explicit {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	return &Explicit{opts: opts, items: make(map[uint64]*item), keys: make(map[string]int)}
}

// Plan says how much may be taken. Head is unused: what can be removed is said
// by Settled.
func (l *Explicit) Plan() batch.Plan {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := batch.Plan{Next: l.next}
	items := l.opts.Window - len(l.items)
	for _, t := range l.parties {
		if t.active() {
			p.Active = true
			items = min(items, l.opts.MaxAckPending-t.owed)
		}
	}
	bytes, large := batch.Room(l.opts.Memory-l.bytes, len(l.keys))
	if len(l.items) == 0 {
		bytes = max(bytes, 1)
	}
	if p.Active && !l.stopped && items > 0 && bytes > 0 {
		p.Items, p.Bytes, p.Large = items, bytes, max(large, bytes)
	}
	return p
}

// Stop ends the taking for good. What is on its way goes on, redeliveries too.
func (l *Explicit) Stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
}

// SetBounds changes ExplicitOptions.Window and Memory. What is on its way stays.
func (l *Explicit) SetBounds(window, memory int) {
	l.mu.Lock()
	l.opts.Window, l.opts.Memory = window, memory
	l.mu.Unlock()
	l.opts.Changed()
}

// Offer hands a batch to every party. Unlike List's it is never refused: the
// items have been moved and must be looked after. With nobody there they wait to
// be Withdrawn.
func (l *Explicit) Offer(b *batch.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := make([]*item, b.Len())
	b.Retain() // until the pack goes
	p := &pack{b: b, items: fresh, left: b.Len(), live: b.Size()}
	each := b.Held(len(l.keys)) / b.Len()
	for i := range fresh {
		it := &item{seq: l.next, b: b, i: i, pack: p, cost: each}
		fresh[i] = it
		l.items[it.seq] = it
		l.order = append(l.order, it)
		l.bytes += it.cost
		l.next++
	}
	l.stats.Taken += uint64(len(fresh))
	for _, t := range append([]*taking(nil), l.parties...) {
		l.handOut(t, fresh)
	}
	for _, it := range fresh {
		l.adopt(it)
	}
}

// handOut gives new items of one batch to a party: all to a plain subscription,
// shares to the members of a group.
func (l *Explicit) handOut(t *taking, fresh []*item) {
	for len(fresh) > 0 {
		w := t.pick(nil)
		if w == nil {
			return
		}
		share := (len(fresh) + t.actives() - 1) / t.actives()
		if t.group == "" {
			share = len(fresh)
		}
		b, from := fresh[0].b, fresh[0].i
		n := w.takes.Deliver(b, from, from+share, nobody{})
		if n < share {
			w.finished = true
		}
		for _, it := range fresh[:n] {
			c := &claim{item: it, party: t, index: -1}
			it.claims = append(it.claims, c)
			t.owed++
			l.given(c, w)
		}
		fresh = fresh[n:]
		l.leaveIfDone(w)
	}
}

// given notes that a claim was delivered to a member.
func (l *Explicit) given(c *claim, w *worker) {
	c.member = w
	c.tries++
	c.item.tries = max(c.item.tries, c.tries)
	w.claims[c] = struct{}{}
	l.schedule(c, l.opts.Now().Add(l.wait(c.tries)))
}

// wait is how long a party has to acknowledge its n-th delivery.
func (l *Explicit) wait(n int) time.Duration {
	if k := len(l.opts.Backoff); k > 0 {
		return l.opts.Backoff[min(n, k)-1]
	}
	return l.opts.AckWait
}

func (l *Explicit) schedule(c *claim, at time.Time) {
	c.due = at
	if c.index < 0 {
		heap.Push(&l.due, c)
	} else {
		heap.Fix(&l.due, c.index)
	}
}

// take takes a claim from the member that has it.
func (c *claim) take() {
	w := c.member
	if w == nil {
		return
	}
	delete(w.claims, c)
	if !w.gone && !slices.Contains(c.past, w) {
		c.past = recent(c.past, w)
	}
	c.member = nil
}

// maxFormer is how many of those who had an item before are remembered, so that a
// late acknowledgement of theirs is not taken for a stranger's.
const maxFormer = 64

// recent adds one, and drops the oldest where there are too many.
func recent[T any](all []T, one T) []T {
	if len(all) == maxFormer {
		all = all[1:]
	}
	return append(all, one)
}

// detach ends a claim and returns the member that had it, which may have to go:
// call leaveIfDone when everything else is in order, because it ends the claims
// of a party that is left without members.
func (l *Explicit) detach(c *claim) *worker {
	w := c.member
	c.take()
	c.party.owed--
	if c.index >= 0 {
		heap.Remove(&l.due, c.index)
	}
	c.item.claims = remove(c.item.claims, c)
	c.item.former = recent(c.item.former, c.party)
	return w
}

// drop ends a claim, and settles the item if it was the last.
func (l *Explicit) drop(c *claim) {
	w := l.detach(c)
	l.settle(c.item)
	l.leaveIfDone(w)
}

// settle hands an item to the loop when nobody owes it and its fate is known.
func (l *Explicit) settle(it *item) {
	if len(it.claims) > 0 || it.settled || !it.acked && it.dead == "" {
		return
	}
	it.settled = true
	l.settled = append(l.settled, it)
}

// again hands a claim out once more: to another member of the group if there is
// one. Where the party has had its chances, or has nobody left, the claim ends.
func (l *Explicit) again(c *claim) {
	last := c.member
	c.take()
	l.handOn(c, last)
	l.leaveIfDone(last)
}

func (l *Explicit) handOn(c *claim, last *worker) {
	if l.opts.MaxDeliver > 0 && c.tries >= l.opts.MaxDeliver {
		if c.item.dead == "" {
			c.item.dead = fmt.Sprintf("delivered %d times without an acknowledgement", c.tries)
		}
		l.drop(c)
		return
	}
	t := c.party
	for {
		w := t.pick(last)
		if w == nil {
			l.drop(c)
			break
		}
		again := c.item.b.Again(c.item.i, c.tries+1)
		n := w.takes.Deliver(again, 0, 1, nobody{})
		again.Release()
		if n == 1 {
			l.stats.Redelivered++
			l.given(c, w)
			break
		}
		w.finished = true
	}
	for _, w := range append([]*worker(nil), t.workers...) {
		l.leaveIfDone(w)
	}
}

// adopt finds takers for an item that nobody owes and whose fate is open: all
// parties that are there, which joined after it was taken.
func (l *Explicit) adopt(it *item) {
	if len(it.claims) > 0 || it.acked || it.dead != "" {
		return
	}
	tries := it.tries // each of them gets the same next delivery
	for _, t := range append([]*taking(nil), l.parties...) {
		if t.active() {
			c := &claim{item: it, party: t, tries: tries, index: -1}
			it.claims = append(it.claims, c)
			t.owed++
			l.again(c)
		}
	}
}

// Tick hands out again what is overdue, and returns when it is to be called
// next; zero means that nothing is waited for.
func (l *Explicit) Tick() time.Time {
	l.mu.Lock()
	now := l.opts.Now()
	settled := len(l.settled)
	for len(l.due) > 0 && !l.due[0].due.After(now) {
		c := heap.Pop(&l.due).(*claim)
		it := c.item
		l.again(c)
		l.adopt(it)
	}
	var next time.Time
	if len(l.due) > 0 {
		next = l.due[0].due
	}
	changed := len(l.settled) != settled
	l.mu.Unlock()
	if changed {
		l.opts.Changed()
	}
	return next
}

// Settled returns up to max items that are to be removed from Redis, oldest
// settlement first. The same items are returned until they are Removed.
func (l *Explicit) Settled(most int) []batch.Settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]batch.Settlement, min(most, len(l.settled)))
	for i := range list {
		it := l.settled[i]
		list[i] = batch.Settlement{Seq: it.seq, Dead: it.dead, Deliveries: it.tries}
	}
	return list
}

// Removed says that the first n of Settled are removed from Redis, and tells
// those who asked to know.
func (l *Explicit) Removed(n int) {
	l.mu.Lock()
	var tell []func(error)
	for _, it := range l.settled[:n] {
		if it.dead != "" {
			l.stats.Dead++
		} else {
			l.stats.Confirmed++
		}
		tell = append(tell, l.forget(it)...)
	}
	l.settled = append([]*item(nil), l.settled[n:]...)
	l.compact()
	l.mu.Unlock()
	for _, f := range tell {
		f(nil)
	}
}

// Buried counts n items that were taken and put with the dead letters at once.
func (l *Explicit) Buried(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Taken += uint64(n)
	l.stats.Dead += uint64(n)
}

// forget drops an item from the window and returns who waits for it.
func (l *Explicit) forget(it *item) []func(error) {
	it.removed = true
	delete(l.items, it.seq)
	l.bytes -= it.cost
	it.unpack()
	l.holes++
	waiting := it.waiting
	it.waiting = nil
	return waiting
}

// unpack takes an item out of its batch, and the others too where few are left.
func (it *item) unpack() {
	p, b := it.pack, it.b
	it.pack, it.b = nil, nil // order may keep the item for a while
	if p == nil {
		b.Release()
		return
	}
	p.left--
	if p.live -= len(b.Item(it.i)); p.left > 0 && 4*p.live >= b.Size() {
		return
	}
	for _, other := range p.items {
		if other.pack == p {
			other.b, other.i, other.pack = b.Alone(other.i), 0, nil
		}
	}
	b.Release()
}

func (l *Explicit) compact() {
	for len(l.order) > 0 && l.order[0].removed {
		l.order[0] = nil
		l.order = l.order[1:]
		l.holes--
	}
	if 2*l.holes > len(l.order) {
		l.order = slices.DeleteFunc(l.order, func(it *item) bool { return it.removed })
		l.holes = 0
	}
}

// errNotHere is what is said to who waits for an item that another instance, or
// a later life of this one, will deliver again.
var errNotHere = errors.New("the item is not this instance's any more; it may be delivered again")

// errUnknown is said of an item that is not in flight any more.
var errUnknown = errors.New("the item is not in flight: it was removed before, or may be delivered again")

// Withdraw empties the window if nobody is there to receive or owes anything and
// nothing is to be removed, or in any case with force, and reports whether it did.
// What is settled stays to be removed; all else is Redis's again.
func (l *Explicit) Withdraw(force bool) bool {
	l.mu.Lock()
	if !force && (len(l.parties) > 0 || len(l.settled) > 0) {
		l.mu.Unlock()
		return false
	}
	var tell []func(error)
	for _, it := range l.order {
		if it.removed || it.settled {
			continue
		}
		for len(it.claims) > 0 {
			l.leaveIfDone(l.detach(it.claims[0]))
		}
		l.stats.Returned++
		tell = append(tell, l.forget(it)...)
	}
	l.compact()
	l.mu.Unlock()
	for _, f := range tell {
		f(errNotHere)
	}
	return true
}

// Gone says that items are not in this instance's in-flight list any more though
// it did not remove them. Nobody owes them from now on.
func (l *Explicit) Gone(seqs []uint64) {
	l.mu.Lock()
	var tell []func(error)
	for _, seq := range seqs {
		it := l.items[seq]
		if it == nil {
			continue
		}
		for len(it.claims) > 0 {
			l.leaveIfDone(l.detach(it.claims[0]))
		}
		l.settled = remove(l.settled, it)
		l.stats.Gone++
		tell = append(tell, l.forget(it)...)
	}
	l.compact()
	l.mu.Unlock()
	for _, f := range tell {
		f(errNotHere)
	}
}

// Stats returns the books as they stand.
func (l *Explicit) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.stats
	st.InFlight = len(l.items)
	for _, t := range l.parties {
		if t.active() {
			st.Parties++
		}
		st.Members += len(t.workers)
	}
	if len(l.order) > 0 {
		st.Oldest = l.order[0].b.Taken()
	}
	return st
}

// Join makes m a member of the group, or where group is empty a party of its
// own; see List.Join. The Membership is a batch.Acknowledger.
func (l *Explicit) Join(group, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	var t *taking
	if group != "" {
		for _, p := range l.parties {
			if p.group == group {
				t = p
			}
		}
	}
	if t == nil {
		t = &taking{group: group}
		l.parties = append(l.parties, t)
	}
	w := &worker{list: l, party: t, key: key, takes: m, claims: make(map[*claim]struct{})}
	t.workers = append(t.workers, w)
	l.keys[key]++
	for _, it := range append([]*item(nil), l.order...) {
		if !it.removed {
			l.adopt(it)
		}
	}
	l.mu.Unlock()
	l.opts.Changed()
	return w
}

// Leave ends the membership; see batch.Membership.
func (w *worker) Leave() { w.Finish(0) }

// Finish ends deliveries; see batch.Membership. The items kept are the oldest.
func (w *worker) Finish(keep int) {
	l := w.list
	l.mu.Lock()
	if w.gone {
		l.mu.Unlock()
		return
	}
	w.finished = true
	mine := make([]*claim, 0, len(w.claims))
	for c := range w.claims {
		mine = append(mine, c)
	}
	if keep < len(mine) {
		slices.SortFunc(mine, func(a, b *claim) int { return cmp.Compare(a.item.seq, b.item.seq) })
		for _, c := range mine[keep:] {
			it := c.item
			l.again(c)
			l.adopt(it)
		}
	}
	l.leaveIfDone(w)
	l.mu.Unlock()
	l.opts.Changed()
}

// Acknowledge implements batch.Acknowledger.
func (w *worker) Acknowledge(seq uint64, taken time.Time, a batch.Ack, removed func(error)) error {
	l := w.list
	l.mu.Lock()
	it := l.items[seq]
	if it == nil {
		old := seq < l.next
		l.mu.Unlock()
		if !old {
			return batch.ErrNotGiven
		}
		if removed != nil {
			removed(errUnknown) // better no answer of success than a wrong one
		}
		return nil
	}
	if !it.b.Taken().Equal(taken) {
		l.mu.Unlock()
		return batch.ErrNotGiven // of an earlier life of this instance
	}
	var mine *claim
	for _, c := range it.claims {
		if c.party == w.party && (c.member == w || slices.Contains(c.past, w)) {
			mine = c
		}
	}
	if mine == nil && !slices.Contains(it.former, w.party) {
		l.mu.Unlock()
		return batch.ErrNotGiven
	}
	if mine != nil {
		l.judge(mine, w, a)
	}
	l.adopt(it)
	changed := mine != nil && a.Kind != batch.InProgress // settled, room for more, or a new time to wait for
	tell := removed
	if removed != nil && !it.removed && (a.Kind == batch.Acked || a.Kind == batch.Terminated) {
		it.waiting = append(it.waiting, removed)
		tell = nil
	}
	l.mu.Unlock()
	if tell != nil {
		tell(nil)
	}
	if changed {
		l.opts.Changed()
	}
	return nil
}

// judge does what an acknowledgement says about a claim.
func (l *Explicit) judge(c *claim, w *worker, a batch.Ack) {
	switch a.Kind {
	case batch.Acked:
		c.item.acked = true
		l.drop(c)
	case batch.Terminated:
		c.item.dead = "given up by a client"
		l.drop(c)
	case batch.Refused:
		if c.member != w {
			return // it is with another member, or waits already
		}
		if a.Delay <= 0 {
			l.again(c)
			return
		}
		c.take()
		l.schedule(c, l.opts.Now().Add(a.Delay))
		l.leaveIfDone(w)
	case batch.InProgress:
		if c.member == w {
			l.schedule(c, l.opts.Now().Add(l.wait(c.tries)))
		}
	}
}

func (t *taking) active() bool { return t.actives() > 0 }

func (t *taking) actives() (n int) {
	for _, w := range t.workers {
		if !w.finished {
			n++
		}
	}
	return n
}

// pick chooses the member that owes least, and not before if there is another.
func (t *taking) pick(before *worker) *worker {
	var best *worker
	for _, w := range t.workers {
		switch {
		case w.finished:
		case best == nil || best == before:
			best = w
		case w != before && len(w.claims) < len(best.claims):
			best = w
		}
	}
	return best
}

// leaveIfDone removes a finished member that owes nothing, and its party when it
// was the last one.
func (l *Explicit) leaveIfDone(w *worker) {
	if w == nil || w.gone || !w.finished || len(w.claims) > 0 {
		return
	}
	w.gone = true
	w.party.workers = remove(w.party.workers, w)
	if l.keys[w.key]--; l.keys[w.key] == 0 {
		delete(l.keys, w.key)
	}
	if len(w.party.workers) > 0 {
		return
	}
	l.parties = remove(l.parties, w.party)
	for _, it := range append([]*item(nil), l.order...) { // claims that wait for a delay
		for _, c := range append([]*claim(nil), it.claims...) {
			if c.party == w.party {
				l.drop(c)
				l.adopt(it)
			}
		}
	}
}

// nobody is the receipt of items that are acknowledged by other means.
type nobody struct{}

func (nobody) Confirm() {}

// claims is a heap by due.
type claims []*claim

func (h claims) Len() int           { return len(h) }
func (h claims) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h claims) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *claims) Push(x any) {
	c := x.(*claim)
	c.index = len(*h)
	*h = append(*h, c)
}
func (h *claims) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	c.index = -1
	*h = old[:len(old)-1]
	return c
}
