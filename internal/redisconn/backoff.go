package redisconn

import "time"

// Retries start soon and slow down to two a second. go-redis adds up to a second of its own after a
// failed dial. When Redis is back, all work must resume within two seconds.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 500 * time.Millisecond
)

// Backoff computes the wait before the next attempt.
type Backoff struct {
	wait   time.Duration
	random func(n uint64) uint64
}

// newBackoff begins with the shortest wait. random returns a number below n.
func newBackoff(random func(n uint64) uint64) *Backoff {
	return &Backoff{firstRetry, random}
}

// Reset returns to the shortest wait.
func (b *Backoff) Reset() { b.wait = firstRetry }

// Next returns the time to wait, with a jitter of a quarter either way, so that many boxes do not
// reconnect at the same moment.
func (b *Backoff) Next() time.Duration {
	wait := b.wait
	b.wait = min(2*b.wait, lastRetry)
	return wait*3/4 + time.Duration(b.random(uint64(wait/2)))
}
