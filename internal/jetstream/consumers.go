package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

// createRequest is the payload of CONSUMER.CREATE.
type createRequest struct {
	Stream string  `json:"stream_name"`
	Config *Config `json:"config"`
	Action string  `json:"action"`
}

// create makes a consumer or changes its configuration.
func (r *request) create(verb, rest string) {
	const kind = "consumer_create"
	tokens := strings.SplitN(rest, ".", 3)
	st := r.find(tokens[0])
	if st == nil {
		r.fail(kind, errNoStream)
		return
	}

	q, err := r.parseCreate(verb, tokens)
	if err == nil {
		q.Config.complete()
		err = q.Config.check(st)
	}
	if err == nil {
		err = r.checkRights(q.Config)
	}
	if err != nil {
		r.fail(kind, err)
		return
	}

	legacy := len(tokens) == 1 // the subject has no name for a user's rules to apply to
	r.later(kind, func(ctx context.Context) {
		if legacy && r.api.exists(ctx, st, q.Config.id()) {
			r.fail(kind, errNameInUse)
			return
		}
		c, err := r.api.make(ctx, st, q.Config, q.Action, r.client)
		if err != nil {
			r.fail(kind, err)
			return
		}
		r.describe(ctx, kind, c)
	})
}

// parseCreate reads the request and compares it with its subject: stream, name and filter.
func (r *request) parseCreate(verb string, tokens []string) (q createRequest, _ *apiError) {
	if err := json.Unmarshal(r.payload, &q); err != nil {
		return q, errInvalidJSON.because("%v", err)
	}

	name := ""
	if len(tokens) > 1 {
		name = tokens[1]
	}

	switch cfg := q.Config; {
	case cfg == nil:
		return q, errConfigRequired
	case q.Stream != tokens[0]:
		return q, errStreamMismatch
	case q.Action != "" && q.Action != "create" && q.Action != "update":
		return q, errInvalidJSON.because("can not unmarshal %q as action", q.Action)
	case verb == "CONSUMER.DURABLE.CREATE" && (name == "" || cfg.Durable == ""):
		return q, errNoDurableName
	case name == "" && cfg.Durable != "":
		return q, errNotEphemeral
	case name != "" && cfg.Durable != "" && cfg.Durable != name:
		return q, errDurableMismatch
	case name != "" && cfg.Name != "" && cfg.Name != name:
		return q, errBadRequest.because("consumer name in subject does not match name in request")
	case len(tokens) > 2 && tokens[2] != cfg.FilterSubject:
		return q, errCreateFilter
	}

	if q.Config.Durable == "" && name != "" {
		q.Config.Name = name
	}
	return q, nil
}

// checkRights explains why the client has no right to such a consumer.
func (r *request) checkRights(cfg *Config) *apiError {
	if cfg.Durable != "" && !r.client.MayKeep() {
		return &apiError{403, errBadRequest.ErrCode, "a user with rules needs durables = true in edged's configuration to make durable consumers"}
	}
	if cfg.Durable == "" && cfg.InactiveThreshold > maxInactiveOfRules && !r.client.MayKeep() {
		return &apiError{403, errBadRequest.ErrCode, fmt.Sprintf(
			"inactive_threshold of a user with rules is %v at most without durables = true in edged's configuration", maxInactiveOfRules)}
	}

	if to := cfg.DeliverSubject; to != "" {
		switch {
		case r.api.opts.Owned(to):
			return errDeliverCycle
		case !r.client.MaySubscribe(to):
			return &apiError{403, errDeliverSubject.ErrCode, errDeliverSubject.Description + ": the user may not subscribe to it"}
		}
	}
	return nil
}

