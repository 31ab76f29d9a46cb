package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"edged/internal/batch"
)

// pull is a client's request for items. Guarded by consumer.mu.
type pull struct {
	outlet    Outlet
	from      *user
	left      int // items still to deliver
	bytesLeft int // if the request has a bound
	bounded   bool
	short     bool      // fewer items are available than requested: it ends when they are delivered
	there     int       // available items that have not come yet; 0: it also waits for later ones
	first     bool      // no item is available: it ends with the first that arrive
	expires   time.Time // zero: never
	heartbeat time.Duration
	beat      time.Time // when the next heartbeat is due
}

// pullRequest is the payload of CONSUMER.MSG.NEXT.
type pullRequest struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	MaxBytes  int           `json:"max_bytes"`
	NoWait    bool          `json:"no_wait"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
	Group     string        `json:"group"`
	ID        string        `json:"id"`
	Priority  int           `json:"priority"`

	MinPending    int `json:"min_pending"`
	MinAckPending int `json:"min_ack_pending"`

	there uint64 // items available now, if NoWait is set
}

const (
	// maxBatch and maxPullExpires bound a request.
	maxBatch       = 1_000_000
	maxPullExpires = 24 * time.Hour
	// noWaitLasts is how long a request that does not wait is kept while its items are read.
	noWaitLasts = 5 * time.Second
)

// parsePull reads a request: a number of items, a JSON object, or nothing for one item.
func parsePull(payload []byte) (p pullRequest, err error) {
	payload = bytes.TrimSpace(payload)
	switch {
	case len(payload) == 0:
		p.Batch = 1
	case payload[0] == '{':
		if err = json.Unmarshal(payload, &p); err != nil {
			return p, err
		}
	default:
		if p.Batch, err = strconv.Atoi(string(payload)); err != nil {
			p.Batch, err = 1, nil
		}
	}

	switch {
	case p.Heartbeat > 0 && 2*p.Heartbeat > p.Expires:
		return p, errors.New("heartbeat value too large")
	case p.Heartbeat > 0 && p.Heartbeat < minInterval:
		return p, fmt.Errorf("heartbeat value too small: %v at least", minInterval)
	case p.Heartbeat < 0 || p.Expires < 0 || p.MaxBytes < 0:
		return p, errors.New("negative values")
	case p.Group != "" || p.ID != "" || p.Priority != 0 || p.MinPending != 0 || p.MinAckPending != 0:
		return p, errors.New("edged has no priority groups")
	}

	p.Batch = max(1, p.Batch)
	return p, nil
}

// next handles a request for items. names holds a stream's and a consumer's name.
func (r *request) next(names string) {
	name, consumer, _ := strings.Cut(names, ".")
	if r.reply == "" {
		return
	}

	st := r.find(name)
	if st == nil {
		r.status(statusNoResponder)
		return
	}

	p, err := parsePull(r.payload)
	if err != nil {
		r.status(fmt.Sprintf("NATS/1.0 400 Bad Request - %.*v\r\n\r\n", maxReason, err))
		return
	}

	c := r.api.consumer(st, consumer)
	if c != nil && !p.NoWait && (c.viewer() || r.api.trusts(st)) {
		r.pull(c, p)
		return
	}

	// Redis knows whether another process has made or deleted the consumer, and how many items
	// there are. While Redis is away, the request waits at a consumer that existed before.
	before := c
	r.enqueue(func(ctx context.Context) {
		c, err := r.api.known(ctx, st, consumer)
		switch {
		case err != nil && before != nil && !p.NoWait:
			r.pull(before, p)
		case err != nil:
			r.status("NATS/1.0 503 " + err.Description + "\r\n\r\n")
		case c == nil:
			r.status(statusNoResponder)
		case p.NoWait:
			r.pullNow(ctx, c, p)
		default:
			r.pull(c, p)
		}
	}, func() { r.status("NATS/1.0 503 too many requests wait for Redis\r\n\r\n") })
}

// status answers a request for items.
func (r *request) status(header string) { r.client.Send(r.reply, []byte(header), nil) }

// pullNow handles a request for the items that are available now. If there are none, it waits for
// the first ones until it expires.
func (r *request) pullNow(ctx context.Context, c *consumer, p pullRequest) {
	there, err := r.api.opts.Store.Part(ctx, c.stream.Key, 0, 0)
	if err != nil {
		r.status("NATS/1.0 503 " + err.Error() + "\r\n\r\n")
		return
	}
	pending, known := c.membership.Pending(there.End())
	if !known { // the list is not read yet: at most all of it
		pending = uint64(there.Length)
	}
	if pending == 0 && p.Expires == 0 {
		r.status(statusNoMessages)
		return
	}

	if p.there = pending; p.Expires == 0 {
		p.Expires = noWaitLasts
	}
	r.pull(c, p)
}

// pull makes a request wait at a consumer.
func (r *request) pull(c *consumer, p pullRequest) {
	cfg := c.settings()
	switch {
	case cfg.push():
		r.status(statusPushBased)
		return
	case p.Batch > maxBatch || cfg.MaxBatch > 0 && p.Batch > cfg.MaxBatch:
		most := maxBatch
		if cfg.MaxBatch > 0 {
			most = cfg.MaxBatch
		}
		r.status(fmt.Sprintf("NATS/1.0 409 Exceeded MaxRequestBatch of %d\r\n\r\n", most))
		return
	case p.Expires > maxPullExpires || cfg.MaxExpires > 0 && p.Expires > cfg.MaxExpires:
		most := maxPullExpires
		if cfg.MaxExpires > 0 {
			most = cfg.MaxExpires
		}
		r.status(fmt.Sprintf("NATS/1.0 409 Exceeded MaxRequestExpires of %v\r\n\r\n", most))
		return
	case cfg.MaxBytes > 0 && p.MaxBytes > cfg.MaxBytes:
		r.status(fmt.Sprintf("NATS/1.0 409 Exceeded MaxRequestMaxBytes of %d\r\n\r\n", cfg.MaxBytes))
		return
	}

	now := time.Now()
	w := &pull{
		outlet: r.client.Outlet(c.target(r.reply)), from: r.from, left: p.Batch, bytesLeft: p.MaxBytes, bounded: p.MaxBytes > 0, first: p.NoWait && p.there == 0, heartbeat: p.Heartbeat,
	}
	if p.NoWait {
		w.there = int(min(p.there, math.MaxInt32))
		w.left, w.short = fewer(w.left, w.there)
	}
	if p.Expires > 0 {
		w.expires = now.Add(p.Expires)
	}
	if p.Heartbeat > 0 {
		w.beat = now.Add(p.Heartbeat)
	}

	if refused := c.wait(w, now, cfg.MaxWaiting); refused != "" {
		w.outlet.Close()
		// A client that expects heartbeats asks again when they are missing. A status would make it
		// ask at once, again and again.
		if p.Heartbeat == 0 || refused != statusMaxWaiting {
			r.status(refused)
		}
	}
}

// fewer returns how many items a request gets: those that are available, if there are any. short says
// that these are fewer than requested.
func fewer(left, there int) (_ int, short bool) {
	if there > 0 && there < left {
		return there, true
	}
	return left, false
}

// wait adds a request, unless it is refused.
func (c *consumer) wait(w *pull, now time.Time, most int) (refused string) {
	if c.api.isStopped() {
		return statusShutdown
	}
	c.mu.Lock()
	c.active = now
	if len(c.waiting) >= most {
		c.dropClosed()
	}

	switch {
	case c.ended:
		refused = statusDeleted
	case len(c.waiting) >= most:
		refused = statusMaxWaiting
	case !c.api.work.pulls(w.from, c, 1): // the client is gone
		refused = statusShutdown
	default:
		c.waiting = append(c.waiting, w)
		c.wanted += int64(w.left)
		c.schedule(now)
	}
	c.mu.Unlock()

	if refused == "" {
		c.membership.Update()
	}
	return refused
}

// isStopped reports whether the daemon is shutting down.
func (a *API) isStopped() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stopped
}

// deliverPull hands items to the next request. Requests take turns, with an equal share of
// a batch each. mu is held.
func (c *consumer) deliverPull(b *batch.Batch, from, to int, receipt batch.Receipt) (taken int) {
	for len(c.waiting) > 0 {
		p := c.waiting[0]
		share := (b.Len() + len(c.waiting) - 1) / len(c.waiting)
		n := p.fitting(b, from, min(to, from+share, from+p.left))
		if n == 0 {
			c.finishFirst(unfilled("409 Message Size Exceeds MaxBytes", p))
			continue
		}
		taken = p.outlet.Deliver(b, from, from+n, c.count+1, receipt)
		if taken < n && taken == 0 {
			c.finishFirst("")
			continue
		}
		p.left -= taken
		p.there = max(0, p.there-taken)
		c.wanted -= int64(taken)
		for i := from; i < from+taken && p.bounded; i++ {
			p.bytesLeft -= cost(b, i)
		}
		if p.heartbeat > 0 {
			p.beat = time.Now().Add(p.heartbeat)
		}
		switch {
		case p.left == 0 && p.short || p.left > 0 && p.first:
			c.finishFirst(statusNoMessages)
		case p.left == 0:
			c.finishFirst("")
		case len(c.waiting) > 1:
			c.waiting = append(c.waiting[1:], p)
		}
		c.passPulls(taken, p)
		return taken
	}

	return 0
}

// passPulls notes that n available items go to no request except to, which may be nil. mu is held.
func (c *consumer) passPulls(n int, to *pull) {
	kept := c.waiting[:0]
	for _, p := range c.waiting {
		if p == to {
			kept = append(kept, p)
			continue
		}
		if p.there > 0 && p.left > p.there-n {
			left := max(0, p.there-n)
			c.wanted -= int64(p.left - left)
			p.left, p.short = left, true
		}
		p.there = max(0, p.there-n)

		if p.left > 0 {
			kept = append(kept, p)
		} else {
			c.finish(p, statusNoMessages)
		}
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
}

// msgOverhead is the approximate size of an item without its payload, in bytes: max_bytes counts
// subject and reply subject too.
const msgOverhead = 64

func cost(b *batch.Batch, i int) int { return len(b.Item(i)) + len(b.Subject()) + msgOverhead }

// fitting returns how many of the items from (included) to to (excluded) the request has bytes for.
func (p *pull) fitting(b *batch.Batch, from, to int) int {
	if !p.bounded {
		return to - from
	}
	left := p.bytesLeft
	for i := from; i < to; i++ {
		if left -= cost(b, i); left < 0 {
			return i - from
		}
	}
	return to - from
}

// finishFirst removes the first request, with a status if that is not empty. mu is held.
func (c *consumer) finishFirst(header string) {
	p := c.waiting[0]
	c.waiting[0] = nil
	c.waiting = c.waiting[1:]
	c.finish(p, header)
}

// finish ends a request that no longer waits. mu is held.
func (c *consumer) finish(p *pull, header string) {
	c.wanted -= int64(p.left)
	c.api.work.pulls(p.from, c, -1)
	c.active = time.Now()
	c.api.say(status{outlet: p.outlet, header: header, last: true})
}

// dropClosed removes the requests without a subscription. mu is held.
func (c *consumer) dropClosed() { c.drop(func(p *pull) bool { return !p.outlet.Open() }) }

// drop removes requests. mu is held.
func (c *consumer) drop(gone func(*pull) bool) {
	kept := c.waiting[:0]
	for _, p := range c.waiting {
		if !gone(p) {
			kept = append(kept, p)
		} else {
			c.finish(p, "")
		}
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
}

// endPulls ends all waiting requests with a status.
func (c *consumer) endPulls(header string) {
	c.mu.Lock()
	for len(c.waiting) > 0 {
		c.finishFirst(header)
	}
	c.mu.Unlock()
	c.membership.Update()
}
