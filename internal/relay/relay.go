// Package relay holds the one delivery rule:
//
//	An item leaves Redis when at least one party has confirmed it and no party
//	that is still present owes a confirmation. Until then Redis holds it.
//
// A List is the window between what is already gone from a Redis list and what
// is not yet taken. The loop asks for a Plan, reads accordingly, and Offers what
// it read; the List hands it to its parties and moves Head as they confirm.
// What is below Head may be removed from Redis.
//
//	  removed │ settled │ on its way to the parties │ not yet taken
//	──────────┼─────────┼───────────────────────────┼──────────────▶ sequence
//	                   Head                        Next
//
// A party is a member of its own (a plain subscription) or a group of members of
// whom one gets each item (a queue group). Each party is handed the items in
// list order; what is handed out again, because a member left without having
// confirmed it, is the only exception.
//
// Backpressure: Plan grants room up to a number of items and of bytes, and none
// while nobody is there to receive. A slow party keeps Head, so it slows the
// list down and costs no memory.
//
// The package does no I/O, starts no goroutine and knows no connection. All
// methods may be called from any goroutine; Offer, Bury, Gone and Plan belong to
// the loop, which calls them one at a time. Members are called with the lock
// held, so that every party sees one order.
package relay

import (
	"sync"
	"time"

	"edged/internal/batch"
)

// Options bound a List.
type Options struct {
	Window  int              // items on their way at once; at least 1
	Memory  int              // bytes they may take, encodings included; one item is always allowed
	Changed func()           // called without the lock when Plan may say something new; must not block
	Now     func() time.Time // nil means time.Now
}

// Stats are a List's books. Taken = Confirmed + Returned + Dead + Gone + InFlight.
type Stats struct {
	Taken       uint64 // items read from Redis and offered
	Confirmed   uint64 // confirmed, and owed by nobody
	Returned    uint64 // given back: Redis still holds them and they will be taken again
	Dead        uint64 // undeliverable, for the dead-letter list
	Gone        uint64 // removed from Redis by somebody else while on their way
	Redelivered uint64 // handed out once more because a member left
	InFlight    int    // items between Head and Next
	Parties     int    // parties that take items
	Members     int    // members of all parties
	Oldest      time.Time
}

// List is one list's window and its parties.
type List struct {
	opts Options

	mu      sync.Mutex // guards everything below, and what hangs on it
	slots   []*slot    // the batches between head and next, in order
	head    uint64
	next    uint64
	bytes   int // cost of all slots
	parties []*party
	keys    map[string]int // encoding key -> members that use it
	stopped bool           // nothing more is taken
	stats   Stats          // the counters only
}

// slot is a batch on its way. Guarded by List.mu.
type slot struct {
	b     *batch.Batch // nil for a buried item
	first uint64
	n     int    // items that count; less than b.Len() when the tail was given back
	done  bitset // items that somebody confirmed
	open  int    // debts outstanding
	whole int    // those of them that cover the whole slot
	cost  int
	since time.Time
}

// settled tells whether nobody owes anything and everything was confirmed.
func (s *slot) settled() bool {
	return s.open == 0 && (s.b == nil || s.done.all(s.n))
}

// party is a plain subscription or a queue group. Guarded by List.mu.
type party struct {
	group   string
	members []*member
}

// member is one subscription's place in a party. Guarded by List.mu.
type member struct {
	list     *List
	party    *party
	key      string
	takes    batch.Member
	debts    []*debt // in the order they were handed out
	owed     int     // items in debts
	finished bool    // gets nothing more; leaves with its last debt
	gone     bool
}

// debt is what one Deliver left to be confirmed. Guarded by List.mu.
type debt struct {
	list     *List
	member   *member // nil when void
	slot     *slot
	from, to int
	whole    bool
}

// NewList makes the window of one list, with nobody there.
func NewList(opts Options) *List {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	return &List{opts: opts, keys: make(map[string]int)}
}

// Plan says what can be removed from Redis and how much can be taken.
func (l *List) Plan() batch.Plan {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := batch.Plan{Head: l.head, Next: l.next, Active: l.active()}
	if !p.Active || l.stopped {
		return p
	}
	items := l.opts.Window - int(l.next-l.head)
	bytes, large := batch.Room(l.opts.Memory-l.bytes, len(l.keys))
	if len(l.slots) == 0 {
		bytes = max(bytes, 1)
	}
	if items > 0 && bytes > 0 {
		p.Items, p.Bytes, p.Large = items, bytes, max(large, bytes)
	}
	return p
}

// Stop ends the taking for good: once it has returned no new item is handed out.
// What is on its way goes on.
func (l *List) Stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
}

// SetBounds changes Options.Window and Memory. What is on its way stays.
func (l *List) SetBounds(window, memory int) {
	l.mu.Lock()
	l.opts.Window, l.opts.Memory = window, memory
	l.mu.Unlock()
	l.opts.Changed()
}

