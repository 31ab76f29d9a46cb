package relay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"edged/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// taker is a member that remembers what it was handed. limit is how many items
// it takes in all; below 0 it takes everything.
type taker struct {
	limit int
	got   []handed
}

type handed struct {
	first   uint64 // sequence number
	n       int
	receipt batch.Receipt
}

func (t *taker) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	n := to - from
	if t.limit >= 0 {
		n = min(n, t.limit)
		t.limit -= n
	}
	if n > 0 {
		t.got = append(t.got, handed{b.First() + uint64(from), n, r})
	}
	return n
}

func (t *taker) confirmAll() {
	for _, h := range t.got {
		h.receipt.Confirm()
	}
	t.got = nil
}

// seqs lists the sequence numbers of what the taker holds.
func (t *taker) seqs() string {
	s := ""
	for _, h := range t.got {
		s += fmt.Sprintf("[%d,%d)", h.first, h.first+uint64(h.n))
	}
	return s
}

func all() *taker { return &taker{limit: -1} }

func newList() *List { return NewList(Options{Window: 1000, Memory: 1 << 20}) }

func offer(t *testing.T, l *List, n int) {
	t.Helper()
	items := make([][]byte, n)
	for i := range items {
		items[i] = []byte("x")
	}
	if !l.Offer(batch.Of("s", l.Plan().Next, items...)) {
		t.Fatalf("a batch of %d at %d was refused", n, l.Plan().Next)
	}
}

func wantPlan(t *testing.T, l *List, head, next uint64) {
	t.Helper()
	if p := l.Plan(); p.Head != head || p.Next != next {
		t.Fatalf("window is [%d,%d), want [%d,%d)", p.Head, p.Next, head, next)
	}
	balanced(t, l)
}

func balanced(t *testing.T, l *List) {
	t.Helper()
	s := l.Stats()
	if s.Taken != s.Confirmed+s.Returned+s.Dead+s.Gone+uint64(s.InFlight) {
		t.Fatalf("the books do not close: %+v", s)
	}
}

func TestNothingIsGrantedWithoutAParty(t *testing.T) {
	l := newList()
	if p := l.Plan(); p.Items != 0 || p.Active {
		t.Fatalf("plan without a party: %+v", p)
	}
	if l.Offer(batch.Of("s", 0, []byte("x"))) {
		t.Fatal("a batch was taken with nobody there")
	}
}

func TestHeadWaitsForEveryPartyThatIsPresent(t *testing.T) {
	l := newList()
	a, b := all(), all()
	l.Join("", "1", a)
	mb := l.Join("", "1", b)
	offer(t, l, 10)
	a.confirmAll()
	wantPlan(t, l, 0, 10)
	mb.Leave()
	wantPlan(t, l, 10, 10)
	b.confirmAll() // void by now
	wantPlan(t, l, 10, 10)
}

func TestUnconfirmedItemsGoBackWhenTheLastPartyLeaves(t *testing.T) {
	l := newList()
	a := all()
	m := l.Join("", "1", a)
	offer(t, l, 10)
	offer(t, l, 10)
	a.got[0].receipt.Confirm()
	m.Leave()
	wantPlan(t, l, 10, 10)
	if s := l.Stats(); s.Returned != 10 || s.Confirmed != 10 {
		t.Fatalf("stats %+v", s)
	}
	b := all()
	l.Join("", "1", b)
	offer(t, l, 5)
	if got := b.seqs(); got != "[10,15)" {
		t.Fatalf("the next party got %s", got)
	}
}

func TestItemsNobodyConfirmedGoToAPartyThatJoinedLater(t *testing.T) {
	l := newList()
	a := all()
	ma := l.Join("", "1", a)
	offer(t, l, 10)
	b := all()
	l.Join("", "1", b)
	offer(t, l, 10)
	ma.Leave()
	if got := b.seqs(); got != "[10,20)[0,10)" {
		t.Fatalf("the party that stayed got %s", got)
	}
	b.confirmAll()
	wantPlan(t, l, 20, 20)
}

