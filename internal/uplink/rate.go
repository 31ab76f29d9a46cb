package uplink

import (
	"context"
	"time"
)

// bucket is a token bucket that holds a second's worth of bytes. It is used by one goroutine.
type bucket struct {
	rate  float64 // bytes a second; 0 means no bound
	left  float64
	since time.Time
}

func newBucket(rate int) *bucket {
	return &bucket{rate: float64(rate), left: float64(rate), since: time.Now()}
}

// wait waits until n bytes may go. More than a second's worth of them go as one that leaves a debt.
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
	// firstWindow is how many bytes may be on their way over a new link, and the least ever.
	firstWindow = 16 << 10
	// longest is how long the confirmation of an item should take at most: on a slow link, items
	// that are on their way delay all that is sent after them.
	longest = 2 * time.Second
)

// flow bounds the bytes on their way by the time that confirmations take. It is guarded by Uplink.mu.
type flow struct {
	window int // bytes
	most   int // bytes
	since  time.Time
}

func newFlow(most int) flow { return flow{window: min(firstWindow, most), most: most} }

// confirmed notes the confirmation of an item, when bytes were on their way. Fast confirmations
// double the window in the time that one takes; a slow one cuts it once in that time.
func (f *flow) confirmed(s sending, bytes int, now time.Time) {
	switch took := now.Sub(s.sent); {
	case took > longest && s.sent.After(f.since):
		f.window = max(f.window*5/8, min(firstWindow/4, f.most))
		f.since = now
	case took < longest/2 && 2*bytes > f.window:
		f.window = min(f.window+s.item.size(), f.most)
	}
}
