package jetstream

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"edged/internal/batch"
)

// consumer is a consumer made by a client. It implements batch.Metered.
type consumer struct {
	api         *API
	stream      *stream
	name        string
	created     time.Time
	membership  batch.Consumption // set before the consumer is published
	start       uint64            // number of its first item …
	epoch       string            // … in this epoch
	registered  bool              // it has been in Redis. Owned by the goroutine that uses the Store
	views       bool              // it acknowledges nothing
	incarnation string
	maker       Client // ephemeral: the client that made it; nil: unknown. Set before the consumer is published

	mu       sync.Mutex // guards everything below
	config   Config
	ended    bool
	lags     bool      // it lags too much and is to be deleted
	waiting  []*pull   // waiting requests, the next to get items first
	checked  time.Time // time of the last check for clients that are gone
	wanted   int64     // items requested; 4096 requests for 1,000,000 each overflow an int of 32 bits
	push     pushing
	count    uint64    // items delivered, redeliveries included
	last     uint64    // one past the number of the last item delivered
	active   time.Time // time of the last use
	expiring bool      // its end waits for Redis

	// Guarded by API.timing.
	next  time.Time // when tick is due; zero: never
	index int       // in API.due; -1: not there
}

func newConsumer(st *stream, api *API, r record) *consumer {
	now := time.Now()
	c := &consumer{
		api: api, stream: st, name: r.Config.id(), created: r.Created, config: r.Config, active: now, checked: now,
		start: r.From, epoch: r.Epoch, views: r.Config.viewer(), incarnation: r.Incarnation, last: r.From, index: -1,
	}
	if c.config.push() {
		c.push.outlet = api.opts.Outlet(c.target(c.config.DeliverSubject))
	}
	return c
}

func (c *consumer) target(to string) Target {
	return Target{Subject: to, Consumer: c.stream.Name + "." + c.name, Incarnation: c.incarnation, Viewer: c.config.viewer(), HeadersOnly: c.config.HeadersOnly}
}

// viewer reports whether the consumer acknowledges nothing. The result never changes.
func (c *consumer) viewer() bool { return c.views }

// Name returns the consumer's name.
func (c *consumer) Name() string { return c.name }

// lastUsed returns when the consumer was last used.
func (c *consumer) lastUsed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active
}

// settings returns the configuration.
func (c *consumer) settings() Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config
}

// Room implements batch.Metered.
func (c *consumer) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return 0
	case c.config.push():
		return c.push.room()
	}
	return int(min(c.wanted, math.MaxInt32))
}

// Passed implements batch.Metered.
func (c *consumer) Passed(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passPulls(n, nil)
}

// Deliver implements batch.Member. It hands the items to one request only, so that each request has
// a receipt of its own. The relay calls again with the rest.
func (c *consumer) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) (taken int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return 0
	case c.config.push():
		taken = c.deliverPush(b, from, to, receipt)
	default:
		taken = c.deliverPull(b, from, to, receipt)
	}
	if taken > 0 {
		c.count += uint64(taken)
		c.last = max(c.last, b.First()+uint64(from+taken))
	}
	return taken
}

// acknowledge passes on an acknowledgement if it belongs to this incarnation.
func (c *consumer) acknowledge(life string, n uint64, ack batch.Ack, saved func(error)) error {
	epoch, incarnation, _ := strings.Cut(life, "-")
	if c.viewer() || incarnation != c.incarnation {
		return batch.ErrNotGiven
	}
	c.mu.Lock()
	if c.config.AckPolicy == ackAll && ack.Kind == batch.Acked {
		ack.Kind = batch.AckedAll
	}
	c.active = time.Now()
	c.mu.Unlock()
	return c.membership.Acknowledge(epoch, n, ack, saved)
}

// end ends the consumer. Waiting requests get a status.
func (c *consumer) end(header string) {
	c.mu.Lock()
	c.ended = true
	if c.config.push() {
		c.api.say(status{outlet: c.push.outlet, header: header})
	}
	c.mu.Unlock()
	c.endPulls(header)
	c.api.unschedule(c)
}

// Statuses have no payload (nats-server's server/consumer.go).
const (
	statusDeleted     = "NATS/1.0 409 Consumer Deleted\r\n\r\n"
	statusShutdown    = "NATS/1.0 409 Server Shutdown\r\n\r\n"
	statusNoMessages  = "NATS/1.0 404 No Messages\r\n\r\n"
	statusPushBased   = "NATS/1.0 409 Consumer is push based\r\n\r\n"
	statusMaxWaiting  = "NATS/1.0 409 Exceeded MaxWaiting\r\n\r\n"
	statusNoResponder = "NATS/1.0 503\r\n\r\n"
)

// unfilled returns a status with the number of items and bytes that a request did not get.
func unfilled(what string, p *pull) string {
	return fmt.Sprintf("NATS/1.0 %s\r\nNats-Pending-Messages: %d\r\nNats-Pending-Bytes: %d\r\n\r\n", what, p.left, p.bytesLeft)
}

// heartbeat returns the status of an idle heartbeat. mu is held.
func (c *consumer) heartbeat() string {
	return fmt.Sprintf("NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: %d\r\nNats-Last-Stream: %d\r\n\r\n", c.count, c.last)
}
