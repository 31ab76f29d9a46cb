package relay

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

func TestARollbackForgetsTheEndOfADelivery(t *testing.T) {
	d := newFull(t, explicit(100), 10)
	m := d.join("")
	d.run()
	d.log.Rollback("two", 5)
	d.end = 15
	d.run()
	if n := d.log.Stats().InFlight; n != 15 {
		t.Fatalf("%d items are on their way, want 15", n)
	}
	if err := m.Membership.(batch.Acknowledger).Acknowledge("two", 7, batch.Ack{}, nil); err != nil {
		t.Error(err)
	}
	if m.Finish(3); m.Owed() != 3 {
		t.Errorf("the member has %d items in its hands, keeps 3", m.Owed())
	}
	m.Leave()
	if st := d.log.Stats(); st.Consumers+st.Members != 0 {
		t.Errorf("books %+v", st)
	}
}

func TestInsertedItemsAreOwedByEveryConsumer(t *testing.T) {
	for _, explicit := range []bool{false, true} {
		var finished numbers.Set
		finished.Raise(10)
		d := newDesk(t, Options{Window: 100, Terms: Terms{Explicit: explicit, AckWait: time.Hour, MaxAckPending: 100}},
			batch.Snapshot{First: 10, Finished: finished, Done: 10})
		all, some := d.join("g"), d.join("")
		d.end = 20
		if d.run(); all.got[0] != 10 || d.log.Stats().InFlight != 10 {
			t.Fatalf("the first read is of item %d, %d are on their way", all.got[0], d.log.Stats().InFlight)
		}
		d.log.Insert("two", 7, 10)
		d.first = 7
		ch := d.log.Changes()
		if ch.Floor != 7 || ch.Done != "7" || ch.Plain != "7" || len(ch.Records) != 1 || ch.Records[0].Acked != "7" || ch.Finished != "7" {
			t.Errorf("the ledger is to have %+v", ch)
		}
		d.log.Saved(true)
		if d.run(); all.got[10] != 7 || d.log.Stats().InFlight != 13 || len(all.got) != 13 || len(some.got) != 13 {
			t.Errorf("%d are on their way, the consumers have %v and %v", d.log.Stats().InFlight, all.got, some.got)
		}
	}
}

func TestAViewerPassesOverADeadLetterOfBefore(t *testing.T) {
	var finished numbers.Set
	finished.Add(3, 4)
	d := newDesk(t, Options{Window: 100, Terms: Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 100}}, batch.Snapshot{End: 6, Finished: finished})
	d.log.View(3, "k", &prompt{})
	if plan := d.log.Plan(0, 6); plan.From != 3 {
		t.Fatalf("item %d is to be read", plan.From)
	}
	d.log.Bury(3, "larger than max_payload")
	if plan := d.log.Plan(0, 6); plan.From != 4 {
		t.Errorf("item %d is to be read after the dead letter", plan.From)
	}
}

func TestAViewerPassesOverInsertedItemsThatAreGone(t *testing.T) {
	var finished numbers.Set
	finished.Raise(10)
	d := newDesk(t, Options{Window: 100}, batch.Snapshot{First: 10, Finished: finished, Done: 10})
	d.log.View(10, "k", &prompt{})
	d.log.Plan(10, 20)
	d.log.Insert("two", 7, 10)
	if plan := d.log.Plan(7, 20); plan.From != 7 {
		t.Fatalf("item %d is to be read", plan.From)
	}
	if plan := d.log.Plan(9, 20); plan.From != 9 {
		t.Errorf("item %d is to be read after the removal of two", plan.From)
	}
}

