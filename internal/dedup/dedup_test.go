package dedup

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func by(t *testing.T, text string) By {
	t.Helper()
	b, err := ParseBy(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAWindowSaysWhatAMapOfNumbersSays(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		items := []int{1, 7, 100, 3000}[seed]
		w := NewWindow(items)
		start := random.Uint64N(1 << 40)
		cuts := []uint64{start - min(start, 5), start + 100, start + 20_000, start + 30_000}
		w.Start(start, cuts)
		last := make(map[string]uint64)
		payload, least := by(t, "payload"), uint64(0)
		for n := start; n < start+60_000; n++ {
			for _, cut := range cuts {
				if n >= cut {
					least = cut
				}
			}
			item := fmt.Sprint(random.IntN(3 * items))
			key, want := payload.Key([]byte(item)), false
			if random.IntN(20) == 0 {
				key = Key{}
			} else {
				before, seen := last[item]
				want = seen && n-before <= uint64(items) && before >= least
				last[item] = n
			}
			if got := w.add(&key); got != want {
				t.Fatalf("seed %d: item %d (%s) is a duplicate: %v, want %v", seed, n-start, item, got, want)
			}
		}
		if w.Next() != start+60_000 || w.From() != w.Next()-uint64(items+more) {
			t.Errorf("the window is %d to %d", w.From()-start, w.Next()-start)
		}
	}
}

func TestKeysSurviveAsText(t *testing.T) {
	w := NewWindow(2)
	w.Start(10, nil)
	payload := by(t, "payload")
	for _, item := range []string{"a", "b", "a"} {
		w.Add([]Key{payload.Key([]byte(item))}, nil)
	}
	text := w.AppendKeys(nil, 9, 13)
	if len(text) != 4*KeySize {
		t.Fatalf("%d bytes", len(text))
	}
	if Key(text[:KeySize]) != (Key{}) {
		t.Error("an item that the window does not have has a key")
	}
	other := NewWindow(2)
	other.Start(10, nil)
	for i := 1; i < 4; i++ {
		key := Key(text[i*KeySize : (i+1)*KeySize])
		if dup := other.add(&key); dup != (i == 3) {
			t.Errorf("item %d is a duplicate: %v", 9+i, dup)
		}
	}
}

func TestWhichItemsHaveEqualKeys(t *testing.T) {
	for _, c := range []struct {
		by, one, other string
		equal          bool
	}{
		{"payload", `x`, `x`, true},
		{"payload", `x`, `y`, false},
		{"payload", ``, ``, true},
		{"json:id", `{"id":1,"t":1}`, `{"t":2, "id" : 1}`, true},
		{"json:id", `{"id":1}`, `{"id":"1"}`, false},
		{"json:id", `{"id":1}`, `{"id":1`, false},
		{"json:id", `{"id":1`, `{"id":1`, false},
		{"json:id", `{"id":1,"t":}`, `{"id":1,"t":}`, false},
		{"json:id", " {\"id\":1}\n", `{"id":1}`, true},
		{"json:id", `["id"]`, `["id"]`, false},
		{"json:id", `{"no":1}`, `{"no":1}`, false},
		{"json:id", `{"id":null}`, `{"id":null}`, false},
		{"json:id", `id`, `id`, false},
		{"json:id", ``, ``, false},
		{"json:id", "\x00\xff{", "\x00\xff{", false},
		{"json:a.id", `{"a":{"id":7},"n":1}`, `{"a":{"id":7},"n":2}`, true},
		{"json:a", `{"a":{"id":7},"n":1}`, `{"a":{"id":7},"n":2}`, true},
		{"json:id", `{"id":false}`, `{"id":false}`, true},
	} {
		b := by(t, c.by)
		one, other := b.Key([]byte(c.one)), b.Key([]byte(c.other))
		if equal := one == other && one != (Key{}) && b.Allows([]byte(c.other)); equal != c.equal {
			t.Errorf("%s: %q and %q are equal: %v", c.by, c.one, c.other, equal)
		}
	}
}

func TestOnlyThePathOfAFieldIsTaken(t *testing.T) {
	for _, text := range []string{"json", "json:", "json: id", "json:a.*", "json:#", "json:@this", "Payload", "json:a|b", "json:a\n"} {
		if _, err := ParseBy(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func FuzzAKeyIsTheSameEachTime(f *testing.F) {
	f.Add([]byte(`{"id":1}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, item []byte) {
		for _, text := range []string{"payload", "json:id", "json:a.b"} {
			b := by(t, text)
			if k := b.Key(item); k != b.Key(item) {
				t.Errorf("%s: two keys of %q", text, item)
			}
		}
	})
}

func TestManyKeysAtOnceAreAsOneByOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	payload := by(t, "payload")
	one, many := NewWindow(500), NewWindow(500)
	one.Start(7, []uint64{4000})
	many.Start(7, []uint64{4000})
	for one.Next() < 40_000 {
		keys := make([]Key, random.IntN(300))
		for i := range keys {
			keys[i] = payload.Key([]byte(fmt.Sprint(random.IntN(1000))))
		}
		var want []int
		for i, k := range keys {
			if one.add(&k) {
				want = append(want, i)
			}
		}
		if got := many.Add(keys, nil); !slices.Equal(got, want) {
			t.Fatalf("from item %d on: duplicates %v, want %v", one.Next(), got, want)
		}
	}
	from, to := one.From()-10, one.Next()+10
	if !bytes.Equal(one.AppendKeys(nil, from, to), many.AppendKeys(nil, from, to)) {
		t.Error("the keys differ")
	}
}

// A chain that is not used for 16 rounds has an entry whose place and round are those of a later item.
func TestAnEntryOfManyRoundsAgoIsNoDuplicate(t *testing.T) {
	for _, few := range []int{1, 2, 3} {
		w := NewWindow(10)
		w.Start(0, nil)
		keys := make([]Key, few+1) // of one home; the last one comes once in 16 rounds
		for i := range keys {
			keys[i] = Key{0: 7, 8: byte(i + 1), KeySize - 1: 9}
		}
		rounds := uint64(len(w.ring)) * (roundMask + 1)
		var last [4]uint64
		for n := range 2*rounds + 100 {
			i := int(n % uint64(few))
			if n%rounds == 50 {
				i = few
			}
			want := last[i] > 0 && n+1-last[i] <= 10
			last[i] = n + 1
			if got := w.add(&keys[i]); got != want {
				t.Fatalf("%d keys, item %d: a duplicate: %v, want %v", few, n, got, want)
			}
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, text := range []string{"payload", "json:id"} {
		b.Run(text, func(b *testing.B) {
			by, _ := ParseBy(text)
			w := NewWindow(60_000)
			w.Start(0, nil)
			item := []byte(`{"id":10000000,"sensor":"boiler-7","celsius":81.25,"at":"2026-11-28T10:00:00Z","state":"ok"}`)
			var keys []Key
			for n := 0; b.Loop(); n++ {
				for i, m := 0, n%9_999_999; i < 7; i, m = i+1, m/10 {
					item[13-i] = byte('0' + m%10)
				}
				if keys = append(keys, by.Key(item)); len(keys) == 1000 {
					w.Add(keys, nil)
					keys = keys[:0]
				}
			}
		})
	}
}
