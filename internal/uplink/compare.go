package uplink

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"go.uber.org/zap"

	"edged/internal/numbers"
)

// holdings are the items of a feed, by epoch, that the hub has although edged has no confirmation
// of them.
type holdings map[string]*numbers.Set

func (h holdings) has(epoch string, n uint64) bool {
	set := h[epoch]
	return set != nil && set.Has(n)
}

func (h holdings) add(epoch string, from, to uint64) {
	if h[epoch] == nil {
		h[epoch] = new(numbers.Set)
	}
	h[epoch].Add(from, to)
}

// atHub reports whether an item is not to be sent, because the hub has it already or it is void.
// Before the first item of a feed and an epoch goes over a link, the hub is asked: an earlier
// process may have sent this item and later ones, in another epoch.
func (u *Uplink) atHub(ctx context.Context, link Link, s *sending) (bool, error) {
	f := s.feed
	u.mu.Lock()
	compared, known, void := f.compared == s.item.Epoch, f.known, f.life != s.life
	if void || compared {
		u.mu.Unlock()
		return void || known.has(s.item.Epoch, s.item.Number), nil
	}
	at := place{start: f.start, lowest: s.item.Number}
	if s.item.Epoch == f.epoch {
		at.floor = f.floor
	}
	at.owed = make(map[uint64]bool, len(f.queue))
	for _, item := range f.queue {
		at.lowest = min(at.lowest, item.Number)
		at.owed[item.Number] = true
	}
	u.mu.Unlock()

	known, newest, err := u.compare(ctx, link, s.item, at)
	if err != nil {
		return false, err
	}
	if err := u.owns(ctx, s.item.List); err != nil {
		return false, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if f.life != s.life {
		return true, nil
	}
	f.compared, f.known, f.run = s.item.Epoch, known, newest
	return known.has(s.item.Epoch, s.item.Number), nil
}

// owns fails if a list belongs to another process, which may have sent more items than compare
// checks. If another process takes the list over later, the hub has received other messages since
// the link began.
func (u *Uplink) owns(ctx context.Context, list string) error {
	owner, err := u.opts.Owns(ctx, list)
	switch {
	case err != nil:
		return fmt.Errorf("ask Redis for the owner of list %s: %w", list, err)
	case !owner:
		return fmt.Errorf("list %s is no longer this process's", list)
	}
	return nil
}

// run is a sequence of items that the hub received one after the other.
type run struct {
	epoch      string
	from, next uint64
}

// place describes the items of a feed in this life.
type place struct {
	start  uint64 // from this number on, the hub has all items before the oldest unconfirmed one
	lowest uint64 // number of an unconfirmed item
	floor  uint64 // items with lower numbers were pushed to the head in this life, so no earlier process has sent them

	owed map[uint64]bool // unconfirmed items, as far as the feed has them
}

// compare returns the items, from the lowest one on, that the hub has. It also returns the last run
// of its items, which the next item may continue.
//
// In one epoch a number stands for one item. If another epoch has begun since, Redis may have lost
// items and given their numbers to new ones. Then only items that Redis has with the same bytes, up
// to the first difference, are proved to be at the hub.
func (u *Uplink) compare(ctx context.Context, link Link, oldest Item, at place) (known holdings, newest run, err error) {
	known = make(holdings)
	last, marks, err := u.look(ctx, link, oldest.Subject, at.lowest)
	if err != nil || last.Epoch == "" {
		return known, newest, err
	}
	for _, m := range marks {
		known.add(m.Epoch, m.Number, m.Number+1)
	}
	newest = run{last.Epoch, last.Run, last.Number + 1}
	if len(marks) == 0 {
		if last.Epoch != oldest.Epoch && last.Number+1 == oldest.Number && at.start < oldest.Number {
			newest = run{oldest.Epoch, at.start, oldest.Number} // they were proved in this life
		}
		return known, newest, nil
	}

	current := marks[0].Epoch == oldest.Epoch
	if current {
		// Redis's data may have been replaced by hand.
		if _, other, err := u.equal(ctx, oldest, marks[:1]); err != nil || other {
			return make(holdings), run{}, err
		}
	}
	if known.has(oldest.Epoch, oldest.Number) {
		return known, newest, nil
	}
	from := max(oldest.Number, at.floor)
	begin, next, err := u.prove(ctx, oldest, from, at.owed, marks, known)
	switch {
	case next == last.Number+1 && begin == from && from == oldest.Number:
		newest = run{oldest.Epoch, min(at.start, from), next}
	case next == last.Number+1:
		newest = run{oldest.Epoch, begin, next}
	case !current:
		newest = run{}
	}
	return known, newest, err
}

// lookAtOnce is the number of the hub's messages that are requested at a time.
const lookAtOnce = 32

// look returns the last item of a subject at the hub, and the last items from number lowest on, the
// newest first. It looks as far back as an earlier process may have been unable to record
// confirmations: see relay.boundEarlier. Below lowest it skips items that were sent one after the
// other.
func (u *Uplink) look(ctx context.Context, link Link, subject string, lowest uint64) (last Mark, marks []Mark, err error) {
	last, err = link.Last(ctx, subject)
	if err != nil || last.Sequence == 0 {
		return last, nil, asked(subject, err)
	}

	lost := 4 * u.opts.WindowItems
	below, covered := last.Sequence+1, 0
	for some, looked := []Mark{last}, 0; ; looked += lookAtOnce {
		for _, m := range some {
			switch {
			case m.Sequence >= below: // skipped
			case m.Epoch == "":
				below = m.Sequence
			case m.Number < lowest:
				below = m.Sequence - min(m.Number-m.Run, m.Sequence-1)
				covered += int(m.Number - m.Run + 1)
			default:
				below = m.Sequence
				covered++
				marks = append(marks, m)
			}
		}
		if covered >= lost || looked >= 4*lost || below <= 1 {
			return last, marks, nil
		}
		if some, err = link.Before(ctx, subject, below, lookAtOnce); err != nil {
			return last, nil, asked(subject, err)
		}
		some = append(some, Mark{Sequence: below - min(below-1, lookAtOnce)}) // the oldest message that was read
	}
}

func asked(subject string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ask which items of %s it has: %w", subject, err)
}

// prove adds to known the items, from a number on, that Redis has with the same bytes as the hub. The
// hub lacks numbers that no item was sent for, such as those of duplicates and dead letters, but no item that
// is owed before others. prove returns where the last items with consecutive numbers begin, and one past the
// last of them, or 0.
func (u *Uplink) prove(ctx context.Context, oldest Item, from uint64, owed map[uint64]bool, marks []Mark, known holdings) (begin, next uint64, err error) {
	byNumber := make(map[uint64]Mark)
	for _, m := range slices.Backward(marks) {
		byNumber[m.Number] = m
	}
	numbers := slices.Sorted(maps.Keys(byNumber))
	i, _ := slices.BinarySearch(numbers, from)
	if i == len(numbers) || numbers[i] != from {
		return 0, 0, nil
	}

	for i < len(numbers) {
		start := numbers[i]
		var some []Mark
		for ; i < len(numbers) && numbers[i] == start+uint64(len(some)); i++ {
			some = append(some, byNumber[numbers[i]])
		}
		same, _, err := u.equal(ctx, oldest, some)
		if err != nil {
			return 0, 0, err
		}
		if same > 0 {
			begin, next = start, start+uint64(same)
			known.add(oldest.Epoch, begin, next)
		}
		if same < len(some) || i < len(numbers) && owes(owed, next, numbers[i]) {
			break
		}
	}
	return begin, next, nil
}

// owes reports whether one of the items from from to to, to excluded, is owed.
func owes(owed map[uint64]bool, from, to uint64) bool {
	for n := range owed {
		if from <= n && n < to {
			return true
		}
	}
	return false
}

// Items are compared in pieces of at most so many items and, apart from the first one, so many bytes.
// Redis computes their sums, and serves nothing else meanwhile.
const (
	chunk      = 64
	chunkBytes = 1 << 20
)

// equal returns how many of the marks, which have consecutive numbers, are equal to the items in
// Redis, or have left the list. other reports whether the next mark differs from its item.
func (u *Uplink) equal(ctx context.Context, oldest Item, marks []Mark) (same int, other bool, err error) {
	for same < len(marks) {
		from, bytes := marks[same].Number, 0
		var items [][]byte
		for _, m := range marks[same:] {
			if bytes += len(m.Data); len(items) == chunk || bytes > chunkBytes && len(items) > 0 {
				break
			}
			items = append(items, m.Data)
		}
		first, equal, err := u.opts.Compare(ctx, oldest.List, from, items)
		if err != nil {
			return same, false, fmt.Errorf("compare list %s in Redis: %w", oldest.List, err)
		}
		// Those before the first have been confirmed meanwhile, and have left the list.
		equal += int(min(first-from, uint64(len(items))))
		if same += equal; equal < len(items) {
			u.differs(oldest, marks[same])
			return same, true, nil
		}
	}

	return same, false, nil
}

// differs logs that the hub has items that Redis does not have.
func (u *Uplink) differs(oldest Item, at Mark) {
	u.opts.Log.Warn("the hub has items that Redis has lost; the items that Redis has are sent, some may be there twice",
		zap.String("list", oldest.List), zap.Uint64("number", at.Number), zap.String("epoch_at_the_hub", at.Epoch), zap.String("epoch", oldest.Epoch))
}

// begin returns the number from which on items up to this one were sent one after the other. ok is
// false if the item is void.
func (u *Uplink) begin(s *sending) (from uint64, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f, n := s.feed, s.item.Number
	if f.life != s.life {
		return 0, false
	}
	if f.run.next != n || f.run.epoch != s.item.Epoch {
		f.run = run{epoch: s.item.Epoch, from: n}
	}
	f.run.next = n + 1
	return f.run.from, true
}

// endRun notes that the item sent last will not reach the hub.
func (u *Uplink) endRun(f *Feed) {
	u.mu.Lock()
	f.run = run{}
	u.mu.Unlock()
}
