package relay

import (
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// counter is a member that takes all items and counts them.
type counter int

func (c *counter) Deliver(_ *batch.Batch, from, to int, _ batch.Receipt) int {
	*c += counter(to - from)
	return to - from
}

func TestARollbackForgetsTheEndOfADelivery(t *testing.T) {
	l := New(Options{Window: 100, Memory: 1 << 20, Terms: Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 100}})
	l.Load(batch.Snapshot{Epoch: "one"})
	m := l.Join("", "1", new(counter)).(batch.Acknowledger)
	l.Changes()
	l.Saved(true)
	offer := func(from uint64) {
		b := batch.Of("s", from, make([][]byte, 10)...)
		l.Plan(0, from+10)
		l.Offer(b, false)
		b.Release()
	}
	offer(0)
	l.Rollback("two", 5)
	l.Changes()
	l.Saved(true)
	offer(5)
	if n := l.Stats().InFlight; n != 15 {
		t.Fatalf("%d items are on their way, want 15", n)
	}
	if err := m.Acknowledge("two", 7, batch.Ack{}, nil); err != nil {
		t.Error(err)
	}
	m.Finish(3)
	if m.(*member).owed != 3 {
		t.Errorf("the member has %d items in its hands, keeps 3", m.(*member).owed)
	}
	m.Leave()
	if st := l.Stats(); st.Consumers+st.Members != 0 {
		t.Errorf("books %+v", st)
	}
}

func TestInsertedItemsAreOwedByEveryConsumer(t *testing.T) {
	for _, explicit := range []bool{false, true} {
		l := New(Options{Window: 100, Memory: 1 << 20, Terms: Terms{Explicit: explicit, AckWait: time.Hour, MaxAckPending: 100}})
		var finished numbers.Set
		finished.Raise(10)
		l.Load(batch.Snapshot{Epoch: "one", First: 10, Finished: finished, Done: 10})
		all, some := new(counter), new(counter)
		l.Join("g", "1", all)
		l.Join("", "1", some)
		l.Changes()
		l.Saved(true)
		offer := func() (from uint64) {
			p := l.Plan(0, 20)
			b := batch.Of("s", p.From, make([][]byte, min(10, p.Items))...)
			defer b.Release()
			l.Offer(b, p.Sweep)
			return p.From
		}
		if from := offer(); from != 10 || l.Stats().InFlight != 10 {
			t.Fatalf("the first read is of item %d, %d are on their way", from, l.Stats().InFlight)
		}
		l.Insert("two", 7, 10)
		ch := l.Changes()
		if ch.Floor != 7 || ch.Done != "7" || ch.Plain != "7" || len(ch.Records) != 1 || ch.Records[0].Acked != "7" || ch.Finished != "7" {
			t.Errorf("the ledger is to have %+v", ch)
		}
		l.Saved(true)
		if from := offer(); from != 7 || l.Stats().InFlight != 13 || *all != 13 || *some != 13 {
			t.Errorf("the next read is of item %d; %d are on their way, the consumers have %d and %d", from, l.Stats().InFlight, *all, *some)
		}
	}
}
