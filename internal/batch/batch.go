// Package batch is what travels between the goroutine that reads Redis, the
// relay that decides who gets it, and the servers that write it to clients.
//
// A Batch is a run of consecutive items of one list. Once made it never
// changes, so any number of goroutines share it without a lock; only the cache
// of its encodings has one. The package does no I/O and starts no goroutine.
//
// Memory is used again: whoever keeps a batch holds a reference, and the last
// Release gives the bytes back to the Pool they came from. A reference that is
// never released costs nothing but that: the garbage collector finds the batch.
// One that is released too early does harm, so only the plain way releases, and
// all others may forget to.
package batch

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"edged/internal/numbers"
)

// Batch is a run of consecutive items of one list, held in one buffer.
type Batch struct {
	subject string
	first   uint64
	memory  *Memory
	size    int
	origin  *Batch // whose memory it is, for one item of another batch
	refs    atomic.Int32

	epoch      string
	read       time.Time
	tries      int
	pending    int64
	count      uint64 // see Count
	seen       []Seen // when its first items were seen first, if that was before they were read
	duplicates []numbers.Span

	mu        sync.Mutex
	encodings []keyed // guarded by mu; as many as there are distinct keys, so few
}

type keyed struct {
	key string
	*Encoding
}

// New makes a batch of the items in m; each must stand in m.Data with CR LF
// behind it. The first item has sequence number first, the others follow it. m
// belongs to the batch from then on; the caller holds a reference.
func New(subject string, first uint64, m *Memory) *Batch {
	b := &Batch{subject: subject, first: first, memory: m, tries: 1}
	for _, s := range m.Spans {
		b.size += s.Len()
	}
	b.refs.Store(1)
	return b
}

// Of makes a batch of a few items; it copies them.
func Of(subject string, first uint64, items ...[]byte) *Batch {
	m := new(Memory)
	for _, item := range items {
		m.Add(item)
	}
	return New(subject, first, m)
}

// Retain takes a reference more.
func (b *Batch) Retain() { b.refs.Add(1) }

// Release gives a reference back. Whoever does so does not use the batch any more.
func (b *Batch) Release() {
	switch n := b.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("batch: released more often than retained")
	case b.origin != nil:
		b.origin.Release()
	default:
		b.memory.Free()
	}
	for _, e := range b.encodings {
		e.memory.Free()
	}
	b.memory, b.encodings = nil, nil
}

// Stamp says when the items were read, how many stood behind them in the list, and in
// which epoch their numbers stand for them. It returns b.
func (b *Batch) Stamp(epoch string, read time.Time, pending int64) *Batch {
	b.epoch, b.read, b.pending = epoch, read, pending
	return b
}

// Again is a batch of item i of b alone, for its n-th delivery to a consumer that is still to
// be delivered pending other items for the first time. The caller holds a reference to it, and
// it one to b.
func (b *Batch) Again(i, n int, pending int64) *Batch {
	b.Retain()
	again := &Batch{
		subject: b.subject, first: b.first + uint64(i), origin: b, size: len(b.Item(i)),
		memory: &Memory{Data: b.memory.Data, Spans: b.memory.Spans[i : i+1]},
		epoch:  b.epoch, read: b.read, seen: b.seen, tries: n, pending: pending,
	}
	again.refs.Store(1)
	return again
}

// Part is a batch of the items from (included) to to (excluded) of b, for a consumer that
// counts what it is delivered: it is the count of the first of them. The caller holds a
// reference to it, and it one to b.
func (b *Batch) Part(from, to int, count uint64) *Batch {
	b.Retain()
	part := &Batch{
		subject: b.subject, first: b.first + uint64(from), origin: b,
		memory: &Memory{Data: b.memory.Data, Spans: b.memory.Spans[from:to], pool: b.memory.pool},
		epoch:  b.epoch, read: b.read, seen: b.seen, tries: b.tries, pending: b.pending + int64(b.Len()-to), count: count,
	}
	for _, s := range part.memory.Spans {
		part.size += s.Len()
	}
	part.refs.Store(1)
	return part
}

