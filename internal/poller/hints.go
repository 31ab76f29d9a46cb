package poller

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// hints is the connection on which a Redis server says that a key has changed. Its
// goroutine is the only other one of this package, one for each server in use; it
// touches no list, it only calls changed. A hint can be lost (the connection breaks, the server forgets), so
// the loop has a slow poll behind it.
type hints struct {
	options *redis.Options
	last    net.Conn         // that go-redis has used
	id      atomic.Int64     // the connection's client ID; 0 while there is none
	changed func(key string) // an empty key means any
}

// invalidated is the channel of client tracking under RESP2.
const invalidated = "__redis__:invalidate"

func newHints(opts RedisOptions, address string, changed func(key string)) *hints {
	h := &hints{options: opts.clientOptions(address), changed: changed}
	h.options.ReadBufferSize = 4 << 10
	h.options.WriteBufferSize = 1 << 10
	follow(h.options, &h.last)
	return h
}

// run receives until ctx is done. While it has no connection there are no hints
// and the loop polls.
func (h *hints) run(ctx context.Context) {
	backoff := newBackoff()
	for ctx.Err() == nil {
		subscribed, err := h.receive(ctx)
		h.id.Store(0)
		if subscribed {
			backoff.reset()
			h.changed("") // what came in between is not known
		}
		wait := backoff.next()
		if refusedForGood(err) {
			wait = refusedWait
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// refusedWait is the time before asking again a server that gives no hints: one
// too old, or one that does not let this user subscribe.
const refusedWait = time.Minute

// refusedForGood tells a server that gives no hints from one that will when its
// fault is over.
func refusedForGood(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	for _, passing := range []string{"NOAUTH", "WRONGPASS", "ERR AUTH", "LOADING", "MASTERDOWN", "READONLY"} {
		if strings.HasPrefix(reply.Error(), passing) {
			return false
		}
	}
	return true
}

// quiet is how long nothing may come before the server is asked for a sign of life.
const quiet = time.Minute

// receive hands on hints until the connection breaks, and reports whether there
// was one. go-redis makes the connection; what comes on it then is read here,
// since each item that comes to a box at rest waits for it.
func (h *hints) receive(ctx context.Context) (subscribed bool, _ error) {
	client := redis.NewClient(h.options)
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() }) // a blocked read heeds no context
	defer stop()
	id, err := client.ClientID(ctx).Result()
	if err != nil {
		return false, err
	}
	h.id.Store(id)
	w := &wire{conn: h.last, timeout: h.options.ReadTimeout}
	w.command("SUBSCRIBE", invalidated)
	if err := w.send(ctx); err != nil {
		return false, err
	}
	w.receive(nil)
	for asked := false; ; {
		err := w.more(1)
		var netErr net.Error
		if errors.As(err, &netErr) && netErr.Timeout() && subscribed && !asked {
			asked = true
			w.command("PING")
			if err = w.send(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return subscribed, err
		}
		message, err := w.value()
		if err != nil {
			return subscribed, err
		}
		asked, subscribed = false, true
		h.heed(message)
		if now := time.Now(); w.deadline.Sub(now) < quiet/2 {
			w.deadline = now.Add(quiet)
			if err := w.conn.SetDeadline(w.deadline); err != nil {
				return subscribed, err
			}
		}
	}
}

// heed hands on what a message says to have changed.
// https://redis.io/docs/latest/develop/reference/client-side-caching/
func (h *hints) heed(message any) {
	m, _ := message.([]any)
	if len(m) != 3 || m[0] != "message" {
		if len(m) > 0 && m[0] == "subscribe" {
			h.changed("") // the loop redirects its hints here from now on
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
