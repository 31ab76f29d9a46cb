package relay

import (
	"fmt"
	"testing"
	"time"

	"edged/internal/batch"
)

// prompt is a member that takes everything and keeps one receipt.
type prompt struct{ receipt batch.Receipt }

func (p *prompt) Deliver(_ *batch.Batch, from, to int, r batch.Receipt) int {
	p.receipt = r
	return to - from
}

// endless is the end of a list that always has more items.
const endless = never - 1

// itemsAt is a batch of n items from number first on.
func itemsAt(first uint64, n int) *batch.Batch {
	return batch.New("s", first, &batch.Memory{Spans: make([]batch.Span, n)})
}

// crowded is a list with some consumers, whose ledger is written.
func crowded(tb testing.TB, consumers int, o Options) (*Log, []*prompt, []batch.Membership) {
	o.Window, o.Memory = 4000, 8<<20
	l := New(o)
	l.Load(batch.Snapshot{Epoch: "e", First: 1000, Done: 1000}) // small numbers cost no allocation
	all, memberships := make([]*prompt, consumers), make([]batch.Membership, consumers)
	for i := range all {
		all[i] = &prompt{}
		memberships[i] = l.Join("", "1", all[i])
	}
	save(l)
	return l, all, memberships
}

// save writes the ledger if there is anything to write.
func save(l *Log) {
	if l.Plan(0, endless).Dirty {
		l.Changes()
		l.Saved(true)
	}
}

// offer hands a batch to the consumers.
func offer(tb testing.TB, l *Log, items int) (next uint64) {
	plan := l.Plan(0, endless)
	if plan.Items < items || plan.Sweep {
		tb.Fatalf("the plan is %+v", plan)
	}
	b := itemsAt(plan.From, items)
	l.Offer(b, false)
	return b.Next()
}

// round takes a batch from Redis to every consumer and back.
func round(tb testing.TB, l *Log, consumers []*prompt, items int) {
	next := offer(tb, l, items)
	for _, p := range consumers {
		p.receipt.Confirm()
	}
	if floor := l.Plan(0, endless).Floor; floor != next {
		tb.Fatalf("the floor is %d after all below %d was confirmed", floor, next)
	}
	save(l)
}

// BenchmarkBatchToConsumers hands a batch of 500 items to all consumers, which confirm
// it.
func BenchmarkBatchToConsumers(b *testing.B) {
	for _, consumers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(consumers), func(b *testing.B) {
			l, all, _ := crowded(b, consumers, Options{})
			b.ReportAllocs()
			for b.Loop() {
				round(b, l, all, 500)
			}
		})
	}
}

// BenchmarkAcknowledge is one item of an explicit list, from offered to removed.
func BenchmarkAcknowledge(b *testing.B) {
	now := time.Unix(1000, 0)
	l, _, memberships := crowded(b, 1, Options{
		Terms: Terms{Explicit: true, AckWait: time.Minute, MaxAckPending: 1000}, Now: func() time.Time { return now },
	})
	m := memberships[0].(batch.Acknowledger)
	const items = 500
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%items != 0 {
			continue
		}
		next := offer(b, l, items)
		for i := next - items; i < next; i++ {
			if err := m.Acknowledge("e", i, batch.Ack{Kind: batch.Acked}, nil); err != nil {
				b.Fatal(err)
			}
		}
		save(l)
	}
}

func TestAnItemOfAReceivedListCostsNoAllocation(t *testing.T) {
	l, all, _ := crowded(t, 3, Options{})
	count := func(items int) float64 {
		return testing.AllocsPerRun(20, func() { round(t, l, all, items) })
	}
	if few, many := count(10), count(1000); many > few {
		t.Errorf("%v allocations for a batch of 1000 items, %v for one of 10", many, few)
	}
}
