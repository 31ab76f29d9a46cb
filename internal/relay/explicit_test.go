package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"edged/internal/batch"
)

// hand is a member of an explicit list that remembers what it was handed.
type hand struct {
	limit int // how many items it takes in all; below 0 it takes everything
	m     batch.Acknowledger
	got   []got
}

type got struct {
	seq   uint64
	tries int
	taken time.Time
}

func (h *hand) Deliver(b *batch.Batch, from, to int, _ batch.Receipt) int {
	n := to - from
	if h.limit >= 0 {
		n = min(n, h.limit)
		h.limit -= n
	}
	for i := from; i < from+n; i++ {
		h.got = append(h.got, got{b.First() + uint64(i), b.Tries(), b.Taken()})
	}
	return n
}

func (h *hand) ack(t *testing.T, i int, a batch.Ack) {
	t.Helper()
	if err := h.m.Acknowledge(h.got[i].seq, h.got[i].taken, a, nil); err != nil {
		t.Fatalf("acknowledging item %d: %v", h.got[i].seq, err)
	}
}

func (h *hand) String() string {
	s := ""
	for _, g := range h.got {
		s += fmt.Sprintf("%d/%d ", g.seq, g.tries)
	}
	return s
}

// bench is an explicit list with a clock of its own.
type bench struct {
	t   *testing.T
	l   *Explicit
	now time.Time
}

func newBench(t *testing.T, change ...func(*ExplicitOptions)) *bench {
	b := &bench{t: t, now: time.Unix(1000, 0)}
	opts := ExplicitOptions{Window: 100, Memory: 1 << 20, AckWait: 30 * time.Second, MaxAckPending: 50,
		Now: func() time.Time { return b.now }}
	for _, c := range change {
		c(&opts)
	}
	b.l = NewExplicit(opts)
	return b
}

func (b *bench) join(group string) *hand {
	h := &hand{limit: -1}
	h.m = b.l.Join(group, "1", h).(batch.Acknowledger)
	return h
}

func (b *bench) offer(n int) {
	items := make([][]byte, n)
	b.l.Offer(batch.Of("s", b.l.Plan().Next, items...).Explicit(b.now, 0))
}

func (b *bench) pass(d time.Duration) {
	b.now = b.now.Add(d)
	b.l.Tick()
}

func (b *bench) wantSettled(want string) {
	b.t.Helper()
	s := ""
	for _, x := range b.l.Settled(1000) {
		s += fmt.Sprintf("%d", x.Seq)
		if x.Dead != "" {
			s += "!"
		}
		s += " "
	}
	if s != want {
		b.t.Fatalf("settled are %q, want %q", s, want)
	}
	st := b.l.Stats()
	if st.Taken != st.Confirmed+st.Returned+st.Dead+st.Gone+uint64(st.InFlight) {
		b.t.Fatalf("the books do not close: %+v", st)
	}
}

var (
	ack  = batch.Ack{Kind: batch.Acked}
	nak  = batch.Ack{Kind: batch.Refused}
	wpi  = batch.Ack{Kind: batch.InProgress}
	term = batch.Ack{Kind: batch.Terminated}
)

func TestItemsAreSettledInTheOrderOfTheirAcknowledgements(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(4)
	h.ack(t, 2, ack)
	h.ack(t, 0, ack)
	b.wantSettled("2 0 ")
	b.l.Removed(1)
	b.wantSettled("0 ")
	if st := b.l.Stats(); st.Confirmed != 1 || st.InFlight != 3 {
		t.Fatalf("stats %+v", st)
	}
}

func TestEveryPartyHasToAcknowledge(t *testing.T) {
	b := newBench(t)
	p, q, r := b.join(""), b.join("workers"), b.join("workers")
	b.offer(2)
	if p.String() != "0/1 1/1 " || q.String() != "0/1 " || r.String() != "1/1 " {
		t.Fatalf("handed out: %s, %s, %s", p, q, r)
	}
	p.ack(t, 0, ack)
	b.wantSettled("")
	q.ack(t, 0, ack)
	b.wantSettled("0 ")
	p.ack(t, 1, ack)
	r.m.Leave()
	q.ack(t, 1, ack) // what the leaver had went to its fellow
	b.wantSettled("0 1 ")
}

