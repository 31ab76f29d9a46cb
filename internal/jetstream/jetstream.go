// Package jetstream answers JetStream's API for lists. To consumers each list is a stream. The
// package owns the consumers that clients make: their configurations, the requests that wait for
// items, heartbeats and expiries. The relay decides which items a consumer owes, and when it gets
// one again.
//
// A consumer with ack policy explicit or all is a durable consumer of the relay; a consumer with
// ack policy none is a viewer. A durable's configuration is in Redis beside the list. An ephemeral
// consumer is a durable that is deleted when it is not used for a while. Viewers exist in this
// process only, and are removed soon after the client that made them has left.
//
// A consumer is the only member of its consumer in the relay. It takes as many items as clients
// have asked for (batch.Metered), and hands each run of them to one request, or to the
// subscriptions of its deliver subject.
//
// Requests that need nothing of Redis are answered at once, the rest by one goroutine.
// Clients take turns; if too many requests of a client wait, the next one is refused. When a client
// leaves, its requests are dropped.
//
// Run owns two goroutines: that one, and one for times and status messages. All methods may be
// called from any goroutine. Locks are taken in this order: API.mu, the relay's, a consumer's,
// API.timing or the queue's. None of the last three is held while something is sent.
package jetstream

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
)

// Options are the settings of an API and the components that it uses.
type Options struct {
	Store Store
	// Outlet returns the way to a subject's subscriptions.
	Outlet func(to Target) Outlet
	// Owned reports whether messages to a subject go to the daemon, not to subscribers.
	Owned func(subject string) bool
	// Refused is called when an acknowledgement is refused after Acknowledge has returned.
	Refused func()
	Log     *zap.Logger // nil means none
}

// Stream is a list that is served as a stream.
type Stream struct {
	Name    string
	Subject string
	Key     string // of the list
	Log     Log
}

// Log is the part of the relay that a stream uses.
type Log interface {
	// Set makes a durable consumer that owes all items from start on, or changes the terms of the
	// one with this name.
	Set(name string, t Terms, start Start) error
	// Start makes a durable consumer without members begin at a later item.
	Start(name string, start Start)
	Remove(name string) bool
	Join(name string, m batch.Metered) batch.Consumption
	View(from uint64, m batch.Metered) batch.Consumption
	Durable(name string, below uint64) (s State, known bool)
	// Since returns the number of the first item that was seen at a time or later.
	Since(t time.Time) uint64
	// Seen returns when an item was first seen; zero: unknown.
	Seen(n uint64) time.Time
	// Done returns the number of the first item that no consumer has confirmed.
	Done() uint64
}

// Start is the place where a durable consumer begins: the item with this number in this epoch.
type Start struct {
	From  uint64
	Epoch string
}

// Terms are the relay's terms of a durable consumer.
type Terms struct {
	AckWait       time.Duration
	Backoff       []time.Duration
	MaxDeliver    int // 0 means no bound
	MaxAckPending int
	Ephemeral     bool // cut off if it lags too much
}

// State is the state of a durable consumer.
type State struct {
	Floor   uint64 // all items below are acknowledged
	Count   uint64 // deliveries before the first one of the item at the floor
	Next    uint64 // the next item that it gets
	Out     int    // items delivered and not acknowledged
	Again   int    // those of Out that were delivered more than once
	Missed  uint64 // items that were gone before it got them
	Pending uint64 // items yet to be delivered for the first time
	Away    time.Time
}

// Store is Redis. One goroutine uses it.
type Store interface {
	// Part returns up to n items of a list from a number on, including kept items.
	Part(ctx context.Context, key string, from uint64, n int) (Part, error)
	// Register writes a consumer's configuration, a JSON object, and returns it with the
	// fields "from" and "epoch". from is a number, End or Last.
	Register(ctx context.Context, key, name, from, config string) (string, error)
	// Restore writes a configuration that Redis has lost, and reports whether Redis has one now. If
	// not, another process has deleted the consumer.
	Restore(ctx context.Context, key, name string, from uint64, epoch, config string) (there bool, err error)
	// Register and Unregister fail if another process serves the list.
	Unregister(ctx context.Context, key, name string) error
	Registered(ctx context.Context, key string) (map[string]string, error)
	// Standing returns the state of a durable consumer as stored in Redis; its Pending counts the
	// items of p's list. known reports whether Redis has a place for it.
	Standing(ctx context.Context, key, name string, p Part) (s State, known bool, err error)
	Close()
}

