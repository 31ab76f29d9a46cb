package relay

import (
	"slices"
	"testing"
	"time"

	"edged/internal/batch"
)

var t0 = time.Unix(1000, 0)

func at(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }

func TestAgesTellWhenAnItemWasRead(t *testing.T) {
	var a ages
	for i, s := range []float64{0, 0.5, 1.2, 5} {
		a.note(uint64(10*(i+1)), at(s))
	}
	for n, want := range map[uint64]time.Time{0: at(0), 19: at(0), 20: at(1.2), 29: at(1.2), 30: at(5), 40: {}} {
		if got := a.of(n); !got.Equal(want) {
			t.Errorf("item %d: %v, want %v", n, got, want)
		}
	}
	a.cut(35)
	a.forget(25)
	if !a.of(34).Equal(at(5)) || !a.of(35).IsZero() || len(a.marks) != 2 {
		t.Errorf("%+v", a.marks)
	}
}

func TestAgesAreFewHoweverLongItTakes(t *testing.T) {
	var a ages
	for i := range 100_000 {
		a.note(uint64(i+1), at(float64(i)))
	}
	if len(a.marks) > maxAges {
		t.Errorf("%d marks", len(a.marks))
	}
	for _, n := range []uint64{0, 5000, 99_999} {
		if late := a.of(n).Sub(at(float64(n))); late.Abs() > 256*time.Second {
			t.Errorf("the age of item %d is wrong by %v", n, late)
		}
	}
	a.forget(100_000)
	if a.marks != nil {
		t.Error("not all were dropped")
	}
}

// save brings the copy in Redis up to date.
func (a *ages) save(redis []batch.Seen, now time.Time) []batch.Seen {
	if a.anew {
		redis = nil
	} else {
		redis = redis[a.gone:]
	}
	more := a.unsaved(now, false)
	a.written(len(more))
	return append(redis[:len(redis):len(redis)], more...)
}

func TestTheCopyOfAgesHasTheSameMarks(t *testing.T) {
	var a ages
	var redis []batch.Seen
	for i := range 5000 {
		now := at(float64(i) / 2)
		a.note(uint64(i+1), now)
		switch {
		case i%7 == 0:
			a.forget(uint64(i) / 2)
		case i%1001 == 1000:
			a.cut(uint64(i) - 3)
		}
		redis = a.save(redis, now)
		for j, mark := range redis {
			if mark != a.marks[j].Seen {
				t.Fatalf("step %d: mark %d is %v, but the copy says %v", i, j, a.marks[j].Seen, mark)
			}
		}
	}
	redis = a.save(redis, at(3000))
	var b ages
	b.load(redis, t0)
	same := func(a, b age) bool { return a.Seen == b.Seen }
	if !slices.EqualFunc(a.marks, b.marks, same) || len(b.marks) < 10 {
		t.Errorf("%d marks, and %d in the copy", len(a.marks), len(b.marks))
	}
	if n := b.marks[0].Below; b.lag(n-1, at(5000)) != 5000*time.Second {
		t.Errorf("an item's lag is %v, but it was loaded 5000 seconds ago", b.lag(n-1, at(5000)))
	}
	b.load([]batch.Seen{{Below: 5, At: t0}, {Below: 5, At: t0}}, t0)
	if b.marks != nil || !b.anew {
		t.Error("took marks that are in no order")
	}
}