// make makes a consumer, or changes the configuration of the one with this name. It belongs to the
// goroutine that uses the Store.
func (a *API) make(ctx context.Context, st *stream, cfg *Config, action string, maker Client) (*consumer, *apiError) {
	c, err := a.current(ctx, st, cfg.id())
	if err != nil {
		return nil, err
	}

	switch {
	case c == nil && action == "update":
		return nil, errDoesNotExist
	case c == nil:
		return a.add(ctx, st, cfg, maker)
	}

	old := c.settings()
	switch {
	case old.equal(cfg):
		return c, nil
	case action == "create":
		return nil, errExists
	}

	if err = old.checkUpdate(cfg); err != nil {
		return nil, err
	}
	if old.DeliverSubject != cfg.DeliverSubject && c.bound() {
		return nil, errNameInUse
	}
	if err = a.checkOthers(st, cfg); err != nil {
		return nil, err
	}
	return c, a.update(ctx, c, cfg)
}

// current returns a consumer as stored in Redis; nil if there is none. A consumer that Redis has
// lost is written again.
func (a *API) current(ctx context.Context, st *stream, name string) (*consumer, *apiError) {
	if c := a.consumer(st, name); c != nil && a.trusts(st) {
		there, err := a.restore(ctx, c)
		if err != nil || there {
			return c, err
		}
	}
	if err := a.readConsumers(ctx, st); err != nil {
		return nil, err
	}
	return a.consumer(st, name), nil
}

// trusts reports whether this process's view of a stream's consumers is the authoritative one.
func (a *API) trusts(st *stream) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return st.known && st.serves && !st.deleted
}

// restore writes a consumer that this process knows to Redis, and reports whether Redis has it.
func (a *API) restore(ctx context.Context, c *consumer) (there bool, _ *apiError) {
	switch {
	case c.viewer():
		return true, nil
	case !c.registered: // a claim found it, but it was deleted before Load
		return false, nil
	}
	cfg := c.settings()
	text, err := json.Marshal(registration{c.created, c.incarnation, &cfg})
	if err == nil {
		there, err = a.opts.Store.Restore(ctx, c.stream.Key, c.name, c.start, c.epoch, string(text))
	}
	if err != nil {
		return false, errUnavailable.because("%s", err)
	}
	return there, nil
}

// bound reports whether a client is subscribed to the deliver subject.
func (c *consumer) bound() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.push.interest
}

// checkOthers explains why a stream's other consumers exclude a configuration.
func (a *API) checkOthers(st *stream, cfg *Config) *apiError {
	a.mu.Lock()
	defer a.mu.Unlock()
	pending := above(cfg.MaxAckPending)
	most := pending > 0
	for _, other := range st.consumers {
		if other.name != cfg.id() {
			pending += above(other.settings().MaxAckPending)
		}
	}

	for _, other := range a.bound[cfg.DeliverSubject] {
		if other.stream != st || other.name != cfg.id() {
			return errDeliverSubject.because("another consumer has it")
		}
	}

	if most && pending > maxAllAckPending {
		return errResources.because("max_ack_pending above %d of all consumers of the stream is %d at most: ask for less, or delete one",
			defaultAckPending, maxAllAckPending)
	}
	return nil
}

// above returns the part of a consumer's max_ack_pending that counts towards the stream's bound:
// the part above the default, which each consumer may have.
func above(pending int) int { return max(0, pending-defaultAckPending) }

// add makes a consumer.
func (a *API) add(ctx context.Context, st *stream, cfg *Config, maker Client) (*consumer, *apiError) {
	if err := a.checkOthers(st, cfg); err != nil {
		return nil, err
	}
	if err := a.place(st, cfg, maker); err != nil {
		return nil, err
	}
	if cfg.viewer() {
		return a.addViewer(ctx, st, cfg, maker)
	}
	return a.addDurable(ctx, st, cfg, maker)
}

func (a *API) addViewer(ctx context.Context, st *stream, cfg *Config, maker Client) (*consumer, *apiError) {
	from := st.begin(cfg)
	n, err := strconv.ParseUint(from, 10, 64)
	if err != nil || cfg.DeliverPolicy == deliverSeq {
		p, failed := a.opts.Store.Part(ctx, st.Key, 0, 0)
		if failed != nil {
			return nil, errUnavailable.because("%s", failed)
		}
		switch {
		case err == nil:
			n = min(n, p.End())
		case from == Last && p.Length > 0:
			n = p.End() - 1
		default:
			n = p.End()
		}
	}

	c := newConsumer(st, a, record{From: n, Created: time.Now().UTC(), Config: *cfg})
	c.maker = maker
	c.membership = st.Log.View(n, c)
	a.publish(c)
	return c, nil
}

