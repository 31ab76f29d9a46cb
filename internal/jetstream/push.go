package jetstream

import (
	"fmt"
	"math"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/subject"
)

// pushing is the state of a push consumer. Guarded by consumer.mu.
type pushing struct {
	outlet   Outlet
	interest bool // there was a subscription at the last check

	bytes    int    // sent since the last request for flow control
	asked    string // reply subject of that request; empty if it is answered
	requests int

	beat time.Time // when the next heartbeat is due; zero: none
}

const (
	// flowWindow is the number of bytes after which a consumer with flow control asks whether the
	// client has taken them. Twice as many may be in flight.
	flowWindow = 256 << 10
	// groupShare is the number of items that one subscription of a deliver group gets at a time.
	groupShare = 32
)

// room returns how many items may be pushed now. mu is held.
func (p *pushing) room() int {
	if !p.interest || p.stalled() {
		return 0
	}
	return math.MaxInt32
}

func (p *pushing) stalled() bool { return p.asked != "" && p.bytes >= flowWindow }

// deliverPush hands items to a subscription of the deliver subject. mu is held.
func (c *consumer) deliverPush(b *batch.Batch, from, to int, receipt batch.Receipt) (taken int) {
	p := &c.push
	if p.room() == 0 {
		return 0
	}
	if c.config.DeliverGroup != "" {
		to = min(to, from+groupShare)
	}

	taken = p.outlet.Deliver(b, from, to, c.count+1, receipt)
	if taken == 0 {
		p.interest = false
		return 0
	}
	if c.config.Heartbeat > 0 {
		p.beat = time.Now().Add(c.config.Heartbeat)
	}
	if !c.config.FlowControl {
		return taken
	}

	for i := from; i < from+taken; i++ {
		p.bytes += cost(b, i)
	}

	if p.bytes >= flowWindow && p.asked == "" {
		p.requests++
		p.bytes, p.asked = 0, fmt.Sprintf("%s%s.%s.%d", flowPrefix, c.stream.Name, c.name, p.requests)
		c.api.say(status{outlet: p.outlet, header: "NATS/1.0 100 FlowControl Request\r\n\r\n", reply: p.asked})
	}
	return taken
}

const flowPrefix = "$JS.FC."

// Resume handles a client's answer to the request for flow control with this reply subject: the
// client has taken the items before it.
func (a *API) Resume(reply string) {
	rest, ok := strings.CutPrefix(reply, flowPrefix)
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) != 3 {
		return
	}

	st := a.stream(tokens[0])
	if st == nil {
		return
	}
	c := a.consumer(st, tokens[1])
	if c == nil {
		return
	}
	c.mu.Lock()
	answered := c.push.asked == reply
	if answered {
		c.push.asked = ""
	}
	c.mu.Unlock()

	if answered {
		c.membership.Update()
	}
}

// tickPush sends a heartbeat if it is due. mu is held.
func (c *consumer) tickPush(now time.Time) {
	p := &c.push
	if p.beat.IsZero() || now.Before(p.beat) {
		return
	}
	if p.beat = now.Add(c.config.Heartbeat); !p.interest {
		p.beat = time.Time{}
		return
	}
	header := c.heartbeat()
	if p.stalled() {
		header = strings.TrimSuffix(header, "\r\n") + "Nats-Consumer-Stalled: " + p.asked + "\r\n\r\n"
	}
	c.api.say(status{outlet: p.outlet, header: header})
}

// Interest is called when a subscription to a subject or a pattern has begun or ended.
func (a *API) Interest(name string) {
	_, wild := subject.Valid([]byte(name))
	a.mu.Lock()
	var concerned []*consumer
	concerned = append(concerned, a.bound[name]...)
	if wild {
		for to, some := range a.bound {
			if subject.Matches(name, to) {
				concerned = append(concerned, some...)
			}
		}
	}
	a.mu.Unlock()
	for _, c := range concerned {
		c.look()
	}
}

// subscribed reports whether there is a subscription to the deliver subject. The subject must not
// be the daemon's, which it may have become since the consumer was made. mu is held.
func (c *consumer) subscribed() bool {
	return c.push.outlet.Open() && !c.api.opts.Owned(c.config.DeliverSubject)
}

// Reloaded is called when the subjects of the daemon may have changed.
func (a *API) Reloaded() {
	a.mu.Lock()
	var all []*consumer
	for _, some := range a.bound {
		all = append(all, some...)
	}
	a.mu.Unlock()
	for _, c := range all {
		if to := c.settings().DeliverSubject; a.opts.Owned(to) {
			a.log.Warn("a consumer gets nothing: edged owns its deliver subject", zap.String("consumer", c.name), zap.String("subject", to))
		}
		c.look()
	}
}

// look checks whether there is a subscription to the deliver subject.
func (c *consumer) look() {
	c.mu.Lock()
	p, now := &c.push, time.Now()
	open := c.subscribed()
	changed := open != p.interest
	if changed {
		p.interest, c.active = open, now
		p.bytes, p.asked, p.beat = 0, "", time.Time{}
		if open && c.config.Heartbeat > 0 {
			p.beat = now.Add(c.config.Heartbeat)
		}
		c.schedule(now)
	}
	c.mu.Unlock()

	if changed {
		c.membership.Update()
	}
}