// Count is how many items the consumer had been delivered, redeliveries included, when it
// got the first one of the batch, that one included. Unless the batch is a Part it counts as
// the list does.
func (b *Batch) Count() uint64 {
	if b.count == 0 {
		return b.first + 1
	}
	return b.count
}

// Epoch is the time in which the numbers of the items stand for them.
func (b *Batch) Epoch() string { return b.epoch }

// Date says when items of the batch were seen first, if that was before they were read. It is
// called before anything else knows the batch.
func (b *Batch) Date(seen []Seen) { b.seen = seen }

// Time is when item i was seen first, to about a second if it was read before.
func (b *Batch) Time(i int) time.Time {
	n := b.first + uint64(i)
	for _, s := range b.seen {
		if n < s.Below {
			return s.At
		}
	}
	return b.read
}

// SetDuplicates says which items repeat an earlier one, in ascending order. It is called before
// anything else knows the batch.
func (b *Batch) SetDuplicates(runs []numbers.Span) { b.duplicates = runs }

// Duplicates are the numbers of the items that repeat an earlier one of their list: no consumer
// gets them.
func (b *Batch) Duplicates() []numbers.Span { return b.duplicates }

// Tries is how often the items have been delivered to the consumer that gets the batch,
// this time included.
func (b *Batch) Tries() int { return b.tries }

// Pending is how many items stood behind the batch in the list; see Again.
func (b *Batch) Pending() int64 { return b.pending }

// Subject is the subject that the items are delivered under.
func (b *Batch) Subject() string { return b.subject }

// First is the sequence number of the first item. Sequence numbers count the
// items of a list from 0 at the start of the process.
func (b *Batch) First() uint64 { return b.first }

// Next is the sequence number behind the last item.
func (b *Batch) Next() uint64 { return b.first + uint64(b.Len()) }

// Len is the number of items.
func (b *Batch) Len() int { return len(b.memory.Spans) }

// Size is the number of bytes in all items together.
func (b *Batch) Size() int { return b.size }

// Large tells whether the items are so large that they are not copied into an
// encoding.
func (b *Batch) Large() bool { return IsLarge(b.size, b.Len()) }

// IsLarge tells whether n items of size bytes in all are Large.
func IsLarge(size, n int) bool { return size >= n*largeItem }

const (
	// largeItem is from how many bytes on, on average, a piece more in a system
	// call is cheaper than a copy.
	largeItem = 4 << 10
	// largeHeader is what the encoding of a large item takes, in bytes: its header
	// and its place.
	largeHeader = 128
	// least is how many bytes a batch of one small item takes, and each of its encodings.
	least = 512
)

// Held is how many bytes the batch takes with so many encodings.
func (b *Batch) Held(encodings int) int {
	if b.Large() {
		return b.size + encodings*b.Len()*largeHeader
	}
	return (b.size + least) * (1 + encodings)
}

// Room is how many bytes of items memory has room for with so many encodings, and
// how many where they are Large.
func Room(memory, encodings int) (bytes, large int) {
	return memory / (1 + encodings), memory / (largeItem + encodings*largeHeader) * largeItem
}

// Item returns item i, counted from 0. The caller must not change it.
func (b *Batch) Item(i int) []byte { return b.memory.Bytes(i) }

// Encoding is a batch in the form a server writes: for each item a frame.
type Encoding struct {
	memory *Memory
	items  *Memory // of the batch, where memory has only what stands in front of them
}

// NewEncoding makes an encoding whose frames are the spans of m. Where the items of
// b are Large a frame is what stands in front of the item, which is followed by CR LF.
func NewEncoding(b *Batch, m *Memory) *Encoding {
	e := &Encoding{memory: m}
	if b.Large() {
		e.items = b.memory
	}
	return e
}

// NewWhole makes an encoding whose frames are the spans of m and nothing else.
func NewWhole(m *Memory) *Encoding { return &Encoding{memory: m} }

// Append appends the frames of the items from (included) to to (excluded) to
// bufs, and tells how many bytes they are.
func (e *Encoding) Append(bufs net.Buffers, from, to int) (_ net.Buffers, size int) {
	if e.items == nil {
		frames := e.memory.Data[e.memory.Spans[from].From:e.memory.Spans[to-1].To]
		return append(bufs, frames), len(frames)
	}
	for i := from; i < to; i++ {
		header, item := e.memory.Bytes(i), e.items.line(i)
		bufs = append(bufs, header, item)
		size += len(header) + len(item)
	}
	return bufs, size
}

