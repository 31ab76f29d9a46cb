package poller

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/redisconn"
)

// source is one list, read by peek and trim: LRANGE reads, the items stay where
// they are, and a prefix that was confirmed is removed in the same round trip as
// the next read. All fields are owned by the loop.
type source struct {
	*lane

	base   uint64 // sequence number of the item at the head of the Redis list
	held   []run  // what was read from there on, in order, without a gap
	next   uint64 // sequence number behind held
	unsure bool   // base may be wrong: find held in the list again before anything else
	trims  []trim // asked for since serial, the last ones: at most one has been carried out
	lost   bool   // the lease had run out, so others may have removed items too
	sent   bool   // an exchange is under way
}

// trim is a removal of n items from the head.
type trim struct {
	serial uint64
	n      int
}

// run is a batch, or one item that can't be delivered.
type run struct {
	first uint64
	n     int
	b     *batch.Batch
	large *mark
}

// drop lets go of the batch.
func (r *run) drop() {
	if r.b != nil {
		r.b.Release()
	}
}

func newSource(l *Loop, list List) *source {
	return &source{lane: newLane(l, list, leaseKey(list.Key))}
}

// turn does what is to be done for the list now, in at most one round trip, and
// reports whether there was anything.
func (s *source) turn(ctx context.Context, now time.Time) bool {
	if s.sent {
		s.Server.Settle(0)
	}
	plan := s.follow()
	takes := s.listen(plan.Active)
	if now.Before(s.retryAt) {
		return false
	}
	if s.broken() && len(s.held) > 0 {
		s.unsure = true
	}
	due := !now.Before(s.due)
	trim := plan.Head > s.base
	read := takes && plan.Items > 0 && (s.more || due)
	switch {
	case s.unsure:
		s.Server.Settle(0)
		err := s.find(ctx, now)
		if err == nil && s.faults > 0 {
			s.due = now // it only reads: whether the fault is over is not known yet
			s.say(plan.Active, plan.Items)
			return true
		}
		s.ended(err, now, plan, takes)
	case trim && s.held[0].large != nil:
		s.Server.Settle(0)
		s.ended(s.bury(ctx, now), now, plan, takes)
	case trim, read, due && (takes || len(s.held) > 0):
		if err := s.exchange(ctx, now, plan, read, takes); err != nil {
			s.ended(err, now, plan, takes)
		}
	case due && s.owner && s.loop.taking.Load():
		s.Server.Settle(0)
		s.ended(s.release(ctx), now, plan, takes)
	case due:
		s.Server.Settle(0)
		s.ended(s.look(ctx), now, plan, takes)
	default:
		s.say(plan.Active, plan.Items)
		return false
	}
	return true
}

// ended notes how a round trip went that began at now.
func (s *source) ended(err error, now time.Time, plan batch.Plan, takes bool) {
	if err != nil && len(s.held) > 0 {
		s.unsure = true // the reply may have been lost behind a trim
	}
	s.done(err, now, takes)
	s.say(plan.Active, plan.Items)
}

// unremoved is how many items were confirmed and are still in Redis.
func (s *source) unremoved() int {
	if plan := s.follow(); plan.Head > s.base {
		return int(plan.Head - s.base)
	}
	return 0
}

// follow forgets what the relay has given back, and tells it what Redis does not
// hold any more.
func (s *source) follow() batch.Plan {
	plan := s.list.Window.Plan()
	if plan.Next < s.base {
		s.list.Window.Gone(s.base)
		plan = s.list.Window.Plan()
	}
	for len(s.held) > 0 && plan.Next < s.next {
		last := &s.held[len(s.held)-1]
		if last.first < plan.Next {
			last.n = int(plan.Next - last.first)
			s.more = true
			break
		}
		s.next = last.first
		last.drop()
		s.held = s.held[:len(s.held)-1]
		s.more = true
	}
	s.next = plan.Next
	return plan
}

