package poller

import (
	"cmp"
	"context"
	"crypto/rand"
	"hash/maphash"
	"maps"
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
	gaps    []gap            // before known items
	first   uint64           // the number of the item that was the head
	top     uint64           // one past the last of them
	at      uint64           // index of the next item to read
	ask     int              // how many items the next read may ask for; 0 is one
	failed  int              // reads in a row
	answers []answer
	others  []answer // those by which the head is an unknown item
}

const (
	maxKnown   = 4096 // items that are looked for
	maxUnknown = 4096 // items that are looked at for the first known one
	maxAnswers = 16   // of search.others, that are not over
	maxRefused = 3    // answers that Redis refuses in a row, as the list is another one meanwhile
)

// gap is a run of items that are not known.
type gap struct{ after, end uint64 } // known items

// answer is a number that the item at the head may have.
type answer struct {
	head uint64
	end  uint64 // the items up to there are those that are known
	over bool   // the one at end is another
	new  uint64 // so many items from the head on are new, or not known
}

// find looks for the known items of the list. At its end it tells the relay which items
// are gone, and which numbers stand for other items now.
//
// If the head is a known item, the answer counts by which most items are the known ones. Of
// several it is the largest number: then an item may come twice, but none is removed that was
// not delivered. If it is not, all known items have to be there from the first on
// that is found, or it is not certain how many items are gone.
//
// The items before that first one are new, or not known. They get the numbers
// below it, in a new epoch, and every consumer gets them: items that were removed had these numbers,
// and an item's id tells them apart. So nothing else that is on its way comes again, and a
// program that goes on pushing to the head costs a few round trips each time. If no such
// numbers are left, or too many items are new, or it is not certain, all comes again.
func (r *reader) find(ctx context.Context, now time.Time) error {
	if r.search == nil {
		r.search = r.newSearch()
	}
	s := r.search
	if s.more(r.end - r.first) {
		return r.searchOn(ctx)
	}
	r.search = nil
	best := s.best()
	switch {
	case best == nil, r.refused >= maxRefused:
		return r.beginAnew(ctx, now)
	case best.new == 0:
	case r.relay.Free(best.head, best.head+best.new):
		return r.insert(ctx, now, best.head, best.head+best.new, s.landmarks(best.head, s.top))
	default:
		return r.beginAnew(ctx, now)
	}
	best.end = min(best.end, r.revived)
	epoch := r.epoch
	if best.end < r.top {
		epoch = newEpoch() // numbers stand for other items now
	}
	return r.rebase(ctx, now, best.head-r.first, best.end, epoch, s.landmarks(best.head, best.end))
}

// landmarks are the first known items below end, in a list whose head has a number. The outcome of the
// search is only true if they still stand there: an item that is pushed meanwhile would shift the
// numbers, and one that was never delivered would pass for one that was.
func (s *search) landmarks(head, end uint64) (all []ledger.Landmark) {
	for _, n := range slices.Sorted(maps.Keys(s.known)) {
		if n >= head && n < end && len(all) < maxLandmarks {
			all = append(all, ledger.Landmark{Index: int64(n - head), Mark: s.known[n].Mark})
		}
	}
	return all
}

// best returns the answer that counts, if there is any.
func (s *search) best() (best *answer) {
	for i := range s.answers {
		if a := &s.answers[i]; best == nil || a.end-a.head >= best.end-best.head {
			best = a
		}
	}
	if best != nil {
		return best
	}
	for i := range s.others {
		if a := &s.others[i]; s.complete(*a) && (best == nil || a.head > best.head) {
			best = a
		}
	}
	return best
}

// complete reports whether all known items are there, from the first that was found on.
func (s *search) complete(a answer) bool { return a.end == s.top }

func (r *reader) newSearch() *search {
	s := &search{known: make(map[uint64]print), first: r.first, top: r.first}
	for _, one := range r.marks[r.marks.from(r.first):] {
		s.known[one.number] = one.print
	}
	for _, b := range r.held {
		for i := range b.Len() {
			n := b.First() + uint64(i)
			if n >= r.first && len(s.known) < maxKnown {
				s.known[n] = printOf(r.seed, b.Item(i))
			}
		}
	}
	if _, ok := s.known[r.first]; !ok && r.head != "" {
		s.known[r.first] = print{Mark: r.head}
	}
	s.findGaps()
	if !r.headMoved {
		s.answers = []answer{{head: r.first, end: r.first}}
	}
	return s
}

