package relay

import (
	"testing"
	"time"

	"edged/internal/batch"
)

func TestTheGraceEndsDuringADrainToo(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(Options{Window: 10, Memory: 1 << 20, Now: func() time.Time { return now }})
	l.Load(batch.Snapshot{Done: 5, Plain: 3, HasPlain: true, Grace: time.Minute})
	member := l.Join("", "", &prompt{})
	l.Stop()
	member.Leave()
	now = now.Add(time.Minute)
	if !l.Plan(0, 5).Dirty {
		t.Error("there is nothing to write")
	}
	if ch := l.Changes(); !ch.GraceOver || ch.Plain != "" || ch.NoPlain {
		t.Errorf("to be written is %+v: want the end of the grace, and the plain cursor as it was", ch)
	}
}
