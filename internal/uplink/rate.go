package uplink

import (
	"context"
	"time"

	"edged/internal/flow"
)

// bucket is a token bucket that holds a second's worth of bytes. One goroutine uses it.
type bucket struct {
	rate  float64 // bytes a second; 0 means no bound
	left  float64
	since time.Time
}

func newBucket(rate int) *bucket {
	return &bucket{rate: float64(rate), left: float64(rate), since: time.Now()}
}

// wait waits until n bytes may be sent. More than a second's worth of bytes are sent at once and
// leave a debt.
func (b *bucket) wait(ctx context.Context, n int) error {
	if b.rate == 0 {
		return nil
	}
	now := time.Now()
	b.left = min(b.rate, b.left+now.Sub(b.since).Seconds()*b.rate)
	b.since = now
	b.left -= float64(n)
	if b.left >= 0 {
		return nil
	}

	timer := time.NewTimer(time.Duration(-b.left / b.rate * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
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
