package relay

import (
	"errors"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

var durableTerms = Durable{Terms: Terms{Explicit: true, AckWait: time.Minute, MaxAckPending: 3}}

// durable makes the durable consumer "d" with a member that asks for nothing.
func durable(t *testing.T, l *Log, d Durable) (*noted, batch.Consumption) {
	t.Helper()
	if err := l.SetDurable("d", d); err != nil {
		t.Fatal(err)
	}
	m := &noted{}
	return m, l.JoinDurable("d", "", m)
}

func newLog() (*Log, *time.Time) {
	now := time.Unix(1000, 0)
	return New(Options{Window: 100, Memory: 1 << 20, Now: func() time.Time { return now }}), &now
}

// restored returns a Log of 20 items and its durable consumer, which Redis has a record of.
func restored(t *testing.T, record string) (*Log, *noted, batch.Consumption) {
	t.Helper()
	acked, err := numbers.Parse(record)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := newLog()
	m, own := durable(t, l, durableTerms)
	l.Load(batch.Snapshot{Epoch: "e", End: 20, Records: map[batch.Name]numbers.Set{{Durable: true, Name: "d"}: acked}})
	return l, m, own
}

// standing returns where the consumer stands, and how many of 20 items are yet to be delivered to it.
func standing(l *Log) (floor, pending uint64) {
	i, _ := l.Durable("d", 20)
	return i.Floor, i.Pending
}

func TestANewDurableConsumerHasHadNoEarlierLife(t *testing.T) {
	for _, kind := range []batch.AckKind{batch.Acked, batch.AckedAll, batch.Terminated, batch.Refused, batch.InProgress} {
		l, _ := newLog()
		l.Load(batch.Snapshot{Epoch: "e", End: 20})
		_, own := durable(t, l, durableTerms)
		if err := own.Acknowledge("e", 2, batch.Ack{Kind: kind}, nil); !errors.Is(err, batch.ErrNotGiven) {
			t.Errorf("acknowledgement %v of an item that was never handed out: %v", kind, err)
		}
		if floor, pending := standing(l); floor != 0 || pending != 20 {
			t.Errorf("after acknowledgement %v: floor %d, %d pending", kind, floor, pending)
		}
	}
}

func TestAnEarlierProcessHasHandedOutTwoWindowsAtMost(t *testing.T) {
	// Not acknowledged are 2, 4, 5, 7 and all from 8 on: the first six end with 9.
	const record = "2+1+2,1"
	for n, counts := range map[uint64]bool{2: true, 5: true, 9: true, 10: false, 19: false} {
		for _, kind := range []batch.AckKind{batch.Acked, batch.AckedAll} {
			l, _, own := restored(t, record)
			if err := own.Acknowledge("e", n, batch.Ack{Kind: kind}, nil); (err == nil) != counts {
				t.Errorf("%v of item %d: %v", kind, n, err)
			}
			_, before := standing(l)
			_ = own.Acknowledge("e", n+1, batch.Ack{Kind: kind}, nil)
			if _, after := standing(l); n >= 9 && after != before {
				t.Errorf("an acknowledgement of item %d lets the next one count", n)
			}
		}
	}
}

func TestAcknowledgingItemByItemDoesNotReachBeyondThoseThatWereHandedOut(t *testing.T) {
	l, _, own := restored(t, "0")
	for n := range uint64(20) {
		_ = own.Acknowledge("e", n, batch.Ack{Kind: batch.Acked}, nil)
	}
	if floor, pending := standing(l); floor != 6 || pending != 14 {
		t.Errorf("floor %d, %d pending; want two windows of three acknowledged", floor, pending)
	}
}

func TestAfterARestart(t *testing.T) {
	for name, c := range map[string]struct {
		ack     batch.Ack
		counts  bool
		pending uint64
		dead    int
	}{
		"an item can be confirmed":        {batch.Ack{Kind: batch.Acked}, true, 19, 0},
		"all up to it can be confirmed":   {batch.Ack{Kind: batch.AckedAll}, true, 17, 0},
		"an item can be given up":         {batch.Ack{Kind: batch.Terminated}, true, 19, 1},
		"an item comes again anyway":      {batch.Ack{Kind: batch.Refused}, true, 20, 0},
		"no delay can be had":             {batch.Ack{Kind: batch.Refused, Delay: time.Second}, false, 20, 0},
		"no more time for it can be had ": {batch.Ack{Kind: batch.InProgress}, false, 20, 0},
	} {
		l, _, own := restored(t, "0")
		if err := own.Acknowledge("e", 2, c.ack, nil); (err == nil) != c.counts {
			t.Errorf("%s: %v", name, err)
		}
		ch := l.Changes()
		l.Saved(true)
		if _, pending := standing(l); pending != c.pending || len(ch.Dead) != c.dead {
			t.Errorf("%s: %d pending, %d dead letters", name, pending, len(ch.Dead))
		}
	}
}

func TestAnAcknowledgementOfAnotherEpochIsRefused(t *testing.T) {
	for _, restart := range []bool{false, true} {
		l, m, own := restored(t, "0")
		if !restart {
			m.take(l, own, 3)
		}
		for _, kind := range []batch.AckKind{batch.Acked, batch.AckedAll, batch.Terminated, batch.Refused, batch.InProgress} {
			if err := own.Acknowledge("another", 2, batch.Ack{Kind: kind}, nil); !errors.Is(err, batch.ErrNotGiven) {
				t.Errorf("after a restart: %v, acknowledgement %v: %v", restart, kind, err)
			}
		}
		if i, _ := l.Durable("d", 20); i.Floor != 0 || i.Out+int(i.Pending) != 20 {
			t.Errorf("after a restart: %v, the consumer is %+v", restart, i)
		}
		if err := own.Acknowledge("e", 2, batch.Ack{Kind: batch.Acked}, nil); err != nil {
			t.Errorf("after a restart: %v, of its own epoch: %v", restart, err)
		}
	}
}

func TestAcknowledgingAllLeavesItemsThatWereNeverHandedOut(t *testing.T) {
	l, _ := newLog()
	l.Load(batch.Snapshot{Epoch: "e", First: 2, End: 5})
	m, own := durable(t, l, durableTerms)
	m.wants = 3
	own.Update()
	l.Plan(2, 5)
	l.Changes()
	l.Saved(true)
	p := l.Plan(2, 5)
	l.Offer(itemsAt(2, 3).Stamp("e", time.Unix(1000, 0), 0), p.Sweep)
	l.Insert("f", 1, 2)
	if err := own.Acknowledge("e", 4, batch.Ack{Kind: batch.AckedAll}, nil); err != nil {
		t.Fatal(err)
	}
	if i, _ := l.Durable("d", 5); i.Floor != 1 || i.Out != 1 {
		t.Errorf("%+v, want item 1, which came to the head meanwhile, to be owed", i)
	}
}

func TestAMemberThatIsGoneConfirmsNothing(t *testing.T) {
	l, m, own := restored(t, "0")
	m.take(l, own, 3)
	for n := range uint64(2) {
		if err := own.Acknowledge("e", n, batch.Ack{Kind: batch.Acked}, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.RemoveDurable("d")
	for n := range uint64(20) {
		if err := own.Acknowledge("e", n, batch.Ack{Kind: batch.AckedAll}, nil); !errors.Is(err, batch.ErrNotGiven) {
			t.Errorf("item %d: %v", n, err)
		}
	}
	if done := l.State().Done; done != 2 {
		t.Errorf("%d items are confirmed, want those from before", done)
	}
}

// answers collects errors.
type answers []error

func (a *answers) add(err error) { *a = append(*a, err) }

func TestAcknowledgementsBeforeThePlaceIsKnownAreAnswered(t *testing.T) {
	early := func() (*Log, *time.Time, batch.Consumption, *answers) {
		l, now := newLog()
		_, own := durable(t, l, durableTerms)
		var got answers
		if err := own.Acknowledge("e", 0, batch.Ack{Kind: batch.Acked}, got.add); err != nil || len(got) > 0 {
			t.Fatal(err, got)
		}
		return l, now, own, &got
	}
	want := func(when string, got *answers) {
		t.Helper()
		if len(*got) != 1 || !errors.Is((*got)[0], ErrGone) {
			t.Errorf("%s: answers %v", when, *got)
		}
	}

	l, _, _, got := early()
	l.RemoveDurable("d")
	want("the consumer is removed", got)

	l, now, own, got := early()
	p := l.Plan(0, never)
	if !p.Active || !p.Wake.Equal(now.Add(earlyLasts)) {
		t.Errorf("%+v, want to be woken when it has waited for long", p)
	}
	*now = p.Wake
	l.Plan(0, never)
	want("the place is not known for long", got)
	for range maxEarly {
		if err := own.Acknowledge("e", 0, batch.Ack{Kind: batch.Acked}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := own.Acknowledge("e", 0, batch.Ack{Kind: batch.Acked}, nil); !errors.Is(err, batch.ErrNotGiven) {
		t.Errorf("one too many: %v", err)
	}
}

func TestANewDurableConsumerHasMissedNothing(t *testing.T) {
	l, _ := newLog()
	l.Load(batch.Snapshot{Epoch: "e", First: 10, End: 20})
	durable(t, l, durableTerms)
	if i, _ := l.Durable("d", 20); i.Missed != 0 || i.Floor != 10 || i.Pending != 10 {
		t.Errorf("%+v, want to begin with the head", i)
	}
}

func TestADurableConsumerMayBeginWithAConfirmedItem(t *testing.T) {
	l, _ := newLog()
	all := numbers.Set{}
	all.Raise(20)
	l.Load(batch.Snapshot{Epoch: "e", Finished: all, Done: 20, End: 20})
	provisional := durableTerms
	provisional.From = 20
	durable(t, l, provisional)
	l.StartDurable("d", 19, "e")
	if floor, pending := standing(l); floor != 19 || pending != 1 {
		t.Errorf("floor %d, %d pending; want the last item", floor, pending)
	}
}
