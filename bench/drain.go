package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
)

// drain measures the time from SIGTERM until all clients know that edged is shutting down, and
// until it has ended. The clients close as soon as they know.
func drain(clients int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		server, err := edged("received")(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()

		crowd, err := dialMany(ctx, server.address, l.few(clients), subscriptions()...)
		if err != nil {
			return nil, err
		}
		defer closeAll(crowd)
		begin := time.Now()
		var told atomic.Int64 // when the last client was told
		if err := server.Signal(syscall.SIGTERM); err != nil {
			return nil, err
		}

		err = each(crowd, func(c *client) error {
			for !c.leave {
				if err := c.read(); err != nil {
					return fmt.Errorf("a client is not told that edged is going: %v", err)
				}
			}
			at := int64(time.Since(begin))
			for last := told.Load(); last < at && !told.CompareAndSwap(last, at); last = told.Load() {
			}
			return c.Close()
		})
		if err != nil {
			return nil, err
		}

		select {
		case <-server.Ended():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}

		took := time.Since(begin)
		if code := server.State().ExitCode(); code != 0 {
			return nil, server.failed(fmt.Errorf("edged ends with code %d", code))
		}
		return []figure{{"notify-ms", micros(time.Duration(told.Load())) / 1000}, {"drain-ms", micros(took) / 1000}}, nil
	}
}
