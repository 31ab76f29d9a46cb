package httpserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

const (
	// ringBytes is the number of item bytes that a feed keeps, and so the most that a slow stream
	// may lag.
	ringBytes = 256 << 10
	// itemCost is the memory of an item besides its bytes.
	itemCost = 64

	// After a rest a feed wakes its streams at once, and then no more often than once in pause for
	// each of them, because that many writes would occupy the processor.
	pause      = 100 * time.Microsecond
	leastPause = 20 * time.Millisecond
	mostPause  = 100 * time.Millisecond

	// pollInterval is how long a feed waits for the loop before it reads the list itself.
	pollInterval = 500 * time.Millisecond
	// pollShare is added to pollInterval by each feed, so that all of them read at most 200 times a
	// second.
	pollShare = 5 * time.Millisecond

	pieceItems = 256 // of a read, at most
	pieceBytes = 128 << 10
)

// feed follows the tail of a list while streams show it. Its items come from the loop, when it
// reads them for consumers, or from the feed's own reads. Items that came from both are recognized
// by their numbers. One goroutine runs it.
type feed struct {
	events *Events
	list   List
	handed chan struct{} // holds one value if queue is not empty
	ended  chan struct{} // closed when run has returned
	end    context.CancelFunc

	mu      sync.Mutex
	queue   []*batch.Batch       // guarded by mu; batches that the loop has read, not yet in ring
	queued  int                  // guarded by mu; bytes of queue
	streams map[*stream]struct{} // guarded by mu
	known   bool                 // guarded by mu; at is known
	at      place                // guarded by mu; one past the last item seen
	state   feedState            // guarded by mu
	ring    []*run               // guarded by mu
	first   uint64               // guarded by mu; the serial of ring's first run
	held    int                  // guarded by mu; bytes of ring
}

// feedState is the reason why a stream has to wait.
type feedState struct {
	name   string // a word of docs/HTTP.md
	holder string // the instance that serves the list
}

const (
	stateServed      = "served"
	stateStandby     = "standby"     // another process serves the list
	stateUnavailable = "unavailable" // Redis is unavailable
)

// run is a sequence of consecutive items. Without items it says that the next ones begin elsewhere.
type run struct {
	place
	items []item
	bytes int
	back  bool // items that were seen are gone, and their numbers are used again

	mu     sync.Mutex
	frames [forms]*frames // guarded by mu
}

// end is the place after the run.
func (r *run) end() place { return place{r.epoch, r.next + uint64(len(r.items))} }

// frames are the items of a run in one form: an id line and the rest of the event for each.
type frames struct {
	data   []byte
	starts []int // of each event, and the end
	bodies []int // of each event, after its id line
}

// in returns the run in a form, which is built once.
func (r *run) in(f form, subject string) *frames {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frames[f] == nil {
		r.frames[f] = framed(f, subject, r.epoch, r.items)
	}
	return r.frames[f]
}

func framed(f form, subject, epoch string, items []item) *frames {
	size := 0
	for _, it := range items {
		size += len(it.data) + itemCost
	}

	fr := &frames{data: make([]byte, 0, size), starts: make([]int, 0, len(items)+1), bodies: make([]int, 0, len(items))}
	for _, it := range items {
		fr.starts = append(fr.starts, len(fr.data))
		if it.duplicate {
			fr.bodies = append(fr.bodies, len(fr.data))
			continue
		}
		if id := placed(epoch, it.number+1); id != "" {
			fr.data = append(append(append(fr.data, "id: "...), id...), '\n')
		}
		fr.bodies = append(fr.bodies, len(fr.data))
		fr.data = appendItem(fr.data, f, subject, epoch, it)
	}

	fr.starts = append(fr.starts, len(fr.data))
	return fr
}

