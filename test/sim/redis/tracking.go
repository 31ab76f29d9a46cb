package redis

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// invalidated is the channel of client tracking under RESP2.
const invalidated = "__redis__:invalidate"

// tracking remembers which clients have read which keys, as the default mode of
// CLIENT TRACKING does. The next change of a key makes a message to each of those
// clients, and the key is forgotten. Redis.mu guards it.
// https://redis.io/docs/latest/develop/reference/client-side-caching/
type tracking struct {
	keys   map[string]*trackedKey
	timer  *time.Timer // nil until a key that expires is tracked
	wakeAt time.Time   // on the server's clock; zero: the timer is not needed
}

// trackedKey is a key that clients have read. Redis tracks names, whatever the
// database is.
type trackedKey struct {
	readers []*client // in the order in which they have read it
	db      int       // of the first
	expires time.Time // on the server's clock; zero: never
}

// stop ends the timer.
func (t *tracking) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

func (t *tracking) forgetAll() { clear(t.keys) }

// forget forgets the keys that a client has read.
func (t *tracking) forget(c *client) {
	for name, key := range t.keys {
		key.readers = slices.DeleteFunc(key.readers, func(x *client) bool { return x == c })
		if len(key.readers) == 0 {
			delete(t.keys, name)
		}
	}
}

// setTracking is CLIENT TRACKING. mu is held.
func (r *Redis) setTracking(c *client, words []string) {
	on := strings.EqualFold(words[0], "ON")
	if !on && !strings.EqualFold(words[0], "OFF") {
		c.error("ERR syntax error")
		return
	}
	var redirect int64
	var noLoop bool
	for words = words[1:]; len(words) > 0; words = words[1:] {
		switch {
		case strings.EqualFold(words[0], "NOLOOP"):
			noLoop = true
		case strings.EqualFold(words[0], "REDIRECT") && len(words) > 1:
			id, err := strconv.ParseInt(words[1], 10, 64)
			if err != nil {
				c.error("ERR value is not an integer or out of range")
				return
			}
			if r.find(id) == nil {
				c.error("ERR The client ID you want redirect to does not exist")
				return
			}
			redirect, words = id, words[1:]
		default: // BCAST, OPTIN, OPTOUT and PREFIX too
			c.error("ERR syntax error")
			return
		}
	}

	c.tracking, c.redirect, c.noLoop = on, redirect, on && noLoop
	c.status("OK")
}

// remember notes that a client has read a key. mu is held.
func (r *Redis) remember(c *client, name string) {
	key := r.tracking.keys[name]
	if key == nil {
		key = &trackedKey{db: c.db}
		r.tracking.keys[name] = key
		if ttl := r.store.DB(c.db).TTL(name); ttl > 0 {
			key.expires = r.now().Add(ttl)
			r.wake(key.expires)
		}
	}
	if !slices.Contains(key.readers, c) {
		key.readers = append(key.readers, c)
	}
}

// invalidate tells the clients that have read a key that it has changed. by is the
// client that has changed it, or nil. mu is held.
func (r *Redis) invalidate(by *client, name string) {
	key := r.tracking.keys[name]
	if key == nil {
		return
	}
	delete(r.tracking.keys, name)
	for _, c := range key.readers {
		if c.tracking && !(c.noLoop && c == by) {
			r.push(c, func(to *client) {
				to.array(1)
				to.bulk(name)
			})
		}
	}
}

// invalidateAll tells all clients with tracking that any key may have changed. mu is
// held.
func (r *Redis) invalidateAll() {
	r.tracking.forgetAll()
	for _, c := range r.clients {
		if c.tracking {
			r.push(c, (*client).null)
		}
	}
}

// push sends a message about keys that c has read. Like Redis it does so only if the
// client that c redirects to exists and has subscribed to any channel. mu is held.
func (r *Redis) push(c *client, keys func(to *client)) {
	to := r.find(c.redirect)
	if to == nil || len(to.channels) == 0 {
		return
	}
	to.array(3)
	to.bulk("message")
	to.bulk(invalidated)
	keys(to)
	to.flush()
}

// wake makes expireTracked run at a time on the server's clock, or earlier. mu is
// held.
func (r *Redis) wake(at time.Time) {
	t := &r.tracking
	if !t.wakeAt.IsZero() && !at.Before(t.wakeAt) {
		return
	}
	t.wakeAt = at
	wait := at.Sub(r.now())
	if t.timer != nil {
		t.timer.Reset(wait)
		return
	}
	t.timer = time.AfterFunc(wait, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.closed {
			r.tick()
			r.expireTracked()
		}
	})
}

// expireTracked invalidates the tracked keys that have expired. Redis looks for them
// ten times a second. mu is held.
func (r *Redis) expireTracked() {
	r.tick()
	r.tracking.wakeAt = time.Time{}
	var gone []string
	for name, key := range r.tracking.keys {
		switch {
		case key.expires.IsZero():
		case key.expires.After(r.now()):
			r.wake(key.expires)
		default:
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range gone {
		r.invalidate(nil, name)
	}
}

// subscribe is SUBSCRIBE.
func subscribe(c *client, channels []string) {
	for _, channel := range channels {
		if !slices.Contains(c.channels, channel) {
			c.channels = append(c.channels, channel)
		}
		c.array(3)
		c.bulk("subscribe")
		c.bulk(channel)
		c.integer(int64(len(c.channels)))
	}
}

// unsubscribe is UNSUBSCRIBE.
func unsubscribe(c *client, channels []string) {
	if len(channels) == 0 {
		channels = slices.Clone(c.channels)
	}
	for _, channel := range channels {
		c.channels = slices.DeleteFunc(c.channels, func(x string) bool { return x == channel })
		c.array(3)
		c.bulk("unsubscribe")
		c.bulk(channel)
		c.integer(int64(len(c.channels)))
	}
	if len(channels) == 0 {
		c.array(3)
		c.bulk("unsubscribe")
		c.null()
		c.integer(0)
	}
}
