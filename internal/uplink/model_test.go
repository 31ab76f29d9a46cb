package uplink

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// world is a box with two lists and the hub, in successive lives of edged.
type world struct {
	t      *testing.T
	r      *rand.Rand
	hub    *fakeHub
	lists  []*fakeList
	up     *Uplink
	cancel context.CancelFunc
	ended  chan struct{}
	pushed [][]string // by list, in the order of the list
	kind   kind
	calm   atomic.Bool // no more faults
	count  int
}

const worldWindow = 8

// kind says which changes of the list there are in addition to pushes at its end.
type kind int

const (
	restarts  kind = iota // Redis restarts with all of its data, so a new epoch begins
	heads                 // other programs push to the head, but Redis does not restart
	rollbacks             // other programs push to the head, and Redis restarts without its newest items
)

func (w *world) start() {
	w.up = New(Options{Name: "hub", Hub: w.hub, WindowItems: worldWindow, WindowBytes: 1 << 20, Log: zap.NewNop(),
		Compare: func(ctx context.Context, list string, from uint64, items [][]byte) (uint64, int, error) {
			for _, l := range w.lists {
				if l.name == list {
					return l.compare(ctx, list, from, items)
				}
			}
			panic(list)
		},
		Owns: func(_ context.Context, list string) (bool, error) {
			for _, l := range w.lists {
				if l.name == list {
					return l.owns(), nil
				}
			}
			panic(list)
		}})

	for _, l := range w.lists {
		l.join(w.up.NewFeed(l.name, l.name))
	}

	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan struct{})
	go func() {
		defer close(w.ended)
		_ = w.up.Run(ctx)
	}()
}

func (w *world) crash() {
	w.cancel()
	<-w.ended
}

func (w *world) fault() fault {
	if w.calm.Load() || rand.IntN(25) > 0 {
		return fine
	}
	return []fault{cutBefore, cutAfter, cutLate, swallowAck}[rand.IntN(4)]
}

// step carries out a random step.
func (w *world) step() {
	i := w.r.IntN(len(w.lists))
	l := w.lists[i]
	switch k := w.r.IntN(100); {
	case k < 35:
		for range w.r.IntN(12) {
			w.count++
			item := fmt.Sprintf("%s-%06d", l.name, w.count)
			l.push(item)
			w.pushed[i] = append(w.pushed[i], item)
		}
	case k < 70:
		l.turn(1 + w.r.IntN(20))
	case k < 80:
		time.Sleep(time.Duration(w.r.IntN(int(5 * time.Millisecond))))
	case k < 85:
		time.Sleep(time.Duration(w.r.IntN(int(5 * time.Second))))
	case k < 88:
		w.hub.deliverLate(1 + w.r.IntN(4))
	case k < 91 && w.kind != heads:
		w.crash()
		if w.r.IntN(2) == 0 {
			l.load(true)
		}
		w.start()
	case k < 93 && w.kind != heads:
		l.load(w.r.IntN(2) == 0)
	case k < 94 && w.kind != heads:
		l.renew()
	case k < 96 && w.kind != restarts:
		w.count++
		if item := fmt.Sprintf("%s-head-%06d", l.name, w.count); l.insert(item) {
			w.pushed[i] = append(w.pushed[i], item)
		}
	case k < 98 && w.kind == rollbacks:
		lost := l.lose(1 + w.r.IntN(10))
		w.pushed[i] = slices.DeleteFunc(w.pushed[i], func(item string) bool { return slices.Contains(lost, item) })
	case k == 99:
		w.up.Pause(w.r.IntN(2) == 0)
	}
}

// settle delivers everything.
func (w *world) settle() {
	w.calm.Store(true)
	w.up.Pause(false)
	for range 2000 {
		idle := true
		for _, l := range w.lists {
			l.turn(100)
			idle = idle && l.idle()
		}
		if idle {
			return
		}
		time.Sleep(time.Second)
	}
	w.t.Fatalf("it does not settle: %+v, %+v %+v", w.up.Status(), w.lists[0], w.up.feeds[0])
}

// check compares the hub with the pushed items.
func (w *world) check() {
	for i, l := range w.lists {
		got := w.hub.texts(l.name)
		counts := make(map[string]int)
		for _, item := range got {
			counts[item]++
		}

		for _, item := range w.pushed[i] {
			if n := counts[item]; n == 0 || n > 1 && w.kind != rollbacks {
				w.t.Errorf("item %s is there %d times", item, n)
			}
		}
		tail := slices.DeleteFunc(slices.Clone(got), func(item string) bool { return strings.Contains(item, "head") })
		if w.kind != rollbacks && !slices.IsSorted(tail) {
			w.t.Errorf("list %s is out of order", l.name)
		}

		if w.t.Failed() {
			for _, m := range w.hub.messages {
				w.t.Logf("%d: %s %d (run %d) %s", m.Sequence, m.Epoch, m.Number, m.Run, m.Data)
			}
			w.t.FailNow()
		}
	}
}

func live(t *testing.T, seed uint64, k kind) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 0)), hub: &fakeHub{latency: time.Millisecond},
			lists: []*fakeList{newFakeList("a"), newFakeList("b")}, pushed: make([][]string, 2), kind: k}
		w.hub.faults = w.fault
		w.start()
		for range 300 {
			w.step()
		}
		w.settle()
		w.crash()
		w.check()
	})
}

var seeds = flag.Uint64("lives", 400, "how many lives of each kind are simulated")

func lives(t *testing.T, k kind) {
	n := *seeds
	if testing.Short() {
		n = 50
	}
	for seed := range n {
		if live(t, seed, k); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestTheHubHasEachItemOnceAndInOrderAfterAllFaults(t *testing.T) { lives(t, restarts) }

func TestTheHubHasEachItemOnceIfOtherProgramsPushToTheHead(t *testing.T) { lives(t, heads) }

func TestTheHubHasEachItemThatRedisHasNotLost(t *testing.T) { lives(t, rollbacks) }