func TestARefusedItemComesAgainAtOnceOrAfterItsDelay(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(1)
	h.ack(t, 0, nak)
	if h.String() != "0/1 0/2 " {
		t.Fatalf("handed out: %s", h)
	}
	h.ack(t, 1, batch.Ack{Kind: batch.Refused, Delay: 10 * time.Second})
	b.pass(9 * time.Second)
	if len(h.got) != 2 {
		t.Fatalf("too soon: %s", h)
	}
	b.pass(time.Second)
	if h.String() != "0/1 0/2 0/3 " {
		t.Fatalf("handed out: %s", h)
	}
}

func TestAnOverdueItemComesAgainAndProgressPutsThatOff(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(2)
	b.pass(20 * time.Second)
	h.ack(t, 0, wpi)
	b.pass(10 * time.Second)
	if h.String() != "0/1 1/1 1/2 " {
		t.Fatalf("handed out: %s", h)
	}
	b.pass(20 * time.Second)
	if h.String() != "0/1 1/1 1/2 0/2 " {
		t.Fatalf("handed out: %s", h)
	}
	h.ack(t, 0, ack) // late, but it counts
	b.wantSettled("0 ")
}

func TestTheWaitsFollowTheBackoff(t *testing.T) {
	b := newBench(t, func(o *ExplicitOptions) { o.Backoff = []time.Duration{time.Second, time.Minute} })
	h := b.join("")
	b.offer(1)
	b.pass(time.Second)
	b.pass(59 * time.Second)
	if len(h.got) != 2 {
		t.Fatalf("handed out: %s", h)
	}
	b.pass(time.Second)
	b.pass(time.Minute) // the last wait repeats
	if h.String() != "0/1 0/2 0/3 0/4 " {
		t.Fatalf("handed out: %s", h)
	}
}

