package numbers

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// model is a set of numbers below world.
type model map[uint64]bool

const world = 120

func (m model) fill(from, to uint64, in bool) (changed uint64) {
	for n := from; n < min(to, world); n++ {
		if m[n] != in {
			changed++
		}
		m[n] = in
	}
	return changed
}

// check compares a set with its model, and checks the set's own rules.
func check(t *testing.T, s *Set, m model) {
	t.Helper()
	var count, floor, top uint64
	for n := range uint64(world) {
		if m[n] != s.Has(n) {
			t.Fatalf("%v: Has(%d) is %v", s, n, s.Has(n))
		}
		if m[n] {
			count++
			top = n + 1
		}
		if floor == n && m[n] {
			floor++
		}
	}
	if s.Count() != count || s.Floor() != floor || s.Top() != top {
		t.Fatalf("%v: count %d, floor %d, top %d; want %d, %d, %d", s, s.Count(), s.Floor(), s.Top(), count, floor, top)
	}

	end := s.Floor()
	for _, p := range s.Spans() {
		if p.From <= end || p.To <= p.From {
			t.Fatalf("%v: span %v after %d", s, p, end)
		}
		end = p.To
	}
	checkGaps(t, s, m)

	parsed, err := Parse(s.String())
	if err != nil || !equal(&parsed, s) {
		t.Fatalf("Parse(%q) = %v, %v", s, &parsed, err)
	}
}

func checkGaps(t *testing.T, s *Set, m model) {
	t.Helper()
	for n := range uint64(world) {
		from := n
		for from < world && m[from] {
			from++
		}
		to := from
		for to < world && !m[to] {
			to++
		}

		if to == world {
			to = math.MaxUint64
		}
		if gotFrom, gotTo := s.Gap(n); gotFrom != from || gotTo != to {
			t.Fatalf("%v: Gap(%d) = %d, %d; want %d, %d", s, n, gotFrom, gotTo, from, to)
		}
	}
}

func equal(a, b *Set) bool {
	return a.floor == b.floor && a.count == b.count && slices.Equal(a.spans, b.spans)
}

func TestASetBehavesLikeAMapOfNumbers(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 0))
		var s, old Set
		m, oldModel := model{}, model{}
		for range 60 {
			from := random.Uint64N(world)
			to := from + random.Uint64N(1+random.Uint64N(30))
			to = min(to, world)
			switch random.IntN(8) {
			case 0, 1, 2, 3:
				if got, want := s.Add(from, to), m.fill(from, to, true); got != want {
					t.Fatalf("%v: Add(%d, %d) = %d, want %d", &s, from, to, got, want)
				}
			case 4:
				from = random.Uint64N(40)
				if got, want := s.Raise(from), m.fill(0, from, true); got != want {
					t.Fatalf("%v: Raise(%d) = %d, want %d", &s, from, got, want)
				}
			case 5, 6:
				s.Remove(from, to)
				m.fill(from, to, false)
			case 7:
				s.Cut(from + 60)
				m.fill(from+60, world, false)
			}
			check(t, &s, m)

			both := Intersect(&s, &old)
			inBoth := model{}
			for n := range m {
				inBoth[n] = m[n] && oldModel[n]
			}
			check(t, &both, inBoth)
			all := old.Clone()
			if added := all.AddAll(&s); added != s.Count()-both.Count() || all.Count() != old.Count()+added || all.Below(world) != all.Count() {
				t.Fatalf("%v with %v is %v, %d more", &old, &s, &all, added)
			}
			below := s.Clone()
			if below.Cut(from); s.Below(from) != below.Count() {
				t.Fatalf("%v: Below(%d) = %d", &s, from, s.Below(from))
			}

			if random.IntN(10) == 0 {
				old, oldModel = s.Clone(), model{}
				for n := range m {
					oldModel[n] = m[n]
				}
			}
		}
		check(t, &old, oldModel) // Clone shares no memory
	}
}

func TestTextIsShortAndReadable(t *testing.T) {
	var s Set
	if s.String() != "0" {
		t.Errorf("the empty set is %q", &s)
	}
	s.Raise(1234567)
	s.Add(1234568, 1234569)
	s.Add(1234580, 1234680)
	if want := "1234567+1+b,2s"; s.String() != want {
		t.Errorf("%q, want %q", &s, want)
	}
}

func TestParseRefusesMalformedText(t *testing.T) {
	for _, text := range []string{
		"", "+", "x", "-1", "1+", "1+0", "1+0,1", "1+1,0", "1+,1", "1+1,", "1+1,1,1", "1++1", " 1", "1+1 ", "1+-1",
		"18446744073709551616", "18446744073709551615+1", "18446744073709551613+1,2", "1+3w5e11264sgsg",
		"0" + strings.Repeat("+1", MaxSpans+1), strings.Repeat("0", MaxText) + "1",
	} {
		if s, err := Parse(text); err == nil {
			t.Errorf("Parse(%.40q) = %v", text, &s)
		}
	}
	if s, err := Parse("18446744073709551613+1"); err != nil || s.Top() != math.MaxUint64 {
		t.Errorf("the highest set: %v, %v", &s, err)
	}
}

func TestTextStaysWithinItsBounds(t *testing.T) {
	for _, length := range []uint64{1, 46655, 46656, 1 << 40} {
		var s Set
		for i := range uint64(MaxSpans + 10) {
			s.Add(1+i*(length+1), (i+1)*(length+1))
		}
		text := s.String()
		parsed, err := Parse(text)
		if err != nil || len(text) > MaxText {
			t.Fatalf("spans of %d: %d bytes, %v", length, len(text), err)
		}
		if n := len(parsed.Spans()); !slices.Equal(parsed.Spans(), s.Spans()[:n]) || length < 46656 && n != MaxSpans-1 && n != MaxSpans {
			t.Errorf("spans of %d: %d were written, or other ones", length, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"0", "12", "12+1", "12+2,5+z", "18446744073709551613+1", "1+0", "+"} {
		f.Add(seed)
	}

	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(s.String()); err != nil || !equal(&s, &again) {
			t.Fatalf("%q: %v became %v, %v", text, &s, &again, err)
		}
		var added Set
		added.Raise(s.Floor())
		for _, p := range s.Spans() {
			added.Add(p.From, p.To)
		}
		if !equal(&s, &added) {
			t.Fatalf("%q: %v differs from the set of its spans: %v", text, &s, &added)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	b.Run("in order", func(b *testing.B) {
		var s Set
		for i := range uint64(b.N) {
			s.Add(i, i+1)
		}
	})

	b.Run("in order above a gap", func(b *testing.B) {
		var s Set
		for i := range uint64(b.N) {
			s.Add(i+1, i+2)
		}
	})

	for name, window := range map[string]int{"within 1000": 1000, "within 65536": 65536} {
		b.Run(name, func(b *testing.B) {
			random := rand.New(rand.NewPCG(1, 2))
			var s Set
			waiting := make([]uint64, window)
			for i := range waiting {
				waiting[i] = uint64(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				k := random.IntN(window)
				s.Add(waiting[k], waiting[k]+1)
				waiting[k] = uint64(window + i)
			}
		})
	}
}
