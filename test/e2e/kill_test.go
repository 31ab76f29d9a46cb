package e2e

import (
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"
)

// window is the number of items of a list that may be in flight: delivery.window_items.
const window = 4000

// producer keeps lists filled, so that every process is killed in mid-stream.
type producer struct {
	stop   atomic.Bool
	done   chan struct{}
	pushed int // into each list; owned by its goroutine until done is closed
}

func startProducer(t *testing.T, r *redistest.Server, lists ...string) *producer {
	p := &producer{done: make(chan struct{})}
	full := func() bool {
		for _, list := range lists {
			if r.Len(list) < 5*window {
				return false
			}
		}
		return true
	}

	go func() {
		defer close(p.done)
		for !p.stop.Load() {
			if full() {
				time.Sleep(time.Millisecond)
				continue
			}
			for _, list := range lists {
				r.Push(list, numbers(p.pushed, p.pushed+1000)...)
			}
			p.pushed += 1000
		}
	}()

	t.Cleanup(func() { p.finish() })
	return p
}

// finish stops the producer and returns how many items it pushed into each list.
func (p *producer) finish() int {
	p.stop.Store(true)
	<-p.done
	return p.pushed
}

// wantNoGaps checks that items came in list order except for steps back, each of which is a
// redelivery, and returns the number of these.
func wantNoGaps(t *testing.T, items []string) (stepsBack int) {
	t.Helper()
	next := 0
	for _, item := range items {
		i, err := strconv.Atoi(item)
		switch {
		case err != nil || i > next:
			t.Fatalf("item %.40q came where %d was due", item, next)
		case i < next:
			stepsBack++
		}
		next = i + 1
	}
	return stepsBack
}

func TestKillingTheDaemonLosesNothing(t *testing.T) {
	t.Parallel()
	const kills = 20
	lists := []string{"events", "readings"}
	r := redistest.Start(t)
	d := startEdged(t, r, "[delivery]", `rejoin_grace = "0s"`) // within the grace all items come again
	p := startProducer(t, r, lists...)
	nc := connect(t, d)
	var boxes []*inbox
	for _, list := range lists {
		_, box := subscribe(t, nc, list, "")
		boxes = append(boxes, box)
	}

	for range kills {
		for _, box := range boxes {
			box.wait(t, len(box.all())+window)
		}
		d.Kill()
		d.Start()
	}

	pushed := p.finish()
	for i, list := range lists {
		items := boxes[i].last(t, strconv.Itoa(pushed-1))
		duplicates := wantAll(t, pushed, items)
		back := wantNoGaps(t, items)
		t.Logf("%s: %d items, %d duplicates in %d redeliveries", list, pushed, duplicates, back)
		if duplicates > kills*window || back > kills {
			t.Errorf("%s: %d duplicates in %d redeliveries after %d kills, want at most %d each", list, duplicates, back, kills, window)
		}
	}

	waitEmpty(t, r, lists...)
}

func TestKillingAClientLosesNothing(t *testing.T) {
	t.Parallel()
	const kills = 20
	r := redistest.Start(t)
	d := startEdged(t, r)
	p := startProducer(t, r, "events")
	var outputs [][]string
	for range kills {
		client := startSub(t, d, "events")
		client.inbox.wait(t, window)
		client.Kill()
		outputs = append(outputs, client.all())
	}

	pushed := p.finish()
	last := startSub(t, d, "events")
	outputs = append(outputs, last.last(t, strconv.Itoa(pushed-1)))
	waitEmpty(t, r, "events")
	duplicates := wantAll(t, pushed, outputs...)
	t.Logf("%d items, %d duplicates", pushed, duplicates)
	seen := make(map[string]bool)
	for i, items := range outputs {
		again := 0
		for _, item := range items {
			if seen[item] {
				again++
			}
			seen[item] = true
		}
		if again > window {
			t.Errorf("%d items came again after kill %d, want at most %d", again, i, window)
		}
	}
}

func TestRestartsInMidStreamLoseNothingAndRepeatOnlyReturnedItems(t *testing.T) {
	t.Parallel()
	const restarts = 10
	lists := []string{"events", "readings"}
	r := redistest.Start(t)
	d := startEdged(t, r, `drain.timeout = "300ms"`)
	p := startProducer(t, r, lists...)
	nc := connect(t, d)
	var boxes []*inbox
	for _, list := range lists {
		_, box := subscribe(t, nc, list, "")
		boxes = append(boxes, box)
	}

	returned, confirmed := 0, 0
	for range restarts {
		for _, box := range boxes {
			box.wait(t, len(box.all())+window)
		}
		d.Signal(syscall.SIGTERM)
		b := d.close()
		returned += b.returned
		confirmed += b.confirmed
		d.Start()
	}

	pushed := p.finish()
	duplicates := 0
	for i := range lists {
		items := boxes[i].last(t, strconv.Itoa(pushed-1))
		duplicates += wantAll(t, pushed, items)
		wantNoGaps(t, items)
	}
	t.Logf("%d items, %d returned, %d duplicates", 2*pushed, returned, duplicates)
	if duplicates > returned {
		t.Errorf("%d items came twice, and only %d were returned", duplicates, returned)
	}

	waitEmpty(t, r, lists...)
	nc.Close()
	d.Signal(syscall.SIGTERM)
	if confirmed += d.close().confirmed; confirmed != 2*pushed {
		t.Errorf("%d items were confirmed, %d pushed", confirmed, 2*pushed)
	}
}