func TestAQueueGroupGivesEachItemToOneMember(t *testing.T) {
	l := newList()
	a, b := all(), all()
	ma := l.Join("workers", "1", a)
	l.Join("workers", "1", b)
	offer(t, l, 4)
	offer(t, l, 4)
	if a.seqs() != "[0,4)" || b.seqs() != "[4,8)" {
		t.Fatalf("members got %s and %s", a.seqs(), b.seqs())
	}
	ma.Leave()
	if b.seqs() != "[4,8)[0,4)" {
		t.Fatalf("after its fellow left the member had %s", b.seqs())
	}
	b.confirmAll()
	wantPlan(t, l, 8, 8)
}

func TestAMemberThatIsFullOwesWhatItTookAndNoMore(t *testing.T) {
	l := newList()
	a := &taker{limit: 3}
	l.Join("", "1", a)
	offer(t, l, 10)
	wantPlan(t, l, 0, 3)
	if p := l.Plan(); p.Active {
		t.Fatal("a finished member still counts as present")
	}
	a.confirmAll()
	wantPlan(t, l, 3, 3)
	if s := l.Stats(); s.Members != 0 {
		t.Fatalf("a finished member without debts is still there: %+v", s)
	}
}

func TestFinishKeepsTheFirstItemsOwedAndGivesTheRestAway(t *testing.T) {
	l := newList()
	a := all()
	m := l.Join("", "1", a)
	offer(t, l, 10)
	m.Finish(4)
	wantPlan(t, l, 0, 4)
	b := all()
	l.Join("", "1", b)
	offer(t, l, 2)
	if b.seqs() != "[4,6)" {
		t.Fatalf("the next party got %s", b.seqs())
	}
	a.confirmAll()
	b.confirmAll()
	wantPlan(t, l, 6, 6)
}

func TestTheWindowIsBoundedByItemsAndBytes(t *testing.T) {
	l := NewList(Options{Window: 8, Memory: 60})
	a, b := all(), all()
	l.Join("", "1", a)
	l.Join("", "2", b) // two encodings and the raw bytes: three copies
	if p := l.Plan(); p.Items != 8 || p.Bytes != 20 {
		t.Fatalf("empty window: %+v", p)
	}
	offer(t, l, 5)
	if p := l.Plan(); p.Items != 3 || p.Bytes != 15 {
		t.Fatalf("after five bytes: %+v", p)
	}
	l.Offer(batch.Of("s", 5, make([]byte, 100)))
	if p := l.Plan(); p.Items != 0 {
		t.Fatalf("over the budget: %+v", p)
	}
	a.confirmAll()
	b.confirmAll()
	if p := l.Plan(); p.Items != 8 || p.Bytes != 20 {
		t.Fatalf("when all is confirmed: %+v", p)
	}
}

func TestABuriedItemHoldsUpNobody(t *testing.T) {
	l := newList()
	a := all()
	l.Join("", "1", a)
	offer(t, l, 2)
	if l.Bury(1) || !l.Bury(2) {
		t.Fatal("only the item at Next can be passed over")
	}
	offer(t, l, 2)
	a.got[1].receipt.Confirm()
	wantPlan(t, l, 0, 5)
	a.got[0].receipt.Confirm()
	wantPlan(t, l, 5, 5)
	if s := l.Stats(); s.Dead != 1 || s.Confirmed != 4 {
		t.Fatalf("stats %+v", s)
	}
}

func TestItemsThatSomebodyElseRemovedAreOwedByNobody(t *testing.T) {
	l := newList()
	a := all()
	l.Join("", "1", a)
	offer(t, l, 10)
	offer(t, l, 10)
	l.Gone(10)
	wantPlan(t, l, 10, 20)
	a.confirmAll()
	wantPlan(t, l, 20, 20)
	l.Gone(25)
	wantPlan(t, l, 25, 25)
}

func TestWhatNobodyOwesAfterGoneGoesBack(t *testing.T) {
	l := newList()
	a, b := &taker{limit: 6}, all()
	l.Join("g", "1", a)
	mb := l.Join("g", "1", b)
	for _, n := range []int{3, 2, 3, 3} { // a, b, b, a: full
		offer(t, l, n)
	}
	mb.Leave()
	a.got[1].receipt.Confirm()
	l.Gone(3)
	if st := l.Stats(); st.Members != 0 || st.InFlight != 0 {
		t.Fatalf("nobody is there, and in flight are %+v", st)
	}
	balanced(t, l)
}

