package main

import (
	"context"
	"os"
	"sync"
	"time"
)

// idle is what a server takes from the machine, and asks of Redis, while nothing
// happens; with a client, or with nobody connected.
func idle(start starter, client bool) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		if client {
			c, err := dial(ctx, server.address, smallBuffer, subscriptions()...)
			if err != nil {
				return nil, err
			}
			var running sync.WaitGroup
			defer running.Wait()
			defer c.Close()
			running.Go(func() { // answers PINGs
				for c.read() == nil {
				}
			})
		}
		if err := pause(ctx, l.long(3*time.Second)); err != nil { // the start is over
			return nil, err
		}
		commands, err := l.conn.commands()
		if err != nil {
			return nil, err
		}
		before, err := server.usage()
		if err != nil {
			return nil, err
		}
		window := l.long(20 * time.Second)
		if err := pause(ctx, window); err != nil {
			return nil, err
		}
		after, err := server.usage()
		if err != nil {
			return nil, err
		}
		now, err := l.conn.commands()
		if err != nil {
			return nil, err
		}
		minutes := window.Minutes()
		return []figure{
			{"MiB", after.resident},
			{"cpu-s/min", (after.cpu - before.cpu).Seconds() / minutes},
			{"redis-commands/min", float64(now-commands-1) / minutes}, // the first INFO is none of the server's
		}, nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startTime is how long a server takes from its start to the first connection
// that it accepts.
func startTime(start starter) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		return []figure{{"ms", micros(server.started) / 1000}}, nil
	}
}

// binarySize is the size of a program, stripped.
func binarySize(name string) run {
	return func(_ context.Context, l *lab) ([]figure, error) {
		info, err := os.Stat(l.path(name))
		if err != nil {
			return nil, err
		}
		return []figure{{"MB", float64(info.Size()) / 1e6}}, nil
	}
}
