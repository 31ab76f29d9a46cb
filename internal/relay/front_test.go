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