// exchange is the round trip of delivery: read what comes next, check that this
// instance still has the list and that its head is the one that was read, and
// remove what was confirmed. The check comes behind the read, so that it vouches
// for it: Redis carries out commands in the order in which they were sent.
//
// It is left under way, so that Redis works for this list while the loop does for
// another.
func (s *source) exchange(ctx context.Context, now time.Time, plan batch.Plan, read, takes bool) error {
	end := plan.Head
	for _, r := range s.held {
		if r.large != nil {
			end = min(end, r.first)
			break
		}
	}
	trim := 0
	if end > s.base {
		trim = int(end - s.base)
	}
	c, err := s.Server.Open(ctx)
	if err != nil {
		return err
	}
	read = read && s.owner // a list of another instance's is not read, it is asked for
	var got gather
	ask := 0
	if read {
		o := &s.loop.opts
		got = gather{maxBytes: min(plan.Bytes, o.BatchBytes), maxLarge: min(plan.Large, o.BatchBytes), maxItem: o.MaxPayload}
		ask = s.fill(&got, plan.Items)
		from := int(s.next - s.base)
		first, last := from, from+ask-1
		if s.list.FromRight {
			first, last = -from-ask, -from-1
		}
		c.Command("LRANGE", s.list.Key, first, last)
	}
	// Where nothing is to be removed, nothing is held that could have another place
	// now, and the lease need not be renewed, all that the guard would do is to look at
	// the lease. Asking for that costs Redis a tenth, and an item that comes alone waits.
	light := read && trim == 0 && len(s.held) == 0 && !s.fresh && s.faults == 0 && now.Sub(s.renewed) < s.loop.opts.Lease/3
	if light {
		c.Command("GET", s.keys[1])
		c.Command("LLEN", s.list.Key)
	} else {
		c.Command(s.guard(now, trim)...)
	}
	if err := c.Send(ctx); err != nil {
		return err
	}
	s.sent = true
	c.Later(func() {
		s.sent = false
		s.ended(s.receive(c, now, &got, ask, trim, light), now, plan, takes)
	})
	return nil
}

