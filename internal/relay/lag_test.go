package relay

import (
	"math"
	"slices"
	"testing"
	"time"

	"edged/internal/batch"
)

// desk is a list of small items, with its Log and a clock.
type desk struct {
	t          *testing.T
	now        time.Time
	log        *Log
	first, end uint64 // the head, one past the last item
	read       int    // items, each as often as it was
	cut        []ConsumerInfo
}

// newDesk makes a list whose ledger says s, with no item at all.
func newDesk(t *testing.T, o Options, s batch.Snapshot) *desk {
	d := &desk{t: t, now: time.Unix(1000, 0), first: s.First, end: s.First}
	o.Memory, o.Now = 1<<20, func() time.Time { return d.now }
	o.CutOff = func(c ConsumerInfo) { d.cut = append(d.cut, c) }
	s.Epoch = "e"
	d.log = New(o)
	d.log.Load(s)
	return d
}

// newFull makes a list of so many items.
func newFull(t *testing.T, o Options, items uint64) *desk {
	d := newDesk(t, o, batch.Snapshot{})
	d.end = items
	return d
}

// reader is a member with the items that it was handed, and their receipts.
type reader struct {
	batch.Membership
	got      []uint64
	receipts []batch.Receipt
}

func (d *desk) join(group string) *reader {
	r := new(reader)
	r.Membership = d.log.Join(group, "k", r)
	return r
}

func (r *reader) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	for i := from; i < to; i++ {
		r.got = append(r.got, b.First()+uint64(i))
	}
	r.receipts = append(r.receipts, receipt)
	return to - from
}

// confirm confirms all that the reader was handed.
func (r *reader) confirm() {
	for _, receipt := range r.receipts {
		receipt.Confirm()
	}
	r.receipts = nil
}

// say says the same about all items that the reader was handed since the last time.
func (r *reader) say(t *testing.T, a batch.Ack) {
	t.Helper()
	for _, n := range r.got {
		if err := r.Membership.(batch.Acknowledger).Acknowledge("e", n, a, nil); err != nil {
			t.Fatal(err)
		}
	}
	r.got = nil
	r.confirm() // they are written
}

// turn is a round trip of the loop, and reports whether it had anything to do.
func (d *desk) turn() bool {
	p := d.log.Plan(d.first, d.end)
	d.log.Changes()
	d.log.Saved(true)
	reads := p.Items > 0 && p.From < d.end
	if reads {
		items := make([][]byte, min(uint64(p.Items), d.end-p.From))
		if p.From < d.first { // it is set aside
			items = items[:1]
		}
		for i := range items {
			items[i] = []byte("item")
		}
		d.read += len(items)
		b := batch.Of("list", p.From, items...)
		if d.log.opts.Explicit {
			b.Stamp("e", d.now, 0)
		}
		d.log.Offer(b, p.Sweep)
	}
	return reads || p.Dirty
}

// run turns until nothing is left to do, while fast confirms.
func (d *desk) run(fast ...*reader) {
	for d.turn() {
		for _, r := range fast {
			if d.log.opts.Explicit {
				r.say(d.t, batch.Ack{Kind: batch.Acked})
			} else {
				r.confirm()
			}
		}
	}
}

// pass lets time pass, with a look at least each step.
func (d *desk) pass(total, step time.Duration, fast ...*reader) {
	for end := d.now.Add(total); d.now.Before(end); {
		d.now = d.now.Add(step)
		d.run(fast...)
	}
}

func (d *desk) expectCut(want ...*reader) {
	d.t.Helper()
	var got, all []batch.Member
	for _, c := range d.cut {
		got = append(got, c.Members...)
	}
	for _, r := range want {
		all = append(all, r)
	}
	if !slices.Equal(got, all) {
		d.t.Fatalf("cut off are %v, want %v", d.cut, want)
	}
}

func TestAConsumerThatLagsTooLongIsCutOffOnce(t *testing.T) {
	d := newFull(t, Options{Window: 10, MaxLag: 10 * time.Minute}, 100)
	fast, slow := d.join(""), d.join("")
	d.run(fast)
	d.pass(2*time.Second, time.Second, fast)

	p := d.log.Plan(d.first, d.end)
	if left := p.Wake.Sub(d.now); left <= 0 || left > 10*time.Minute {
		t.Fatalf("Plan wants to be called after %v, want less than the 10 minutes", left)
	}
	d.now = p.Wake.Add(-time.Second)
	d.run(fast)
	d.expectCut()
	d.now = p.Wake
	d.run(fast)
	d.expectCut(slow)
	if c := d.cut[0]; c.LagItems != 90 || c.Owed != 10 || c.Lag < 10*time.Minute || c.Next != 10 {
		t.Errorf("it is described as %+v", c)
	}
	d.pass(time.Hour, time.Minute, fast)
	d.expectCut(slow)
	slow.Leave()
	if d.run(fast); d.log.State().Floor != d.end {
		t.Error("it owes something after it has left")
	}
}