func newFeed(e *Events, l List) *feed {
	ctx, end := context.WithCancel(context.Background())
	f := &feed{
		events: e, list: l, handed: make(chan struct{}, 1), ended: make(chan struct{}), end: end,
		streams: make(map[*stream]struct{}), state: feedState{name: stateServed},
	}
	go f.run(ctx)
	return f
}

// show takes a batch that the loop has read. It is called by the loop.
func (f *feed) show(b *batch.Batch) {
	b.Retain()
	f.mu.Lock()
	f.queue = append(f.queue, b)
	f.queued += cost(b)
	for len(f.queue) > 1 && f.queued-cost(f.queue[0]) >= ringBytes { // the ring has no room for these
		f.queued -= cost(f.queue[0])
		f.queue[0].Release()
		f.queue = f.queue[1:]
	}
	f.mu.Unlock()
	select {
	case f.handed <- struct{}{}:
	default:
	}
}

func isDuplicate(b *batch.Batch, n uint64) bool {
	return slices.ContainsFunc(b.Duplicates(), func(s numbers.Span) bool { return s.From <= n && n < s.To })
}

// cost is the memory of a batch in the ring.
func cost(b *batch.Batch) int { return b.Size() + b.Len()*itemCost }

// run follows the list until ctx ends.
func (f *feed) run(ctx context.Context) {
	defer close(f.ended)
	defer f.drop()
	look := time.NewTimer(0)
	defer look.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	<-rest.C

	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			look.Reset(f.poll(ctx))
		case <-f.handed:
			if f.flush() {
				look.Reset(f.events.pollEvery())
			}
			rest.Reset(f.pause())
			select {
			case <-ctx.Done():
				return
			case <-rest.C:
			}
		}
	}
}

// pause returns how long a feed waits before it wakes its streams again.
func (f *feed) pause() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return min(max(time.Duration(len(f.streams))*pause, leastPause), mostPause)
}

// drop releases the batches that the loop has handed over.
func (f *feed) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.queue {
		b.Release()
	}
	f.queue, f.queued = nil, 0
}

// flush moves the batches that the loop has read into the ring, and reports whether there was anything new.
func (f *feed) flush() bool {
	f.mu.Lock()
	if !f.known || len(f.queue) == 0 { // a poll will tell place and state
		f.mu.Unlock()
		return false
	}
	queue := f.queue
	f.queue, f.queued = nil, 0
	at := f.at
	f.mu.Unlock()

	var runs []*run
	for _, b := range queue {
		if b.Epoch() != at.epoch || b.Next() > at.next {
			runs = addBatch(runs, at, b)
			at = place{b.Epoch(), b.Next()}
		}
		b.Release()
	}
	f.add(at, feedState{name: stateServed}, runs)
	return len(runs) > 0
}

// addBatch adds to runs the items of a batch from a place on, as many as the ring can hold.
func addBatch(runs []*run, at place, b *batch.Batch) []*run {
	from := b.First()
	if b.Epoch() == at.epoch || at.epoch == "" {
		from = max(from, at.next)
	}
	for room, n := ringBytes, b.Next(); n > from; n-- {
		if room -= len(b.Item(int(n-1-b.First()))) + itemCost; room < 0 && n < b.Next() {
			from = n
			break
		}
	}

	var last *run
	if len(runs) > 0 {
		last = runs[len(runs)-1]
	}
	if last == nil || last.end() != (place{b.Epoch(), from}) {
		last = &run{place: place{b.Epoch(), from}}
		runs = append(runs, last)
	}
	size := 0
	for n := from; n < b.Next(); n++ {
		size += len(b.Item(int(n - b.First())))
	}
	data := make([]byte, 0, size)
	for n := from; n < b.Next(); n++ {
		i, start := int(n-b.First()), len(data)
		data = append(data, b.Item(i)...)
		last.items = append(last.items, item{n, b.Time(i), data[start:len(data):len(data)], isDuplicate(b, n)})
	}
	last.bytes += size + int(b.Next()-from)*itemCost
	return runs
}

