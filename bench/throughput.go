package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
)

// A reader is a client that takes n items. It returns how long that took, from the moment when it
// asked for them.
type reader func(ctx context.Context, address string, n int) (time.Duration, error)

// oneClient measures how fast n items of size bytes, which are in Redis already, reach one client.
func oneClient(start starter, read reader, n, size int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()

		n := l.few(n)
		if err := l.preload(n, size); err != nil {
			return nil, err
		}

		before, err := server.usage()
		if err != nil {
			return nil, err
		}
		took, err := read(ctx, server.address, n)
		if err != nil {
			return nil, server.failed(err)
		}
		after, err := server.usage()
		return []figure{
			{"msgs/s", float64(n) / took.Seconds()},
			{"cpu-µs/msg", float64((after.cpu - before.cpu).Nanoseconds()) / 1000 / float64(n)},
			{"peak-MiB", after.peak},
		}, err
	}
}

// raw reads with this program's own client.
func raw(ctx context.Context, address string, n int) (time.Duration, error) {
	return readRaw(ctx, address, n, false)
}

// acknowledging is raw, and acknowledges each item.
func acknowledging(ctx context.Context, address string, n int) (time.Duration, error) {
	return readRaw(ctx, address, n, true)
}

func readRaw(ctx context.Context, address string, n int, acknowledges bool) (time.Duration, error) {
	c, err := dial(ctx, address, bigBuffer)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.acknowledges = acknowledges
	begin := time.Now()
	if err := c.sync(subscriptions()...); err != nil {
		return 0, err
	}
	err = c.receive(n)
	return time.Since(begin), err
}

// natsGo reads with the official Go client.
func natsGo(ctx context.Context, address string, n int) (time.Duration, error) {
	nc, err := nats.Connect("nats://"+address, nats.NoReconnect())
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	all := make(chan int, len(lists))
	begin := time.Now()
	for i, list := range lists {
		want, got := n/len(lists), 0
		if i == 0 {
			want = n - want*(len(lists)-1)
		}
		sub, err := nc.Subscribe(list, func(*nats.Msg) {
			if got++; got == want {
				all <- i
			}
		})
		if err != nil {
			return 0, err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return 0, err
		}
	}

	for range lists {
		select {
		case <-all:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}

	return time.Since(begin), nil
}

// lines reads the lines of baseline.py, one for each item.
func lines(ctx context.Context, address string, n int) (time.Duration, error) {
	begin := time.Now()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	buf := make([]byte, bigBuffer)
	for got := 0; got < n; {
		k, err := conn.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("item %d of %d: %w", got+1, n, err)
		}
		got += bytes.Count(buf[:k], []byte("\n"))
	}
	return time.Since(begin), nil
}
