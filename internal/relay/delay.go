package relay

import (
	"time"

	"edged/internal/batch"
	"edged/internal/flow"
)

// leastOnWay is how many bytes, encodings included, a consumer may always have on their way.
const leastOnWay = 2 << 10

func newFlow(delay time.Duration) flow.Window { return flow.New(leastOnWay, leastOnWay, delay) }

// bound is how many bytes a consumer may have on their way. With Delay it follows the time that confirmations take, so that
// items which are sent later do not wait behind a window of these.
func (l *Log) bound(c *consumer) int {
	if l.opts.Delay == 0 || c.uplink {
		return l.opts.Memory
	}
	return min(c.flow.Bytes, l.opts.Memory)
}

// measure notes how long the items of a debt were on their way. They filled the bound if more of the list wait.
func (l *Log) measure(d *debt) {
	if c := d.member.consumer; l.opts.Delay > 0 {
		c.flow.Confirmed(d.bytes, d.at, l.opts.Now(), c.cursor < l.end, l.opts.Memory)
	}
}

// fits is about how many items of a batch a consumer's bound has room for; at least one.
func (l *Log) fits(c *consumer, b *batch.Batch) int {
	if l.opts.Delay == 0 {
		return b.Len()
	}
	return max(1, (l.bound(c)-c.bytes)*b.Len()/b.Held(len(l.keys)))
}
