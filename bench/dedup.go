package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// dedupItems is the window of the measurement dedup: larger than a box has by default, so that its
// memory shows, and larger than the processor's caches.
const dedupItems = 60_000

// deduplicated measures the rate of items that are in Redis already and go to one client, with and
// without dedup in the same measurement, in turn. Items are JSON objects; every repeats-th one has
// the id, or all the bytes, of the one before it.
func deduplicated(by string, n, repeats int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		n := l.few(n)
		var with comparison
		var peaks [2]float64
		for range l.few(3) {
			plain, err := l.dedup(ctx, "", n, repeats)
			if err != nil {
				return nil, err
			}
			deduped, err := l.dedup(ctx, by, n, repeats)
			if err != nil {
				return nil, err
			}
			with.add(plain.effort, deduped.effort)
			peaks = [2]float64{max(peaks[0], plain.peak), max(peaks[1], deduped.peak)}
		}

		figures := with.figures()
		if repeats == 0 {
			figures = append(figures, figure{"B/window-item", (peaks[1] - peaks[0]) * (1 << 20) / dedupItems})
		}
		return figures, nil
	}
}

// dedupEffort is one run of the measurement dedup.
type dedupEffort struct {
	effort
	peak float64 // MiB
}

func (l *lab) dedup(ctx context.Context, by string, n, repeats int) (e dedupEffort, err error) {
	list := []string{`ack = "received"`, fmt.Sprintf("dedup = %q", by), fmt.Sprintf("dedup_items = %d", dedupItems)}
	server, err := configured{lists: lists[:1], list: list}.start(ctx, l)
	if err != nil {
		return e, err
	}
	defer server.Kill()

	if err := l.fillObjects(lists[0], n, repeats); err != nil {
		return e, err
	}

	want := n
	if by != "" && repeats > 0 {
		want -= n / repeats
	}
	runtime.GC()
	before, err := l.usages(server)
	if err != nil {
		return e, err
	}
	c, err := dial(ctx, server.address, bigBuffer)
	if err != nil {
		return e, err
	}
	defer c.Close()
	begin := time.Now()
	if err := c.sync("SUB " + lists[0] + " 1"); err != nil {
		return e, server.failed(err)
	}

	if err := c.receive(want); err != nil {
		return e, server.failed(err)
	}
	took := time.Since(begin)
	after, err := l.usages(server)
	return dedupEffort{effortOf(n, took, before, after), after.edged.peak}, err
}

// fillObjects pushes n JSON objects of itemSize bytes into a list.
func (l *lab) fillObjects(list string, n, repeats int) error {
	padding := strings.Repeat("x", itemSize-len(`{"id":"0000000000","n":""}`))
	id := 0
	for at := 0; at < n; {
		args := []string{"RPUSH", list}
		for range min(1000, n-at) {
			if at++; repeats == 0 || at%repeats > 0 {
				id++
			}
			args = append(args, fmt.Sprintf(`{"id":"%010d","n":"%s"}`, id, padding))
		}
		if err := l.conn.ok(args...); err != nil {
			return err
		}
	}
	return nil
}
