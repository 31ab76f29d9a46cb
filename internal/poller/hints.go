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
	client  *redis.Client
	id      atomic.Int64     // the connection's client ID; 0 while there is none
	changed func(key string) // an empty key means any
}

// invalidated is the channel of client tracking under RESP2.
const invalidated = "__redis__:invalidate"

func newHints(opts RedisOptions, address string, changed func(key string)) *hints {
	h := &hints{changed: changed}
	o := opts.clientOptions(address)
	o.ReadBufferSize = 4 << 10
	o.WriteBufferSize = 1 << 10
	o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		id, err := conn.ClientID(ctx).Result()
		if err != nil {
			return err
		}
		h.id.Store(id)
		return nil
	}
	h.client = redis.NewClient(o)
	return h
}

// run receives until ctx is done. While it has no connection there are no hints
// and the loop polls.
func (h *hints) run(ctx context.Context) {
	defer h.client.Close()
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

// receive hands on hints until the connection breaks, and reports whether there
// was one.
func (h *hints) receive(ctx context.Context) (subscribed bool, _ error) {
	sub := h.client.Subscribe(ctx, invalidated)
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // a blocked read heeds no context
	defer stop()
	for {
		msg, err := sub.ReceiveTimeout(ctx, time.Minute)
		var netErr net.Error
		switch {
		case err == nil:
		case errors.As(err, &netErr) && netErr.Timeout() && subscribed && ctx.Err() == nil:
			if err := sub.Ping(ctx); err != nil {
				return subscribed, err
			}
			continue
		default:
			return subscribed, err
		}
		switch m := msg.(type) {
		case *redis.Subscription:
			subscribed = true
			h.changed("") // the loop redirects its hints here from now on
		case *redis.Message:
			for _, key := range m.PayloadSlice {
				h.changed(key)
			}
			if m.Payload != "" {
				h.changed(m.Payload)
			}
		}
	}
}
