package redisconn

import (
	"context"
	"strings"
	"sync/atomic"
	"time"
)

// hints is the connection on which a server reports that a key has changed. Its goroutine only
// calls changed. A hint can be lost (the connection breaks, the server forgets), so the owner also
// polls slowly.
type hints struct {
	opts    *Options
	address string
	id      atomic.Int64     // the connection's client ID; 0 while there is none
	changed func(key string) // an empty key means any
	failed  atomic.Int64     // failed attempts since the last connection
	fault   atomic.Value     // reason of the last failure, in words
	end     func()           // ends run
}

// invalidated is the channel of client tracking under RESP2.
const invalidated = "__redis__:invalidate"

func newHints(o *Options, address string, changed func(key string)) *hints {
	return &hints{opts: o, address: address, changed: changed, end: func() {}}
}

// run receives until ctx is done. Without a connection there are no hints, and the owner polls.
func (h *hints) run(ctx context.Context) {
	backoff := h.opts.Backoff()
	for ctx.Err() == nil {
		subscribed, err := h.receive(ctx)
		h.id.Store(0)
		if subscribed {
			backoff.Reset()
			h.changed("") // changes may have been missed meanwhile
		}
		if ctx.Err() == nil && !subscribed {
			h.fault.Store(Explain(err, h.address))
			h.failed.Add(1)
		}

		wait := backoff.Next()
		if refusedForGood(err) {
			wait = refusedWait
			h.failed.Add(fewFailures)
		}

		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// refusedWait is the time before a server that gives no hints is asked again: it is too old, or
// does not let this user subscribe.
const refusedWait = time.Minute

// errTooOld is the error of a server without client tracking.
const errTooOld = Reply("ERR no client tracking before Redis 6")

// refusedForGood reports whether a server gives no hints at all, as opposed to one that will when
// its fault is over.
func refusedForGood(err error) bool {
	if !IsReply(err) {
		return false
	}
	for _, passing := range []string{"NOAUTH", "WRONGPASS", "ERR AUTH", "ERR max", "DENIED", "LOADING", "MASTERDOWN", "READONLY"} {
		if strings.HasPrefix(err.Error(), passing) {
			return false
		}
	}
	return true
}

// quiet is how long the connection may be silent before the server is pinged.
const quiet = time.Minute

// receive passes hints on until the connection breaks, and reports whether it was subscribed.
func (h *hints) receive(ctx context.Context) (subscribed bool, _ error) {
	c, err := h.opts.dial(ctx, h.address, false, nil)
	if err != nil {
		return false, err
	}
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() }) // a blocking read does not watch a context
	defer stop()
	if c.id == 0 {
		return false, errTooOld
	}
	h.id.Store(c.id)
	c.out = c.out[:0]
	c.Command("SUBSCRIBE", invalidated)
	if err := c.Send(ctx); err != nil {
		return false, err
	}

	c.Receive(nil)
	for asked := false; ; {
		err := c.more(1)
		if TimedOut(err) && subscribed && !asked {
			asked = true
			c.Command("PING")
			if err = c.Send(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return subscribed, err
		}
		message, err := c.Value()
		if err != nil {
			return subscribed, err
		}
		asked, subscribed = false, true
		h.failed.Store(0)
		h.heed(message)
		if now := time.Now(); c.deadline.Sub(now) < quiet/2 {
			c.deadline = now.Add(quiet)
			if err := c.conn.SetDeadline(c.deadline); err != nil {
				return subscribed, err
			}
		}
	}
}

// heed passes on the keys in a message.
// https://redis.io/docs/latest/develop/reference/client-side-caching/
func (h *hints) heed(message any) {
	m, _ := message.([]any)
	if len(m) != 3 || m[0] != "message" {
		if len(m) > 0 && m[0] == "subscribe" {
			h.changed("") // the owner redirects its hints here from now on
		}
		return
	}

	switch keys := m[2].(type) {
	case []any:
		for _, key := range keys {
			if key, ok := key.(string); ok {
				h.changed(key)
			}
		}
	case string:
		h.changed(keys)
	default:
		h.changed("") // FLUSHALL
	}
}