// add appends runs to the ring, stores place and state, and wakes the streams.
func (f *feed) add(at place, state feedState, runs []*run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := !f.known || len(runs) > 0 || state != f.state
	f.at, f.known, f.state = at, true, state
	for _, r := range runs {
		f.ring = append(f.ring, r)
		f.held += r.bytes
	}
	for len(f.ring) > 1 && f.held > ringBytes {
		f.held -= f.ring[0].bytes
		f.ring[0] = nil
		f.ring = f.ring[1:]
		f.first++
	}

	if changed {
		f.wakeAll()
	}
}

// wakeAll wakes the streams. mu is held.
func (f *feed) wakeAll() {
	for s := range f.streams {
		s.rouse()
	}
}

// poll reads the list, and returns when to read it again.
func (f *feed) poll(ctx context.Context) time.Duration {
	f.flush()
	at, known, _ := f.standing()
	from := From{Number: at.next, AtEnd: !known}
	p, err := f.events.read(ctx, f.list.Key, from)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		f.setState(feedState{name: stateUnavailable})
	case p.Owner != "" && known:
		f.setState(feedState{stateStandby, p.Owner})
	default:
		f.follow(at, known, p)
		f.flush()
		if n := len(p.Items); n > 0 && p.Items[n-1].Number+1 < p.End {
			return leastPause
		}
	}

	return f.events.pollEvery()
}

// follow takes the items that a read from a place on has returned.
func (f *feed) follow(at place, known bool, p Part) {
	state := feedState{name: stateServed}
	if p.Owner != "" {
		state = feedState{stateStandby, p.Owner}
	}
	if !known {
		f.add(place{p.Epoch, p.End}, state, nil)
		return
	}

	next, lost := p.begin(at)
	var runs []*run
	if lost || len(p.Items) > 0 {
		r := &run{place: next, back: p.Epoch == at.epoch && next.next < at.next}
		for _, it := range p.Items {
			if it.Number < next.next { // the read began before this place
				continue
			}
			r.items = append(r.items, item{it.Number, it.seenBy(time.Now()), it.Data, it.Duplicate})
			r.bytes += len(it.Data) + itemCost
		}
		runs, next = append(runs, r), r.end()
	}
	f.add(next, state, runs)
}

// setState sets the reason why streams wait.
func (f *feed) setState(s feedState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s != f.state {
		f.state = s
		f.wakeAll()
	}
}

// join adds a stream to those that the feed wakes.
func (f *feed) join(s *stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams[s] = struct{}{}
}

// leave removes a stream, and reports whether none is left.
func (f *feed) leave(s *stream) (alone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.streams, s)
	return len(f.streams) == 0
}

// standing returns the place that the feed has reached, and its state.
func (f *feed) standing() (at place, known bool, state feedState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at, f.known, f.state
}

// locate returns the serial of the run that has the items from a place on; ok is false if they have
// to be read from Redis. A stream that is ahead of the feed waits for it.
func (f *feed) locate(p place) (serial uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		return 0, false
	}
	end := f.first + uint64(len(f.ring))
	if (p.epoch == f.at.epoch || p.epoch == "") && p.next >= f.at.next {
		return end, true
	}
	for i, r := range f.ring {
		if p.epoch == r.epoch && r.next <= p.next && p.next < r.end().next {
			return f.first + uint64(i), true
		}
	}
	return 0, false
}

// oldest returns the first place in the ring; ok is false if it is empty.
func (f *feed) oldest() (p place, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ring) == 0 {
		return p, false
	}
	return f.ring[0].place, true
}

// from returns the runs from a serial on, or from the oldest one that is left.
func (f *feed) from(serial uint64) (runs []*run, next uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	serial = max(serial, f.first)
	end := f.first + uint64(len(f.ring))
	if serial >= end {
		return nil, end
	}
	return append(runs, f.ring[serial-f.first:]...), end
}