// Places where a consumer begins: after the last item, and at the last item.
const (
	End  = "end"
	Last = "last"
)

// Part is a part of a list.
type Part struct {
	Epoch  string
	First  uint64 // the number of the head
	Length int64  // of the list
	Items  []Item
}

// End returns one past the number of the last item.
func (p Part) End() uint64 { return p.First + uint64(p.Length) }

// Item is an item of a list.
type Item struct {
	Number uint64
	Seen   time.Time // as stored in Redis; zero: unknown
	Data   []byte
}

// Client is the sender of a request.
type Client interface {
	ID() uint64   // unique among clients
	User() string // empty: it has no name
	// Hold notes that the client causes the API to hold n bytes more, or fewer if n is negative.
	Hold(n int)
	Connected() bool
	MaySubscribe(subject string) bool
	MayKeep() bool // whether it may make durable consumers
	// Outlet prefers the client's own subscription.
	Outlet(to Target) Outlet
	// Send sends an answer.
	Send(to string, header, payload []byte)
}

// Target describes an Outlet.
type Target struct {
	Subject     string
	Consumer    string // the consumer's stream and name, with a dot between them
	Incarnation string // of the consumer, for Acknowledge; a viewer has none
	Viewer      bool   // its messages count as taken when the client has read them
	HeadersOnly bool
}

// Outlet passes items to the subscriptions of a subject.
type Outlet interface {
	// Deliver is that of batch.Member; count is that of batch.Part.
	Deliver(b *batch.Batch, from, to int, count uint64, receipt batch.Receipt) (taken int)
	// Open reports whether there is a subscription.
	Open() bool
	// Send sends a status.
	Send(header, reply string)
	Close()
}

// API answers requests.
type API struct {
	opts    Options
	log     *zap.Logger
	asked   atomic.Uint64 // requests
	refused atomic.Uint64 // requests that were answered with an error

	work *queue // for the goroutine that uses the Store
	own  *user  // edged's own tasks
	acks *user  // acknowledgements of all clients for consumers that are not known yet

	adopting sync.Mutex // held while consumers are read from Redis; taken before mu

	mu      sync.Mutex // guards everything below
	stopped bool
	streams []*stream
	bound   map[string][]*consumer // push consumers by deliver subject: one, unless other processes made more

	timing   sync.Mutex // guards everything below
	due      timers
	statuses []status
	wake     chan struct{} // holds one value
}

// stream is a Stream with its consumers. Guarded by API.mu.
type stream struct {
	Stream
	consumers map[string]*consumer
	making    string    // name of the consumer that is being made; empty: none
	known     bool      // its consumers have been read from Redis …
	read      time.Time // … last at this time
	serves    bool      // this process serves the list: no other process makes or deletes consumers
	deleted   bool      // consumers missing in Redis were deleted before this process served the list
	orphans   []string  // consumers with a place in the list, which is removed if Redis has no consumer of that name
	created   time.Time
}

// storeTimeout bounds one request to Redis.
const storeTimeout = 5 * time.Second

// New makes an API, which answers while Run runs.
func New(opts Options) *API {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Refused == nil {
		opts.Refused = func() {}
	}
	return &API{
		opts: opts, log: opts.Log, work: newQueue(), own: &user{most: maxOwn}, acks: &user{most: maxQueued, lasts: maxQueueTime}, bound: make(map[string][]*consumer),
		wake: make(chan struct{}, 1),
	}
}

// Add adds a stream. Its name must be unique.
func (a *API) Add(s Stream) {
	st := &stream{Stream: s, consumers: make(map[string]*consumer), created: time.Now().UTC()}
	a.mu.Lock()
	a.streams = append(a.streams, st)
	a.mu.Unlock()
	a.do(func(context.Context) {}, func() {}) // wakes Run, which looks for streams whose consumers it does not know
}

