package uplink

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"edged/internal/flow"
)

// newLimiter lets so many bytes a second pass, and a second's worth of them at once. 0 means no bound.
func newLimiter(bytes int) *rate.Limiter {
	if bytes == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytes), bytes)
}

// pass waits until n bytes may be sent, which may be more than a second's worth.
func pass(ctx context.Context, limit *rate.Limiter, n int) error {
	if limit.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		some := min(n, limit.Burst())
		if err := limit.WaitN(ctx, some); err != nil {
			return err
		}
		n -= some
	}
	return nil
}

const (
	// firstWindow is the number of bytes that may be in flight over a new link, and leastWindow the
	// lower bound of that number.
	firstWindow = 16 << 10
	leastWindow = 4 << 10
	// mostDelay is how long the items in flight may delay a confirmation.
	mostDelay = 2 * time.Second
)

func newFlow(most int) flow.Window { return flow.New(min(firstWindow, most), leastWindow, mostDelay) }