// Encoded returns the batch's encoding under key. The first call for a key
// makes it with encode, the others share it; it lives as long as the batch.
func (b *Batch) Encoded(key string, encode func(*Batch) *Encoding) *Encoding {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.encodings {
		if e.key == key {
			return e.Encoding
		}
	}
	e := encode(b)
	b.encodings = append(b.encodings, keyed{key, e})
	return e
}

// Memory returns memory for an encoding of so many bytes.
func (b *Batch) Memory(size int) *Memory { return b.memory.pool.Get(size, b.Len()) }

// Member takes items on behalf of a party: one subscription, say.
type Member interface {
	// Deliver hands over the items from (included) to to (excluded) of b and
	// returns how many of them, counted from the front, the member takes. A
	// member that takes fewer than it was handed wants no more: it is finished,
	// and what it took stays owed. It is called with the relay's lock held, must
	// not block and must not call the relay back. receipt covers what was taken.
	// To keep b it retains it.
	Deliver(b *Batch, from, to int, receipt Receipt) (taken int)
}

// Holder is a Member that is told how much memory its debts take.
type Holder interface {
	Member
	// Hold notes n bytes more, or fewer if n is negative. It is called with the relay's lock
	// held, and must not call the relay back.
	Hold(n int)
}

// Receipt is a member's debt for what one Deliver handed it.
type Receipt interface {
	// Confirm says that the items were received. It may be called from any
	// goroutine, once; when the debt is void by then it does nothing.
	Confirm()
}

// Membership is a member's place in a party. Its methods may be called from
// any goroutine, again and again, but not from within Deliver.
type Membership interface {
	// Leave ends the membership at once: what the member has not confirmed is
	// owed by others from now on.
	Leave()
	// Finish ends deliveries. The first keep items that the member still owes
	// stay owed until they are confirmed; the rest goes to others at once.
	Finish(keep int)
	// Owed is how many items are in the member's hands and not confirmed.
	Owed() int
}

// Metered is a Member that takes as many items as it is asked for by others. It is the only
// member of its consumer. One that takes fewer than it was handed is not finished: it takes
// more when it has Room again.
type Metered interface {
	Member
	// Room is how many items it takes now. It is called with the relay's lock held.
	Room() int
	// Passed notes that it does not get n items that were still to be handed to it: they are
	// duplicates. It is called with the relay's lock held, and must not call the relay back.
	Passed(n int)
}

// Consumption is the Membership of a Metered member.
type Consumption interface {
	Acknowledger
	// Update says that the member's Room has changed.
	Update()
	// Pending is how many items below a number are still to be handed to the member. known
	// tells whether the place in the list is known.
	Pending(below uint64) (n uint64, known bool)
}

// Ack is what a client says about one item of an explicit list.
type Ack struct {
	Kind  AckKind
	Delay time.Duration // Refused: how long to wait before the next delivery

	Reason string // Terminated: the client's, printable and short; may be empty
}

// AckKind is the kind of an Ack.
type AckKind int

const (
	Acked      AckKind = iota // +ACK: it is done with
	Refused                   // -NAK: deliver it again
	InProgress                // +WPI: more time is needed
	Terminated                // +TERM: give it up, to the dead letters
	AckedAll                  // it is done with, and so are all items before it
)

// Acknowledger is a Membership in a list whose items are acknowledged one by one.
type Acknowledger interface {
	Membership
	// Acknowledge says something about the item with number n of an epoch. An item that
	// this member was never given is refused with ErrNotGiven; a second and a late
	// acknowledgement do nothing. saved, if it is not nil, is called once Redis knows
	// of the acknowledgement, or at once if there is nothing to be saved, from any
	// goroutine and without a lock held; with an error if the item may come again.
	Acknowledge(epoch string, n uint64, a Ack, saved func(error)) error
}

// ErrNotGiven refuses an acknowledgement.
var ErrNotGiven = errors.New("the item was never given to this client")