// begin returns the place where a new consumer begins: a number, End or Last.
func (st *stream) begin(cfg *Config) string {
	switch cfg.DeliverPolicy {
	case deliverNew:
		return End
	case deliverLast, deliverLastPer:
		return Last
	case deliverSeq:
		return strconv.FormatUint(cfg.StartSeq-1, 10)
	case deliverTime:
		return strconv.FormatUint(st.Log.Since(*cfg.StartTime), 10)
	}
	return "0"
}

// addDurable registers a consumer in Redis. The relay learns of it first, so that no item that it
// may owe leaves Redis meanwhile.
func (a *API) addDurable(ctx context.Context, st *stream, cfg *Config, maker Client) (*consumer, *apiError) {
	name, from := cfg.id(), st.begin(cfg)
	provisional := Start{From: st.Log.Done()}
	if n, err := strconv.ParseUint(from, 10, 64); err == nil {
		provisional.From = min(n, provisional.From)
	}
	a.setMaking(st, name)
	defer a.setMaking(st, "")

	if err := st.Log.Set(name, cfg.terms(), provisional); err != nil {
		return nil, errTooManyConsumers.because("%s", err)
	}

	rec, err := a.register(ctx, st, from, record{Created: time.Now().UTC(), Incarnation: newIncarnation(), Config: *cfg})
	if err != nil {
		st.Log.Remove(name)
		return nil, err
	}
	st.Log.Start(name, Start{From: rec.From, Epoch: rec.Epoch})
	c := newConsumer(st, a, rec)
	if cfg.Durable == "" {
		c.maker = maker
	}
	c.registered = true
	c.membership = st.Log.Join(name, c)
	a.publish(c)
	return c, nil
}

func newIncarnation() string { return strings.ToLower(rand.Text()[:8]) }

// exists reports whether there is a consumer with this name.
func (a *API) exists(ctx context.Context, st *stream, name string) bool {
	c, err := a.known(ctx, st, name)
	return err == nil && c != nil
}

// setMaking records the consumer that is being made: until it is published, no other goroutine
// adopts it.
func (a *API) setMaking(st *stream, name string) {
	a.adopting.Lock()
	st.making = name
	a.adopting.Unlock()
}

// registration is the part of a record that is passed to the Store.
type registration struct {
	Created     time.Time `json:"created"`
	Incarnation string    `json:"incarnation"`
	Config      *Config   `json:"config"`
}

// register writes a consumer's record to Redis.
func (a *API) register(ctx context.Context, st *stream, from string, rec record) (record, *apiError) {
	text, err := json.Marshal(registration{rec.Created, rec.Incarnation, &rec.Config})
	if err != nil {
		return rec, errCreate.because("%v", err)
	}
	saved, err := a.opts.Store.Register(ctx, st.Key, rec.Config.id(), from, string(text))
	if err == nil {
		err = json.Unmarshal([]byte(saved), &rec)
	}
	if err != nil {
		return rec, errUnavailable.because("%s", err)
	}
	return rec, nil
}

// update changes a consumer's configuration.
func (a *API) update(ctx context.Context, c *consumer, cfg *Config) *apiError {
	if !c.viewer() {
		if _, err := a.register(ctx, c.stream, strconv.FormatUint(c.start, 10), record{Created: c.created, Incarnation: c.incarnation, Config: *cfg}); err != nil {
			return err
		}
		if err := c.stream.Log.Set(c.name, cfg.terms(), Start{}); err != nil {
			return errCreate.because("%s", err)
		}
	}
	a.change(c, cfg)
	return nil
}

// change puts a configuration into force.
func (a *API) change(c *consumer, cfg *Config) {
	a.mu.Lock()
	a.unbind(c)
	c.mu.Lock()
	c.config = *cfg
	if cfg.push() {
		c.push.outlet, c.push.interest = a.opts.Outlet(c.target(cfg.DeliverSubject)), false
	}
	c.schedule(time.Now())
	c.mu.Unlock()
	a.bind(c, cfg.DeliverSubject)
	a.mu.Unlock()
	if cfg.push() {
		c.look()
	}
}

