package relay

import (
	"testing"
	"time"

	"edged/internal/batch"
)

// TestConsumersThatStopDoNotStopAnother has one consumer that confirms, beside more
// that do not.
func TestConsumersThatStopDoNotStopAnother(t *testing.T) {
	now := time.Unix(1000, 0)
	l, all, _ := crowded(t, 4, Options{Now: func() time.Time { return now }})
	working := all[0]
	for floor := uint64(0); floor < 40_000; {
		plan := l.Plan(0, endless)
		if plan.Items == 0 {
			if plan.Wake.IsZero() || plan.Wake.After(now.Add(mostOfFront)) {
				t.Fatalf("the consumer waits for others: %+v", plan)
			}
			now = plan.Wake
			continue
		}
		l.Offer(itemsAt(plan.From, min(plan.Items, 1000)), plan.Sweep)
		working.receipt.Confirm()
		floor = l.done.Floor()
		save(l)
	}
}

// TestAConsumerHasAsLongAsHalfOfTheFrontNeeded lets half of the front take 3 s for a
// batch.
func TestAConsumerHasAsLongAsHalfOfTheFrontNeeded(t *testing.T) {
	now := time.Unix(1000, 0)
	l, all, _ := crowded(t, 4, Options{Now: func() time.Time { return now }})
	var receipts [4][]batch.Receipt
	hand := func() {
		offer(t, l, 1000)
		for i, p := range all {
			receipts[i] = append(receipts[i], p.receipt)
		}
	}
	confirm := func(i int) {
		receipts[i][0].Confirm()
		receipts[i] = receipts[i][1:]
	}
	for range 4 {
		hand()
	}
	now = now.Add(3 * time.Second)
	confirm(0)
	confirm(1)

	now = now.Add(2900 * time.Millisecond)
	if l.Plan(0, endless); l.Stats().Behind != 0 {
		t.Error("the others were left behind too early")
	}
	now = now.Add(100 * time.Millisecond)
	if l.Plan(0, endless); l.Stats().Behind != 2 {
		t.Errorf("%d consumers are behind, not the two that hold up the front", l.Stats().Behind)
	}
}

// overtakenFront returns a front that waits for its client, and a consumer that was left
// behind and then passed it.
func overtakenFront(t *testing.T, changed func()) (d *desk, slow, fast *reader) {
	d = newFull(t, Options{Window: 4, Changed: changed}, 1000)
	slow, fast = d.join(""), d.join("")
	d.run()
	slow.confirm()
	d.now = d.now.Add(mostOfFront) // fast is left behind
	d.run()
	fast.confirm()
	d.run(fast)
	return d, slow, fast
}

func TestAConsumerThatPassesAFrontThatWaitsBecomesTheFront(t *testing.T) {
	d, _, fast := overtakenFront(t, nil)
	if wake := d.log.Plan(0, d.end).Wake; wake.IsZero() || wake.After(d.now.Add(mostOfFront)) {
		t.Fatalf("Plan is to be called again at %v", wake)
	}
	d.now = d.now.Add(mostOfFront)
	d.turn()
	for _, c := range d.log.State().Consumers {
		if isFast := c.Members[0] == batch.Member(fast); c.Front != isFast {
			t.Errorf("of the fast consumer: %v, at the front: %v", isFast, c.Front)
		}
	}
	if len(fast.got) != int(d.end) {
		t.Errorf("the fast consumer got %d items of %d", len(fast.got), d.end)
	}
}

func TestRoomOfAConsumerBehindTheFrontWakesTheLoop(t *testing.T) {
	changes := 0
	d, _, fast := overtakenFront(t, func() { changes++ })
	d.end += 4
	d.run() // fast has no room
	changes = 0
	fast.receipts[0].Confirm()
	if changes == 0 {
		t.Error("the loop does not learn that the consumer can be handed more")
	}
}

// meter is a metered member that takes what it is asked for.
type meter struct {
	prompt
	wants int
}

func (m *meter) Room() int { return m.wants }

func (m *meter) Passed(int) {}

func (m *meter) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	n := m.prompt.Deliver(b, from, from+min(to-from, m.wants), receipt)
	m.wants -= n
	return n
}

