package jetstream

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

// known returns a consumer; nil if there is none. If another process serves the list, Redis is
// asked. It belongs to the goroutine that uses the Store.
func (a *API) known(ctx context.Context, st *stream, name string) (*consumer, *apiError) {
	c := a.consumer(st, name)
	if c != nil && c.viewer() {
		return c, nil
	}
	if a.trusts(st) {
		a.mu.Lock()
		fresh := time.Since(st.read) < lookInterval
		a.mu.Unlock()
		if c != nil || fresh {
			return c, nil
		}
	}

	if err := a.readConsumers(ctx, st); err != nil {
		return nil, err
	}
	return a.consumer(st, name), nil
}

// lookInterval is the least time between two searches in Redis for a consumer that the process that
// serves the list does not know.
const lookInterval = time.Second

// ensure reads the consumers of a stream from Redis if this process does not know them.
func (a *API) ensure(ctx context.Context, st *stream) *apiError {
	if a.trusts(st) {
		return nil
	}
	return a.readConsumers(ctx, st)
}

// readConsumers replaces the consumers of a stream, except viewers, by those in Redis. Consumers
// that Redis has lost while this process serves the list are written again.
func (a *API) readConsumers(ctx context.Context, st *stream) *apiError {
	a.mu.Lock()
	orphans, serves, deleted := st.orphans, st.serves, st.deleted
	a.mu.Unlock()
	all, err := a.opts.Store.Registered(ctx, st.Key)
	if err != nil {
		a.log.Debug("cannot read the consumers of a list", zap.String("list", st.Key), zap.Error(err))
		return errUnavailable.because("%s", err)
	}
	a.adopt(st, all, true)
	gone := a.missing(st, all)
	if serves && !deleted {
		var failed *apiError
		if gone, failed = a.deletedOf(ctx, gone); failed != nil {
			return failed
		}
	}

	a.mu.Lock()
	for _, name := range orphans {
		if all[name] == "" && st.consumers[name] == nil && name != st.making {
			st.Log.Remove(name)
		}
	}
	st.read = time.Now()
	st.deleted = st.deleted && !deleted
	st.known, st.orphans = true, slices.DeleteFunc(slices.Clone(st.orphans), func(name string) bool { return slices.Contains(orphans, name) })
	a.mu.Unlock()
	for _, c := range gone {
		a.remove(c, statusDeleted)
	}
	return nil
}

// missing returns the consumers that are not in Redis.
func (a *API) missing(st *stream, all map[string]string) (some []*consumer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, c := range st.consumers {
		if _, there := all[name]; there {
			c.registered = true
		} else if !c.viewer() {
			some = append(some, c)
		}
	}
	return some
}

// deletedOf returns those of the missing consumers that another process has deleted, and writes the
// rest to Redis again.
func (a *API) deletedOf(ctx context.Context, missing []*consumer) (deleted []*consumer, _ *apiError) {
	for _, c := range missing {
		there, err := a.restore(ctx, c)
		switch {
		case err != nil:
			return nil, err
		case !there:
			deleted = append(deleted, c)
		default:
			a.log.Warn("Redis had lost a consumer, which is registered again", zap.String("list", c.stream.Key), zap.String("consumer", c.name))
		}
	}
	return deleted, nil
}

// sound reports whether edged could have written the record: its names become parts of subjects,
// and its bounds hold for all consumers.
func (r *record) sound(st *stream) bool {
	if strings.ContainsFunc(r.Incarnation, func(c rune) bool { return c <= ' ' || strings.ContainsRune(".*>", c) }) || !utf8.ValidString(r.Incarnation) {
		return false
	}
	for _, check := range []func(*stream) *apiError{r.Config.checkNames, r.Config.checkPolicies, r.Config.checkPush, r.Config.checkPull} {
		if check(st) != nil {
			return false
		}
	}
	return true
}

// adopt adds the consumers in Redis, by name. If they are not fresh, one of them may have been
// deleted and made again since they were read.
func (a *API) adopt(st *stream, all map[string]string, fresh bool) {
	a.adopting.Lock()
	defer a.adopting.Unlock()

	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name == st.making {
			continue
		}
		var rec record
		if err := json.Unmarshal([]byte(all[name]), &rec); err != nil || rec.Config.id() != name || !rec.sound(st) {
			a.log.Error("the configuration of a consumer can't be read", zap.String("list", st.Key), zap.String("consumer", name))
			continue
		}
		c := a.consumer(st, name)
		if c != nil && c.incarnation != rec.Incarnation {
			if !fresh && rec.Created.Before(c.created) {
				continue
			}
			a.remove(c, statusDeleted) // another instance has deleted it, and made a new one
			c = nil
		}
		if c != nil {
			if cfg := c.settings(); !cfg.equal(&rec.Config) {
				_ = st.Log.Set(name, rec.Config.terms(), Start{})
				a.change(c, &rec.Config)
			}
			continue
		}
		if err := st.Log.Set(name, rec.Config.terms(), Start{From: rec.From, Epoch: rec.Epoch}); err != nil {
			a.log.Error("a consumer can't be taken up", zap.String("list", st.Key), zap.String("consumer", name), zap.Error(err))
			continue
		}
		c = newConsumer(st, a, rec)
		c.membership = st.Log.Join(name, c)
		a.publish(c)
	}
}

