// Package uplink relays the items of lists to a hub: a NATS cluster with JetStream.
//
// An Uplink is a durable consumer of each of its lists. It takes at most a window of items, and
// sends them in list order, those of lists of a lower class first. It confirms an item when the hub
// has it and all items before it. Redis is the only store: while the link is down no more than the
// window is held, and the lists wait. After each break the hub is asked for the newest item of a
// list that it has. Items that it provably has are confirmed and not sent again; all other items
// are sent from the oldest unconfirmed one on. So each item reaches the hub once and in order while
// Redis keeps its data, and at least once after Redis has lost some.
//
// Run is one goroutine. It starts one more for each link, which waits for confirmations, and one
// that gives batches back to the relay. The methods of a Feed may be called from any goroutine.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"edged/internal/batch"
	"edged/internal/flow"
)

// Options configure an uplink.
type Options struct {
	Name        string
	Hub         Hub
	WindowItems int      // items sent and not confirmed
	WindowBytes int      // bytes of these items
	Rate        int      // bytes a second; 0 means no bound
	Compare     Comparer // after a break
	Owns        Owner    // asks Redis after the comparison
	Before      Status   // its counters continue from these
	Log         *zap.Logger
}

// Hub makes connections to the destination of items.
type Hub interface {
	// Connect returns a link, or an error in words for people.
	Connect(ctx context.Context) (Link, error)
}

// Link is a connection to a hub. Its methods are called by one goroutine, except Done, Err and Close.
type Link interface {
	// Last returns the newest item of a subject that the hub has; the zero Mark if it has none.
	Last(ctx context.Context, subject string) (Mark, error)
	// Before reads the n messages of the hub before a sequence, and returns those of the subject,
	// the newest first.
	Before(ctx context.Context, subject string, sequence uint64, n int) ([]Mark, error)
	// Pipelined reports whether several items of one subject may be in flight.
	Pipelined() bool
	// Send begins to send an item. A Refusal is final for that item.
	Send(Item) (Sending, error)
	// Done is closed when the link is broken, and Err returns the reason.
	Done() <-chan struct{}
	Err() error
	// Close ends the link at once.
	Close()
}

// Sending is an item in flight.
type Sending interface {
	// Wait returns when the hub has the item; repeated reports whether it had the item before. A
	// Refusal is final for that item, any other error ends the link.
	Wait(ctx context.Context) (repeated bool, err error)
}

// Refusal is the error of a hub that will never take an item.
type Refusal struct{ Reason string }

func (r Refusal) Error() string { return r.Reason }

// Item is an item of a list.
type Item struct {
	List    string
	Subject string // at the hub
	Epoch   string
	Number  uint64
	Run     uint64    // the items from this number up to Number were sent one after the other
	Seen    time.Time // when edged first saw it
	Data    []byte
}

// size returns the approximate number of bytes that the item takes on the wire.
func (i Item) size() int { return len(i.Data) + 300 }

// Mark is an item that a hub has.
type Mark struct {
	Epoch    string
	Number   uint64
	Run      uint64 // as in Item
	Data     []byte
	Sequence uint64 // of the hub; 0 in the zero Mark
}

// Comparer compares items with those of a list in Redis, from a number on. first is that number, or
// the number of the head if that is later; from it on, so many items are equal.
type Comparer func(ctx context.Context, list string, from uint64, items [][]byte) (first uint64, equal int, err error)

// Owner reports whether a list belongs to this process, according to Redis.
type Owner func(ctx context.Context, list string) (bool, error)

// Uplink sends the items of its feeds.
type Uplink struct {
	opts Options

	mu       sync.Mutex // guards everything below, and the queues of the feeds
	feeds    []*Feed
	classes  classes
	ready    chan struct{}   // holds one value if there may be something to send
	copied   chan struct{}   // holds one value if there are receipts
	receipts []batch.Receipt // of batches that were copied
	paused   bool
	sent     int         // items in flight
	bytes    int         // bytes of these items
	flow     flow.Window // bounds bytes
	state    Status
}

// Status is the state of an uplink.
type Status struct {
	Name       string    `json:"name"`
	State      string    `json:"state"` // connecting, up or paused
	Since      time.Time `json:"since"` // begin of the state
	Reason     string    `json:"reason,omitempty"`
	Server     string    `json:"server,omitempty"`
	Sent       uint64    `json:"sent"` // items confirmed by the hub
	SentBytes  uint64    `json:"sent_bytes"`
	Skipped    uint64    `json:"skipped"`  // items not sent again because the hub already had them
	Repeated   uint64    `json:"repeated"` // items sent again, which the hub dropped as duplicates
	Refused    uint64    `json:"refused"`  // items copied to the dead letters
	Breaks     uint64    `json:"breaks"`   // of the link
	InFlight   int       `json:"in_flight"`
	Sequential bool      `json:"sequential"` // one item of a list at a time, because other publishers use the stream
}

// New makes an uplink without feeds.
func New(o Options) *Uplink {
	b := o.Before
	return &Uplink{opts: o, ready: make(chan struct{}, 1), copied: make(chan struct{}, 1), flow: newFlow(o.WindowBytes),
		state: Status{
			Name: o.Name, State: "connecting", Since: time.Now(),
			Sent: b.Sent, SentBytes: b.SentBytes, Skipped: b.Skipped, Repeated: b.Repeated, Refused: b.Refused, Breaks: b.Breaks,
		}}
}

// Status returns the state.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.state
	s.InFlight = u.sent
	if u.paused {
		s.State = "paused"
	}
	return s
}

