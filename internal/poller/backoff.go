package poller

import (
	"math/rand/v2"
	"time"
)

// Retries start soon and slow down to two a second. go-redis adds up to a second of
// its own after a failed dial, so delivery goes on within two seconds of Redis
// being back.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 500 * time.Millisecond
)

type backoff struct{ wait time.Duration }

func newBackoff() *backoff { return &backoff{wait: firstRetry} }

func (b *backoff) reset() { b.wait = firstRetry }

// next returns the time to wait, with a jitter of a quarter either way, so that
// a room full of boxes does not come back in one instant.
func (b *backoff) next() time.Duration {
	wait := b.wait
	b.wait = min(2*b.wait, lastRetry)
	return wait*3/4 + rand.N(wait/2)
}