// findGaps finds the runs of unknown items, and the end of the known ones.
func (s *search) findGaps() {
	after := s.first
	for _, n := range slices.Sorted(maps.Keys(s.known)) {
		if n > after+1 {
			s.gaps = append(s.gaps, gap{after, n})
		}
		after = n
		s.top = n + 1
	}
}

// more reports whether one of the items of the list has to be read.
func (s *search) more(length uint64) bool {
	reads := func(a answer) bool { return !a.over && s.at < length && a.head+s.at < s.top }
	return s.at == 0 && length > 0 || slices.ContainsFunc(s.answers, reads) || slices.ContainsFunc(s.others, reads) ||
		s.looks() && s.at < length
}

// looks reports whether the first known item may stand at the next index.
func (s *search) looks() bool {
	return len(s.answers) == 0 && s.at > 0 && s.at <= maxUnknown && len(s.others) < maxAnswers && !slices.ContainsFunc(s.others, s.complete)
}

// searchOn reads the next items: one at first, since their sizes are not known, then up to
// twice as many each time, and half as many after a fault.
func (r *reader) searchOn(ctx context.Context) error {
	s := r.search
	if s.failed > maxMisses {
		return r.searchByMark(ctx)
	}
	left := int(min(r.end-r.first-s.at, uint64(r.loop.opts.BatchItems)))
	ask := max(1, min(s.ask, left))
	s.failed, s.ask = s.failed+1, max(1, ask/2)
	items, err := r.printsOf(ctx, r.first+s.at, ask)
	if err != nil {
		return err
	}
	if r.list.FromRight {
		slices.Reverse(items)
	}
	largest := 1
	for _, item := range items {
		s.found(item)
		largest = max(largest, item.Size())
	}
	s.failed, s.ask = 0, max(1, min(2*ask, r.loop.opts.BatchBytes/largest))
	if len(items) < ask {
		r.end = r.first + s.at
	}
	return nil
}

// searchByMark takes the next item into account without reading it: that has failed.
func (r *reader) searchByMark(ctx context.Context) error {
	mark, err := r.markOf(ctx, r.first+r.search.at)
	if err != nil {
		return err
	}
	if r.search.failed = 0; mark == "" {
		r.end = r.first + r.search.at
		return nil
	}
	r.search.found(print{Mark: mark})
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
	if s.looks() {
		s.guess(item)
	}
	s.compare(s.answers, item)
	s.compare(s.others, item)
	s.others = slices.DeleteFunc(s.others, func(a answer) bool { return a.over })
	s.at++
}

// guess adds the answers by which the next item is a known one, and those before it are not:
// others have put items in front of the head, or removed some.
//
// Where others may have done either, it is not certain how many of the items are gone.
func (s *search) guess(item print) {
	if head, ok := s.known[s.first]; ok && head.is(item) {
		if s.at <= s.first {
			s.others = append(s.others, answer{head: s.first - s.at, new: s.at})
		}
		return
	}
	for _, g := range s.gaps {
		if g.end > g.after+s.at && s.known[g.end].is(item) {
			s.others = append(s.others, answer{head: g.end - s.at, new: s.at})
		}
	}
}

