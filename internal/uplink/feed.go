package uplink

import (
	"context"
	"errors"
	"slices"
	"time"

	"edged/internal/batch"
)

// Feed is a list of an uplink. It is the only member of the list's durable consumer, and implements
// batch.Metered.
type Feed struct {
	uplink  *Uplink
	list    string
	subject string // at the hub

	membership batch.Consumption // set by Join

	// Guarded by Uplink.mu.
	class    int      // lower ones go first
	turn     uint64   // the item of the uplink that was sent last of this feed
	life     uint64   // counts resets: items queued before the last one are void
	epoch    string   // of the newest item
	lowest   uint64   // lowest number of an item in this life; 0 if there is none
	floor    uint64   // lowest when that epoch began; later items with lower numbers were pushed to the head
	start    uint64   // from this number on, the hub has all confirmed items of this life
	queue    []Item   // from the oldest unconfirmed one on, in the order of delivery
	queued   int      // bytes in it
	sent     int      // number of items of the queue in flight
	void     int      // items of earlier lives in flight
	compared string   // epoch for which the hub was asked, over this link, which items it has
	known    holdings // the hub's answer
	run      run      // of the item sent last
}

// NewFeed makes a feed of a list, whose items the hub gets under subject.
func (u *Uplink) NewFeed(list, subject string) *Feed {
	f := &Feed{uplink: u, list: list, subject: subject}
	u.mu.Lock()
	u.feeds = append(u.feeds, f)
	u.mu.Unlock()
	return f
}

// Join sets the feed's membership. It is called once, before the first item.
func (f *Feed) Join(m batch.Consumption) { f.membership = m }

// Leave ends the feed: items that it has not confirmed stay owed.
func (f *Feed) Leave() {
	u := f.uplink
	u.mu.Lock()
	u.feeds = slices.DeleteFunc(u.feeds, func(other *Feed) bool { return other == f })
	f.reset()
	u.mu.Unlock()
	f.membership.Leave()
}

// Reset says that the list no longer belongs to this process, or begins anew. The items that the
// feed holds are void, and come again if they are still owed.
func (f *Feed) Reset() {
	f.uplink.mu.Lock()
	f.reset()
	f.uplink.mu.Unlock()
	f.uplink.wake()
}

// reset drops all items. mu is held.
func (f *Feed) reset() {
	f.void += f.sent
	f.uplink.unsend(f)
	f.life++
	f.queue, f.queued, f.compared = nil, 0, ""
	f.epoch, f.lowest, f.floor, f.run = "", 0, 0, run{}
}

// Room implements batch.Metered.
func (f *Feed) Room() int {
	u := f.uplink
	u.mu.Lock()
	defer u.mu.Unlock()
	if !f.low() {
		return 0
	}
	return f.room()
}

// Passed implements batch.Metered.
func (f *Feed) Passed(int) {}

// low reports whether the feed takes more items. It holds at most two windows, and takes more when
// one is left, so that the list is read in large pieces. mu is held.
func (f *Feed) low() bool {
	o := &f.uplink.opts
	return len(f.queue) <= o.WindowItems && f.queued <= o.WindowBytes
}

// room returns how many more items the feed takes. mu is held.
func (f *Feed) room() int {
	o := &f.uplink.opts
	if f.queued >= 2*o.WindowBytes {
		return 0
	}
	return 2*o.WindowItems - len(f.queue)
}

// Deliver implements batch.Member. It copies the items, so that a link which is down for days keeps
// no more than the window in memory.
func (f *Feed) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) (taken int) {
	u := f.uplink
	u.mu.Lock()
	if epoch := b.Epoch(); epoch != f.epoch && from < to {
		f.epoch, f.start, f.floor = epoch, b.First()+uint64(from), f.lowest
	}
	for i := from; i < to && f.room() > 0; i++ {
		item := Item{List: f.list, Subject: f.subject, Epoch: b.Epoch(), Number: b.First() + uint64(i), Seen: b.Time(i), Data: slices.Clone(b.Item(i))}
		if f.lowest == 0 || item.Number < f.lowest {
			f.lowest = item.Number
		}
		f.queue = append(f.queue, item)
		f.queued += len(item.Data)
		taken++
	}
	if taken > 0 {
		u.receipts = append(u.receipts, receipt)
	}
	u.mu.Unlock()

	if taken > 0 {
		u.wake()
		select {
		case u.copied <- struct{}{}:
		default:
		}
	}
	return taken
}

