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

// itemsAt is a batch of n items from the sequence number first on.
func itemsAt(first uint64, n int) *batch.Batch {
	return batch.New("s", first, &batch.Memory{Spans: make([]batch.Span, n)})
}

// crowded is a list with some parties.
func crowded(parties int) (*List, []*prompt) {
	l := NewList(Options{Window: 4000, Memory: 8 << 20})
	all := make([]*prompt, parties)
	for i := range all {
		all[i] = &prompt{}
		l.Join("", "1", all[i])
	}
	return l, all
}

// round takes a batch from Redis to every party and back.
func round(tb testing.TB, l *List, parties []*prompt, items int) {
	plan := l.Plan()
	if !l.Offer(itemsAt(plan.Next, items)) {
		tb.Fatal("the batch is refused")
	}
	for _, p := range parties {
		p.receipt.Confirm()
	}
	if head := l.Plan().Head; head != plan.Next+uint64(items) {
		tb.Fatalf("head is %d after all was confirmed", head)
	}
}

// BenchmarkBatchToParties hands a batch of 500 items to all parties, which confirm it.
func BenchmarkBatchToParties(b *testing.B) {
	for _, parties := range []int{1, 100} {
		b.Run(fmt.Sprint(parties), func(b *testing.B) {
			l, all := crowded(parties)
			b.ReportAllocs()
			for b.Loop() {
				round(b, l, all, 500)
			}
		})
	}
}

// BenchmarkAcknowledge is one item of an explicit list, from offered to removed.
func BenchmarkAcknowledge(b *testing.B) {
	taken := time.Unix(1000, 0)
	l := NewExplicit(ExplicitOptions{Window: 4000, Memory: 8 << 20, AckWait: time.Minute, MaxAckPending: 1000,
		Now: func() time.Time { return taken }})
	m := l.Join("", "1", &prompt{}).(batch.Acknowledger)
	const items = 500
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%items != 0 {
			continue
		}
		first := l.Plan().Next
		l.Offer(itemsAt(first, items).Explicit(taken, 0))
		for i := range uint64(items) {
			if err := m.Acknowledge(first+i, taken, batch.Ack{Kind: batch.Acked}, nil); err != nil {
				b.Fatal(err)
			}
		}
		l.Removed(len(l.Settled(items)))
	}
}

func TestAnItemOfAReceivedListCostsNoAllocation(t *testing.T) {
	l, all := crowded(3)
	count := func(items int) float64 {
		return testing.AllocsPerRun(20, func() { round(t, l, all, items) })
	}
	if few, many := count(10), count(1000); many > few {
		t.Errorf("%v allocations for a batch of 1000 items, %v for one of 10", many, few)
	}
}
