package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"
)

func TestAHundredThousandItemsOfEachListArriveInOrderAndUnchanged(t *testing.T) {
	t.Parallel()
	const n = 100_000
	lists := []string{"events", "readings"}
	item := func(list string, i int) string {
		return fmt.Sprintf("%s %d\r\n\x00%s", list, i, strings.Repeat("é", i%50))
	}
	r := redistest.Start(t)
	for _, list := range lists {
		items := make([]any, n)
		for i := range items {
			items[i] = item(list, i)
		}
		r.Push(list, items...)
	}
	d := startEdged(t, r)
	nc := connect(t, d)
	start := time.Now()
	var boxes []*inbox
	for _, list := range lists {
		_, box := subscribe(t, nc, list, "")
		boxes = append(boxes, box)
	}
	for i, list := range lists {
		for j, got := range boxes[i].wait(t, n) {
			if got != item(list, j) {
				t.Fatalf("%s: at place %d came %.60q, want %.60q", list, j, got, item(list, j))
			}
		}
	}
	t.Logf("%.0f items/s", 2*n/time.Since(start).Seconds())
	waitEmpty(t, r, lists...)

	nc.Close()
	d.Signal(syscall.SIGTERM)
	if b := d.close(); b.confirmed != 2*n || b.taken != 2*n {
		t.Errorf("books are %+v, want %d confirmed and no more taken", b, 2*n)
	}
	for i := range lists {
		if got := len(boxes[i].all()); got != n {
			t.Errorf("%d items of %s came, want %d", got, lists[i], n)
		}
	}
}

func TestABacklogOfAMillionDoesNotKeepTheOtherListWaiting(t *testing.T) {
	t.Parallel()
	const backlog = 1_000_000
	r := redistest.Start(t)
	if err := r.Client().Eval(context.Background(),
		"for i = 0, ARGV[1] - 1 do redis.call('RPUSH', KEYS[1], i) end return ARGV[1]", []string{"events"}, backlog).Err(); err != nil {
		t.Fatal(err)
	}
	d := startEdged(t, r)
	nc := connect(t, d)
	_, events := subscribe(t, nc, "events", "")
	_, readings := subscribe(t, nc, "readings", "")
	events.wait(t, 1)

	r.Push("readings", numbers(0, 1000)...)
	wantRun(t, readings.wait(t, 1000), 0, 1000)
	left := r.Len("events")
	t.Logf("%d of %d events were still there", left, backlog)
	if left < backlog/2 {
		t.Errorf("of %d events only %d were left when 1000 readings had come", backlog, left)
	}
}
