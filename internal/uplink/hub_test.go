package uplink

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errCut = errors.New("the link was cut")

// fakeHub is a stream without a duplicates window. It stores the first message of a link only if it
// has received no other since the link began, and each further one only directly after its
// predecessor. A message that is in flight when a link breaks may arrive much later.
type fakeHub struct {
	mu       sync.Mutex
	messages []message // guarded by mu; the first one has sequence 1
	late     []parcel  // guarded by mu; in flight over links that broke
	faults   func() fault
	refuses  func(Item) bool
	latency  time.Duration
	down     bool // guarded by mu
	asked    int  // guarded by mu; messages looked at by Before
	links    int  // guarded by mu
}

type message struct {
	Mark
	subject string
	id      int64
}

// fault is the fate of a message.
type fault int

const (
	fine       fault = iota
	cutBefore        // the link breaks, the message is lost
	cutAfter         // the link breaks, the message is stored
	cutLate          // the link breaks, the message and those after it are stored later, if at all
	swallowAck       // the message is stored, but not confirmed
)

// parcel is a message with its sender's expectations.
type parcel struct {
	item  Item
	end   uint64 // last sequence of the hub when the link began
	after int64  // id of the previous message; 0: none was sent over the link
	id    int64
	done  chan outcome
}

type outcome struct {
	repeated bool
	err      error
}

func (h *fakeHub) Connect(ctx context.Context) (Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return nil, errors.New("no hub answers")
	}
	h.links++
	return &fakeLink{hub: h, end: uint64(len(h.messages)), broken: make(chan struct{})}, nil
}

// store stores a message if its sender knows the previous one. mu is held.
func (h *fakeHub) store(p parcel) error {
	if h.refuses != nil && h.refuses(p.item) {
		return Refusal{"it is too large"}
	}
	last := int64(0)
	if len(h.messages) > 0 {
		last = h.messages[len(h.messages)-1].id
	}
	if p.after != 0 && p.after != last || p.after == 0 && p.end != uint64(len(h.messages)) {
		return errors.New("a message came between")
	}
	h.add(p.item, p.id)
	return nil
}

func (h *fakeHub) add(i Item, id int64) {
	sequence := uint64(len(h.messages)) + 1
	h.messages = append(h.messages, message{Mark{i.Epoch, i.Number, i.Run, i.Data, sequence}, i.Subject, id})
}

// deliverLate delivers some of the messages that were in flight when a link broke.
func (h *fakeHub) deliverLate(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range min(n, len(h.late)) {
		_ = h.store(h.late[0])
		h.late = h.late[1:]
	}
}

// texts returns the items of a subject, in the hub's order.
func (h *fakeHub) texts(subject string) (texts []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.messages {
		if m.subject == subject {
			texts = append(texts, string(m.Data))
		}
	}
	return texts
}

type fakeLink struct {
	hub  *fakeHub
	end  uint64 // sequence of the hub when the link began
	sent int64  // id of the last message sent; used by the goroutine that sends
	once sync.Once
	why  error

	broken chan struct{}

	mu    sync.Mutex
	queue []parcel // guarded by mu
	lost  bool     // guarded by mu; a message was lost, so those after it are too
}

func (l *fakeLink) Done() <-chan struct{} { return l.broken }
func (l *fakeLink) Err() error            { return l.why }
func (l *fakeLink) Pipelined() bool       { return true }
func (l *fakeLink) Close()                { l.cut(errors.New("closed")) }

func (l *fakeLink) cut(err error) {
	l.once.Do(func() {
		l.why = err
		close(l.broken)
	})
}

func (l *fakeLink) Last(ctx context.Context, subject string) (Mark, error) {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	for _, m := range slices.Backward(l.hub.messages) {
		if m.subject == subject {
			return m.Mark, nil
		}
	}
	return Mark{}, nil
}

func (l *fakeLink) Before(ctx context.Context, subject string, sequence uint64, n int) (marks []Mark, err error) {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	for s := sequence - 1; s > 0 && n > 0; s, n = s-1, n-1 {
		l.hub.asked++
		if m := l.hub.messages[s-1]; m.subject == subject {
			marks = append(marks, m.Mark)
		}
	}
	return marks, nil
}

func (l *fakeLink) Send(i Item) (Sending, error) {
	select {
	case <-l.broken:
		return nil, l.why
	default:
	}
	p := parcel{i, l.end, l.sent, rand.Int64N(1<<62) + 1, make(chan outcome, 1)}
	l.sent = p.id
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue = append(l.queue, p); len(l.queue) == 1 {
		go l.process()
	}
	return fakeSending{l, p.done}, nil
}

// process delivers messages after a while, in order, until none is in flight.
func (l *fakeLink) process() {
	for {
		time.Sleep(l.hub.latency)
		l.mu.Lock()
		l.arrive(l.queue[0])
		l.queue = l.queue[1:]
		empty := len(l.queue) == 0
		l.mu.Unlock()
		if empty {
			return
		}
	}
}

// arrive decides the fate of a message. mu is held.
func (l *fakeLink) arrive(p parcel) {
	h := l.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-l.broken: // its client is gone, but the message may still arrive
		if l.lost = l.lost || rand.IntN(8) == 0; !l.lost {
			h.late = append(h.late, p)
		}
		return
	default:
	}

	lot := fine
	if h.faults != nil {
		lot = h.faults()
	}
	switch lot {
	case cutBefore:
		l.lost = true
		l.cut(errCut)
	case cutAfter:
		_ = h.store(p)
		l.cut(errCut)
	case cutLate:
		h.late = append(h.late, p)
		l.cut(errCut)
	default:
		if err := h.store(p); lot != swallowAck || err != nil {
			p.done <- outcome{err: err}
		}
	}
}

type fakeSending struct {
	link *fakeLink
	done chan outcome
}

func (s fakeSending) Wait(ctx context.Context) (bool, error) {
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	select {
	case o := <-s.done:
		return o.repeated, o.err
	case <-s.link.broken:
		return false, s.link.why
	case <-timer.C:
		return false, errors.New("no confirmation")
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
