package uplink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// one runs f in a world with a list "a" and a second list, a running uplink and no faults.
func one(t *testing.T, f func(w *world, a *fakeList)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, r: rand.New(rand.NewPCG(1, 1)), hub: &fakeHub{latency: time.Millisecond},
			lists: []*fakeList{newFakeList("a"), newFakeList("b")}, pushed: make([][]string, 2)}
		w.start()
		defer w.crash()
		f(w, w.lists[0])
	})
}

func items(from, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("item-%06d", from+i))
	}
	return all
}

func TestAnItemThatTheHubRefusesBecomesADeadLetterAndTheNextOnesGoOn(t *testing.T) {
	one(t, func(w *world, a *fakeList) {
		all := items(0, 20)
		w.hub.refuses = func(i Item) bool { return string(i.Data) == all[3] || string(i.Data) == all[9] }
		a.push(all...)
		w.settle()
		if got := slices.Sorted(maps.Keys(a.dead)); !slices.Equal(got, []string{all[3], all[9]}) {
			t.Errorf("dead letters: %v", got)
		}
		want := slices.Concat(all[:3], all[4:9], all[10:])
		if got := w.hub.texts("a"); !slices.Equal(got, want) {
			t.Errorf("the hub has %v", got)
		}

		if s := w.up.Status(); s.Refused != 2 || s.Sent != 18 {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheDeadLetterOfARefusedItemIsNotLostInACrash(t *testing.T) {
	one(t, func(w *world, a *fakeList) {
		all := items(0, 6)
		w.hub.refuses = func(i Item) bool { return string(i.Data) == all[2] }
		a.push(all...)
		a.turn(10) // the ledger learns nothing of the following steps
		for len(w.hub.texts("a")) < 5 {
			time.Sleep(time.Second)
		}
		w.crash()
		w.start()
		w.settle()
		if len(a.dead) != 1 || len(w.hub.texts("a")) != 5 {
			t.Errorf("dead letters: %v, the hub has %v", a.dead, w.hub.texts("a"))
		}
	})
}

func TestAPausedUplinkSendsNothing(t *testing.T) {
	one(t, func(w *world, a *fakeList) {
		w.up.Pause(true)
		a.push(items(0, 5)...)
		a.turn(10)
		time.Sleep(time.Hour)
		if n := len(w.hub.texts("a")); n != 0 || w.up.Status().State != "paused" {
			t.Errorf("%d items are at the hub: %+v", n, w.up.Status())
		}
		w.settle()
	})
}

func TestAnUplinkWaitsForItsHubAndSaysWhy(t *testing.T) {
	one(t, func(w *world, a *fakeList) {
		time.Sleep(time.Second)
		w.hub.mu.Lock()
		w.hub.down = true
		w.hub.mu.Unlock()

		w.hub.faults = func() fault { return cutBefore }
		a.push(items(0, 50)...)
		a.turn(100)
		time.Sleep(24 * time.Hour)
		if s := w.up.Status(); s.State != "connecting" || s.Reason != "no hub answers" || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}

		if held, _ := w.up.feeds[0].Held(); held != 2*worldWindow {
			t.Errorf("it holds %d items, want two windows", held)
		}
		w.hub.mu.Lock()
		w.hub.down, w.hub.faults = false, nil
		w.hub.mu.Unlock()
		w.settle()
		if got := w.hub.texts("a"); !slices.Equal(got, items(0, 50)) {
			t.Errorf("the hub has %v", got)
		}
	})
}

func TestAReconnectWithoutUnconfirmedItemsLooksAtNoOtherMessages(t *testing.T) {
	one(t, func(w *world, a *fakeList) {
		a.push(items(0, 1000)...)
		w.settle()
		w.crash()
		w.start()
		a.push(items(1000, 1)...)
		w.settle()
		if w.hub.asked > 0 {
			t.Errorf("it looked at %d messages", w.hub.asked)
		}
	})
}

func TestAProcessThatHasLostItsListSendsNothingToTheHub(t *testing.T) {
	one(t, func(w *world, a *fakeList) {
		time.Sleep(time.Second)
		w.hub.mu.Lock()
		w.hub.down, w.hub.faults = true, func() fault { return cutBefore }
		w.hub.mu.Unlock()
		all := items(0, 20*worldWindow)
		a.push(all...)
		a.turn(len(all))
		time.Sleep(time.Minute)

		// Another process takes the list over and sends all of it. This process does not know yet.
		a.mu.Lock()
		a.lost = true
		a.mu.Unlock()
		w.hub.mu.Lock()
		for i, item := range all {
			w.hub.add(Item{Subject: "a", Epoch: "epoch2", Number: uint64(i) + 1, Run: uint64(i) + 1, Data: []byte(item)}, int64(i)+1)
		}
		w.hub.down, w.hub.faults = false, nil
		w.hub.mu.Unlock()
		time.Sleep(time.Hour)
		if got := w.hub.texts("a"); !slices.Equal(got, all) {
			t.Errorf("the hub has %d messages, want %d", len(got), len(all))
		}
	})
}

func TestTheRateBoundsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, limit := time.Now(), newLimiter(1000)
		for range 100 {
			if err := pass(t.Context(), limit, 100); err != nil {
				t.Fatal(err)
			}
		}

		if took := time.Since(began); took != 9*time.Second { // a second's worth is sent at once
			t.Errorf("10,000 bytes took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := pass(ctx, limit, 2500); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