// TestAConsumerThatIsAskedForNothingIsNotWaitedFor has a metered consumer that is asked for
// ten items, beside one that takes all.
func TestAConsumerThatIsAskedForNothingIsNotWaitedFor(t *testing.T) {
	now := time.Unix(1000, 0)
	l, all, _ := crowded(t, 1, Options{Now: func() time.Time { return now }})
	if err := l.SetDurable("d", Durable{From: 1000}); err != nil {
		t.Fatal(err)
	}
	m := &meter{wants: 10}
	l.JoinDurable("d", "2", m)
	save(l)
	for floor := uint64(0); floor < 20_000; floor = l.done.Floor() {
		plan := l.Plan(0, endless)
		if plan.Items == 0 {
			t.Fatalf("the consumer waits for the other one: %+v", plan)
		}
		l.Offer(itemsAt(plan.From, min(plan.Items, 1000)), plan.Sweep)
		all[0].receipt.Confirm()
		save(l)
	}
	if m.wants != 0 || l.Stats().Consumers != 1 {
		t.Errorf("it is asked for %d more items; %d consumers take some", m.wants, l.Stats().Consumers)
	}
}

// worker is a reader that confirms its items at a speed.
type worker struct {
	*reader
	speed float64 // items in each step
	done  float64 // of the first receipt's items
	sizes []int   // of the receipts, in items
}

func (w *worker) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	w.sizes = append(w.sizes, to-from)
	return w.reader.Deliver(b, from, to, r)
}

// work is one step.
func (w *worker) work() {
	for w.done += w.speed; len(w.sizes) > 0 && w.done >= float64(w.sizes[0]); {
		w.done -= float64(w.sizes[0])
		w.receipts[0].Confirm()
		w.sizes, w.receipts = w.sizes[1:], w.receipts[1:]
	}
	if len(w.sizes) == 0 {
		w.done = 0
	}
}

// step lets all workers work while the loop runs.
func (d *desk) step(workers []*worker) {
	d.run()
	for _, w := range workers {
		w.work()
	}
	d.now = d.now.Add(10 * time.Millisecond)
}

func TestConsumersOfManySpeedsShareReads(t *testing.T) {
	const items, count = 20_000, 40
	d := newFull(t, Options{Window: 1000}, items)
	workers := make([]*worker, count)
	for i := range workers {
		w := &worker{reader: new(reader), speed: 50 * float64(i+1) / count}
		w.Membership = d.log.Join("", "k", w)
		workers[i] = w
	}

	for fastest := workers[count-1]; len(fastest.got) < items; {
		d.step(workers)
	}
	if most := 4 * items; d.read > most {
		t.Errorf("%d items were read until the fastest had %d, want at most %d", d.read, items, most)
	}
	for d.log.State().Floor < items {
		d.step(workers)
	}
	for i, w := range workers {
		for n, got := range w.got {
			if got != uint64(n) {
				t.Fatalf("consumer %d was handed item %d in place of %d", i, got, n)
			}
		}
		if len(w.got) != items {
			t.Errorf("consumer %d was handed %d items of %d", i, len(w.got), items)
		}
	}
}

// Redis would send the rest for nothing.
func TestTheSweepReadsNoMoreThanIsTaken(t *testing.T) {
	const items = 1000
	d := newFull(t, explicit(items), items)
	if err := d.log.SetDurable("slow", Durable{Terms: Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 1}}); err != nil {
		t.Fatal(err)
	}
	slow := new(reader)
	slow.Membership = d.log.JoinDurable("slow", "k", slow)
	fast := d.join("")
	d.pass(time.Minute, time.Second, fast)
	d.read = 0
	for range 10 {
		slow.say(t, batch.Ack{Kind: batch.Acked})
		d.pass(time.Minute, time.Second)
	}
	if d.read != 10 {
		t.Errorf("%d items are read for 10 that are handed one by one", d.read)
	}

	d.read = 0
	for range 10 {
		slow.say(t, batch.Ack{Kind: batch.Refused})
		d.run()
	}
	if d.read != 10 {
		t.Errorf("%d items are read for one that is refused 10 times", d.read)
	}
}
