package main

import (
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNoCrashLosesAnItem(t *testing.T) {
	opts := options{items: 20_000, faults: 2, together: 6, seed: rand.Uint64N(1_000_000), race: true}
	if err := run(t.Context(), t.Output(), opts); err != nil {
		t.Fatal(err)
	}
}

func TestAnOlderItemIsOutOfOrderUnlessItIsARedelivery(t *testing.T) {
	c := newClient("", "events", 10, "received")
	before := -1
	for _, came := range []struct {
		n     int
		again bool
	}{{n: 3}, {n: 4}, {n: 3}, {n: 5}, {n: 2}, {n: 1, again: true}, {n: 6}} {
		before = c.record(makeItem("events", came.n), "events", before, came.again)
	}
	c.record([]byte("garbage"), "events", before, false)
	lost := (&row{clients: []*client{c}}).lost(0)
	if c.twice != 1 || c.disorder != 1 || c.corrupted != 1 || lost != 4 {
		t.Errorf("%d twice, %d out of order, %d corrupted, %d lost; want 1, 1, 1, 4", c.twice, c.disorder, c.corrupted, lost)
	}
}

func TestLossIsWrongButForListsThatMayLose(t *testing.T) {
	for _, m := range modes {
		if wrong := (result{lost: 1}).wrong(m, 1); (wrong != "") == m.mayLose() {
			t.Errorf("%s: %q", m.name, wrong)
		}
		if wrong := (result{twice: len(lists)*window + 1}).wrong(m, 1); (wrong != "") == (m.lags != "") {
			t.Errorf("%s, and more than the windows came twice: %q", m.name, wrong)
		}
	}
}

func TestAnItemIsReadOnlyIfEveryByteIsIntact(t *testing.T) {
	item := makeItem("events", 4711)
	if n, ok := readItem("events", item); !ok || n != 4711 {
		t.Fatalf("item 4711 is read as %d, %v", n, ok)
	}
	if _, ok := readItem("readings", item); ok {
		t.Error("it is taken for an item of another list")
	}
	for i := range item {
		item[i] ^= 1
		if _, ok := readItem("events", item); ok {
			t.Errorf("it is read with byte %d changed", i)
		}
		item[i] ^= 1
	}
}
