package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Intervals of a subscriber.
const (
	firstWait = 100 * time.Millisecond // before it reconnects; doubled each time
	lastWait  = 2 * time.Second
	quiet     = time.Second // without an item; then it asks whether a subject belongs to a list
)

// mostAtOnce is more messages than the library hands on between two reads of the connection. It
// reads 32 KiB at a time, TLS may hold as much again, and the shortest message takes 13 bytes.
const mostAtOnce = 16 << 10

// Subscription says which subjects to subscribe to, and how to treat their items.
type Subscription struct {
	Server
	Subjects  []string      // wildcards are allowed
	Queue     string        // the queue group; empty for none
	Count     int           // items of each subject before it ends; 0 for no end
	Timeout   time.Duration // the longest wait for an item, including connecting; 0 for no limit
	Ack       bool          // acknowledge each item that has a reply subject, after it is printed
	Reconnect bool          // when the connection ends
	Format    Format
	Out       io.Writer // receives one line an item
	Err       io.Writer // receives remarks for people; nil for none
}

// Run prints items until Count of each subject have come or ctx is done; neither is an error. With
// a Count it returns once the server has its confirmation of them all.
//
// An item is confirmed, or acknowledged, after it was written to Out. Run fails if the first
// connection fails, a subscription is refused, or Out cannot be written. If no item comes within
// Timeout, it returns ErrTimeout.
func (s Subscription) Run(ctx context.Context) error {
	for _, subject := range s.Subjects {
		if !isName(subject) {
			return fmt.Errorf("%q is not a valid subject: it must not be empty, nor have spaces or control characters in it", subject)
		}
	}
	if s.Queue != "" && !isName(s.Queue) {
		return fmt.Errorf("%q is not a valid queue group: it must not have spaces or control characters in it", s.Queue)
	}
	if s.Err == nil {
		s.Err = io.Discard
	}
	r := &reader{Subscription: s, out: bufio.NewWriterSize(s.Out, 64<<10), counts: make([]int, len(s.Subjects)), failed: make(chan error, 1)}
	r.json = json.NewEncoder(r.out)
	r.json.SetEscapeHTML(false)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.Timeout > 0 {
		r.idle = time.AfterFunc(s.Timeout, func() { cancel(ErrTimeout) })
		defer r.idle.Stop()
	}
	err := r.run(ctx)
	r.end()
	switch {
	case ctx.Err() == nil:
		return err
	case context.Cause(ctx) != ErrTimeout:
		return nil
	case !r.connected:
		return timeout("%s gave no answer for %v", s.Server, s.Timeout)
	default:
		return timeout("nothing arrived on %s for %v", strings.Join(s.Subjects, ", "), s.Timeout)
	}
}

// reader prints the items of successive connections.
type reader struct {
	Subscription
	idle      *time.Timer // nil without a Timeout
	connected bool        // connected at least once
	asked     atomic.Bool // whether the subjects belong to lists

	mu     sync.Mutex
	out    *bufio.Writer // guarded by mu
	json   *json.Encoder // guarded by mu; writes to out
	counts []int         // guarded by mu; items printed, by subject
	ended  bool          // guarded by mu: nothing more is printed

	failed chan error // receives an error after which no reconnect is tried
}

// fatal is an error that another connection would not cure.
type fatal struct{ error }

// end waits for the print in progress.
func (r *reader) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
}

