package budget

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func holder(b *Budget, name string, cut *[]string) *Holder {
	h := new(Holder)
	h.Init(b, func() { *cut = append(*cut, name) })
	return h
}

func TestTheLargestHolderIsCutWhenTheBudgetIsUsedUp(t *testing.T) {
	b := New(100)
	var cut []string
	small, large, last := holder(b, "small", &cut), holder(b, "large", &cut), holder(b, "last", &cut)
	small.Take(20).Cut()
	large.Take(60).Cut()
	last.Take(20).Cut()
	if len(cut) != 0 || b.Used() != 100 {
		t.Fatalf("%v were cut with %d of 100 bytes used", cut, b.Used())
	}
	last.Take(1).Cut()
	if !slices.Equal(cut, []string{"large"}) || b.Used() != 41 {
		t.Fatalf("%v were cut and %d bytes are used, want large and 41", cut, b.Used())
	}

	last.Take(50).Cut() // large has not given anything back yet
	large.Take(30).Cut()
	large.Give(90)
	if len(cut) != 1 || b.Used() != 91 {
		t.Fatalf("%v were cut and %d bytes are used, want only large and 91", cut, b.Used())
	}
}

func TestAHolderThatTakesTooMuchIsCutItself(t *testing.T) {
	b := New(100)
	var cut []string
	other, greedy := holder(b, "other", &cut), holder(b, "greedy", &cut)
	other.Take(50)
	greedy.Take(1000).Cut()
	if !slices.Equal(cut, []string{"greedy"}) || b.Used() != 50 {
		t.Errorf("%v were cut and %d bytes are used, want greedy and 50", cut, b.Used())
	}
}

func TestASmallerLimitCutsWithTheNextTake(t *testing.T) {
	b := New(100)
	var cut []string
	one, two, three := holder(b, "one", &cut), holder(b, "two", &cut), holder(b, "three", &cut)
	one.Take(30)
	two.Take(40)
	three.Take(20)
	b.SetLimit(30)
	three.Give(1)
	if three.Take(1).Cut(); !slices.Equal(cut, []string{"two", "one"}) {
		t.Errorf("%v were cut, want two and one", cut)
	}
}

func TestWithoutABudgetNothingIsCounted(t *testing.T) {
	var b *Budget
	h := holder(b, "h", nil)
	b.SetLimit(1)
	if h.Take(1000) != nil || b.Used() != 0 {
		t.Error("a nil budget has a bound")
	}
	new(Holder).Take(1000).Cut()
}

func TestRandomHoldersAddUp(t *testing.T) {
	rand := rand.New(rand.NewPCG(1, 2))
	b := New(1000)
	var all []*Holder
	var cut []string
	for range 50 {
		all = append(all, holder(b, "", &cut))
	}

	for range 100_000 {
		h := all[rand.IntN(len(all))]
		if n := rand.IntN(60); rand.IntN(2) == 0 {
			h.Give(min(n, h.held))
		} else {
			h.Take(n)
		}
		used, most := 0, 0
		for i, h := range all {
			if h.condemned {
				all[i] = holder(b, "", &cut)
				continue
			}
			used, most = used+h.held, max(most, h.held)
		}
		if used != b.Used() || used > 1000 {
			t.Fatalf("%d bytes are held, and %d counted", used, b.Used())
		}
		if len(b.holders) > 0 && b.holders[0].held != most {
			t.Fatalf("the largest holds %d bytes, and the budget takes one with %d for it", most, b.holders[0].held)
		}
	}
}