// receive ends an exchange that was to remove trim items, and asked for ask more.
func (s *source) receive(c *redisconn.Conn, now time.Time, got *gather, ask, trim int, light bool) error {
	c.Receive(got.memory)
	read := ask > 0
	var refused redisconn.Reply // the guard's reply follows it
	if read {
		if err := c.Items(got, ask); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	var lease, reply any
	var leaseErr, err error
	if light {
		lease, leaseErr = c.Value()
	}
	if err = leaseErr; redisconn.Broken(leaseErr) == nil {
		reply, err = c.Value()
	}
	if err := c.Finish(err); err != nil {
		return err
	}
	if refused != "" {
		return refused
	}
	if err = cmp.Or(leaseErr, err); light && err == nil {
		serial := strconv.FormatUint(s.serial, 10)
		if lease != s.loop.holder+" "+serial {
			s.renewed, s.more = time.Time{}, true // the guard will tell what has become of it
			got.memory.Free()
			return nil
		}
		s.renew = false
		reply = []any{"ok", reply, s.loop.holder, serial}
	}
	what, err := s.judge(reply, err, now)
	if err != nil {
		return err
	}
	switch what {
	case "standby":
		s.forget()
		return nil
	case "moved", "lost":
		if len(s.held) > 0 {
			s.unsure = true
			return nil
		}
	}
	s.trims, s.lost = s.trims[:0], false
	s.trimmed(uint64(trim))
	if read {
		s.take(got, ask)
	}
	return nil
}

// guard is the call of the guard script, which removes n items.
func (s *source) guard(now time.Time, n int) []any {
	o := &s.loop.opts
	instead, renew, side := "", "0", "L"
	if s.fresh {
		instead = o.Instance + "/"
	}
	if s.renew = now.Sub(s.renewed) >= o.Lease/3; s.renew {
		renew = "1"
	}
	if s.list.FromRight {
		side = "R"
	}
	if s.attempt += 2; n > 0 {
		s.ask(n)
	}
	words := guard.Call(s.keys[:2], s.loop.holder, instead, o.Lease.Milliseconds(), renew, n, side, s.serial, s.attempt, markEnd)
	for _, seq := range s.landmarks(n) {
		m := s.at(seq)
		words = append(words, seq-s.base, m.size, m.sum)
	}
	return words
}

// ask notes that n items are to be removed by the call under way.
func (s *source) ask(n int) {
	if len(s.trims) == maxAsked {
		s.trims = slices.Delete(s.trims, 0, 1)
	}
	s.trims = append(s.trims, trim{s.attempt, n})
}

// maxAsked is how many removals are remembered whose outcome is not known. One
// more that comes late is taken for somebody else's.
const maxAsked = 16

// judge is verdict, and notes where others may have removed items.
func (s *source) judge(reply any, err error, now time.Time) (string, error) {
	before := s.serial
	what, err := s.verdict(reply, err, now)
	asked := func(t trim) bool { return t.serial == s.serial }
	if err == nil && (what == "lost" || s.serial != before && !slices.ContainsFunc(s.trims, asked)) {
		s.lost = true
	}
	return what, err
}

// landmarks are the items whose places tell that the head has not moved: the
// head, the first that differs from it, the last to be removed, and one at random.
// Where somebody else removes items, and all items repeat in the very rhythm of
// what was removed, that can't be seen.
//
// Lua looks at each byte of an item, which for large ones takes longer than all
// else: of those it is the last to be removed, and the first that differs from it, if
// there are more to be removed.
func (s *source) landmarks(trim int) []uint64 {
	if len(s.held) == 0 {
		return nil
	}
	if s.held[0].b != nil && s.held[0].b.Large() {
		last := s.base + uint64(max(1, trim)) - 1
		switch other, ok := s.unlike(last); {
		case ok && trim <= 1 && other == s.base+1:
			return []uint64{last} // all that is removed is looked at
		case ok:
			return []uint64{last, other}
		}
	}
	marks := []uint64{s.base}
	if other, ok := s.unlike(s.base); ok {
		marks = append(marks, other)
	}
	if last := s.base + uint64(max(1, trim)) - 1; !slices.Contains(marks, last) {
		marks = append(marks, last)
	}
	if between := uint64(max(0, trim-2)); between > 0 {
		any := s.base + 1 + s.loop.opts.Random(between)
		if slices.Contains(marks, any) {
			any = s.base + 1 + (any-s.base)%between // the next one
		}
		marks = append(marks, any)
	}
	return marks
}

// unlike is the first item that is held and differs from the item seq.
func (s *source) unlike(seq uint64) (other uint64, ok bool) {
	item := s.item(seq)
	for other := s.base; item != nil && other < min(s.next, s.base+maxRepeat); other++ {
		if x := s.item(other); x != nil && !bytes.Equal(x, item) {
			return other, true
		}
	}
	return 0, false
}

// maxRepeat bounds the search for an item that differs.
const maxRepeat = 64

// at returns the mark of an item that is held.
func (s *source) at(seq uint64) mark {
	for _, r := range s.held {
		if seq < r.first+uint64(r.n) {
			if r.large != nil {
				return *r.large
			}
			return markOf(r.b.Item(int(seq - r.first)))
		}
	}
	return mark{}
}

// item returns an item that is held; nil where only its mark is.
func (s *source) item(seq uint64) []byte {
	for _, r := range s.held {
		if seq < r.first+uint64(r.n) {
			if r.b == nil {
				return nil
			}
			return r.b.Item(int(seq - r.first))
		}
	}
	return nil
}

// trimmed says that n items were removed from the head.
func (s *source) trimmed(n uint64) {
	s.base += n
	for len(s.held) > 0 && s.held[0].first+uint64(s.held[0].n) <= s.base {
		s.held[0].drop()
		s.held[0] = run{}
		s.held = s.held[1:]
	}
	s.mu.Lock()
	s.status.Removed += n
	s.mu.Unlock()
}

// take offers what was read to the relay.
func (s *source) take(got *gather, ask int) {
	if s.list.FromRight {
		if got.cut && got.total > 1 {
			// What was left out is at the wrong end. Ask for fewer.
			s.limit, s.most, s.more = got.total/2, 0, true
			got.memory.Free()
			return
		}
		got.reverse()
	}
	s.learn(got, got.total)
	s.more = got.cut || got.total == ask
	if len(got.memory.Spans) > 0 {
		s.idle = 0
		b := batch.New(s.list.Subject, s.next, got.memory)
		if !s.list.Window.Offer(b) {
			s.more = true // the window was given back meanwhile
			b.Release()
			return
		}
		s.hold(run{first: s.next, n: b.Len(), b: b})
		return // an item too large that follows is read again, first
	}
	got.memory.Free()
	if got.large != nil {
		if !s.list.Window.Bury(s.next) {
			s.more = true
			return
		}
		s.hold(run{first: s.next, n: 1, large: got.large})
	}
}

func (s *source) hold(r run) {
	s.held = append(s.held, r)
	s.next += uint64(r.n)
}

// forget drops what is held: another instance serves the list now.
func (s *source) forget() {
	s.owner, s.unsure, s.lost = false, false, false
	s.base, s.held, s.trims = s.next, nil, nil
	s.list.Window.Gone(s.next)
	s.more = false // a hint or the slow poll asks again
}

// find reads as many items as are held and looks where in them the list begins
// now. Afterwards base is right again: what is no longer there was removed by a
// trim whose reply was lost, which its number tells, or by somebody else, which
// the items tell.
func (s *source) find(ctx context.Context, now time.Time) error {
	count := int(s.next - s.base)
	if count == 0 {
		s.unsure, s.lost, s.held = false, false, nil
		return nil
	}
	first, last := 0, count-1
	if s.list.FromRight {
		first, last = -count, -1
	}
	c, err := s.Server.Open(ctx)
	if err != nil {
		return err
	}
	seed := maphash.MakeSeed()
	there := newPrints(seed, s.loop.opts.MaxPayload)
	held := s.held
	s.held = nil // so that the guard checks the lease only
	c.Command(s.guard(now, 0)...)
	c.Command("LRANGE", s.list.Key, first, last)
	c.Command(s.guard(now, 0)...) // a removal that comes late can come in between
	s.held = held
	if err := c.Send(ctx); err != nil {
		return err
	}
	c.Receive(nil)
	check, again, err := c.Around(there, count)
	if err != nil {
		return err
	}
	what, err := s.judge(check.Value, check.Err, now)
	if err != nil {
		return err
	}
	if what == "standby" {
		s.forget()
		return nil
	}
	serial := s.serial
	if what, err = s.judge(again.Value, again.Err, now); err != nil {
		return err
	}
	if what == "standby" || s.serial != serial {
		return nil // once more
	}
	if s.list.FromRight {
		slices.Reverse(there.sums)
	}
	gone, sums := 0, s.sums(seed)
	for _, t := range s.trims {
		if t.serial == s.serial {
			gone = t.n
		}
	}
	if s.lost || gone > len(sums) || len(there.sums) < len(sums)-gone || !equal(sums[gone:], there.sums) {
		gone = displaced(sums, there.sums)
	}
	if confirmed := s.list.Window.Plan().Head; s.base+uint64(gone) > confirmed {
		others := s.base + uint64(gone) - max(confirmed, s.base)
		s.log.Warn("somebody else removed items from the list while they were on their way", zap.Uint64("items", others))
	}
	s.trimmed(uint64(gone))
	s.list.Window.Gone(s.base)
	s.trims = slices.DeleteFunc(s.trims, func(t trim) bool { return t.serial <= s.serial })
	s.unsure, s.lost = false, false
	s.more = true
	return nil
}

// sums hashes the items that are held, from base on; of an item too large to hold
// its mark.
func (s *source) sums(seed maphash.Seed) []uint64 {
	var sums []uint64
	for _, r := range s.held {
		for i := range r.n {
			switch {
			case r.first+uint64(i) < s.base:
			case r.b == nil:
				sums = append(sums, r.large.hash(seed))
			default:
				sums = append(sums, maphash.Bytes(seed, r.b.Item(i)))
			}
		}
	}
	return sums
}

// displaced tells how many of the items held are missing at the head of what is
// there now. Of several answers (items may be equal) it gives the largest: then
// fewer items count as still there, so an item may come twice but none is
// removed that was not delivered.
func displaced(held, there []uint64) int {
	for gone := len(held) - 1; gone >= 0; gone-- {
		if rest := held[gone:]; len(there) >= len(rest) && equal(rest, there[:len(rest)]) {
			return gone
		}
	}
	return len(held)
}

func equal(a, b []uint64) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// bury moves the item at the head to the dead-letter list.
func (s *source) bury(ctx context.Context, now time.Time) error {
	large := s.held[0].large
	s.renew = true
	s.attempt += 2
	s.ask(1)
	side := "L"
	if s.list.FromRight {
		side = "R"
	}
	why, err := json.Marshal(Epitaph{
		Reason: fmt.Sprintf("larger than max_payload (%d bytes)", s.loop.opts.MaxPayload),
		Time:   now.UTC(), Size: large.size, Instance: s.loop.opts.Instance,
	})
	if err != nil {
		return err
	}
	reply, err := s.Server.Run(ctx, bury, s.keys[:3], s.loop.holder, side, large.size, large.sum, markEnd, why,
		s.serial, s.attempt, s.loop.opts.Lease.Milliseconds())
	what, err := s.judge(reply, err, now)
	if err != nil {
		return err
	}
	switch what {
	case "standby":
		s.forget()
	case "moved":
		s.unsure = true
	case "ok":
		s.trims = s.trims[:0]
		s.trimmed(1)
		s.log.Warn("an item is too large to deliver; it is in the dead-letter list",
			zap.Int("bytes", large.size), zap.String("dead", s.keys[2]))
	}
	return nil
}

// release gives the lease back while nobody is there to receive, so that an
// instance with clients can have the list.
func (s *source) release(ctx context.Context) error {
	if _, err := s.Server.Run(ctx, release, s.keys[:2], s.loop.holder); err != nil {
		return err
	}
	s.owner = false
	return nil
}
