package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// itemSize is the default payload of a message.
const itemSize = 256

// fanOut measures how fast n items in Redis reach many clients, each of which gets all of them, in
// deliveries a second.
func fanOut(clients, n int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := edged("received")(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()

		if err := server.command("pause all"); err != nil {
			return nil, err
		}
		n := l.few(n)
		if err := l.preload(n, itemSize); err != nil {
			return nil, err
		}
		crowd, err := dialMany(ctx, server.address, clients, subscriptions()...)
		if err != nil {
			return nil, err
		}
		defer closeAll(crowd)
		begin := time.Now()
		if err := server.command("resume all"); err != nil {
			return nil, err
		}

		if err := each(crowd, func(c *client) error { return c.receive(n) }); err != nil {
			return nil, server.failed(err)
		}
		return deliveries(server, n*clients, time.Since(begin))
	}
}

// pubSub measures how fast n messages of one client reach many other clients.
func pubSub(start starter, clients, n int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		crowd, err := dialMany(ctx, server.address, clients, "SUB bench.pubsub 1")
		if err != nil {
			return nil, err
		}
		defer closeAll(crowd)

		p := newPublisher(l.few(n), clients)
		publishing, err := dial(ctx, server.address, smallBuffer)
		if err != nil {
			return nil, err
		}
		var running sync.WaitGroup
		defer running.Wait()
		defer publishing.Close()
		running.Go(func() { // answers PINGs
			for publishing.read() == nil {
			}
		})
		begin := time.Now()
		published := make(chan error, 1)
		running.Go(func() { published <- p.publish(ctx, publishing) })
		if err := each(crowd, p.follow); err != nil {
			return nil, server.failed(err)
		}
		took := time.Since(begin)
		if err := <-published; err != nil {
			return nil, err
		}
		return deliveries(server, p.total()*clients, took)
	}
}

func deliveries(server *process, n int, took time.Duration) ([]figure, error) {
	u, err := server.usage()
	return []figure{{"msgs/s", float64(n) / took.Seconds()}, {"peak-MiB", u.peak}}, err
}

// publisher sends messages in chunks, a few of which are in flight at a time, so that no server
// drops a message or a client.
type publisher struct {
	chunks   int
	clients  int64
	behind   []atomic.Int64 // for each chunk, the number of clients that have it
	finished chan struct{}  // receives a value for each chunk that all clients have
}

const (
	chunkSize = 500 // messages
	chunksOut = 16
)

func newPublisher(n, clients int) *publisher {
	chunks := max(1, n/chunkSize)
	return &publisher{
		chunks: chunks, clients: int64(clients),
		behind: make([]atomic.Int64, chunks), finished: make(chan struct{}, chunks),
	}
}

// total returns the number of messages.
func (p *publisher) total() int { return p.chunks * chunkSize }

func (p *publisher) publish(ctx context.Context, c *client) error {
	message := fmt.Appendf(nil, "PUB bench.pubsub %d\r\n%s\r\n", itemSize, bytes.Repeat([]byte("x"), itemSize))
	chunk := bytes.Repeat(message, chunkSize)
	for i := range p.chunks {
		if i >= chunksOut {
			select {
			case <-p.finished:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if _, err := c.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

// follow receives all messages.
func (p *publisher) follow(c *client) error {
	for i := range p.chunks {
		if err := c.receive((i + 1) * chunkSize); err != nil {
			return err
		}
		if p.behind[i].Add(1) == p.clients {
			p.finished <- struct{}{}
		}
	}
	return nil
}

// dialMany connects clients that have sent some lines.
func dialMany(ctx context.Context, address string, n int, lines ...string) (crowd []*client, err error) {
	size := smallBuffer
	if n <= 10 {
		size = bigBuffer
	}
	for range n {
		c, err := dial(ctx, address, size, lines...)
		if err != nil {
			closeAll(crowd)
			return nil, err
		}
		crowd = append(crowd, c)
	}
	return crowd, nil
}

func closeAll(crowd []*client) {
	for _, c := range crowd {
		c.Close()
	}
}

// each runs do for all clients, each in a goroutine, and waits for them. If one fails, all
// connections are closed, so that the other goroutines end too.
func each(crowd []*client, do func(*client) error) error {
	var running sync.WaitGroup
	var once sync.Once
	var failed error
	for _, c := range crowd {
		running.Go(func() {
			if err := do(c); err != nil {
				once.Do(func() {
					failed = err
					for _, c := range crowd {
						c.Conn.Close()
					}
				})
			}
		})
	}

	running.Wait()
	return failed
}
