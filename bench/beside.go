package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"edged/internal/edgedtest"
)

// turns is how often a measurement that compares two runs does both, in turn. Of rates it takes the
// best: other activity of the machine can only lower them.
const turns = 5

// oneList is edged with the first list only. It cuts no consumer off, however long the measurement
// takes.
func oneList(ack string) configured {
	c := configured{
		lists:    lists[:1],
		list:     []string{fmt.Sprintf("ack = %q", ack), `max_lag = "0s"`},
		settings: []string{`delivery.receipt_timeout = "1h"`},
	}
	if ack == "explicit" {
		c.list = append(c.list, `ack_wait = "1h"`)
	}
	return c
}

// A companion is a consumer beside the measured one. It is there before the first item; end removes
// it.
type companion func(ctx context.Context, l *lab, server *process) (end func(), err error)

// beside measures the rate of a client that reads as fast as it can, beside a companion, relative
// to its rate alone. It measures while the companion's lag grows from one number of items to
// another.
func beside(ack string, from, to int, c companion) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		var efforts comparison
		for range turns {
			alone, err := l.stretch(ctx, ack, from, to, nil)
			if err != nil {
				return nil, err
			}
			both, err := l.stretch(ctx, ack, from, to, c)
			if err != nil {
				return nil, err
			}
			efforts.add(alone, both)
		}
		return efforts.figures(), nil
	}
}

// effort is the rate of deliveries, and the processor time of each in µs.
type effort struct{ rate, edged, redis float64 }

func effortOf(n int, took time.Duration, before, after usages) effort {
	each := func(d time.Duration) float64 { return micros(d) / float64(n) }
	return effort{
		rate:  float64(n) / took.Seconds(),
		edged: each(after.edged.cpu - before.edged.cpu), redis: each(after.redis.cpu - before.redis.cpu),
	}
}

// comparison compares an effort with another.
type comparison struct{ alone, both []effort }

func (c *comparison) add(alone, both effort) {
	c.alone, c.both = append(c.alone, alone), append(c.both, both)
}

// rate returns the best rate beside the companion, relative to the best rate alone.
func (c *comparison) rate() float64 { return best(c.both).rate / best(c.alone).rate }

func best(efforts []effort) effort {
	return slices.MaxFunc(efforts, func(a, b effort) int { return cmp.Compare(a.rate, b.rate) })
}

func (c *comparison) figures() []figure {
	var edged, redis []float64
	for i, both := range c.both {
		edged = append(edged, both.edged/c.alone[i].edged)
		redis = append(redis, both.redis/c.alone[i].redis)
	}
	return []figure{
		{"msgs/s", best(c.both).rate},
		{"of-alone", c.rate()},
		{"edged-cpu-of-alone", median(edged)},
		{"redis-cpu-of-alone", median(redis)},
	}
}

// stretch measures a fast client from one item to another.
func (l *lab) stretch(ctx context.Context, ack string, from, to int, beside companion) (e effort, err error) {
	from, to = l.few(from), l.few(to)
	server, err := oneList(ack).start(ctx, l)
	if err != nil {
		return e, err
	}
	defer server.Kill()
	c, err := dial(ctx, server.address, bigBuffer, "SUB "+lists[0]+" 1")
	if err != nil {
		return e, err
	}
	defer c.Close()
	c.acknowledges = ack == "explicit"
	if beside != nil {
		end, err := beside(ctx, l, server)
		if err != nil {
			return e, err
		}
		defer end()
	}

	if err := l.advance(c, from); err != nil {
		return e, server.failed(err)
	}
	if err := errors.Join(server.command("pause all"), l.fill(lists[0], to-c.got, itemSize)); err != nil {
		return e, err
	}
	runtime.GC()
	n := to - c.got
	before, err := l.usages(server)
	if err != nil {
		return e, err
	}
	begin := time.Now()
	if err := errors.Join(server.command("resume all"), c.receive(to)); err != nil {
		return e, server.failed(err)
	}
	took := time.Since(begin)
	after, err := l.usages(server)
	if err == nil && beside != nil {
		err = l.holds(to * 9 / 10)
	}
	return effortOf(n, took, before, after), err
}

// advance lets a client get items up to a number.
func (l *lab) advance(c *client, to int) error {
	if err := errors.Join(l.fill(lists[0], to-c.got, itemSize), c.receive(to)); err != nil {
		return err
	}
	return c.sync() // it has answered PINGs
}

// holds fails unless the list has that many items, which a companion owes.
func (l *lab) holds(n int) error {
	length, err := l.conn.number("LLEN", lists[0])
	if err == nil && length < n {
		err = fmt.Errorf("only %d of %d items are in Redis; was the other consumer cut off?", length, n)
	}
	return err
}

// joined is a companion that acts as a client.
func joined(do func(context.Context, *client) error) companion {
	return func(ctx context.Context, _ *lab, server *process) (func(), error) {
		ctx, cancel := context.WithCancel(ctx)
		c, err := dial(ctx, server.address, 4<<10, "SUB "+lists[0]+" 1")
		if err != nil {
			cancel()
			return nil, err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			do(ctx, c)
		}()
		return func() { cancel(); <-ended; c.Close() }, nil
	}
}

// slow reads 20 items a second.
var slow = joined(func(ctx context.Context, c *client) error { return c.crawl(ctx, 20) })

// silent reads everything and acknowledges nothing.
var silent = joined(func(_ context.Context, c *client) error {
	for {
		if err := c.read(); err != nil {
			return err
		}
	}
})

// stopped is a process that SIGSTOP has stopped after its first item.
func stopped(_ context.Context, l *lab, server *process) (func(), error) {
	p, err := edgedtest.Start(exec.Command(l.path("edged"), "sub", "-server", server.address, lists[0]))
	if err != nil {
		return nil, err
	}
	if err := l.fill(lists[0], 1, itemSize); err != nil {
		p.Kill()
		return nil, err
	}
	if _, err := p.AwaitLine(func(string) bool { return true }); err != nil {
		p.Kill()
		return nil, err
	}
	return p.Kill, p.Signal(syscall.SIGSTOP)
}