// Load is called when this process begins to serve a list, before the relay has its place. It gets
// the consumers in Redis: their configurations by name, and the names of those with a place in the
// list. If lost is set, Redis has lost the consumers that are missing; otherwise another process
// has deleted them.
func (a *API) Load(key string, configs map[string]string, placed []string, lost bool) {
	a.mu.Lock()
	i := slices.IndexFunc(a.streams, func(st *stream) bool { return st.Key == key })
	if i < 0 {
		a.mu.Unlock()
		return
	}

	st := a.streams[i]
	st.orphans, st.serves, st.deleted = placed, true, !lost
	a.mu.Unlock()
	a.adopt(st, configs, false)

	again := func() { // after a second
		a.mu.Lock()
		st.known = false
		a.mu.Unlock()
	}
	a.do(func(ctx context.Context) {
		if a.readConsumers(ctx, st) != nil {
			again()
		}
	}, again)
}

// Unload is called when another process serves a list.
func (a *API) Unload(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, st := range a.streams {
		if st.Key == key {
			st.serves = false
		}
	}
}

// remove ends a consumer.
func (a *API) remove(c *consumer, status string) {
	a.mu.Lock()
	if c.stream.consumers[c.name] == c {
		delete(c.stream.consumers, c.name)
	}
	a.unbind(c)
	a.mu.Unlock()
	c.end(status)
	if c.viewer() {
		c.membership.Leave()
	} else {
		c.stream.Log.Remove(c.name)
	}
}

// delete removes a consumer from Redis too.
func (a *API) delete(ctx context.Context, c *consumer) *apiError {
	if !c.viewer() {
		if err := a.opts.Store.Unregister(ctx, c.stream.Key, c.name); err != nil {
			return errUnavailable.because("%s", err)
		}
	}
	a.remove(c, statusDeleted)
	return nil
}

// expire deletes a consumer that was not used for long, or that lags too much.
func (a *API) expire(c *consumer) {
	c.mu.Lock()
	queued := c.expiring
	c.expiring = true
	c.mu.Unlock()

	if queued {
		return
	}

	done := func() {
		c.mu.Lock()
		c.expiring = false
		c.mu.Unlock()
	}
	a.do(func(ctx context.Context) {
		defer done()
		c.mu.Lock()
		over := !c.ended && c.inactive(time.Now())
		c.mu.Unlock()
		if over && a.delete(ctx, c) != nil && !a.trusts(c.stream) { // otherwise it is retried with the next tick
			c.mu.Lock()
			c.active = time.Now() // its clients may use the process that serves the list
			c.mu.Unlock()
		}
	}, done)
}

// Forget deletes a consumer for an operator, and returns once Redis has done so. It reports whether
// there was one.
func (a *API) Forget(ctx context.Context, key, name string) (found bool, err error) {
	a.mu.Lock()
	i := slices.IndexFunc(a.streams, func(st *stream) bool { return st.Key == key })
	var st *stream
	if i >= 0 {
		st = a.streams[i]
	}
	a.mu.Unlock()

	if st == nil {
		return false, nil
	}

	type outcome struct {
		found bool
		err   *apiError
	}
	done := make(chan outcome, 1)
	a.do(func(ctx context.Context) {
		c, err := a.known(ctx, st, name)
		if err == nil && c != nil {
			err = a.delete(ctx, c)
		}
		done <- outcome{c != nil, err}
	}, func() { done <- outcome{false, errUnavailable.because("too many requests wait for Redis")} })

	select {
	case o := <-done:
		if o.err != nil {
			return o.found, o.err
		}
		return o.found, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// CutOff deletes an ephemeral consumer that lags too much. It retries until Redis has done so.
func (a *API) CutOff(key, name string) {
	a.mu.Lock()
	var c *consumer
	for _, st := range a.streams {
		if st.Key == key {
			c = st.consumers[name]
		}
	}
	a.mu.Unlock()

	if c == nil {
		return
	}
	c.mu.Lock()
	c.lags = true
	c.schedule(time.Now())
	c.mu.Unlock()
	a.expire(c)
}
