package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
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