// publish makes a consumer visible to the rest of the API.
func (a *API) publish(c *consumer) {
	a.mu.Lock()
	c.stream.consumers[c.name] = c
	cfg := c.settings()
	a.bind(c, cfg.DeliverSubject)
	a.mu.Unlock()
	c.mu.Lock()
	c.schedule(time.Now())
	c.mu.Unlock()
	if cfg.push() {
		c.look()
	}
}

// bind records the deliver subject of a consumer. API.mu is held.
func (a *API) bind(c *consumer, to string) {
	if to != "" {
		a.bound[to] = append(a.bound[to], c)
	}
}

// unbind forgets the deliver subject. API.mu is held.
func (a *API) unbind(c *consumer) {
	to := c.settings().DeliverSubject
	rest := slices.DeleteFunc(a.bound[to], func(other *consumer) bool { return other == c })
	if a.bound[to] = rest; len(rest) == 0 {
		delete(a.bound, to)
	}
}

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

// ConsumerInfo describes a consumer in the form of the API.
type ConsumerInfo struct {
	Stream         string    `json:"stream_name"`
	Name           string    `json:"name"`
	Created        time.Time `json:"created"`
	Config         Config    `json:"config"`
	Delivered      Sequence  `json:"delivered"`
	AckFloor       Sequence  `json:"ack_floor"`
	NumAckPending  int       `json:"num_ack_pending"`
	NumRedelivered int       `json:"num_redelivered"`
	NumWaiting     int       `json:"num_waiting"`
	NumPending     uint64    `json:"num_pending"`
	PushBound      bool      `json:"push_bound,omitempty"`
	Missed         uint64    `json:"edged_missed,omitempty"` // items that were gone before it got them; nats-server has no such field
	Time           time.Time `json:"ts"`
}

// Sequence is a place in a stream, counted in messages of the consumer and of the stream.
type Sequence struct {
	Consumer uint64     `json:"consumer_seq"`
	Stream   uint64     `json:"stream_seq"`
	Last     *time.Time `json:"last_active,omitempty"`
}

// state returns the state of a consumer. Until the relay has read the list it comes from Redis.
func (a *API) state(ctx context.Context, c *consumer, p Part) (s State, err error) {
	s, known := c.standing(p.End())
	if !known && !c.viewer() {
		s, known, err = a.opts.Store.Standing(ctx, c.stream.Key, c.name, p)
	}
	if !known {
		s = c.unread(p.First, p.End())
	}
	return s, err
}

// standing returns the state of the consumer in the relay. end is one past the last item.
func (c *consumer) standing(end uint64) (s State, known bool) {
	if c.viewer() {
		s.Pending, known = c.membership.Pending(end)
		return s, known
	}
	return c.stream.Log.Durable(c.name, end)
}

// unread returns the state of a consumer that has got none of the items from first to end.
func (c *consumer) unread(first, end uint64) State {
	from := max(c.start, first)
	return State{Floor: from, Next: from, Pending: end - min(end, from)}
}

// info describes a consumer. p is its list.
func (a *API) info(ctx context.Context, c *consumer, p Part) (ConsumerInfo, *apiError) {
	state, err := a.state(ctx, c, p)
	if err != nil {
		return ConsumerInfo{}, errUnavailable.because("%s", err)
	}
	return c.info(state, p.End()), nil
}

// info describes the consumer. end is one past the last item of its list.
func (c *consumer) info(state State, end uint64) ConsumerInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := ConsumerInfo{
		Stream: c.stream.Name, Name: c.name, Created: c.created, Config: c.config, NumWaiting: len(c.waiting), PushBound: c.push.interest,
		Delivered: Sequence{Consumer: c.count, Stream: c.last}, NumPending: state.Pending, Time: time.Now().UTC(),
	}
	if c.viewer() {
		i.AckFloor = i.Delivered
		return i
	}
	i.NumAckPending, i.NumRedelivered, i.Missed = state.Out, state.Again, state.Missed
	i.Delivered.Stream = max(i.Delivered.Stream, min(state.Next, end))
	i.AckFloor = Sequence{Consumer: min(c.count, state.Count), Stream: state.Floor}
	return i
}