func TestAnItemDeliveredInVainOrGivenUpIsDead(t *testing.T) {
	b := newBench(t, func(o *ExplicitOptions) { o.MaxDeliver = 2 })
	h := b.join("")
	b.offer(3)
	h.ack(t, 1, term)
	b.wantSettled("1! ")
	b.pass(30 * time.Second)
	b.wantSettled("1! ")
	b.pass(30 * time.Second)
	b.wantSettled("1! 0! 2! ")
	s := b.l.Settled(3)[1]
	if s.Deliveries != 2 {
		t.Errorf("%+v", s)
	}
	b.l.Removed(3)
	if st := b.l.Stats(); st.Dead != 3 || st.InFlight != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestASecondOrLateAcknowledgementDoesNothing(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(1)
	h.ack(t, 0, ack)
	h.ack(t, 0, ack)
	b.wantSettled("0 ")
	b.l.Removed(1)
	h.ack(t, 0, term)
	b.wantSettled("")
}

func TestAnAcknowledgementOfWhatAMemberWasNeverGivenIsRefused(t *testing.T) {
	b := newBench(t)
	h, other := b.join(""), b.join("workers")
	b.offer(1)
	b.join("workers")
	stranger := b.join("")
	for name, err := range map[string]error{
		"another party's":     stranger.m.Acknowledge(0, b.now, ack, nil),
		"not yet taken":       h.m.Acknowledge(7, b.now, ack, nil),
		"of an earlier life":  h.m.Acknowledge(0, b.now.Add(-time.Hour), ack, nil),
		"a fellow's, not its": b.join("workers").m.Acknowledge(0, b.now, ack, nil),
	} {
		if !errors.Is(err, batch.ErrNotGiven) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.ack(t, 0, ack)
	other.ack(t, 0, ack)
	b.wantSettled("0 ")
}

func TestWhoAsksIsToldWhenTheItemIsRemoved(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(2)
	var told []string
	note := func(what string) func(error) { return func(err error) { told = append(told, fmt.Sprint(what, err)) } }
	h.m.Acknowledge(0, b.now, ack, note("first "))
	if told != nil {
		t.Fatal("told before it was removed")
	}
	b.l.Removed(1)
	h.m.Acknowledge(0, b.now, ack, note("again "))
	h.m.Acknowledge(1, b.now, nak, note("refused "))
	if fmt.Sprint(told) != "[first <nil> again "+errUnknown.Error()+" refused <nil>]" {
		t.Fatal(told)
	}
}

func TestWithNobodyThereTheItemsAreGivenBack(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(3)
	h.ack(t, 1, ack)
	if b.l.Withdraw(false) {
		t.Fatal("withdrawn under the eyes of a party")
	}
	h.m.Leave()
	b.wantSettled("1 ")
	b.l.Removed(1)
	if !b.l.Withdraw(false) {
		t.Fatal("not withdrawn")
	}
	if st := b.l.Stats(); st.Returned != 2 || st.InFlight != 0 {
		t.Fatalf("stats %+v", st)
	}
}

func TestANewPartyGetsWhatNobodyIsLeftToReceive(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(2)
	h.ack(t, 0, ack)
	h.m.Leave()
	late := b.join("")
	if late.String() != "1/2 " {
		t.Fatalf("handed out: %s", late)
	}
}

func TestAPartyThatOwesMuchSlowsTheListDown(t *testing.T) {
	b := newBench(t, func(o *ExplicitOptions) { o.MaxAckPending = 5 })
	h := b.join("")
	b.join("workers")
	if p := b.l.Plan(); p.Items != 5 {
		t.Fatalf("plan %+v", p)
	}
	b.offer(5)
	if p := b.l.Plan(); p.Items != 0 {
		t.Fatalf("plan %+v", p)
	}
	h.ack(t, 0, ack)
	if p := b.l.Plan(); p.Items != 0 { // the group owes five
		t.Fatalf("plan %+v", p)
	}
}

func TestAMemberWithACountOwesWhatItTook(t *testing.T) {
	b := newBench(t)
	h := &hand{limit: 2}
	h.m = b.l.Join("", "1", h).(batch.Acknowledger)
	b.offer(5)
	if p := b.l.Plan(); p.Active || len(h.got) != 2 {
		t.Fatalf("plan %+v, got %s", p, h)
	}
	if b.l.Withdraw(false) {
		t.Fatal("withdrawn while a member owes")
	}
	h.m.Leave()
	b.l.Withdraw(false)
	b.wantSettled("")
	if st := b.l.Stats(); st.Returned != 5 {
		t.Fatalf("stats %+v", st)
	}
}

func TestItemsThatAreGoneAreOwedByNobody(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(3)
	h.ack(t, 2, ack)
	b.l.Gone([]uint64{0, 2})
	b.wantSettled("")
	h.ack(t, 0, ack)
	h.ack(t, 1, ack)
	b.wantSettled("1 ")
}

// Random joins, leaves, acknowledgements of all kinds and passing time: after
// every step each item is owed by somebody present, or settled, or nobody is
// there; what is settled was acknowledged or given up by somebody; nobody is
// handed an item that it has.
func playExplicit(t *testing.T, ops []byte) {
	b := newBench(t, func(o *ExplicitOptions) { o.MaxDeliver = 3; o.MaxAckPending = 40 })
	var hands []*hand
	acked := map[uint64]bool{}
	for i := 0; i+1 < len(ops); i += 2 {
		op, arg := ops[i], ops[i+1]
		var h *hand
		if len(hands) > 0 {
			h = hands[int(arg)%len(hands)]
		}
		switch op % 9 {
		case 0:
			if len(hands) < 6 {
				h := &hand{limit: -1}
				if arg%5 == 0 {
					h.limit = int(arg / 5)
				}
				h.m = b.l.Join([]string{"", "g", "h"}[arg%3], "1", h).(batch.Acknowledger)
				hands = append(hands, h)
			}
		case 1, 2:
			if n := min(int(arg%20)+1, b.l.Plan().Items); n > 0 {
				b.offer(n)
			}
		case 3, 4, 5, 6:
			if h == nil || len(h.got) == 0 {
				continue
			}
			g := h.got[int(arg/7)%len(h.got)]
			a := []batch.Ack{ack, ack, ack, nak, term, wpi, {Kind: batch.Refused, Delay: 5 * time.Second}}[arg%7]
			if err := h.m.Acknowledge(g.seq, g.taken, a, nil); err == nil && a.Kind == batch.Acked {
				acked[g.seq] = true
			}
		case 7:
			b.pass(time.Duration(arg%40) * time.Second)
		case 8:
			if h == nil {
				continue
			}
			switch arg % 4 {
			case 0:
				b.l.Removed(len(b.l.Settled(int(arg))))
			case 1:
				h.m.Finish(int(arg / 16))
			case 2:
				b.l.Withdraw(arg > 200)
			default:
				h.m.Leave()
				hands = remove(hands, h)
			}
		}
		checkExplicit(t, b, acked)
	}
}

func checkExplicit(t *testing.T, b *bench, acked map[uint64]bool) {
	t.Helper()
	l := b.l
	st := l.Stats()
	if st.Taken != st.Confirmed+st.Returned+st.Dead+st.Gone+uint64(st.InFlight) {
		t.Fatalf("the books do not close: %+v", st)
	}
	owed := map[*taking]int{}
	bytes := 0
	active := l.Plan().Active
	for seq, it := range l.items {
		bytes += it.cost
		if it.settled != (slices.Contains(l.settled, it)) {
			t.Fatalf("item %d: settled %v", seq, it.settled)
		}
		if it.settled && len(it.claims) > 0 {
			t.Fatalf("item %d is settled and owed", seq)
		}
		if it.settled && !acked[seq] && it.dead == "" {
			t.Fatalf("item %d is settled and nobody acknowledged it or gave it up", seq)
		}
		if !it.settled && len(it.claims) == 0 && active {
			t.Fatalf("item %d is owed by nobody though somebody is there", seq)
		}
		for _, c := range it.claims {
			owed[c.party]++
			if !slices.Contains(l.parties, c.party) {
				t.Fatalf("item %d is owed by a party that is gone", seq)
			}
			if c.index < 0 || l.due[c.index] != c {
				t.Fatalf("item %d is owed and never falls due", seq)
			}
			if w := c.member; w != nil && (w.gone || !slices.Contains(c.party.workers, w)) {
				t.Fatalf("item %d is with a member that is gone", seq)
			}
		}
	}
	if bytes != l.bytes {
		t.Fatalf("%d bytes counted, %d are there", l.bytes, bytes)
	}
	claims := 0
	for _, p := range l.parties {
		if p.owed != owed[p] {
			t.Fatalf("a party owes %d, counted are %d", owed[p], p.owed)
		}
		claims += p.owed
		for _, w := range p.workers {
			if w.finished && len(w.claims) == 0 {
				t.Fatal("a member that is finished and owes nothing is still there")
			}
		}
		if len(p.workers) == 0 {
			t.Fatal("a party without members is there")
		}
	}
	if claims != len(l.due) {
		t.Fatalf("%d claims, %d due", claims, len(l.due))
	}
}

func TestTheRuleHoldsForExplicitListsAfterEveryStepOfRandomPlays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		ops := make([]byte, 600)
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		if ok := t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) { playExplicit(t, ops) }); !ok {
			return
		}
	}
}

