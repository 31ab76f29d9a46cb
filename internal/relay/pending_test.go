package relay

import (
	"testing"
	"time"

	"edged/internal/batch"
)

// TestItemsThatAwaitAcknowledgementsAreBoundedOverAllLists has two lists share a bound.
func TestItemsThatAwaitAcknowledgementsAreBoundedOverAllLists(t *testing.T) {
	shared := &Pending{Limit: 300}
	o := Options{Window: 1000, Pending: shared, Terms: Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 1000}}
	first, second := newFull(t, o, 1000), newFull(t, o, 1000)
	greedy := first.join("")
	first.run()
	if n := len(greedy.got); n != 300 {
		t.Errorf("the first consumer has %d items that await an acknowledgement", n)
	}
	late := second.join("")
	second.run()
	if n := len(late.got); n != pendingShare {
		t.Errorf("a consumer that comes later has %d, want %d", n, pendingShare)
	}

	// What it acknowledges makes room for it, whatever the first one does.
	late.acknowledgeAll(t)
	second.run()
	if n := len(late.got); n != 2*pendingShare {
		t.Errorf("it has had %d after an acknowledgement, want %d", n, 2*pendingShare)
	}

	// So does the end of the first one, without a word of its own.
	greedy.Leave()
	second.run()
	if n := len(late.got); n != pendingShare+300 {
		t.Errorf("it has had %d after the end of the other, want %d", n, pendingShare+300)
	}
	late.Leave()
	if n := shared.count.Load(); n != 0 {
		t.Errorf("%d items count without a consumer", n)
	}
}

func TestAListOfAnotherProcessAwaitsNoAcknowledgements(t *testing.T) {
	shared := &Pending{Limit: 300}
	d := newFull(t, Options{Window: 1000, Pending: shared, Terms: Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 100}}, 1000)
	d.join("")
	d.run()
	if n := shared.count.Load(); n != 100 {
		t.Errorf("%d items count, want 100", n)
	}
	d.log.Unload()
	if n := shared.count.Load(); n != 0 {
		t.Errorf("%d items count after another process has taken the list", n)
	}
	d.log.Load(batch.Snapshot{Epoch: "e", End: 1000})
	d.run()
	if n := shared.count.Load(); n != 100 {
		t.Errorf("%d items count when the list is back, want 100", n)
	}
}

// acknowledgeAll acknowledges all that the reader was handed.
func (r *reader) acknowledgeAll(t *testing.T) {
	t.Helper()
	a := r.Membership.(batch.Acknowledger)
	if err := a.Acknowledge("e", r.got[len(r.got)-1], batch.Ack{Kind: batch.AckedAll}, nil); err != nil {
		t.Fatal(err)
	}
	for _, receipt := range r.receipts {
		receipt.Confirm()
	}
	r.receipts = nil
}