// Snapshot describes a stream as this process knows it, without asking Redis: when the list became
// a stream here, and its consumers by name. The list's items are those from first to end, end
// excluded.
func (a *API) Snapshot(key string, first, end uint64) (created time.Time, all []ConsumerInfo) {
	a.mu.Lock()
	i := slices.IndexFunc(a.streams, func(st *stream) bool { return st.Key == key })
	if i < 0 {
		a.mu.Unlock()
		return created, nil
	}
	created = a.streams[i].created
	consumers := slices.Collect(maps.Values(a.streams[i].consumers))
	a.mu.Unlock()

	for _, c := range consumers {
		state, known := c.standing(end)
		if !known {
			state = c.unread(first, end)
		}
		all = append(all, c.info(state, end))
	}
	slices.SortFunc(all, func(a, b ConsumerInfo) int { return strings.Compare(a.Name, b.Name) })
	return created, all
}

// Requests returns the number of requests since the start, and how many of them got an error.
func (a *API) Requests() (all, refused uint64) { return a.asked.Load(), a.refused.Load() }

// describe answers with a consumer's state.
func (r *request) describe(ctx context.Context, kind string, c *consumer) {
	p, err := r.api.opts.Store.Part(ctx, c.stream.Key, 0, 0)
	if err != nil {
		r.fail(kind, errUnavailable.because("%s", err))
		return
	}
	info, failed := r.api.info(ctx, c, p)
	if failed != nil {
		r.fail(kind, failed)
		return
	}
	r.answer(struct {
		response
		ConsumerInfo
	}{of(kind), info})
}

func (r *request) consumerInfo(ctx context.Context, c *consumer) { r.describe(ctx, "consumer_info", c) }

func (r *request) consumerDelete(ctx context.Context, c *consumer) {
	const kind = "consumer_delete"
	if err := r.api.delete(ctx, c); err != nil {
		r.fail(kind, err)
		return
	}
	r.answer(struct {
		response
		Success bool `json:"success"`
	}{of(kind), true})
}

// sorted returns the consumers of a stream by name.
func (a *API) sorted(st *stream) []*consumer {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.Collect(maps.Values(st.consumers))
	slices.SortFunc(all, func(a, b *consumer) int { return strings.Compare(a.name, b.name) })
	return all
}

func (r *request) consumerNames(ctx context.Context, st *stream) {
	const kind = "consumer_names"
	if err := r.api.ensure(ctx, st); err != nil {
		r.fail(kind, err)
		return
	}
	names := []string{}
	for _, c := range r.api.sorted(st) {
		names = append(names, c.name)
	}

	answer := struct {
		response
		page
		Consumers []string `json:"consumers"`
	}{response: of(kind)}
	answer.Consumers, answer.page = part(names, r.paged().Offset, namesLimit)
	r.answer(answer)
}

func (r *request) consumerList(ctx context.Context, st *stream) {
	const kind = "consumer_list"
	if err := r.api.ensure(ctx, st); err != nil {
		r.fail(kind, err)
		return
	}
	p, err := r.api.opts.Store.Part(ctx, st.Key, 0, 0)
	if err != nil {
		r.fail(kind, errUnavailable.because("%s", err))
		return
	}

	answer := struct {
		response
		page
		Consumers []ConsumerInfo `json:"consumers"`
	}{response: of(kind), Consumers: []ConsumerInfo{}}
	shown, about := part(r.api.sorted(st), r.paged().Offset, infosLimit)
	answer.page = about
	for _, c := range shown {
		info, err := r.api.info(ctx, c, p)
		if err != nil {
			r.fail(kind, err)
			return
		}
		answer.Consumers = append(answer.Consumers, info)
	}

	r.answer(answer)
}