func TestAfterStopNothingNewIsHandedOutButTheRestGoesOn(t *testing.T) {
	l := newList()
	a := all()
	ma := l.Join("", "1", a)
	offer(t, l, 10)
	l.Stop()
	if p := l.Plan(); p.Items != 0 || l.Offer(batch.Of("s", 10, []byte("x"))) {
		t.Fatalf("taken after Stop: %+v", p)
	}
	b := all()
	l.Join("", "1", b)
	ma.Leave()
	if b.seqs() != "[0,10)" {
		t.Fatalf("the party that stayed got %s", b.seqs())
	}
	b.confirmAll()
	wantPlan(t, l, 10, 10)
}

func TestChangedIsCalledWhenHeadMoves(t *testing.T) {
	calls := 0
	l := NewList(Options{Window: 10, Memory: 100, Changed: func() { calls++ }})
	a := all()
	l.Join("", "1", a)
	offer(t, l, 1)
	before := calls
	a.confirmAll()
	if calls != before+1 {
		t.Fatalf("%d calls after a confirmation", calls-before)
	}
}

func TestChangedIsCalledWhenTheLastMemberConfirmsItsLastItem(t *testing.T) {
	calls := 0
	l := NewList(Options{Window: 10, Memory: 100, Changed: func() { calls++ }})
	a := &taker{limit: 2}
	l.Join("", "1", a)
	offer(t, l, 5)
	before := calls
	a.confirmAll()
	if calls != before+1 {
		t.Fatalf("%d calls after the confirmation", calls-before)
	}
	wantPlan(t, l, 2, 2)
}

// model plays random joins, leaves, confirmations and faults against a List and
// checks the rule after every step.
type model struct {
	t       *testing.T
	l       *List
	members []*modelMember
	// confirmed[seq] says that some member confirmed the item since it was last taken.
	confirmed map[uint64]bool
}

const maxBatch = 90

type modelMember struct {
	group string
	m     batch.Membership
	limit int
	debts []handed // present and unconfirmed
	next  uint64   // a plain member's next new item
	left  bool
	done  bool
	model *model
}

func (m *modelMember) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	if m.left {
		m.model.t.Fatal("delivery to a member that left")
	}
	if m.done {
		m.model.t.Fatal("delivery to a member that took less than it was handed")
	}
	n := to - from
	if m.limit >= 0 {
		n = min(n, m.limit)
		m.limit -= n
	}
	if n < to-from {
		m.done = true
	}
	if n > 0 {
		first := b.First() + uint64(from)
		for _, d := range m.debts {
			if first < d.first+uint64(d.n) && d.first < first+uint64(n) {
				m.model.t.Fatalf("[%d,+%d) was handed twice to a member that owes it", first, n)
			}
		}
		if end := first + uint64(n); end > m.next {
			if m.group == "" && first > m.next {
				m.model.t.Fatalf("a party was handed %d before %d", first, m.next)
			}
			m.next = end
		}
		m.debts = append(m.debts, handed{first, n, r})
	}
	return n
}

func (m *model) check() {
	t := m.t
	t.Helper()
	balanced(t, m.l)
	p := m.l.Plan()
	owed := map[uint64]bool{}
	for _, mem := range m.members {
		for _, d := range mem.debts {
			for i := range d.n {
				owed[d.first+uint64(i)] = true
			}
		}
	}
	for seq := range owed {
		if seq < p.Head {
			t.Fatalf("item %d may be removed but is still owed", seq)
		}
		if seq >= p.Next {
			t.Fatalf("item %d is owed but will be taken again", seq)
		}
	}
	for seq := range p.Head {
		if !m.confirmed[seq] {
			t.Fatalf("item %d may be removed but nobody confirmed it", seq)
		}
	}
	if p.Active {
		for seq := p.Head; seq < p.Next; seq++ {
			if !owed[seq] && !m.confirmed[seq] {
				t.Fatalf("item %d is in the window, owed by nobody and confirmed by nobody", seq)
			}
		}
	}
	held := p.Next == p.Head || !p.Active && len(owed) > 0
	for seq := p.Head; seq < min(p.Head+maxBatch, p.Next); seq++ {
		held = held || owed[seq] // Head moves a batch at a time
	}
	if !held {
		t.Fatalf("the batch at %d holds up the window and nobody owes an item of it", p.Head)
	}
	for seq := range m.confirmed {
		if seq >= p.Next {
			delete(m.confirmed, seq) // given back: it counts anew
		}
	}
}