// Offer hands a batch to every party and reports whether it was taken. It is
// refused when it does not start at Next (the window was rewound while it was
// read), nobody is there any more, or after Stop; Redis still holds it.
func (l *List) Offer(b *batch.Batch) bool {
	l.mu.Lock()
	if b.First() != l.next || b.Len() == 0 || l.stopped || !l.active() {
		l.mu.Unlock()
		return false
	}
	b.Retain() // until the slot goes
	s := &slot{b: b, first: l.next, n: b.Len(), cost: b.Held(len(l.keys)), since: l.opts.Now()}
	s.done = newBitset(s.n)
	l.push(s)
	for _, p := range append([]*party(nil), l.parties...) {
		l.give(p, s, 0, s.n)
	}
	if s.whole == 0 {
		l.reassign()
	}
	l.advance()
	l.mu.Unlock()
	return true
}

// Bury passes over the item seq, which can't be delivered. It counts as settled
// as soon as everything before it is. Like Offer it is refused when seq is not
// Next.
func (l *List) Bury(seq uint64) bool {
	l.mu.Lock()
	if seq != l.next {
		l.mu.Unlock()
		return false
	}
	l.push(&slot{first: l.next, n: 1, since: l.opts.Now()})
	l.advance()
	l.mu.Unlock()
	return true
}

func (l *List) push(s *slot) {
	l.slots = append(l.slots, s)
	l.next += uint64(s.n)
	l.bytes += s.cost
	l.stats.Taken += uint64(s.n)
}

// Gone says that Redis does not hold the items below seq any more, because
// somebody else removed them. Nobody owes them from now on.
func (l *List) Gone(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.slots) > 0 && l.head < seq {
		s := l.slots[0]
		end := s.first + uint64(s.n)
		if end > seq {
			break // part of a batch: the rest of it still counts, so it stays whole
		}
		for _, m := range l.members() {
			for _, d := range append([]*debt(nil), m.debts...) {
				if d.slot == s {
					l.void(d)
				}
			}
			l.leaveIfDone(m)
		}
		confirmed := uint64(s.done.count(s.n))
		l.stats.Confirmed += confirmed
		l.stats.Gone += uint64(s.n) - confirmed
		l.pop()
	}
	if l.head < seq && len(l.slots) == 0 {
		l.head, l.next = seq, seq
	}
	if !l.active() {
		l.giveBack()
	}
	l.advance()
}

// Stats returns the books as they stand.
func (l *List) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.stats
	st.InFlight = int(l.next - l.head)
	for _, p := range l.parties {
		if p.active() {
			st.Parties++
		}
		st.Members += len(p.members)
	}
	if len(l.slots) > 0 {
		st.Oldest = l.slots[0].since
	}
	return st
}

// Join makes m a member of the group, or where group is empty a party of its
// own. Members with the same key share one encoding of each batch. The party
// gets what is taken from now on, and what nobody else is left to receive.
func (l *List) Join(group, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	first := !l.active()
	var p *party
	if group != "" {
		for _, q := range l.parties {
			if q.group == group {
				p = q
			}
		}
	}
	if p == nil {
		p = &party{group: group}
		l.parties = append(l.parties, p)
	}
	mem := &member{list: l, party: p, key: key, takes: m}
	p.members = append(p.members, mem)
	l.keys[key]++
	if first {
		l.reassign()
	}
	l.mu.Unlock()
	l.opts.Changed()
	return mem
}

// Leave ends the membership; see batch.Membership.
func (m *member) Leave() { m.Finish(0) }

// Finish ends deliveries; see batch.Membership.
func (m *member) Finish(keep int) {
	l := m.list
	l.mu.Lock()
	if m.gone {
		l.mu.Unlock()
		return
	}
	m.finished = true
	type span struct {
		s        *slot
		from, to int
	}
	var back []span
	for _, d := range append([]*debt(nil), m.debts...) {
		if n := d.to - d.from; n <= keep {
			keep -= n
			continue
		}
		back = append(back, span{d.slot, d.from + keep, d.to})
		if keep == 0 {
			l.void(d)
			continue
		}
		l.shrink(d, d.from+keep)
		keep = 0
	}
	l.leaveIfDone(m)
	for _, b := range back { // a queue group's other members come first
		if m.party.active() {
			l.stats.Redelivered += uint64(b.to - b.from)
			l.give(m.party, b.s, b.from, b.to)
		}
	}
	l.reassign()
	l.advance()
	l.mu.Unlock()
	l.opts.Changed()
}

// Confirm implements batch.Receipt.
func (d *debt) Confirm() {
	l := d.list
	l.mu.Lock()
	m := d.member
	if m == nil {
		l.mu.Unlock()
		return
	}
	head := l.head
	d.slot.done.set(d.from, d.to)
	l.void(d)
	l.leaveIfDone(m)
	if m.gone && !l.active() {
		l.reassign()
	}
	l.advance()
	moved := l.head != head
	l.mu.Unlock()
	if moved {
		l.opts.Changed()
	}
}

// active tells whether some party takes items.
func (l *List) active() bool {
	for _, p := range l.parties {
		if p.active() {
			return true
		}
	}
	return false
}

func (p *party) active() bool { return p.pick() != nil }