func TestOnlyAConsumerBehindAnotherLagsWithinMaxLag(t *testing.T) {
	for _, c := range []struct {
		maxLag time.Duration
		others []string // groups of consumers that confirm nothing
		fast   bool     // one confirms all
		cut    int
	}{
		{time.Minute, []string{""}, false, 0}, {0, []string{""}, true, 0}, {time.Minute, []string{"crew", "crew"}, true, 2},
	} {
		d := newFull(t, Options{Window: 10, MaxLag: c.maxLag}, 100)
		var fast, slow []*reader
		if c.fast {
			fast = append(fast, d.join(""))
		}
		for _, group := range c.others {
			slow = append(slow, d.join(group))
		}
		d.pass(100*time.Hour, time.Minute, fast...)
		d.expectCut(slow[:c.cut]...)
	}
}

func TestOfDurableConsumersOnlyThoseThatPassAreCutOff(t *testing.T) {
	for _, passes := range []bool{false, true} {
		d := newFull(t, explicit(100), 50)
		terms := Durable{Terms: Terms{Explicit: true, AckWait: time.Minute, MaxAckPending: 100}, Passes: passes}
		if err := d.log.SetDurable("slow", terms); err != nil {
			t.Fatal(err)
		}
		d.log.JoinDurable("slow", "k", &meter{})
		fast := d.join("")
		d.run(fast)
		d.pass(time.Hour, time.Minute, fast)
		if cut := len(d.cut) == 1; cut != passes || cut && d.cut[0].Name.Name != "slow" {
			t.Errorf("it passes: %v; cut off are %+v", passes, d.cut)
		}
	}
}

func TestAConsumerThatKeepsWithinTheTimeIsKept(t *testing.T) {
	d := newFull(t, Options{Window: 10, MaxLag: time.Minute}, 0)
	fast, slow := d.join(""), d.join("")
	for range 1000 { // it is always some items behind
		d.end += 30
		d.pass(time.Second, time.Second, fast)
		for range 3 {
			slow.confirm()
			d.run(fast)
		}
	}
	d.expectCut()
}

func explicit(pending int) Options {
	return Options{Window: 1000, MaxLag: 10 * time.Minute, Terms: Terms{Explicit: true, AckWait: 30 * time.Second, MaxAckPending: pending}}
}

func TestAWorkerThatRefusesForADayIsKept(t *testing.T) {
	d := newFull(t, explicit(100), 50)
	fast, slow := d.join(""), d.join("")
	d.run(fast)
	refuse := batch.Ack{Kind: batch.Refused, Delay: MaxDelay}
	for range 3 {
		if len(slow.got) != 50 {
			t.Fatalf("it got %d items, want all", len(slow.got))
		}
		slow.say(t, refuse)
		d.pass(MaxDelay, time.Minute, fast)
	}
	d.expectCut()
}

func TestAWorkerThatNeverAcknowledgesIsCutOffForTheItemsThatItHasNoRoomFor(t *testing.T) {
	for pending, kept := range map[int]bool{50: true, 49: false} {
		d := newFull(t, explicit(pending), 50)
		fast, slow := d.join(""), d.join("")
		for range 120 {
			d.pass(10*time.Second, 10*time.Second, fast)
			slow.confirm() // they are written
		}
		if kept {
			d.expectCut()
		} else {
			d.expectCut(slow)
		}
	}
}

// leftBehind is a list of 100 items with a consumer that has confirmed all, and a slow one
// that is left behind with 10 in its hands.
func leftBehind(t *testing.T, group string) (d *desk, fast, slow *reader) {
	d = newFull(t, Options{Window: 10, MaxLag: 10 * time.Minute}, 100)
	fast, slow = d.join(""), d.join(group)
	d.run(fast)
	d.pass(time.Second, time.Second, fast)
	return d, fast, slow
}

// While Redis is away a consumer cannot catch up.
func TestTheTimeInWhichNothingCanBeReadIsNoLag(t *testing.T) {
	d, fast, slow := leftBehind(t, "")
	d.now = d.now.Add(5 * time.Minute)
	slow.confirm() // it has room again
	for range 60 { // but there is no read
		d.log.Plan(d.first, d.end)
		d.now = d.now.Add(time.Minute)
	}
	d.run(fast)
	d.expectCut()
	if lag := d.log.State().Consumers[1].Lag; lag != 5*time.Minute {
		t.Errorf("its lag is %v, want the 5 minutes that were its own", lag)
	}
	d.pass(6*time.Minute, time.Second, fast)
	d.expectCut(slow)
}

