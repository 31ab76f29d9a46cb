package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pair is two clients of one list: the front, and one that begins to read when it lags by a number
// of items.
type pair struct {
	front, behind *client
}

// dialPair connects two clients and lets one get items that the other does not read yet.
func (l *lab) dialPair(ctx context.Context, server *process, distance int) (p pair, err error) {
	for _, c := range []**client{&p.front, &p.behind} {
		if *c, err = dial(ctx, server.address, bigBuffer, "SUB "+lists[0]+" 1"); err != nil {
			return p, err
		}
	}
	return p, l.advance(p.front, distance)
}

// read lets both clients read until one of them has most more items. It returns how many each has
// got.
func (p pair) read(most int) (front, behind int, took time.Duration, err error) {
	var got [2]atomic.Int64
	first := make(chan error, 2)
	begin := time.Now()
	var running sync.WaitGroup
	for i, c := range []*client{p.front, p.behind} {
		running.Go(func() {
			before := c.got
			var err error
			for err == nil && c.got-before < most {
				err = c.read()
				got[i].Store(int64(c.got - before))
			}
			first <- err
		})
	}

	err = <-first
	took = time.Since(begin)
	front, behind = int(got[0].Load()), int(got[1].Load())
	p.close()
	running.Wait()
	return front, behind, took, err
}

func (p pair) close() {
	for _, c := range []*client{p.front, p.behind} {
		if c != nil {
			c.Close()
		}
	}
}

// behind measures the rate of two clients, one of which lags by a distance, relative to the rate of
// one client alone. There are n more items for the front.
func behind(distance, n int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		var efforts comparison
		var shares []float64
		for range turns {
			alone, err := l.stretch(ctx, "received", 0, n, nil)
			if err != nil {
				return nil, err
			}
			share, both, err := l.catchUp(ctx, l.few(distance), l.few(n))
			if err != nil {
				return nil, err
			}
			efforts.add(alone, both)
			shares = append(shares, share)
		}

		share, rate := median(shares), efforts.rate()
		return append(efforts.figures(), figure{"front-of-alone", share * rate}, figure{"behind-of-alone", (1 - share) * rate}), nil
	}
}

// catchUp measures two clients while both have items to read. It returns the front's share of their
// deliveries.
func (l *lab) catchUp(ctx context.Context, distance, n int) (share float64, e effort, err error) {
	server, err := oneList("received").start(ctx, l)
	if err != nil {
		return 0, e, err
	}
	defer server.Kill()
	p, err := l.dialPair(ctx, server, distance)
	defer p.close()
	if err != nil {
		return 0, e, server.failed(err)
	}
	if err := errors.Join(server.command("pause all"), l.fill(lists[0], n, itemSize)); err != nil {
		return 0, e, err
	}
	runtime.GC()
	before, err := l.usages(server)
	if err != nil {
		return 0, e, err
	}

	if err := server.command("resume all"); err != nil {
		return 0, e, err
	}
	front, behind, took, err := p.read(n)
	if err != nil {
		return 0, e, server.failed(err)
	}
	after, err := l.usages(server)
	return float64(front) / float64(front+behind), effortOf(front+behind, took, before, after), err
}

// behindProducer measures a client that gets a producer's items, rate a second, while another
// client that lags by a distance catches up. Its figures are relative to those of the client alone.
func behindProducer(distance, rate int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		var alone, both pushed
		for range turns {
			a, err := l.followProducer(ctx, 0, rate)
			if err != nil {
				return nil, err
			}
			b, err := l.followProducer(ctx, l.few(distance), rate)
			if err != nil {
				return nil, err
			}
			alone, both = alone.best(a), both.best(b)
		}

		return []figure{
			{"msgs/s", both.rate},
			{"of-alone", both.rate / alone.rate},
			{"p99-µs", both.p99},
			{"p99-of-alone", both.p99 / alone.p99},
			{"behind-msgs/s", both.behind},
		}, nil
	}
}

// pushed is how a client gets a producer's items.
type pushed struct {
	rate   float64
	p99    float64 // µs from just before the RPUSH
	behind float64 // rate of the client that catches up
}

// best has the best of each figure.
func (p pushed) best(other pushed) pushed {
	if p.rate == 0 {
		return other
	}
	return pushed{max(p.rate, other.rate), min(p.p99, other.p99), max(p.behind, other.behind)}
}

// followProducer measures a client that gets a producer's items, beside one that lags by a
// distance, until that one has caught up. With a distance of 0 the client is alone.
func (l *lab) followProducer(ctx context.Context, distance, rate int) (f pushed, err error) {
	server, err := oneList("received").start(ctx, l)
	if err != nil {
		return f, err
	}
	defer server.Kill()
	p, err := l.dialPair(ctx, server, distance)
	if distance == 0 && err == nil {
		p.behind.Close()
	}
	defer p.close()
	if err != nil {
		return f, server.failed(err)
	}

	base := time.Now()
	var took []time.Duration
	p.front.message = func(item []byte) {
		at, _ := strconv.ParseInt(string(item[:stampSize]), 10, 64)
		took = append(took, time.Since(base)-time.Duration(at))
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer p.front.Conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var total atomic.Int64
	produced := make(chan error, 1)
	running.Go(func() { produced <- l.produce(ctx, base, rate, &total) })
	followed := make(chan error, 1)
	before := p.front.got
	end := make(chan struct{})
	running.Go(func() { followed <- p.follow(end) })

	if distance == 0 {
		err = pause(ctx, l.long(3*time.Second))
	} else {
		for err == nil && p.behind.got < distance+int(total.Load())-rate/20 {
			err = p.behind.read()
		}
	}
	seconds := time.Since(base).Seconds()
	close(end)
	cancel()
	p.front.SetReadDeadline(time.Now())
	if err = errors.Join(err, <-produced, <-followed); err != nil {
		return f, server.failed(err)
	}
	slices.Sort(took)
	if len(took) == 0 {
		return f, errors.New("no item of the producer has come")
	}
	return pushed{
		rate: float64(p.front.got-before) / seconds, p99: micros(took[len(took)*99/100]), behind: float64(p.behind.got) / seconds,
	}, nil
}

// follow reads until the end.
func (p pair) follow(end <-chan struct{}) error {
	for {
		err := p.front.read()
		select {
		case <-end:
			return nil
		default:
		}
		if err != nil {
			return err
		}
	}
}

// produce pushes items, rate of them a second, until ctx is done. Each begins with the time since
// base.
func (l *lab) produce(ctx context.Context, base time.Time, rate int, total *atomic.Int64) error {
	const every = time.Millisecond
	padding := strings.Repeat("x", itemSize-stampSize)

	args := []string{"RPUSH", lists[0]}
	for {
		due := int(time.Since(base).Seconds() * float64(rate))
		args = args[:2]
		stamp := fmt.Sprintf("%0*d", stampSize, time.Since(base))
		for range min(due-int(total.Load()), rate/100) {
			args = append(args, stamp+padding)
		}
		if len(args) > 2 {
			if err := l.conn.ok(args...); err != nil {
				return err
			}
			total.Add(int64(len(args) - 2))
		}
		if pause(ctx, every) != nil {
			return nil
		}
	}
}
