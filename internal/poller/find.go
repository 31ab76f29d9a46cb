package poller

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/ledger"
)

// search looks for the known items of a list that others have changed, or that Redis has
// brought back with other data. It reads a batch each turn, from the head on.
type search struct {
	known   map[uint64]print // items by number
	top     uint64           // one past the last of them
	at      uint64           // index of the next item to read
	answers []answer
}

// answer is a number that the item at the head may have.
type answer struct {
	head uint64
	end  uint64 // the items up to there are those that are known
	over bool   // the one at end is another
}

// find looks for the known items of the list. At its end it tells the relay which items
// are gone, and which numbers stand for other items now.
//
// The head has to be a known item, or it is not certain how many items are gone. Among
// the answers the one counts by which most items are the known ones. Of several it is the
// largest number: then an item may come twice, but none is removed that was not delivered.
func (r *reader) find(ctx context.Context, now time.Time) error {
	if r.search == nil {
		r.search = r.newSearch()
	}
	s := r.search
	if s.more(r.end - r.first) {
		return r.searchOn(ctx)
	}
	r.search = nil
	var best *answer
	for i := range s.answers {
		a := &s.answers[i]
		if best == nil || a.end-a.head >= best.end-best.head {
			best = a
		}
	}
	if best == nil {
		return r.beginAnew(ctx, now)
	}
	return r.rebase(ctx, now, best.head-r.first, best.end, r.epoch)
}

func (r *reader) newSearch() *search {
	s := &search{known: make(map[uint64]print), top: r.first}
	for _, one := range r.marks[r.marks.from(r.first):] {
		s.known[one.number] = one.print
	}
	for _, b := range r.held {
		for i := range b.Len() {
			n := b.First() + uint64(i)
			if known := s.known[n]; n >= r.first {
				known.hash = maphash.Bytes(r.seed, b.Item(i))
				s.known[n] = known
			}
		}
	}
	for n := range s.known {
		s.top = max(s.top, n+1)
	}
	if !r.headMoved {
		s.answers = []answer{{head: r.first, end: r.first}}
	}
	return s
}

// more reports whether one of the items of the list has to be read.
func (s *search) more(length uint64) bool {
	if s.at == 0 && length > 0 {
		return true
	}
	return slices.ContainsFunc(s.answers, func(a answer) bool { return !a.over && s.at < length && a.head+s.at < s.top })
}

// searchOn reads the next items.
func (r *reader) searchOn(ctx context.Context) error {
	c, err := r.Server.Open(ctx)
	if err != nil {
		return err
	}
	ask := int(min(r.end-r.first-r.search.at, uint64(r.loop.opts.BatchItems)))
	r.lrange(c, r.first+r.search.at, ask)
	if err := c.Send(ctx); err != nil {
		return err
	}
	c.Receive(nil)
	there := prober{seed: r.seed}
	if err := c.Finish(c.Items(&there, ask)); err != nil {
		return err
	}
	if r.list.FromRight {
		slices.Reverse(there.items)
	}
	for _, item := range there.items {
		r.search.found(item)
	}
	if len(there.items) < ask {
		r.end = r.first + r.search.at
	}
	return nil
}

// found takes the next item of the list into account.
func (s *search) found(item print) {
	if s.at == 0 {
		for n, known := range s.known {
			if known.is(item) && !slices.ContainsFunc(s.answers, func(a answer) bool { return a.head == n }) {
				s.answers = append(s.answers, answer{head: n, end: n})
			}
		}
		slices.SortFunc(s.answers, func(a, b answer) int { return cmp.Compare(a.head, b.head) })
	}
	for i := range s.answers {
		a := &s.answers[i]
		if a.over {
			continue
		}
		n := a.head + s.at
		switch known, ok := s.known[n]; {
		case !ok:
		case known.is(item):
			a.end = n + 1
		default:
			a.over = true
		}
	}
	s.at++
}

// beginAnew gives up the place in the list: its head gets a number that no item had,
// and all of it is delivered.
func (r *reader) beginAnew(ctx context.Context, now time.Time) error {
	first := max(r.top, r.first, r.log.Plan(r.end).Floor)
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
	} else if n := r.log.Plan(r.end); call.First > n.Floor {
		r.lane.log.Warn("others removed items from the list before they were confirmed", zap.Uint64("items", call.First-max(r.first, n.Floor)))
	}
	r.astray, r.headMoved, r.epoch, r.serial, r.renewed = false, false, epoch, out.Serial, now
	r.first, r.end = out.First, out.First+uint64(out.Length)
	r.log.Gone(r.first)
	if r.top = max(r.top, r.first); end < r.top {
		r.log.Rollback(max(end, r.first))
		r.marks.cut(0, max(end, r.first))
		r.forgetHeld(max(end, r.first), noNumber)
		r.top = max(end, r.first)
	}
	r.more = true
	return nil
}

// maxLandmarks bounds the landmarks that one script compares.
const maxLandmarks = 32

// prober is the sink that keeps a print of each item.
type prober struct {
	seed   maphash.Seed
	marker ledger.Marker
	hash   maphash.Hash
	items  []print
}

func (p *prober) Begin(int) (keep bool) {
	p.marker = ledger.Marker{}
	p.hash.SetSeed(p.seed)
	return false
}

func (p *prober) Part(b []byte) {
	p.marker.Add(b)
	p.hash.Write(b)
}

func (p *prober) End(batch.Span) {
	p.items = append(p.items, print{p.marker.Mark(), p.hash.Sum64()})
}

// newEpoch is a name for a time in which numbers stand for the same items.
func newEpoch() string { return strings.ToLower(randomText()) }
