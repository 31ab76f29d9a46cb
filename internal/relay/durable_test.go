package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"edged/internal/batch"
)

// noted is a meter that notes the items that it gets: number, delivery, and how many are to
// come.
type noted struct {
	meter
	got []string
}

func (m *noted) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	n := m.meter.Deliver(b, from, to, receipt)
	for i := from; i < from+n; i++ {
		m.got = append(m.got, fmt.Sprintf("%d×%d+%d", b.First()+uint64(i), b.Tries(), b.Pending()+int64(b.Len()-1-i)))
	}
	return n
}

// take lets the consumer have n more of the five items of a list.
func (m *noted) take(l *Log, own batch.Consumption, n int) {
	m.wants = n
	own.Update()
	for {
		p := l.Plan(0, 5)
		if p.Dirty {
			l.Changes()
			l.Saved(true)
			continue
		}
		if p.Items == 0 {
			return
		}
		l.Offer(itemsAt(p.From, int(5-p.From)).Stamp("e", time.Unix(1000, 0), 0), p.Sweep)
	}
}

func TestADurableConsumerCountsWhatItIsDelivered(t *testing.T) {
	l := New(Options{Window: 100, Memory: 1 << 20, Now: func() time.Time { return time.Unix(1000, 0) }})
	l.Load(batch.Snapshot{Epoch: "e", End: 5})
	if err := l.SetDurable("d", Durable{Terms: Terms{Explicit: true, AckWait: time.Minute, MaxAckPending: 10}}); err != nil {
		t.Fatal(err)
	}
	m := &noted{}
	own := l.JoinDurable("d", "", m)
	say := func(n uint64, kind batch.AckKind) {
		if err := own.Acknowledge("e", n, batch.Ack{Kind: kind}, nil); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, want DurableInfo) {
		t.Helper()
		got, known := l.Durable("d", 5)
		if got.Away = (time.Time{}); !known || got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}

	m.take(l, own, 3)
	want("three are delivered", DurableInfo{Next: 3, Out: 3, Pending: 2})
	say(1, batch.Acked)
	want("the second is acknowledged", DurableInfo{Next: 3, Out: 2, Pending: 2})
	say(0, batch.Refused)
	want("the first is refused", DurableInfo{Next: 3, Out: 2, Pending: 2})
	if n, _ := own.Pending(5); n != 3 {
		t.Errorf("%d items can be delivered, want the refused one and two new ones", n)
	}
	m.take(l, own, 1)
	want("it is delivered again", DurableInfo{Next: 3, Out: 2, Again: 1, Pending: 2})
	say(0, batch.Acked)
	want("it is acknowledged", DurableInfo{Floor: 2, Count: 2, Next: 3, Out: 1, Pending: 2})
	m.take(l, own, 2)
	say(3, batch.Acked)
	say(2, batch.Acked)
	want("only the last is owed", DurableInfo{Floor: 4, Count: 5, Next: 5, Out: 1})
	say(4, batch.Acked)
	want("all are acknowledged", DurableInfo{Floor: 5, Count: 6, Next: 5})
	if got := fmt.Sprint(m.got); got != "[0×1+4 1×1+3 2×1+2 0×2+2 3×1+1 4×1+0]" {
		t.Errorf("delivered are %s", got)
	}
}

func TestItemsThatMaxAwayDropsAreToldOnceAnAbsence(t *testing.T) {
	now := time.Unix(1000, 0)
	var told []uint64
	l := New(Options{
		Window: 100, Memory: 1 << 20, MaxAway: time.Hour, MaxAwayItems: 2, Now: func() time.Time { return now },
		Dropped: func(c ConsumerInfo) { told = append(told, c.Missed) },
	})
	l.Load(batch.Snapshot{Epoch: "e", End: 5})
	if err := l.SetDurable("d", Durable{Terms: Terms{Explicit: true, AckWait: time.Minute, MaxAckPending: 10}}); err != nil {
		t.Fatal(err)
	}
	m := &meter{}
	own := l.JoinDurable("d", "", m)
	absence := func(end uint64) {
		now = now.Add(2 * time.Hour)
		l.Plan(0, end)
		l.Plan(0, end+1)
	}

	l.Plan(0, 5)
	absence(5)
	m.wants = 1
	own.Update()
	l.Plan(0, 6)
	m.wants = 0
	absence(9)
	if want := []uint64{3, 7}; !slices.Equal(told, want) {
		t.Errorf("told were %d missed items, want %d", told, want)
	}
}

func TestAnUplinkThatComesBackGetsItsItemsInListOrder(t *testing.T) {
	l := New(Options{Window: 100, Memory: 1 << 20, Now: func() time.Time { return time.Unix(1000, 0) }})
	l.Load(batch.Snapshot{Epoch: "e", End: 5})
	if err := l.SetDurable("u", Durable{Terms: Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 10}, Uplink: true}); err != nil {
		t.Fatal(err)
	}
	first := &noted{}
	own := l.JoinDurable("u", "u", first)
	first.take(l, own, 3)
	if err := own.Acknowledge("e", 0, batch.Ack{Kind: batch.Acked}, nil); err != nil {
		t.Fatal(err)
	}
	own.Leave()

	second := &noted{}
	own = l.JoinDurable("u", "u", second)
	second.take(l, own, 2)
	own.Leave()
	third := &noted{}
	third.take(l, l.JoinDurable("u", "u", third), 10)
	var got []string
	for _, item := range third.got {
		got = append(got, item[:1])
	}
	if want := []string{"1", "2", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("it gets %v, want %v", got, want)
	}
}

func TestADurableConsumerGetsItemsSetAsideInListOrder(t *testing.T) {
	terms := Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 10}
	d := newFull(t, Options{Window: 10, Terms: terms}, 4)
	worker := d.join("workers")
	d.run()
	say := func(n uint64, kind batch.AckKind) {
		t.Helper()
		if err := worker.Membership.(batch.Acknowledger).Acknowledge("e", n, batch.Ack{Kind: kind}, nil); err != nil {
			t.Fatal(err)
		}
	}
	say(2, batch.Acked)
	say(3, batch.Acked)
	d.run()
	if err := d.log.SetDurable("d", Durable{Terms: terms}); err != nil {
		t.Fatal(err)
	}
	m := &noted{}
	own := d.log.JoinDurable("d", "", m)
	d.run()
	d.now = d.now.Add(longestHold)
	d.run()
	d.first, d.end = 4, 6 // 0 and 1 are set aside
	d.run()
	if n, _ := own.Pending(d.end); n != 4 {
		t.Errorf("%d items can be delivered, want the two set aside and the two in the list", n)
	}

	say(0, batch.Refused)
	d.run()
	say(1, batch.Refused)
	m.wants = 1
	own.Update()
	d.run()
	m.wants = 10
	own.Update()
	d.run()
	var got []string
	for _, item := range m.got {
		got = append(got, item[:1])
	}
	if want := []string{"0", "1", "4", "5"}; !slices.Equal(got, want) {
		t.Errorf("it gets %v, want %v", got, want)
	}
}