// One that another consumer still owes.
func TestADeadLetterWhoseItemIsNoMoreIsCountedOnce(t *testing.T) {
	for name, change := range map[string]func(l *Log){
		"removed":     func(l *Log) { l.Gone(3) },
		"replaced":    func(l *Log) { l.Rollback("two", 0) },
		"a new one":   func(l *Log) { l.Insert("two", 0, 3) },
		"all is anew": func(l *Log) { l.Reset("two", 3) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newFull(t, explicit(100), 3)
			one, other := d.join(""), d.join("")
			d.run()
			one.say(t, batch.Ack{Kind: batch.Terminated})
			d.run()
			change(d.log)
			if st := d.log.Stats(); st.Taken != 3 || st.Confirmed+st.Dead != 0 || st.Gone+st.Returned != 3 || st.InFlight != 0 {
				t.Errorf("books %+v", st)
			}
			one.Leave()
			other.Leave()
			if st := d.log.Stats(); st.Dead != 0 {
				t.Errorf("in the end %+v", st)
			}
		})
	}
}

func TestTheGraceEndsDuringADrainToo(t *testing.T) {
	d := newDesk(t, Options{Window: 10}, batch.Snapshot{Done: 5, Plain: 3, HasPlain: true, Grace: time.Minute})
	member := d.join("")
	d.log.Stop()
	member.Leave()
	d.now = d.now.Add(time.Minute)
	if !d.log.Plan(0, 5).Dirty {
		t.Error("there is nothing to write")
	}
	if ch := d.log.Changes(); !ch.GraceOver || ch.Plain != "" || ch.NoPlain {
		t.Errorf("to be written is %+v: want the end of the grace, and the plain cursor as it was", ch)
	}
}

// Before the ledger is known too.
func TestDurableConsumersHaveABound(t *testing.T) {
	for _, loaded := range []bool{false, true} {
		l := New(Options{})
		if loaded {
			l.Load(batch.Snapshot{})
		}
		for i := range maxRecords {
			if err := l.SetDurable(strconv.Itoa(i), Durable{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.SetDurable("0", Durable{}); err != nil {
			t.Errorf("one that is there already: %v", err)
		}
		if err := l.SetDurable("one more", Durable{}); err != ErrFull {
			t.Errorf("one more: %v, want ErrFull", err)
		}
		if !l.RemoveDurable("0") || l.SetDurable("one more", Durable{}) != nil {
			t.Error("a removed one leaves no room")
		}
	}
}

func TestDurableConsumersGoBeforeQueueGroupsInAFullLedger(t *testing.T) {
	records := make(map[batch.Name]numbers.Set)
	for i := range maxRecords {
		records[batch.Name{Name: strconv.Itoa(i), Durable: i%2 == 0}] = numbers.Set{}
	}
	added := batch.Name{Durable: true, Name: "added"}
	l := New(Options{Window: 10})
	if err := l.SetDurable(added.Name, Durable{}); err != nil {
		t.Fatal(err)
	}
	l.Load(batch.Snapshot{Records: records, Grace: time.Minute})

	for _, r := range l.Changes().Records {
		if records[r.Name] = (numbers.Set{}); r.Acked == "" {
			delete(records, r.Name)
		}
	}
	l.Saved(true)
	if _, ok := records[added]; !ok || len(records) != maxRecords {
		t.Errorf("the ledger has %d records, the added consumer's among them: %v", len(records), ok)
	}
	for _, c := range l.consumers {
		_, ok := records[c.name]
		if ok != c.recorded || c.name.Durable && !ok || !l.ready(c) {
			t.Errorf("%+v is recorded: %v, has a record: %v, gets items: %v", c.name, c.recorded, ok, l.ready(c))
		}
	}
}

// The list keeps items that all other consumers have confirmed.
func TestADurableConsumerGoesOnAfterADeadLetterThatOthersHaveFinished(t *testing.T) {
	o := explicit(1)
	o.MaxDeliver = 1
	d := newFull(t, o, 2)
	first := d.join("")
	d.run(first)
	if err := d.log.SetDurable("late", Durable{Terms: o.Terms}); err != nil {
		t.Fatal(err)
	}
	late := new(reader)
	late.Membership = d.log.JoinDurable("late", "k", late)
	d.run(first)
	d.pass(o.AckWait, o.AckWait, first)
	if !slices.Equal(late.got, []uint64{0, 1}) {
		t.Errorf("it was handed %v, want both items", late.got)
	}
}