// run connects until there is nothing left to do.
func (r *reader) run(ctx context.Context) error {
	told := ""
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		connected, err := r.serve(ctx)
		var stop fatal
		switch {
		case err == nil, ctx.Err() != nil:
			return err
		case errors.As(err, &stop):
			return stop.error
		case !r.Reconnect, !r.connected, errors.Is(err, nats.ErrAuthorization):
			return err
		}
		if connected {
			wait, told = firstWait, ""
		}
		if text := err.Error(); text != told {
			told = text
			fmt.Fprintf(r.Err, "edged sub: %v; connecting again\n", err)
		}

		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// serve serves one connection to its end, and reports whether there was one.
func (r *reader) serve(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{reader: r, items: make(chan *nats.Msg, mostAtOnce), places: make(map[*nats.Subscription]int),
		done: make(chan struct{}), closed: make(chan struct{}), going: make(chan struct{}, 1)}
	c.nc, err = r.connect(ctx, func(conn net.Conn) net.Conn { return &gate{Conn: conn, received: c.print} },
		nats.ErrorHandler(c.refused),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
		nats.LameDuckModeHandler(func(*nats.Conn) { c.going <- struct{}{} }))
	if err != nil {
		return false, err
	}
	defer func() {
		stuck := time.AfterFunc(time.Second, cancel) // Close waits for a write
		defer stuck.Stop()
		c.nc.Close()
	}()
	if r.connected {
		fmt.Fprintln(r.Err, "edged sub: connected again")
	}
	r.connected = true

	if err := c.subscribe(); err != nil {
		return true, err
	}
	return true, c.wait(ctx)
}

// connection is a connection whose items are printed.
type connection struct {
	*reader
	nc     *nats.Conn
	items  chan *nats.Msg // passed from the library's reading goroutine to itself
	finish sync.Once
	done   chan struct{} // closed when all items of Count are printed
	closed chan struct{} // closed with the connection
	going  chan struct{} // the server announced its end

	places map[*nats.Subscription]int // guarded by mu; indices of the subjects
	acks   []string                   // guarded by mu; reply subjects of items that wait for the flush
}

// subscribe subscribes to the subjects that still need items.
func (c *connection) subscribe() error {
	c.mu.Lock() // before the first item can come
	defer c.mu.Unlock()

	for i, subject := range c.Subjects {
		if c.Count > 0 && c.counts[i] >= c.Count {
			continue
		}
		sub, err := c.nc.ChanQueueSubscribe(subject, c.Queue, c.items)
		if err == nil && c.Count > 0 {
			err = sub.AutoUnsubscribe(c.Count - c.counts[i])
		}
		if err != nil {
			return fmt.Errorf("subscribe to %s: %s", subject, said(err))
		}
		c.places[sub] = i
	}
	return nil
}

// wait returns when the connection has done its work or is lost.
func (c *connection) wait(ctx context.Context) error {
	ask := time.AfterFunc(quiet, c.ask)
	defer ask.Stop()

	for {
		select {
		case <-c.done:
			if c.idle != nil {
				c.idle.Stop()
			}
			if err := c.farewell(); err != nil {
				return fatal{err}
			}
			return nil
		case <-ctx.Done():
			return nil
		case err := <-c.failed:
			return fatal{err}
		case <-c.going:
			// A server that is shutting down sends only items that are already in flight.
			if err := c.farewell(); err != nil {
				return err
			}
			if !c.Reconnect && c.Count == 0 {
				fmt.Fprintln(c.Err, "edged sub: the server is going (lame duck)")
				return nil
			}
			return fmt.Errorf("%s is going (lame duck)", c.Server)
		case <-c.closed:
			return c.broken()
		}
	}
}

// broken explains why the connection has ended.
func (c *connection) broken() error {
	select {
	case err := <-c.failed:
		return fatal{err}
	case <-c.done:
		return fatal{fmt.Errorf("%s closed the connection before it confirmed the last items", c.Server)}
	default:
	}

	var broke *net.OpError
	switch err := c.nc.LastError(); {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return fmt.Errorf("%s closed the connection", c.Server)
	case errors.As(err, &broke):
		return fmt.Errorf("the connection to %s broke: %v", c.Server, broke.Err)
	default:
		return fmt.Errorf("%s ended the connection: %s", c.Server, said(err))
	}
}

// farewell makes two round trips. Before the PONG of the first comes the server's PING after the
// last item; the PONG of the second says that the server has read our answer to it.
func (c *connection) farewell() error {
	for range 2 {
		if err := c.nc.FlushTimeout(answerTimeout); err != nil {
			return fmt.Errorf("%s did not answer at the end: %s", c.Server, said(err))
		}
	}
	return nil
}

// refused notes an error that the server, or the library, reports.
func (c *connection) refused(_ *nats.Conn, _ *nats.Subscription, err error) {
	ours := func(subject string) bool {
		return strings.Contains(err.Error(), fmt.Sprintf("for Subscription to %q", subject))
	}
	if errors.Is(err, nats.ErrPermissionViolation) {
		for _, subject := range c.Subjects {
			if ours(subject) {
				c.fail(fmt.Errorf("%s refuses the subject %s: the user has no right to it", c.Server, subject))
			}
		}
		return // the user may lack the right to ask for streams
	}
	switch {
	case errors.Is(err, nats.ErrMaxSubscriptionsExceeded), errors.Is(err, nats.ErrSlowConsumer):
		c.fail(fmt.Errorf("%s: %s", c.Server, said(err)))
	}
}

func (r *reader) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

// print prints the items that were read, flushes them, and acknowledges them. The library's reading
// goroutine calls it.
func (c *connection) print() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for ; len(c.items) > 0 && !c.ended; n++ {
		c.item(<-c.items)
	}
	if n == 0 {
		return nil
	}
	if err := c.out.Flush(); err != nil {
		c.ended = true
		c.fail(fmt.Errorf("print an item: %w", err))
		return err
	}

	for _, reply := range c.acks {
		if err := c.nc.Publish(reply, []byte("+ACK")); err != nil {
			return err
		}
	}
	c.acks = c.acks[:0]
	switch {
	case c.complete():
		c.finish.Do(func() { close(c.done) })
	case c.idle != nil:
		c.idle.Reset(c.Timeout)
	}
	return nil
}

