// Package batch is what travels between the goroutine that reads Redis, the
// relay that decides who gets it, and the servers that write it to clients.
//
// A Batch is a run of consecutive items of one list. Once made it never
// changes, so any number of goroutines share it without a lock; only the cache
// of its encodings has one. The package does no I/O and starts no goroutine.
package batch

import (
	"bytes"
	"errors"
	"sync"
	"time"
)

// Batch is a run of consecutive items of one list, held in one buffer.
type Batch struct {
	subject string
	first   uint64
	data    []byte
	ends    []int

	taken   time.Time // explicit lists only, as tries
	tries   int
	pending int64

	mu        sync.Mutex
	encodings []keyed // guarded by mu; as many as there are distinct keys, so few
}

type keyed struct {
	key string
	*Encoding
}

// New makes a batch of the items that stand one behind the other in data;
// ends[i] is the offset behind item i. The first item has sequence number
// first, the others follow it. data and ends belong to the batch from then on.
func New(subject string, first uint64, data []byte, ends []int) *Batch {
	return &Batch{subject: subject, first: first, data: data, ends: ends}
}

// Of makes a batch of a few items; it copies them.
func Of(subject string, first uint64, items ...[]byte) *Batch {
	var data []byte
	ends := make([]int, 0, len(items))
	for _, item := range items {
		data = append(data, item...)
		ends = append(ends, len(data))
	}
	return New(subject, first, data, ends)
}

// Explicit makes b a batch whose items are acknowledged one by one, each by
// publishing to its reply subject, and returns it. It was taken at the given
// time, which tells items of one life of an instance from those of another, and
// pending items stood behind it in the list.
func (b *Batch) Explicit(taken time.Time, pending int64) *Batch {
	b.taken, b.tries, b.pending = taken, 1, pending
	return b
}

// Again is a batch of item i of b alone, for its n-th delivery.
func (b *Batch) Again(i, n int) *Batch {
	item := b.Item(i)
	return &Batch{
		subject: b.subject, first: b.first + uint64(i), data: item, ends: []int{len(item)},
		taken: b.taken, tries: n, pending: b.pending,
	}
}

// Alone is a batch of item i of b alone, in a buffer of its own.
func (b *Batch) Alone(i int) *Batch {
	alone := b.Again(i, b.tries)
	alone.data = bytes.Clone(alone.data)
	return alone
}

// Taken is when the items of an explicit batch were taken.
func (b *Batch) Taken() time.Time { return b.taken }

// Tries is how often the items of an explicit batch have been delivered to the
// party that gets it, this time included; it is 0 where items are not
// acknowledged one by one.
func (b *Batch) Tries() int { return b.tries }

// Pending is how many items stood behind the batch in the list.
func (b *Batch) Pending() int64 { return b.pending }

// Subject is the subject that the items are delivered under.
func (b *Batch) Subject() string { return b.subject }

// First is the sequence number of the first item. Sequence numbers count the
// items of a list from 0 at the start of the process.
func (b *Batch) First() uint64 { return b.first }

// Next is the sequence number behind the last item.
func (b *Batch) Next() uint64 { return b.first + uint64(len(b.ends)) }

// Len is the number of items.
func (b *Batch) Len() int { return len(b.ends) }

// Size is the number of bytes in all items together.
func (b *Batch) Size() int { return len(b.data) }

// Item returns item i, counted from 0. The caller must not change it.
func (b *Batch) Item(i int) []byte {
	start := 0
	if i > 0 {
		start = b.ends[i-1]
	}
	return b.data[start:b.ends[i]:b.ends[i]]
}

// Encoding is a batch in the form a server writes: the frames of its items one
// behind the other, Ends[i] being the offset behind the frame of item i.
type Encoding struct {
	Data []byte
	Ends []int
}

// Span returns the frames of the items from (included) to to (excluded).
func (e *Encoding) Span(from, to int) []byte {
	start := 0
	if from > 0 {
		start = e.Ends[from-1]
	}
	return e.Data[start:e.Ends[to-1]]
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

// Plan is what the relay lets the loop do next with a list.
type Plan struct {
	Head   uint64 // what is below may be removed from Redis
	Next   uint64 // the item to take next
	Items  int    // how many items may be taken now; 0 means none
	Bytes  int    // how many bytes they may have; at least 1 where Items is not 0
	Active bool   // somebody is there to receive
}

// Member takes items on behalf of a party: one subscription, say.
type Member interface {
	// Deliver hands over the items from (included) to to (excluded) of b and
	// returns how many of them, counted from the front, the member takes. A
	// member that takes fewer than it was handed wants no more: it is finished,
	// and what it took stays owed. It is called with the relay's lock held, must
	// not block and must not call the relay back. receipt covers what was taken.
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
}

// Settlement is an item whose fate is known.
type Settlement struct {
	Seq        uint64
	Dead       string // why it goes to the dead letters; empty when it was acknowledged
	Deliveries int    // the most to one party
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
	// Acknowledge says something about the item with the sequence number seq that
	// was taken at the given time. An item that this member was never given is
	// refused with ErrNotGiven; a second and a late acknowledgement do nothing.
	// removed, where not nil, is called once the item is out of Redis, or at once
	// where nothing is to be removed, from any goroutine and without a lock held;
	// with an error where the item is not in flight any more.
	Acknowledge(seq uint64, taken time.Time, a Ack, removed func(error)) error
}

// ErrNotGiven refuses an acknowledgement.
var ErrNotGiven = errors.New("the item was never given to this client")
