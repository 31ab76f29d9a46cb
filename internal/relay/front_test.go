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