func FuzzTheRuleForExplicitLists(f *testing.F) {
	f.Add([]byte{0, 0, 1, 30, 3, 1, 0, 2, 1, 9, 8, 0})
	f.Fuzz(func(t *testing.T, ops []byte) { playExplicit(t, ops[:min(len(ops), 2000)]) })
}

func TestWhatAFinishedMemberOwesIsNotWithdrawn(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(2)
	h.m.Finish(2)
	if b.l.Withdraw(false) {
		t.Fatal("withdrawn while a member owes")
	}
	h.ack(t, 0, ack)
	b.wantSettled("0 ")
	b.l.Removed(1)
	b.pass(time.Hour) // overdue: it has had its chance
	if !b.l.Withdraw(false) {
		t.Fatal("not withdrawn with nobody there")
	}
}

func TestAnAcknowledgementThatMakesRoomWakesTheLoop(t *testing.T) {
	woken := 0
	b := newBench(t, func(o *ExplicitOptions) { o.MaxAckPending, o.Changed = 2, func() { woken++ } })
	p := b.join("")
	b.offer(1)
	b.join("")
	b.offer(1) // for both
	if b.l.Plan().Items != 0 {
		t.Fatal("there is room")
	}
	woken = 0
	p.ack(t, 1, ack)
	if b.l.Plan().Items != 1 || woken == 0 {
		t.Fatalf("room for %d, woken %d times", b.l.Plan().Items, woken)
	}
}

func TestRefusingAgainAndAgainTakesNoMoreMemory(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(1)
	for i := range 1000 {
		h.ack(t, i, nak)
	}
	if n := len(b.l.items[0].claims[0].past); n > 1 {
		t.Fatalf("%d entries are kept", n)
	}
}

func TestAStragglerDoesNotKeepItsBatchInMemory(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	items := make([][]byte, 10)
	for i := range items {
		items[i] = fmt.Appendf(nil, "item %d", i)
	}
	offered := batch.Of("s", 0, items...).Explicit(b.now, 0)
	kept := weak.Make(offered)
	b.l.Offer(offered)
	offered = nil
	for i := range 9 {
		h.ack(t, i, batch.Ack{})
	}
	b.l.Removed(9)
	runtime.GC()
	if kept.Value() != nil {
		t.Error("the batch is still in memory")
	}
	h.ack(t, 9, batch.Ack{Kind: batch.Refused})
	if last := h.got[len(h.got)-1]; last.seq != 9 || last.tries != 2 || !last.taken.Equal(b.now) {
		t.Errorf("the straggler came again as %+v", last)
	}
}