// complete reports whether all items of Count are printed. mu is held.
func (c *connection) complete() bool {
	for _, n := range c.counts {
		if c.Count == 0 || n < c.Count {
			return false
		}
	}
	return true
}

// item prints an item. mu is held.
func (c *connection) item(m *nats.Msg) {
	if c.Count > 0 {
		// Items that the server sent before it read our UNSUB need no confirmation.
		place := c.places[m.Sub]
		if c.counts[place] == c.Count {
			return
		}
		c.counts[place]++
	}
	c.write(m)
	if c.Ack && m.Reply != "" {
		c.acks = append(c.acks, m.Reply)
	}
}

// ask names the subjects that belong to no list, if the server tells: each list is a stream. It
// asks only once, and only after a while, because users may lack the right to ask.
func (c *connection) ask() {
	if stream, _ := c.nc.ConnectedServerJetStream(); !stream || !c.asked.CompareAndSwap(false, true) {
		return
	}

	var none []string
	for _, subject := range c.Subjects {
		streams, err := c.streams(subject)
		if err != nil {
			return
		}
		if len(streams) == 0 {
			none = append(none, subject)
		}
	}

	if len(none) == 0 {
		return
	}
	all, err := c.streams("")
	if err != nil {
		return
	}
	fmt.Fprintf(c.Err, "edged sub: no list has the subject %s: only messages of clients come (lists: %s)\n",
		strings.Join(none, ", "), strings.Join(all, ", "))
}

// streams returns the names of the streams that have a subject, or of all streams.
func (c *connection) streams(subject string) ([]string, error) {
	request, err := json.Marshal(map[string]string{"subject": subject})
	if err != nil {
		return nil, err
	}
	inbox := nats.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe()

	if err := c.nc.PublishRequest("$JS.API.STREAM.NAMES", inbox, request); err != nil {
		return nil, err
	}
	m, err := sub.NextMsg(answerTimeout)
	if err != nil {
		return nil, err
	}

	var answer struct {
		Streams []string `json:"streams"`
	}
	return answer.Streams, json.Unmarshal(m.Data, &answer)
}
