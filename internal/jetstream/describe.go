package jetstream

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

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