// confirmCopies tells the relay, until ctx ends, which batches were copied; Deliver itself is not
// allowed to.
func (u *Uplink) confirmCopies(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.copied:
		}
		u.mu.Lock()
		receipts := u.receipts
		u.receipts = nil
		u.mu.Unlock()
		for _, r := range receipts {
			r.Confirm()
		}
	}
}

// take returns the next item to be sent, and counts it as in flight. It returns no feed if there is
// no item, or if the window is full.
func (u *Uplink) take(pipelined bool) (s sending) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.paused || u.sent >= u.opts.WindowItems || u.sent > 0 && u.bytes >= u.flow.Bytes {
		return s
	}
	f := u.classes.choose(u.feeds, pipelined)
	if f == nil {
		return s
	}
	s = sending{feed: f, life: f.life, item: f.queue[f.sent]}
	f.sent++
	u.sent++
	u.bytes += s.item.size()
	return s
}

// waits reports whether the feed has an item that can be sent. A feed whose items of an earlier
// life are in flight waits for them: only then can the hub tell which items it has.
func (f *Feed) waits(pipelined bool) bool {
	return f.sent < len(f.queue) && f.void == 0 && (pipelined || f.sent == 0)
}

// confirm notes that the hub has the oldest item in flight, or will never take it.
func (u *Uplink) confirm(s sending, repeated bool, err error) {
	u.mu.Lock()
	f := s.feed
	if f.life != s.life {
		f.void--
		u.mu.Unlock()
		u.wake()
		return
	}
	was := f.low()
	u.drop(f)
	low := f.low() && !was
	u.sent--
	u.bytes -= s.item.size()
	f.sent--
	switch {
	case s.known:
		u.state.Skipped++
	case err != nil:
		u.state.Refused++
		f.run, f.start = run{}, s.item.Number+1 // the hub does not have it
	case repeated:
		u.state.Repeated++
	default:
		u.state.Sent++
		u.state.SentBytes += uint64(len(s.item.Data))
	}
	resumed := err == nil && u.state.Reason != ""
	if resumed {
		u.state.Reason = ""
	}
	if s.Sending != nil {
		full := 2*(u.bytes+s.item.size()) > u.flow.Bytes
		u.flow.Confirmed(s.item.size(), s.sent, time.Now(), full, u.opts.WindowBytes)
	}
	u.mu.Unlock()

	if resumed {
		u.opts.Log.Info("the uplink sends again")
	}
	ack := batch.Ack{Kind: batch.Acked}
	if refusal, final := errors.AsType[Refusal](err); final {
		ack = batch.Ack{Kind: batch.Terminated, Reason: "the hub of uplink " + u.opts.Name + " refuses it: " + refusal.Reason}
	}
	// If the item now belongs to another process, that process acknowledges it.
	_ = f.membership.Acknowledge(s.item.Epoch, s.item.Number, ack, nil)
	if low {
		f.membership.Update()
	}
	u.wake()
}

// drop removes the first item of a feed's queue. mu is held.
func (u *Uplink) drop(f *Feed) {
	f.queued -= len(f.queue[0].Data)
	f.queue[0] = Item{}
	f.queue = f.queue[1:]
}

// rewind makes all unconfirmed items be sent again, over the next link.
func (u *Uplink) rewind() {
	u.mu.Lock()
	for _, f := range u.feeds {
		u.unsend(f)
		f.void = 0
	}
	u.mu.Unlock()
}

// unsend takes back the items of a feed that are in flight. mu is held.
func (u *Uplink) unsend(f *Feed) {
	for _, item := range f.queue[:f.sent] {
		u.sent--
		u.bytes -= item.size()
	}
	f.sent = 0
}

// Held returns the number of items that wait for the hub's confirmation, and when edged first saw
// the oldest one; zero if there is none.
func (f *Feed) Held() (n int, oldest time.Time) {
	f.uplink.mu.Lock()
	defer f.uplink.mu.Unlock()
	if len(f.queue) > 0 {
		oldest = f.queue[0].Seen
	}
	return len(f.queue), oldest
}