func (m *model) step(op, arg byte) {
	pick := func() *modelMember {
		if len(m.members) == 0 {
			return nil
		}
		return m.members[int(arg)%len(m.members)]
	}
	switch op % 8 {
	case 0: // join
		if len(m.members) > 6 {
			return
		}
		mem := &modelMember{limit: -1, model: m, next: m.l.Plan().Next, group: []string{"", "", "g", "h"}[arg%4]}
		if arg%5 == 0 {
			mem.limit = int(arg / 8)
		}
		m.members = append(m.members, mem)
		mem.m = m.l.Join(mem.group, string('a'+rune(arg%3)), mem)
	case 1, 2, 3: // offer
		p := m.l.Plan()
		n := min(int(arg%maxBatch)+1, p.Items)
		if n == 0 {
			return
		}
		items := make([][]byte, n)
		if !m.l.Offer(batch.Of("s", p.Next, items...)) {
			m.t.Fatal("an offer within the plan was refused")
		}
	case 4, 5, 6: // confirm one debt, mostly the first
		mem := pick()
		if mem == nil || len(mem.debts) == 0 {
			return
		}
		i := 0
		if arg > 200 {
			i = int(arg) % len(mem.debts)
		}
		d := mem.debts[i]
		mem.debts = append(mem.debts[:i:i], mem.debts[i+1:]...)
		for j := range d.n {
			m.confirmed[d.first+uint64(j)] = true
		}
		d.receipt.Confirm()
		d.receipt.Confirm() // twice is harmless
	case 7: // leave, or finish with some items kept
		mem := pick()
		if mem == nil || mem.left {
			return
		}
		mem.left = true
		if arg%3 > 0 {
			void := mem.debts
			mem.debts = nil
			m.drop(mem)
			mem.m.Leave()
			for _, d := range void {
				d.receipt.Confirm() // too late, so it must not count
			}
			return
		}
		keep := int(arg / 3)
		left := keep
		var kept []handed
		for _, d := range mem.debts {
			if d.n = min(d.n, left); d.n > 0 {
				kept = append(kept, d)
				left -= d.n
			}
		}
		mem.debts = kept
		mem.m.Finish(keep)
	}
	for i := 0; i < len(m.members); i++ { // who is finished and owes nothing is gone
		if mem := m.members[i]; (mem.left || mem.done) && len(mem.debts) == 0 {
			m.drop(mem)
			i--
		}
	}
}

func (m *model) drop(mem *modelMember) { m.members = remove(m.members, mem) }

func play(t *testing.T, ops []byte) {
	m := &model{t: t, l: NewList(Options{Window: 300, Memory: 1 << 20}), confirmed: map[uint64]bool{}}
	for i := 0; i+1 < len(ops); i += 2 {
		m.step(ops[i], ops[i+1])
		m.check()
	}
	for len(m.members) > 0 {
		mem := m.members[0]
		mem.debts = nil
		m.drop(mem)
		mem.m.Leave()
		m.check()
	}
	if p := m.l.Plan(); p.Head != p.Next {
		t.Fatalf("with nobody there the window is [%d,%d)", p.Head, p.Next)
	}
}

func TestTheRuleHoldsAfterEveryStepOfRandomPlays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		ops := make([]byte, 600)
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		if ok := t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) { play(t, ops) }); !ok {
			return
		}
	}
}

func FuzzTheRule(f *testing.F) {
	f.Add([]byte{0, 0, 1, 30, 7, 1, 0, 2, 1, 9, 4, 0})
	f.Add([]byte{0, 40, 1, 80, 0, 1, 1, 3, 4, 1, 7, 0, 4, 0})
	f.Fuzz(func(t *testing.T, ops []byte) { play(t, ops[:min(len(ops), 2000)]) })
}