// Pause stops or resumes sending. Items in flight are still confirmed.
func (u *Uplink) Pause(paused bool) {
	u.mu.Lock()
	u.paused = paused
	u.mu.Unlock()
	u.wake()
}

func (u *Uplink) wake() {
	select {
	case u.ready <- struct{}{}:
	default:
	}
}

// Waits between two attempts to connect: the first wait, and the longest.
const (
	firstWait = time.Second
	maxWait   = time.Minute
)

// Run sends until ctx ends.
func (u *Uplink) Run(ctx context.Context) error {
	var confirming sync.WaitGroup
	confirming.Go(func() { u.confirmCopies(ctx) })
	defer confirming.Wait()

	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		before := u.Status()
		err := u.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		u.broke(err)
		if now := u.Status(); now.Sent > before.Sent || now.Refused > before.Refused {
			wait = firstWait // it made progress
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(wait) + wait/8):
		}
	}
}

// serve uses one link until it breaks.
func (u *Uplink) serve(ctx context.Context) error {
	link, err := u.opts.Hub.Connect(ctx)
	if err != nil {
		return err
	}
	defer link.Close()
	defer context.AfterFunc(ctx, link.Close)() // no call to the link outlasts ctx
	if err := u.try(ctx, link); err != nil {
		return err
	}
	u.connected(link)

	ctx, cancel := context.WithCancelCause(ctx)
	sendings := make(chan sending, u.opts.WindowItems)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if err := u.awaitConfirmed(ctx, sendings); err != nil {
			cancel(err)
		}
	})
	err = u.send(ctx, link, sendings)
	cancel(err)
	waiting.Wait()
	u.rewind()
	return context.Cause(ctx)
}

// try finds out whether the hub answers for each feed: an uplink is up when it can send.
func (u *Uplink) try(ctx context.Context, link Link) error {
	u.mu.Lock()
	feeds := slices.Clone(u.feeds)
	u.mu.Unlock()
	for _, f := range feeds {
		if _, err := link.Last(ctx, f.subject); err != nil {
			return fmt.Errorf("ask for the last item of %s: %w", f.subject, err)
		}
	}
	return nil
}

// connected notes that a link is up.
func (u *Uplink) connected(link Link) {
	server := ""
	if named, ok := link.(interface{ Server() string }); ok {
		server = named.Server()
	}

	u.mu.Lock()
	for _, f := range u.feeds {
		f.compared = ""
	}
	u.flow = newFlow(u.opts.WindowBytes)
	was, owed := u.state.Reason, 0
	for _, f := range u.feeds {
		owed += len(f.queue)
	}

	if owed == 0 { // otherwise the first confirmation proves that the reason is gone
		u.state.Reason = ""
	}
	u.state.State, u.state.Since, u.state.Server = "up", time.Now(), server
	u.state.Sequential = !link.Pipelined()
	log := u.opts.Log.Info
	if was != "" && owed > 0 {
		log = u.opts.Log.Debug // it may break again for the same reason
	}
	u.mu.Unlock()
	log("the uplink is connected", zap.String("server", server), zap.Bool("after_a_break", was != ""))
}

// broke records why the link is down. Each new reason is logged once.
func (u *Uplink) broke(err error) {
	u.mu.Lock()
	reason := err.Error()
	news := u.state.Reason != reason
	if u.state.State == "up" {
		u.state.Breaks++
		u.state.Since = time.Now()
	}
	u.state.State, u.state.Reason = "connecting", reason
	u.mu.Unlock()
	if news {
		u.opts.Log.Warn("the uplink is down; trying again", zap.String("reason", reason))
	}
}

// sending is an item in flight, with its feed.
type sending struct {
	Sending
	feed  *Feed
	life  uint64 // of the feed, when the item was queued
	item  Item
	sent  time.Time
	known bool  // it is not sent, because the hub has it already or it is void
	final error // error of Send: the hub will not take the item
}

// send sends items until the link or ctx ends.
func (u *Uplink) send(ctx context.Context, link Link, out chan<- sending) error {
	limit := newLimiter(u.opts.Rate)
	for {
		s := u.take(link.Pipelined())
		if s.feed == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-link.Done():
				return link.Err()
			case <-u.ready:
			}
			continue
		}

		if err := u.dispatch(ctx, link, limit, &s); err != nil {
			return err
		}

		select {
		case out <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dispatch sends one item, unless the hub has it.
func (u *Uplink) dispatch(ctx context.Context, link Link, limit *rate.Limiter, s *sending) (err error) {
	if s.known, err = u.atHub(ctx, link, s); err != nil || s.known {
		return err
	}

	if err := pass(ctx, limit, s.item.size()); err != nil {
		return err
	}

	var ok bool
	if s.item.Run, ok = u.begin(s); !ok {
		s.known = true
		return nil
	}
	s.sent = time.Now()
	s.Sending, err = link.Send(s.item)
	if refusal, final := errors.AsType[Refusal](err); final {
		s.final, err = refusal, nil
		u.endRun(s.feed)
	}
	return err
}

// awaitConfirmed waits for the items in flight, the oldest first.
func (u *Uplink) awaitConfirmed(ctx context.Context, in <-chan sending) error {
	for {
		var s sending
		select {
		case <-ctx.Done():
			return nil
		case s = <-in:
		}
		repeated, err := false, s.final
		if err == nil && !s.known {
			repeated, err = s.Wait(ctx)
		}

		if _, final := errors.AsType[Refusal](err); err != nil && !final {
			return err
		}
		u.confirm(s, repeated, err)
	}
}
