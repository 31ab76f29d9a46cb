package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// refused measures how large a list and its ledger get when a client acknowledges all items except
// one, which it refuses for ever. The producer pushes no more than the client can take at once, so
// the items in the list are finished or in flight.
func refused(ctx context.Context, l *lab) ([]figure, error) {
	server, err := oneList("explicit").start(ctx, l)
	if err != nil {
		return nil, err
	}
	defer server.Kill()
	c, err := dial(ctx, server.address, bigBuffer, "SUB "+lists[0]+" 1")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.acknowledges, c.refuses = true, fmt.Appendf(nil, "%0*d", stampSize, refusedNumber)
	before, err := l.usages(server)
	if err != nil {
		return nil, err
	}

	n := l.few(l.items)
	begin := time.Now()
	most, err := l.feed(ctx, c, n)
	if err != nil {
		return nil, server.failed(err)
	}
	took := time.Since(begin)
	after, err := l.usages(server)
	e := effortOf(n, took, before, after)
	return []figure{
		{"msgs/s", e.rate},
		{"edged-µs", e.edged},
		{"redis-µs", e.redis},
		{"most-in-list", float64(most.list)},
		{"most-aside", float64(most.aside)},
		{"most-in-ledger-B", float64(most.ledger)},
		{"refused/s", float64(c.refused) / took.Seconds()},
	}, err
}

// refusedNumber is the beginning of the refused item; see fill. The last item of each fill has the
// number 1, so the producer pushes that item alone.
const refusedNumber = 999_999_999

// extent is the size of a list and of the keys that belong to it.
type extent struct {
	list, aside int // items
	ledger      int // bytes
}

// feed pushes the item that the client refuses and n more, as fast as the client acknowledges them.
// It returns the largest extent.
func (l *lab) feed(ctx context.Context, c *client, n int) (most extent, err error) {
	const piece = 1000
	first := fmt.Sprintf("%0*d", stampSize, refusedNumber)
	if err := l.conn.ok("RPUSH", lists[0], first); err != nil {
		return most, err
	}

	for pushed := 0; pushed < n && ctx.Err() == nil; {
		k := min(piece, n-pushed)
		if err := l.fill(lists[0], k, itemSize); err != nil {
			return most, err
		}
		pushed += k
		for c.got-c.refused < pushed-2*piece || pushed == n && c.got-c.refused < n {
			if err := c.read(); err != nil {
				return most, err
			}
		}
		now, err := l.extent()
		if err != nil {
			return most, err
		}
		most = extent{max(most.list, now.list), max(most.aside, now.aside), max(most.ledger, now.ledger)}
	}

	return most, context.Cause(ctx)
}

func (l *lab) extent() (e extent, err error) {
	ledger := "{" + lists[0] + "}:edged"
	ask := func(to *int, args ...string) { // there may be no such key yet
		n, failed := l.conn.number(args...)
		*to, err = max(n, 0), errors.Join(err, failed)
	}
	ask(&e.list, "LLEN", lists[0])
	ask(&e.aside, "HLEN", ledger+":aside")
	ask(&e.ledger, "MEMORY", "USAGE", ledger, "SAMPLES", "0")
	return e, err
}
