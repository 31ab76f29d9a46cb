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
)

// Batch is a run of consecutive items of one list, held in one buffer.
type Batch struct {
	subject string
	first   uint64
	memory  *Memory
	size    int
	origin  *Batch // whose memory it is, for one item of another batch
	refs    atomic.Int32

	epoch   string
	read    time.Time
	tries   int
	pending int64

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

// Again is a batch of item i of b alone, for its n-th delivery. The caller holds a
// reference to it, and it one to b.
func (b *Batch) Again(i, n int) *Batch {
	b.Retain()
	again := &Batch{
		subject: b.subject, first: b.first + uint64(i), origin: b, size: len(b.Item(i)),
		memory: &Memory{Data: b.memory.Data, Spans: b.memory.Spans[i : i+1]},
		epoch:  b.epoch, read: b.read, tries: n, pending: b.pending + int64(b.Len()-1-i),
	}
	again.refs.Store(1)
	return again
}

// Epoch is the time in which the numbers of the items stand for them.
func (b *Batch) Epoch() string { return b.epoch }

// Read is when the items were read.
func (b *Batch) Read() time.Time { return b.read }

// Tries is how often the items have been delivered to the consumer that gets the batch,
// this time included.
func (b *Batch) Tries() int { return b.tries }

// Pending is how many items stood behind the batch in the list.
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
)

// Held is how many bytes the batch takes with so many encodings.
func (b *Batch) Held(encodings int) int {
	if b.Large() {
		return b.size + encodings*b.Len()*largeHeader
	}
	return b.size * (1 + encodings)
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

// Ack is what a client says about one item of an explicit list.
type Ack struct {
	Kind  AckKind
	Delay time.Duration // Refused: how long to wait before the next delivery
}

// AckKind is the kind of an Ack.
type AckKind int

const (
	Acked      AckKind = iota // +ACK: it is done with
	Refused                   // -NAK: deliver it again
	InProgress                // +WPI: more time is needed
	Terminated                // +TERM: give it up, to the dead letters
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