// compare takes the next item into account for some answers.
func (s *search) compare(answers []answer, item print) {
	for i := range answers {
		a := &answers[i]
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
}

// beginAnew gives up the place in the list: its head gets a number that no item had,
// and all of it is delivered.
func (r *reader) beginAnew(ctx context.Context, now time.Time) error {
	first := max(r.top, r.first, r.relay.Plan(r.first, r.end).Floor)
	return r.rebase(ctx, now, first-r.first, noNumber, newEpoch(), nil)
}

// insert gives the numbers from first on, up to known, to the new items at the head. The ledger
// is told in the same step that no consumer has confirmed them.
func (r *reader) insert(ctx context.Context, now time.Time, first, known uint64, landmarks []ledger.Landmark) error {
	epoch, call, before := newEpoch(), r.call(), r.first
	r.relay.Insert(epoch, first, known)
	r.marks.cut(known, noNumber)
	r.forgetHeld(0, known)
	if r.revived < r.top {
		r.rollback(epoch, max(r.revived, known))
	}
	r.first = first
	call.Rebase, call.First, call.Renew = true, first, true
	call.Set = []ledger.Field{{Name: ledger.Epoch, Value: epoch}}
	call.Landmarks = landmarks
	if _, err := r.write(call, now); err != nil {
		return err
	}
	if ok, err := r.rebased(ctx, now, call, epoch); !ok {
		return err
	}
	r.revived = noNumber
	if first > before {
		r.gone(before)
	} else if !r.warned { // it may happen with every item
		r.warned = true
		r.log.Warn("another program pushes to the list's head: is take_from the other end?")
	}
	r.more = true
	return nil
}

// rollback tells the relay that the items from end on are not the known ones.
func (r *reader) rollback(epoch string, end uint64) {
	r.relay.Rollback(epoch, end)
	r.forgetHeld(end, noNumber)
	r.top = end
}

// gone tells the relay that the items below the head are gone. The head was the item with
// number before.
func (r *reader) gone(before uint64) {
	if floor := max(before, r.relay.Plan(r.first, r.end).Floor); r.first > floor {
		r.noteVanished(floor, r.first)
		r.log.Warn("others removed items from the list before they were confirmed", zap.Uint64("items", r.first-floor))
	}
	r.relay.Gone(r.first)
}

// rebased carries a call out that says which number the head has, and reports whether the ledger
// has it.
func (r *reader) rebased(ctx context.Context, now time.Time, call *ledger.Call, epoch string) (bool, error) {
	r.unknown = call.Attempt
	out, err := r.carryOut(ctx, call, now)
	if err != nil {
		return false, err
	}
	r.saved(out.What == ledger.OK)
	if r.claimed = out.What == ledger.OK; !r.claimed {
		r.refused++
		return false, nil
	}
	r.refused = 0
	r.astray, r.headMoved, r.epoch, r.serial, r.updated, r.renewed = false, false, epoch, out.Serial, out.Serial, now
	r.first, r.end = out.First, out.First+uint64(out.Length)
	if r.repeats != nil {
		r.repeats.reset(r.first)
	}
	return true, nil
}

// rebase tells ledger and relay that the first gone items were removed by others, and
// that numbers from end on stand for other items, or for none. If end is noNumber no item of the
// list is a known one.
func (r *reader) rebase(ctx context.Context, now time.Time, gone, end uint64, epoch string, landmarks []ledger.Landmark) error {
	call := r.call()
	call.Rebase, call.First, call.Renew = true, r.first+gone, true
	if epoch != r.epoch {
		call.Set = append(call.Set, ledger.Field{Name: ledger.Epoch, Value: epoch})
	}
	call.Landmarks = landmarks
	before, anew := r.first, end == noNumber
	if end = max(end, call.First); end < r.top {
		r.rollback(epoch, end)
		r.first = call.First
		if _, err := r.write(call, now); err != nil {
			return err
		}
	}
	if ok, err := r.rebased(ctx, now, call, epoch); !ok {
		return err
	}
	r.revived = noNumber
	r.relay.Renew(epoch)
	if anew {
		r.log.Warn("the list is not the one that was read: all that Redis holds of it is delivered",
			zap.Uint64("items", r.end-r.first))
		r.noteVanished(max(before, r.relay.Plan(r.first, r.end).Floor), r.first)
		r.relay.Gone(r.first)
	} else {
		r.gone(before)
	}
	r.marks.cut(0, end) // the ledger's may be of an item that was not read since
	r.top = max(r.top, r.first)
	r.more = true
	return nil
}

// maxDead is how many numbers of dead letters are remembered.
const maxDead = 1000

// noteDead remembers an item that becomes a dead letter.
func (r *reader) noteDead(n uint64) {
	if len(r.dead) == maxDead {
		for _, old := range r.dead[:maxDead/2] {
			r.deadBelow = max(r.deadBelow, old+1)
		}
		r.dead = slices.Delete(r.dead, 0, maxDead/2)
	}
	r.dead = append(r.dead, n)
}

// maxVanished is how many runs of items that others removed are remembered.
const maxVanished = 16

// run is a run of items.
type run struct{ from, to uint64 }

// noteVanished remembers items that others have removed before they were confirmed.
func (r *reader) noteVanished(from, to uint64) {
	if from >= to {
		return
	}
	if len(r.vanished) == maxVanished {
		r.vanished[1].from = r.vanished[0].from
		r.vanished = slices.Delete(r.vanished, 0, 1)
	}
	r.vanished = append(r.vanished, run{from, to})
}

// firstDead is the lowest number of an item in the list that has become a dead letter, or that
// others removed before it was confirmed. If Redis has come back with older data it has the item
// again, and it is to be delivered.
func (r *reader) firstDead() uint64 {
	if r.first < r.deadBelow {
		return r.first
	}
	first := uint64(noNumber)
	for _, n := range r.dead {
		if n >= r.first {
			first = min(first, n)
		}
	}
	for _, v := range r.vanished {
		if v.to > r.first {
			first = min(first, max(v.from, r.first))
		}
	}
	return first
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
func newEpoch() string { return strings.ToLower(rand.Text()[:8]) }