// pick chooses the member that owes least.
func (p *party) pick() *member {
	var best *member
	for _, m := range p.members {
		if !m.finished && (best == nil || m.owed < best.owed) {
			best = m
		}
	}
	return best
}

func (l *List) members() []*member {
	var all []*member
	for _, p := range l.parties {
		all = append(all, p.members...)
	}
	return all
}

// give hands items of a slot to one party, until nobody in it takes any more.
func (l *List) give(p *party, s *slot, from, to int) {
	for from < to {
		m := p.pick()
		if m == nil {
			return
		}
		d := &debt{list: l, member: m, slot: s, from: from, to: to}
		n := m.takes.Deliver(s.b, from, to, d)
		if n < to-from {
			m.finished = true
			d.to = from + n
		}
		if n > 0 {
			d.whole = d.from == 0 && d.to == s.n
			m.debts = append(m.debts, d)
			m.owed += n
			s.open++
			if d.whole {
				s.whole++
			}
			from += n
		} else {
			d.member = nil
		}
		l.leaveIfDone(m)
	}
}

// void ends a debt.
func (l *List) void(d *debt) {
	m := d.member
	for i, x := range m.debts { // nearly always the first
		if x == d {
			if i == 0 {
				m.debts[0] = nil
				m.debts = m.debts[1:]
			} else {
				m.debts = append(m.debts[:i], m.debts[i+1:]...)
			}
			break
		}
	}
	m.owed -= d.to - d.from
	d.slot.open--
	if d.whole {
		d.slot.whole--
	}
	d.member = nil
}

// shrink lets a debt end earlier.
func (l *List) shrink(d *debt, to int) {
	d.member.owed -= d.to - to
	d.to = to
	if d.whole {
		d.whole = false
		d.slot.whole--
	}
}

// leaveIfDone removes a finished member that owes nothing, and its party when it
// was the last one.
func (l *List) leaveIfDone(m *member) {
	if m.gone || !m.finished || len(m.debts) > 0 {
		return
	}
	m.gone = true
	m.party.members = remove(m.party.members, m)
	if len(m.party.members) == 0 {
		l.parties = remove(l.parties, m.party)
	}
	if l.keys[m.key]--; l.keys[m.key] == 0 {
		delete(l.keys, m.key)
	}
}

func remove[T comparable](list []T, x T) []T {
	for i := range list {
		if list[i] == x {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// reassign finds the items that nobody has confirmed and nobody owes. They go to
// the parties that are there: those joined later, or they would owe or have
// confirmed them. Where nobody is there they go back to Redis.
func (l *List) reassign() {
	if !l.active() {
		l.giveBack()
		return
	}
	for _, s := range append([]*slot(nil), l.slots...) {
		if s.whole > 0 || s.b == nil {
			continue
		}
		covered := s.done.clone()
		for _, m := range l.members() {
			for _, d := range m.debts {
				if d.slot == s {
					covered.set(d.from, d.to)
				}
			}
		}
		for from, to := covered.gap(0, s.n); from < to; from, to = covered.gap(to, s.n) {
			for _, p := range append([]*party(nil), l.parties...) {
				if p.active() {
					l.stats.Redelivered += uint64(to - from)
					l.give(p, s, from, to)
				}
			}
		}
	}
	if !l.active() {
		l.giveBack()
	}
}

// giveBack cuts the window behind the last item that is still owed: nobody is
// there to receive what follows. Where nothing is owed at all it keeps what was
// confirmed without a gap.
func (l *List) giveBack() {
	l.advance()
	end := l.head
	for _, m := range l.members() {
		for _, d := range m.debts {
			end = max(end, d.slot.first+uint64(d.to))
		}
	}
	if end == l.head && len(l.slots) > 0 {
		s := l.slots[0]
		if run := s.done.run(s.n); run > 0 {
			end = s.first + uint64(run)
		}
	}
	for len(l.slots) > 0 {
		s := l.slots[len(l.slots)-1]
		if s.first+uint64(s.n) <= end {
			break
		}
		keep := 0
		if s.first < end {
			keep = int(end - s.first)
		}
		l.stats.Returned += uint64(s.n - keep)
		s.n = keep
		if keep > 0 {
			break
		}
		l.slots = l.slots[:len(l.slots)-1]
		l.drop(s)
	}
	l.next = end
	l.advance()
}

// advance moves Head over everything that is settled.
func (l *List) advance() {
	for len(l.slots) > 0 && l.slots[0].settled() {
		s := l.slots[0]
		if s.b == nil {
			l.stats.Dead++
		} else {
			l.stats.Confirmed += uint64(s.n)
		}
		l.pop()
	}
}

// pop removes the first slot and moves Head behind it.
func (l *List) pop() {
	s := l.slots[0]
	l.slots[0] = nil
	l.slots = l.slots[1:]
	l.head = s.first + uint64(s.n)
	l.drop(s)
}

// drop lets go of a slot that nobody owes anything of.
func (l *List) drop(s *slot) {
	l.bytes -= s.cost
	if s.b != nil {
		s.b.Release()
	}
}