func TestNothingIsWithdrawnWhileSomethingIsToBeRemoved(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(2)
	h.ack(t, 0, batch.Ack{})
	h.m.Leave()
	if b.l.Withdraw(false) {
		t.Error("withdrawn with an item that is acknowledged and still in Redis")
	}
	b.l.Removed(1)
	if !b.l.Withdraw(false) {
		t.Error("not withdrawn with nobody there")
	}
}

func TestAnItemThatIsNotAcknowledgedKeepsNothingThatCameBehindItInMemory(t *testing.T) {
	b := newBench(t)
	h := b.join("")
	b.offer(1) // a long job, say, or a delay of an hour
	var batches []weak.Pointer[batch.Batch]
	for range 100 {
		items := make([][]byte, 10)
		for i := range items {
			items[i] = make([]byte, 1000)
		}
		offered := batch.Of("s", b.l.Plan().Next, items...).Explicit(b.now, 0)
		batches = append(batches, weak.Make(offered))
		b.l.Offer(offered)
		for i := len(h.got) - 10; i < len(h.got); i++ {
			h.ack(t, i, ack)
		}
		b.l.Removed(10)
	}
	runtime.GC()
	kept := 0
	for _, w := range batches {
		if w.Value() != nil {
			kept++
		}
	}
	if kept > 1 || len(b.l.order) > 100 {
		t.Errorf("%d of %d batches that are removed from Redis are in memory, and %d items; in flight is %d",
			kept, len(batches), len(b.l.order), b.l.Stats().InFlight)
	}
}

func TestALateAcknowledgementOfWhatItsPartyHasGivenUpIsNotRefused(t *testing.T) {
	b := newBench(t, func(o *ExplicitOptions) { o.MaxDeliver = 1 })
	p := b.join("")
	b.join("workers")
	b.offer(2)
	if err := p.m.Acknowledge(0, b.now, term, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.m.Acknowledge(0, b.now, term, nil); errors.Is(err, batch.ErrNotGiven) {
		t.Errorf("the second +TERM of an item that the others still owe: %v", err)
	}
	taken := b.now
	p.m.Acknowledge(1, taken, wpi, nil)
	b.now = b.now.Add(20 * time.Second)
	for _, q := range b.l.parties[1:] { // the others ask for more time
		for _, w := range q.workers {
			w.Acknowledge(1, taken, wpi, nil)
		}
	}
	b.pass(15 * time.Second) // the first is overdue
	if err := p.m.Acknowledge(1, taken, ack, nil); errors.Is(err, batch.ErrNotGiven) {
		t.Errorf("a late acknowledgement while the others still owe it: %v", err)
	}
}

func TestAnItemIsNotAcknowledgedByWhoWasNeverGivenItWhenAnotherHasDoneSo(t *testing.T) {
	b := newBench(t)
	p := b.join("")
	b.join("workers")
	b.offer(1)
	late := b.join("")
	p.ack(t, 0, ack)
	if err := late.m.Acknowledge(0, b.now, ack, nil); !errors.Is(err, batch.ErrNotGiven) {
		t.Errorf("a client that was never given the item: %v", err)
	}
}

func TestAnItemThatSeveralNewPartiesGetIsNotDeadBeforeOneHadItOftenEnough(t *testing.T) {
	b := newBench(t, func(o *ExplicitOptions) { o.MaxDeliver = 3 })
	first := b.join("")
	b.offer(1)
	others := []*hand{b.join(""), b.join(""), b.join("")}
	first.m.Leave()
	for i, h := range others {
		if h.String() != "0/2 " {
			t.Errorf("party %d got %q, want the item's second delivery", i, h)
		}
	}
	for _, h := range others {
		if len(h.got) > 0 {
			h.ack(t, 0, batch.Ack{})
		}
	}
	if s := b.l.Settled(10); len(s) != 1 || s[0].Dead != "" {
		t.Errorf("settled: %+v, want the one item, acknowledged", s)
	}
}

func TestPartiesThatComeAndGoAreNotAllRemembered(t *testing.T) {
	b := newBench(t)
	first := b.join("")
	b.offer(1)
	for range 10 * maxFormer {
		first.m.Leave()
		first = b.join("")
	}
	if n := len(b.l.order[0].former); n > maxFormer {
		t.Errorf("%d parties are remembered", n)
	}
	first.ack(t, len(first.got)-1, ack)
	b.wantSettled("0 ")
}