// RemoveStream ends a stream. Its consumers stay registered in Redis.
func (a *API) RemoveStream(key string) {
	a.mu.Lock()
	var gone []*consumer
	for i, st := range a.streams {
		if st.Key == key {
			for _, c := range st.consumers {
				gone = append(gone, c)
			}
			a.streams = append(a.streams[:i:i], a.streams[i+1:]...)
			break
		}
	}

	for _, c := range gone {
		a.unbind(c)
	}
	a.mu.Unlock()

	for _, c := range gone {
		c.end(statusShutdown)
	}
}

// Run answers requests until ctx is done.
func (a *API) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var timing sync.WaitGroup
	timing.Go(func() { a.keepTime(ctx) })
	defer timing.Wait()
	defer cancel() // in case of a panic
	defer a.opts.Store.Close()

	lasting := context.WithoutCancel(ctx)
	for {
		retry := time.After(retryInterval)
		if a.readUnknown(lasting) {
			retry = nil
		}
		select {
		case <-a.work.ready:
			if task, late, ok := a.work.take(); ok {
				task.run(lasting, late)
			}
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// retryInterval is the time between two attempts to read the consumers of a stream.
const retryInterval = time.Second

// readUnknown reads the consumers of streams that have not been read yet, and reports whether all
// are known now. A push consumer must not wait for a request.
func (a *API) readUnknown(ctx context.Context) bool {
	a.mu.Lock()
	streams := slices.Clone(a.streams)
	a.mu.Unlock()

	for _, st := range streams {
		a.mu.Lock()
		known := st.known
		a.mu.Unlock()
		if known {
			continue
		}
		call, cancel := context.WithTimeout(ctx, storeTimeout)
		err := a.readConsumers(call, st)
		if cancel(); err != nil {
			return false
		}
	}
	return true
}

// do queues a task of edged itself for the goroutine that uses the Store; full is called if the
// queue is full.
func (a *API) do(work func(context.Context), full func()) {
	if !a.work.add(a.own, task{do: work, refuse: full}) {
		full()
	}
}

// Left removes a client that is gone, with its waiting requests.
func (a *API) Left(client uint64) {
	u, tasks, at := a.work.leave(client)
	for _, t := range tasks {
		t.drop()
	}
	for _, c := range at {
		c.mu.Lock()
		c.drop(func(p *pull) bool { return p.from == u })
		c.mu.Unlock()
		c.membership.Update()
	}
}

// Stop ends all waiting requests before the daemon shuts down. Acknowledgements still work.
func (a *API) Stop() {
	a.mu.Lock()
	a.stopped = true
	all := a.all()
	a.mu.Unlock()
	for _, c := range all {
		c.endPulls(statusShutdown)
	}
}

// all returns all consumers. mu is held.
func (a *API) all() (all []*consumer) {
	for _, st := range a.streams {
		for _, c := range st.consumers {
			all = append(all, c)
		}
	}
	return all
}

// stream returns the stream with this name; nil if there is none.
func (a *API) stream(name string) *stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, st := range a.streams {
		if st.Name == name {
			return st
		}
	}
	return nil
}

// consumer returns a consumer; nil if there is none.
func (a *API) consumer(st *stream, name string) *consumer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return st.consumers[name]
}

// Acknowledge passes an acknowledgement to a consumer. life is the epoch and the consumer's
// incarnation with "-" between them, as in the item's reply subject.
func (a *API) Acknowledge(streamName, name, life string, n uint64, ack batch.Ack, saved func(error)) error {
	st := a.stream(streamName)
	if st == nil {
		return batch.ErrNotGiven
	}

	if c := a.consumer(st, name); c != nil {
		return c.acknowledge(life, n, ack, saved)
	}

	// After a start, or at another instance, an acknowledgement can arrive before this process
	// knows the consumer.
	answer := func(err error) {
		if err != nil {
			a.opts.Refused()
		}
		if saved != nil && err != nil {
			saved(err)
		}
	}

	work := func(ctx context.Context) {
		c, err := a.known(ctx, st, name)
		switch {
		case err != nil:
			answer(err)
		case c == nil:
			answer(batch.ErrNotGiven)
		default:
			answer(c.acknowledge(life, n, ack, saved))
		}
	}
	full := func() { answer(errUnavailable) }
	if !a.work.add(a.acks, task{do: work, refuse: full}) {
		full()
	}
	return nil
}
