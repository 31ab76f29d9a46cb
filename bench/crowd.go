package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// redisReply is the length of an item of itemSize in a reply of Redis.
const redisReply = len("$256\r\n") + itemSize + len("\r\n")

// crowd measures the rate of the fastest among many clients. They read at random speeds, from 1 to
// 100 % of the rate that they have when all are fast. It also measures how often Redis reads an
// item until the fastest have n of them.
func crowd(clients, n int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		clients, n := l.few(clients), l.few(n)
		fast := make([]float64, clients) // 0: no bound
		alike, _, err := l.gather(ctx, n/3, fast)
		if err != nil {
			return nil, err
		}

		random := rand.New(rand.NewPCG(1, 1))
		speeds := make([]float64, clients)
		for i := range speeds {
			if i >= max(1, clients/100) { // these are the fastest
				speeds[i] = (0.01 + 0.99*random.Float64()) * alike.front
			}
		}

		mixed, reads, err := l.gather(ctx, n, speeds)
		return []figure{
			{"msgs/s", mixed.front},
			{"of-alone", mixed.front / alike.front},
			{"reads/item", reads},
			{"edged-cpu-of-alone", mixed.edged / alike.edged},
			{"redis-cpu-of-alone", mixed.redis / alike.redis},
		}, err
	}
}

// gathered is the rate of the fastest clients in items, and the effort for all clients.
type gathered struct {
	effort
	front float64
}

// gather lets clients read at some speeds in items a second, until those without a bound have n
// items. It returns how often Redis has read an item.
func (l *lab) gather(ctx context.Context, n int, speeds []float64) (g gathered, reads float64, err error) {
	server, err := configured{lists: lists, list: []string{`max_lag = "0s"`}, settings: []string{`delivery.receipt_timeout = "1h"`}}.start(ctx, l)
	if err != nil {
		return g, 0, err
	}
	defer server.Kill()
	if err := errors.Join(server.command("pause all"), l.preload(n, itemSize)); err != nil {
		return g, 0, err
	}
	clients, err := dialMany(ctx, server.address, len(speeds), subscriptions()...)
	if err != nil {
		return g, 0, err
	}
	defer closeAll(clients)
	before, err := l.usages(server)
	if err != nil {
		return g, 0, err
	}
	sent, err := l.conn.stat("total_net_output_bytes")
	if err != nil {
		return g, 0, err
	}

	begin := time.Now()
	if err := server.command("resume all"); err != nil {
		return g, 0, err
	}
	slow, end := context.WithCancel(ctx)
	defer end()
	var crawling sync.WaitGroup
	var front []*client
	for i, c := range clients {
		if speeds[i] == 0 {
			front = append(front, c)
		} else {
			crawling.Go(func() { c.crawl(slow, speeds[i]) })
		}
	}
	if err := each(front, func(c *client) error { return c.receive(n) }); err != nil {
		return g, 0, server.failed(err)
	}
	took := time.Since(begin)
	after, err := l.usages(server)
	if err != nil {
		return g, 0, err
	}
	now, err := l.conn.stat("total_net_output_bytes")
	end()
	closeAll(clients)
	crawling.Wait()
	total := 0
	for _, c := range clients {
		total += c.got
	}
	g = gathered{effortOf(total, took, before, after), float64(n) / took.Seconds()}
	return g, float64(now-sent) / float64(n*redisReply), err
}
