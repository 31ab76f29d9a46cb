package poller

import (
	"context"
	"strings"

	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/ledger"
)

// search looks for what is known of a list that others have changed, or that Redis has
// brought back with other data. It reads a batch each turn, from the head on.
type search struct {
	at     uint64           // index of the next item to read
	shifts map[int64][]bool // by how far known items may have moved to the head -> which of them were found there
}

// maxShifts bounds how many answers are looked at.
const maxShifts = 1024

// find looks for the known items of the list. At its end it tells the relay which items
// are gone, and which numbers stand for other items now.
func (r *reader) find(ctx context.Context, now time.Time) error {
	known := r.marks[r.marks.from(r.first):]
	if r.search == nil {
		r.search = &search{shifts: make(map[int64][]bool)}
	}
	most := uint64(0)
	if len(known) > 0 {
		most = min(r.end, known[len(known)-1].number+1+maxPushed) - r.first
	}
	if r.search.at < most {
		return r.searchOn(ctx, known, most)
	}

	shifts := r.search.shifts
	r.search = nil
	shift, found := best(shifts, known, r.first)
	switch {
	case !found && len(known) == 0 && !r.headMoved:
		return r.rebase(ctx, now, 0, r.first, r.epoch)
	case !found || shift < 0:
		return r.beginAnew(ctx, now)
	}
	first := r.first + uint64(shift)
	return r.rebase(ctx, now, uint64(shift), prefix(known, shifts[shift], first), r.epoch)
}

// maxPushed is how many items behind the last known one are looked at: others may have
// pushed items to the head.
const maxPushed = 1000

// searchOn reads the next items.
func (r *reader) searchOn(ctx context.Context, known marks, most uint64) error {
	c, err := r.Server.Open(ctx)
	if err != nil {
		return err
	}
	ask := int(min(most-r.search.at, uint64(r.loop.opts.BatchItems)))
	r.lrange(c, r.first+r.search.at, ask)
	if err := c.Send(ctx); err != nil {
		return err
	}
	c.Receive(nil)
	var there prober
	if err := c.Finish(c.Items(&there, ask)); err != nil {
		return err
	}
	if r.list.FromRight {
		there.reverse()
	}
	for i, mark := range there.marks {
		r.search.found(known, mark, int64(r.search.at)+int64(i), r.first)
	}
	if r.search.at += uint64(len(there.marks)); len(there.marks) < ask {
		r.end = r.first + r.search.at
	}
	return nil
}

// found notes the known items that look like the one at an index.
func (s *search) found(known marks, mark ledger.Mark, index int64, first uint64) {
	for i, one := range known {
		if one.Mark != mark {
			continue
		}
		shift := int64(one.number-first) - index
		if s.shifts[shift] == nil {
			if len(s.shifts) == maxShifts {
				continue
			}
			s.shifts[shift] = make([]bool, len(known))
		}
		s.shifts[shift][i] = true
	}
}

// best is the shift at which most of the known items were found that would still be there.
// Of several it is the largest: then fewer items count as still there, so an item may come
// twice, but none is removed that was not delivered.
func best(shifts map[int64][]bool, known marks, first uint64) (shift int64, found bool) {
	most := -1
	for s, at := range shifts {
		n := 0
		for _, there := range at {
			if there {
				n++
			}
		}
		if n > most || n == most && s > shift {
			shift, most, found = s, n, true
		}
	}
	return shift, found
}

// prefix is the number behind the last known item up to which all known ones were found.
func prefix(known marks, found []bool, first uint64) uint64 {
	end := first
	for i, one := range known {
		if one.number < first {
			continue
		}
		if !found[i] {
			return end
		}
		end = one.number + 1
	}
	return noNumber
}

// beginAnew gives up what is known of the list: its head gets a number that no item had,
// and all of it is delivered.
func (r *reader) beginAnew(ctx context.Context, now time.Time) error {
	first := max(r.top, r.first, r.log.Plan(false).Floor)
	return r.rebase(ctx, now, first-r.first, noNumber, newEpoch())
}

// rebase tells ledger and relay that the first gone items were removed by others, and
// that numbers from end on stand for other items, or for none.
func (r *reader) rebase(ctx context.Context, now time.Time, gone, end uint64, epoch string) error {
	call := r.call()
	call.Rebase, call.First, call.Renew = true, r.first+gone, true
	if epoch != r.epoch {
		call.Set = append(call.Set, ledger.Field{Name: ledger.Epoch, Value: epoch})
	} else {
		for _, one := range r.marks[r.marks.from(call.First):] {
			if one.number < end && len(call.Landmarks) < maxLandmarks {
				call.Landmarks = append(call.Landmarks, ledger.Landmark{Index: int64(one.number - call.First), Mark: one.Mark})
			}
		}
	}
	r.unknown = call.Attempt
	reply, err := r.Server.Do(ctx, call.Words(r.keys)...)
	if err != nil {
		return err
	}
	out, err := ledger.ParseOutcome(reply)
	if err != nil {
		return err
	}
	r.unknown = 0
	r.standing(out, now)
	if out.What != ledger.OK {
		r.claimed = false
		return nil
	}
	if epoch != r.epoch {
		r.lane.log.Warn("the list is not the one that was read: all that Redis holds of it is delivered",
			zap.Uint64("items", uint64(out.Length)))
	} else if n := r.log.Plan(false); call.First > n.Floor {
		r.lane.log.Warn("others removed items from the list before they were confirmed", zap.Uint64("items", call.First-max(r.first, n.Floor)))
	}
	r.astray, r.headMoved, r.epoch, r.serial, r.renewed = false, false, epoch, out.Serial, now
	r.first, r.end = out.First, out.First+uint64(out.Length)
	r.log.Gone(r.first)
	if r.top = max(r.top, r.first); end < r.top {
		r.log.Rollback(max(end, r.first))
		r.marks.cut(0, max(end, r.first))
		r.top = max(end, r.first)
	}
	r.more = true
	return nil
}

// maxLandmarks bounds what one script compares.
const maxLandmarks = 32

// prober is the sink that keeps the mark of each item.
type prober struct {
	marker ledger.Marker
	marks  []ledger.Mark
}

func (p *prober) Begin(int) (keep bool) {
	p.marker = ledger.Marker{}
	return false
}

func (p *prober) Part(b []byte) { p.marker.Add(b) }

func (p *prober) End(batch.Span) { p.marks = append(p.marks, p.marker.Mark()) }

func (p *prober) reverse() {
	for i, j := 0, len(p.marks)-1; i < j; i, j = i+1, j-1 {
		p.marks[i], p.marks[j] = p.marks[j], p.marks[i]
	}
}

// newEpoch is a name for a time in which numbers stand for the same items.
func newEpoch() string { return strings.ToLower(randomText()) }
