package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// idle measures the load of an idle server on the machine and on Redis, after it has settled for
// some time. A client sends lines first; without lines there is no client.
func idle(start starter, settles time.Duration, lines ...string) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		if len(lines) > 0 {
			c, err := dial(ctx, server.address, smallBuffer, lines...)
			if err != nil {
				return nil, err
			}
			defer goOn([]*client{c})()
		}
		if err := pause(ctx, l.long(settles)); err != nil {
			return nil, err
		}

		conn, err := dialRedis(l.redis.address)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		window := l.long(20 * time.Second)
		before, err := l.usages(server)
		if err != nil {
			return nil, err
		}
		sent, err := conn.monitor(time.Now().Add(window))
		if err != nil {
			return nil, err
		}
		after, err := l.usages(server)
		minutes := window.Minutes()
		return []figure{
			{"MiB", after.edged.resident},
			{"cpu-s/min", (after.edged.cpu - before.edged.cpu).Seconds() / minutes},
			{"redis-cpu-s/min", (after.redis.cpu - before.redis.cpu).Seconds() / minutes},
			{"redis-commands/min", float64(sent) / minutes},
		}, err
	}
}

// settling is how long a server is left alone after its start.
const settling = 3 * time.Second

// manyLists is edged with n lists.
func manyLists(n int) starter {
	return func(ctx context.Context, l *lab) (*process, error) {
		keys := make([]string, l.few(n))
		for i := range keys {
			keys[i] = fmt.Sprintf("many.%d", i)
		}
		return configured{lists: keys}.start(ctx, l)
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

// startTime measures the time from the start of a server to the first connection that it accepts.
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

// binarySize measures the size of a program, stripped.
func binarySize(name string) run {
	return func(_ context.Context, l *lab) ([]figure, error) {
		info, err := os.Stat(l.path(name))
		if err != nil {
			return nil, err
		}
		return []figure{{"MB", float64(info.Size()) / 1e6}}, nil
	}
}