func TestStateTellsThePlaceOfEachConsumer(t *testing.T) {
	d, fast, slow := leftBehind(t, "crew")
	d.now = d.now.Add(time.Minute)
	s := d.log.State()
	if s.First != 0 || s.Floor != 0 || s.Done != 100 || s.Next != 100 || len(s.Consumers) != 2 {
		t.Fatalf("the state is %+v", s)
	}
	if done := d.log.Done(); done != s.Done {
		t.Errorf("Done is %d, the state's is %d", done, s.Done)
	}
	if c := s.Consumers[0]; c.Members[0] != batch.Member(fast) || c.Next != 100 || c.LagItems != 0 || c.Lag != 0 || c.Owed != 0 || !c.Oldest.IsZero() || !c.Front {
		t.Errorf("the fast one is %+v", c)
	}
	c := s.Consumers[1]
	if c.Name.Name != "crew" || c.Members[0] != batch.Member(slow) || c.Next != 10 || c.LagItems != 90 || c.Lag != time.Minute || c.Owed != 10 || c.Front {
		t.Errorf("the slow one is %+v", c)
	}
	if age := d.now.Sub(c.Oldest); age != 61*time.Second {
		t.Errorf("its oldest item is %v old, want 61 s", age)
	}
	if fast.Owed() != 0 || slow.Owed() != 10 {
		t.Errorf("they owe %d and %d, want 0 and 10", fast.Owed(), slow.Owed())
	}
}

func TestADelayEndsWithTheMemberThatAskedForIt(t *testing.T) {
	o := explicit(100)
	o.MaxDeliver = 2
	d := newFull(t, o, 4)
	bad := d.join("crew")
	d.run()
	bad.say(t, batch.Ack{Kind: batch.Refused, Delay: time.Hour})
	good := d.join("crew")
	d.run(good)
	if len(good.got) != 0 {
		t.Fatalf("the delay is not over, and %v were delivered again", good.got)
	}
	bad.Leave()
	d.turn()
	if len(good.got) != 4 {
		t.Errorf("after it left %v were delivered again, want all four", good.got)
	}
	good.say(t, batch.Ack{Kind: batch.Acked})
	d.run()
	if s := d.log.Stats(); s.Confirmed != 4 || s.Dead != 0 {
		t.Errorf("the books are %+v, want four confirmed", s)
	}
}

func TestADelayIsADayAtMost(t *testing.T) {
	d := newFull(t, explicit(100), 1)
	r := d.join("crew")
	d.run()
	r.say(t, batch.Ack{Kind: batch.Refused, Delay: math.MaxInt64})
	d.pass(MaxDelay-time.Hour, time.Hour, r)
	if s := d.log.Stats(); s.Confirmed != 0 || s.Redelivered != 0 {
		t.Fatalf("an hour before a day is over the books are %+v", s)
	}
	d.pass(2*time.Hour, time.Hour, r)
	if d.log.Stats().Confirmed != 1 {
		t.Errorf("after a day the books are %+v, want the item confirmed", d.log.Stats())
	}
}

func TestItemsThatAConsumerBeganAfterAreUnclaimed(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(Options{Window: 100, Memory: 1 << 20, Now: func() time.Time { return now }})
	l.Load(batch.Snapshot{Epoch: "e"})
	if err := l.SetDurable("late", Durable{From: 10}); err != nil {
		t.Fatal(err)
	}
	m := &meter{wants: 100}
	l.JoinDurable("late", "", m)
	save(l)
	l.Offer(itemsAt(10, 5), l.Plan(0, 15).Sweep)
	m.receipt.Confirm()
	if s := l.State(); s.Unclaimed != 10 || s.Done != 0 || l.Plan(0, 15).Floor != 0 {
		t.Errorf("10 items are passed over: %+v", s)
	}
	p := &prompt{}
	l.Join("", "", p)
	save(l)
	if s := l.State(); s.Unclaimed != 0 {
		t.Errorf("a consumer owes them now: %+v", s)
	}
	l.Offer(itemsAt(0, 15), l.Plan(0, 15).Sweep)
	p.receipt.Confirm()
	if floor := l.Plan(0, 15).Floor; floor != 15 {
		t.Errorf("all are confirmed, and the floor is %d", floor)
	}
}

// holder is a reader that is told of the memory of its debts.
type holder struct {
	reader
	held int
}

func (h *holder) Hold(n int) { h.held += n }

func TestDebtsCountUntilTheyAreConfirmedOrEnd(t *testing.T) {
	for name, end := range map[string]func(h *holder){
		"confirmed":           func(h *holder) { h.confirm() },
		"confirmed backwards": func(h *holder) { slices.Reverse(h.receipts); h.confirm() },
		"left":                func(h *holder) { h.Leave() },
	} {
		d := newFull(t, Options{Window: 100}, 0)
		h := new(holder)
		h.Membership = d.log.Join("", "k", h)
		for len(h.receipts) < freeDebts {
			d.end++
			d.turn()
		}
		if h.held != 0 {
			t.Errorf("%s: %d debts count as %d bytes, want 0", name, len(h.receipts), h.held)
		}
		for range 10 {
			d.end++
			d.turn()
		}
		if h.held != 10*debtSize {
			t.Errorf("%s: 10 more debts count as %d bytes, want %d", name, h.held, 10*debtSize)
		}
		if end(h); h.held != 0 {
			t.Errorf("%s: no debts count as %d bytes", name, h.held)
		}
	}
}
