package poller

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/dedup"
	"edged/internal/ledger"
	"edged/internal/numbers"
	"edged/internal/redisconn"
)

// reader serves one list by cursors: LRANGE reads, wherever a consumer needs items;
// the items stay where they are, and those at the head that are finished are removed by
// the ledger's script. All fields are owned by the loop, except those said otherwise.
//
// Here a number stands for an item; the head has number first. Each call that a script
// writes is landmark too (its serial), so that after a lost reply the ledger itself
// tells whether it was carried out.
type reader struct {
	*redisconn.Route // to the list
	list             List
	loop             *Loop
	keys             ledger.Keys
	relay            Log // the list's
	log              *zap.Logger

	ending  bool        // nothing more is taken for good
	took    bool        // a consumer was there to receive the last time round
	more    bool        // there may be items that were not read
	hint    atomic.Bool // set by the hints: the list has changed
	freed   atomic.Bool // set by the hints: its owner has given it back
	paused  atomic.Bool // set by an operator
	rung    bool        // guarded by Loop.visits.mu
	waits   int         // place in Loop.visits.waiting, from 1 on; 0: none
	visitAt time.Time   // when that is over

	passedOver bool   // it has items to read, but a lower class goes first
	readAs     uint64 // see classes.read

	owner   bool // this process holds the lease, as far as it knows
	standby bool // another one holds it
	fresh   bool // no lease was held yet: one that this instance left is taken over
	renewed time.Time
	renew   bool              // the script that is under way renews the lease
	place   *redisconn.Server // the one that the place in the list was last known on
	breaks  int               // of it, at that time
	asked   time.Time         // when Redis was last asked
	due     time.Time         // when it is asked next even if nothing happens: the slow poll
	idle    time.Duration

	most  int // bytes of the largest item in the last read
	mean  int // of those that were kept
	limit int // items that the next read may ask for: one at first, half as many after a timeout
	last  int // items that the last read asked for
	few   int // the bound of limit until slowUntil

	slowUntil time.Time // see learn
	cutUntil  time.Time // see cutOff
	cutShort  bool      // few is of cutOff
	weight    weight    // of the list
	missed    uint64    // the item that could not be read, alone
	misses    int       // how often in a row

	served  string // the address where it was served last
	again   bool   // the last call failed, but is likely to work now: see recovered
	retry   *redisconn.Backoff
	retryAt time.Time // after a fault
	faults  int       // in a row
	away    bool      // the last of them was Redis's, not the list's own

	mu     sync.Mutex
	status Status // written by the loop alone, with mu held

	claimed   bool        // the place in the list is known, and this process owns it
	started   bool        // it has claimed the list before
	placed    bool        // the relay has a place in the list
	first     uint64      // number of the item at the head
	end       uint64      // one past the last item, when last looked
	top       uint64      // one past the last item that was read
	confirmed uint64      // one past the last item that the ledger knows to be confirmed
	head      ledger.Mark // of the item with number first, as the ledger has it; as of the last claim
	noted     uint64      // the item whose mark the ledger has; noNumber: it has none
	epoch     string
	serial    uint64 // of the ledger
	updated   uint64 // serial of the last update, which claims may have followed
	attempt   uint64 // serial of the last call
	marks     marks
	seed      maphash.Seed   // of their hashes
	held      []*batch.Batch // read last for the front, to recognize the items on their way
	holds     int            // bytes that they take
	sent      bool           // an exchange is under way
	unknown   uint64         // serial of the last call, if its outcome is not known; 0: it is known
	saving    bool           // it wrote changes of the relay
	full      bool           // Redis is at its maxmemory: nothing is kept
	purge     bool           // and so the list has to be this process's
	unproven  bool           // the only mark is the ledger's, and not compared yet

	astray    bool // the list may not be as the ledger says: look for what is known of it
	headMoved bool // its head is another one for certain
	search    *search
	refused   int      // answers of it that Redis refused, in a row
	dead      []uint64 // numbers of the last items that became dead letters, in the order of that
	deadBelow uint64   // below it are dead letters that are not in dead
	vanished  []run    // items that others removed before they were confirmed
	revived   uint64   // items from here on are not known: a dead letter among them is lost; noNumber: none is
	warned    bool     // of items pushed to the head

	standsBy time.Duration // until the other owner's lease ends, as of the last claim
	told     string        // the other owner that the log has named last
	namesake sighting      // of another process of this instance

	repeats *repeats // nil: no item is a duplicate; written by the loop alone, with mu held

	stood *ledger.Standing // how the list stood when last looked at; nil: that is not known, or another process served it
}

// Log is the way into the relay of a list whose consumers have cursors.
type Log interface {
	Plan(first, end uint64) batch.Place
	Offer(b *batch.Batch, sweep bool)
	Bury(n uint64, reason string)
	Changes() batch.Changes
	Saved(ok bool)
	Load(batch.Snapshot)
	Unload()
	Gone(to uint64)
	Aside(first uint64, there []uint64)
	Renew(epoch string)
	Free(from, to uint64) bool
	Insert(epoch string, from, to uint64)
	Rollback(epoch string, end uint64)
	SkipSweep()
	Reset(epoch string, first uint64)
}

// scripts are all that are in use.
var scripts = append([]*redisconn.Script{requeue, peek, follow, register, within, recall}, ledger.Scripts...)

func newReader(l *Loop, list List) *reader {
	r := &reader{
		Route: l.servers.Route(), list: list, loop: l, relay: list.Log, fresh: true, more: true, limit: 1, retry: l.opts.Redis.Backoff(),
		keys:    ledger.KeysOf(list.Key),
		log:     l.opts.Log.With(zap.String("list", list.Key)),
		status:  Status{Key: list.Key, Subject: list.Subject, State: Starting},
		seed:    maphash.MakeSeed(),
		revived: noNumber,
	}
	r.paused.Store(list.Paused)
	r.repeats = newRepeats(list)
	return r
}

// known is the number after the last item that the list has, as far as is known. If
// hints come, the slow poll reads nothing: the script that it sends returns the length.
func (r *reader) known(due bool) uint64 {
	if r.more || due && !r.Server.Hinted() {
		return noNumber
	}
	return r.end
}

// turn does the next work for the list, in at most one round trip, and
// reports whether there was anything.
func (r *reader) turn(ctx context.Context, now time.Time) bool {
	if r.sent {
		r.Server.Settle(0)
		now = time.Now() // over a slow link that took as long as a lease
	}
	due := !now.Before(r.due)
	known := r.known(due)
	plan := r.relay.Plan(r.first, known)
	takes := r.listen(plan.Active)
	if r.known(due) != known { // a hint has come
		plan = r.relay.Plan(r.first, noNumber)
	}
	if r.claimed {
		r.setKept(plan.Floor, r.first)
	}
	if now.Before(r.retryAt) {
		return false
	}
	if r.broken() {
		r.claimed = false // Redis may have come back with other data
	}

	read := r.claimed && takes && plan.Items > 0 && r.loop.classes.admits(r)
	keys := r.plansKeys(&plan, &read)
	trim, all := r.trimmable(plan.Floor)
	var alone func(context.Context, time.Time) error // a round trip that is waited for
	switch {
	case r.owes(plan, takes) && !r.claimed && (due || !r.standby || r.more):
		alone = r.claim
	case r.claimed && r.astray && now.Sub(r.renewed) >= r.loop.opts.Lease/3:
		alone = r.claim // so that the list stays this process's while it searches
	case r.claimed && r.astray:
		alone = r.find
	case read && r.misses >= maxMisses && plan.From == r.missed:
		alone = func(ctx context.Context, now time.Time) error { return r.spare(ctx, keys) }
	case keys != nil && keys.Next() < r.first:
		alone = func(ctx context.Context, _ time.Time) error { return r.recall(ctx, keys) }
	case r.claimed && (trim > 0 || plan.Dirty || read || !all || due && !r.leaves(plan, takes)):
		if err := r.exchange(ctx, now, plan, read, keys, trim, takes); err != nil {
			r.ended(err, now, plan, takes)
		}
		return true
	case due && r.owner && r.loop.taking.Load():
		alone = r.release
	case due:
		alone = r.look
	default:
		if !plan.Wake.IsZero() && plan.Wake.Before(r.due) {
			r.due = plan.Wake
		}
		r.say(plan.Active, plan.Full)
		return false
	}
	r.Server.Settle(0)
	r.ended(alone(ctx, now), now, plan, takes)
	return true
}

// owes reports whether the list has to be this process's: for consumers that take
// items or have some, or for changes that the ledger does not have yet.
func (r *reader) owes(plan batch.Place, takes bool) bool {
	return takes || r.purge || r.unknown != 0 || r.owner && (!plan.Idle || plan.Dirty || r.low(plan.Floor) > r.first)
}

// leaves reports whether another instance may have the list.
func (r *reader) leaves(plan batch.Place, takes bool) bool {
	return !takes && plan.Idle && !plan.Dirty && r.low(plan.Floor) <= r.first
}

// low is the number of the item that is to be the head: the items below floor are
// finished, and some of them stay. A few more may stay, so that they go together.
func (r *reader) low(floor uint64) uint64 {
	floor = max(r.first, min(floor, r.end))
	keep := uint64(r.list.Keep)
	if r.full {
		keep = 0
	}
	if floor-r.first <= keep+keep/16 {
		return r.first
	}
	return floor - keep
}

// trimmable is how many items can be removed: those that are finished and not kept, up to
// the last one whose mark is known. all tells whether that is all of them.
func (r *reader) trimmable(floor uint64) (n int, all bool) {
	low := r.low(floor)
	if !r.claimed || low <= r.first {
		return 0, true
	}
	last, ok := r.marks.last(low)
	if !ok || last.number < r.first || r.repeats != nil && !r.repeats.cover(r.first, last.number+1) {
		return 0, false
	}
	return int(last.number + 1 - r.first), last.number+1 == low
}

// unremoved is how many items are finished and still in Redis. If the ledger lacks
// something else it is at least one.
func (r *reader) unremoved() int {
	if !r.owner {
		return 0
	}
	plan := r.relay.Plan(r.first, r.end)
	n := 0
	if low := r.low(plan.Floor); low > r.first {
		n = int(low - r.first)
	}
	if plan.Dirty || r.unknown != 0 {
		n = max(n, 1)
	}
	return n
}

// ended notes how a round trip went that began at now.
func (r *reader) ended(err error, now time.Time, plan batch.Place, takes bool) {
	if err != nil {
		r.claimed = false // the reply may have been lost after a removal
		r.fail(err, now)
	} else {
		r.succeed(now)
		r.schedule(now, takes)
		if !plan.Wake.IsZero() && plan.Wake.Before(r.due) {
			r.due = plan.Wake
		}
	}
	r.say(plan.Active, plan.Full)
}

// call is a call of the ledger's script, with the serial of the next attempt.
func (r *reader) call() *ledger.Call {
	r.attempt = max(r.attempt, r.serial) + 1
	return &ledger.Call{
		Holder: r.loop.holder, FromRight: r.list.FromRight, Lease: r.loop.opts.Lease,
		Epoch: r.epoch, Serial: r.serial, Attempt: r.attempt,
	}
}

// exchange is the round trip of delivery: read where a consumer needs items, check that
// the list is this process's and still the one that is known, write which items are confirmed,
// and remove the finished ones. The script comes behind the read, so that it vouches for
// it: Redis carries out commands in the order in which they were sent.
//
// It is left under way, so that Redis works for this list while the loop does for
// another.
func (r *reader) exchange(ctx context.Context, now time.Time, plan batch.Place, read bool, keys *dedup.Window, trim int, takes bool) error {
	c, err := r.Server.Open(ctx)
	if err != nil {
		return err
	}
	x := &exchange{now: now, plan: plan, keys: keys, trim: trim}
	if read {
		r.read(c, x)
		if keys == nil {
			r.loop.classes.read(r)
		}
	} else if low := r.low(plan.Floor); trim == 0 && low > r.first {
		r.probe(c, x, low-1)
	}
	x.light = read && trim == 0 && !plan.Dirty && plan.From == r.first && r.top <= r.first && r.faults == 0 && now.Sub(r.renewed) < r.loop.opts.Lease/3
	if x.light {
		// Nothing is known of the list that could be another now. Asking for the owner
		// costs Redis a tenth of the script, and an item that comes alone waits.
		c.Command("HMGET", r.keys.Ledger, "owner", "serial")
		c.Command("LLEN", r.keys.List)
	} else if err := r.update(c, x); err != nil {
		return err
	}
	if x.weighs {
		c.Command("MEMORY", "USAGE", r.keys.List, "SAMPLES", 0)
	}
	if err := c.Send(ctx); err != nil {
		return err
	}
	r.sent = true
	c.Later(func() {
		r.sent = false
		r.ended(r.receive(c, x), now, plan, takes)
	})
	return nil
}

// exchange is one round trip.
type exchange struct {
	now   time.Time
	plan  batch.Place
	got   gather
	ask   int           // items that are read
	keys  *dedup.Window // not nil: the read is for the keys of the items only
	probe *prober       // the read is for the mark of an item only
	aside bool          // it is for an item that is set aside
	gone  bool          // which is not there any more
	from  uint64
	trim  int
	light bool // the owner is looked at, in place of the script

	capped bool // fewer items are read than could be: the list's weight is old
	weighs bool // Redis is asked for that
}

// free gives the memory for items back.
func (x *exchange) free() {
	if x.got.memory != nil {
		x.got.memory.Free()
	}
}

// read asks for the items that the plan says.
func (r *reader) read(c *redisconn.Conn, x *exchange) {
	o := &r.loop.opts
	x.from = x.plan.From
	x.got = gather{maxBytes: min(x.plan.Bytes, o.BatchBytes), maxLarge: min(x.plan.Large, o.BatchBytes), maxItem: o.MaxPayload}
	if x.aside = x.from < r.first; x.aside {
		x.ask = r.fill(&x.got, 1)
		c.Command("HGET", r.keys.Aside, x.from)
		return
	}
	most := x.plan.Items
	if x.capped = r.weight.old(x.now); x.capped {
		most = min(most, unweighed)
	}
	x.ask = r.fill(&x.got, most)
	if r.weight.heavy && x.ask > 1 {
		c.Command(within.Call([]string{r.keys.List}, side(r.list.FromRight), int64(x.from-r.first), x.ask, x.got.maxBytes)...)
	} else {
		r.lrange(c, x.from, x.ask)
	}
	x.weighs = r.weight.due(x.now, x.ask)
}

// probe asks for one item, to learn its mark.
func (r *reader) probe(c *redisconn.Conn, x *exchange, n uint64) {
	x.probe, x.from, x.ask = &prober{seed: r.seed}, n, 1
	r.lrange(c, n, 1)
}

func (r *reader) lrange(c *redisconn.Conn, from uint64, ask int) {
	at := int(from - r.first)
	first, last := at, at+ask-1
	if r.list.FromRight {
		first, last = -at-ask, -at-1
	}
	c.Command("LRANGE", r.keys.List, first, last)
}

// update adds the script that writes and removes.
func (r *reader) update(c *redisconn.Conn, x *exchange) error {
	call := r.call()
	if x.plan.Dirty {
		floor, err := r.write(call, x.now)
		if err != nil {
			return err
		}
		x.trim, _ = r.trimmable(floor)
	}
	if r.repeats != nil && x.trim > 0 {
		r.repeats.write(call, r.first, r.first+uint64(x.trim))
	}
	call.Trim, call.Kept = int64(x.trim), r.list.Keep > 0
	if last, ok := r.marks.last(noNumber); ok && r.unproven && last.number >= r.first {
		r.addLandmark(call, last)
	}
	r.remember(call, uint64(x.trim))
	if r.renew = x.now.Sub(r.renewed) >= r.loop.opts.Lease/3 || x.now.Before(r.slowUntil); r.renew {
		call.Renew = true
	}
	r.addHeld(call, r.first)
	if x.trim > 0 {
		r.vouch(call, uint64(x.trim))
	}
	if x.ask > 0 && !x.aside {
		r.surround(call, x.from, x.from+uint64(x.ask))
	}
	if call.Changes() {
		r.unknown = call.Attempt
	}
	c.Command(call.Words(r.keys)...)
	return nil
}

// remember writes the mark of the last known item that is confirmed, if it stays in the
// list: a later start has to see whether others have changed the list in front of it.
func (r *reader) remember(call *ledger.Call, trim uint64) {
	last, ok := r.marks.last(r.confirmed)
	if ok && last.number >= r.first+trim && last.number != r.noted {
		r.noted = last.number
		call.Set = append(call.Set, ledger.Field{Name: ledger.Known, Value: fmt.Sprintf("%d %s", last.number, last.Mark)})
	}
}

// vouch adds landmarks, besides the head, that hold if the first trim items are those that
// are known: the last of them, the first that differs from the head, and one more. If others
// remove items, and all items repeat in the very rhythm of the removed ones, that can't be seen.
//
// Lua reads each byte of an item. For large items that takes longer than everything else,
// so they get no landmark at random.
func (r *reader) vouch(call *ledger.Call, trim uint64) {
	last, _ := r.marks.last(r.first + trim)
	r.addLandmark(call, last)
	call.Next = last.next
	if trim <= 2 {
		return
	}

	differs := r.differing(min(trim-1, maxLandmarks))
	r.addHeld(call, r.first+differs)
	_, large := r.heldItem(r.first)
	if between := trim - 2; differs == 0 {
		r.addHeld(call, r.first+1+r.loop.opts.Random(between))
	} else if between > 1 && !large {
		more := 1 + r.loop.opts.Random(between-1)
		if more >= differs {
			more++
		}
		r.addHeld(call, r.first+more)
	}
}

// surround adds the landmark before a read. One that goes back over known items gets another
// at its end: between equal neighbours the first stays as it was if others change the list.
func (r *reader) surround(call *ledger.Call, from, to uint64) {
	if before, ok := r.marks.last(from); ok && before.number >= r.first {
		r.addLandmark(call, before)
	}
	if from >= r.top {
		return
	}
	if i := min(r.marks.from(to-1), len(r.marks)-1); i >= 0 && r.marks[i].number >= from {
		r.addLandmark(call, r.marks[i])
	}
}

// recognizes reports whether none of the items of a batch is known to be another one.
func (r *reader) recognizes(b *batch.Batch) bool {
	for _, one := range r.marks[r.marks.from(b.First()):] {
		if one.number >= b.Next() {
			break
		}
		if !one.is(printOf(r.seed, b.Item(int(one.number-b.First())))) {
			return false
		}
	}
	for _, held := range r.held {
		for n := max(held.First(), b.First()); n < min(held.Next(), b.Next()); n++ {
			if !bytes.Equal(held.Item(int(n-held.First())), b.Item(int(n-b.First()))) {
				return false
			}
		}
	}
	return true
}

// differing is the index of the first held item, of so many from the head on, that differs
// from the head; 0: there is none.
func (r *reader) differing(among uint64) uint64 {
	head, _ := r.heldItem(r.first)
	for i := uint64(1); i < among; i++ {
		if item, _ := r.heldItem(r.first + i); item != nil && !bytes.Equal(item, head) {
			return i
		}
	}
	return 0
}

// heldItem returns an item if it is held, and whether it is Large.
func (r *reader) heldItem(n uint64) (item []byte, large bool) {
	for _, b := range r.held {
		if b.First() <= n && n < b.Next() {
			return b.Item(int(n - b.First())), b.Large()
		}
	}
	return nil, false
}

// addHeld adds an item that is held as a landmark.
func (r *reader) addHeld(call *ledger.Call, n uint64) {
	if item, _ := r.heldItem(n); item != nil {
		r.addLandmark(call, landmark{number: n, print: print{Mark: ledger.MarkOf(item)}})
	}
}

func (r *reader) addLandmark(call *ledger.Call, one landmark) {
	index := int64(one.number - r.first)
	for _, l := range call.Landmarks {
		if l.Index == index {
			return
		}
	}
	call.Landmarks = append(call.Landmarks, ledger.Landmark{Index: index, Mark: one.Mark})
}

// write adds the relay's changes to a call. Once it is carried out the items
// below floor are finished.
func (r *reader) write(call *ledger.Call, now time.Time) (floor uint64, _ error) {
	ch := r.relay.Changes()
	r.saving = true
	r.confirmed = ch.Confirmed
	set := func(name, value string) {
		if value != "" {
			call.Set = append(call.Set, ledger.Field{Name: name, Value: value})
		}
	}
	set(ledger.Finished, ch.Finished)
	set(ledger.Done, ch.Done)
	set(ledger.Plain, ch.Plain)
	if ch.NoPlain {
		call.Delete = append(call.Delete, ledger.Plain)
	}
	if ch.GraceOver {
		call.Delete = append(call.Delete, ledger.Grace)
	}
	for _, record := range ch.Records {
		field := ledger.Group(record.Name.Name)
		if record.Durable {
			field = ledger.Durable(record.Name.Name)
		}
		if set(field, record.Acked); record.Acked == "" {
			call.Delete = append(call.Delete, field)
		}
	}
	for _, d := range ch.Dead {
		if d.Number < r.first && !d.Aside {
			continue // others have removed it
		}
		line, err := Epitaph{Reason: d.Reason, Time: now.UTC(), Deliveries: d.Deliveries, Instance: r.loop.opts.Instance}.start()
		if err != nil {
			return 0, err
		}
		r.noteDead(d.Number)
		if d.Number >= r.first {
			r.addHeld(call, d.Number)
		}
		call.Dead = append(call.Dead, ledger.DeadLetter{Index: int64(d.Number - r.first), Number: d.Number, Aside: d.Number < r.first, Line: line})
		if d.Deliveries > 0 { // one that is too large was said when it was read
			r.log.Warn("an item could not be delivered; it is in the dead-letter list",
				zap.String("reason", d.Reason), zap.Int("deliveries", d.Deliveries), zap.String("dead", r.keys.Dead))
		}
	}
	for _, n := range ch.Aside {
		if n >= r.first { // otherwise Redis has it
			call.Aside = append(call.Aside, ledger.Aside{Index: int64(n - r.first), Number: n})
		}
	}
	call.Restored, call.TimesGone = ch.Restored, ch.TimesGone
	if ch.TimesAnew {
		call.TimesGone = ledger.AllTimes
	}
	for _, t := range ch.Times {
		call.Times = append(call.Times, ledger.Time(t))
	}
	return ch.Floor, nil
}

// receive ends an exchange: it reads the replies.
func (r *reader) receive(c *redisconn.Conn, x *exchange) error {
	c.Receive(x.got.memory)
	var refused redisconn.Reply // the read alone
	if x.ask > 0 {
		err := x.receive(c)
		r.noteMiss(x, err)
		if err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	replies := make([]any, 1, 2)
	if x.light {
		replies = replies[:2]
	}
	var first, err error
	for i := range replies {
		if replies[i], err = c.Value(); redisconn.Broken(err) != nil {
			break
		}
		first = cmp.Or(first, err)
	}
	if x.weighs && redisconn.Broken(err) == nil {
		err = r.weigh(c, x)
	}
	if err := c.Finish(err); err != nil {
		return err
	}
	if first != nil { // Redis has refused it
		r.saved(false)
		return first
	}

	var vouched bool
	if x.light {
		vouched, err = r.heedOwner(replies[0], replies[1])
	} else {
		vouched, err = r.heed(x, replies[0])
	}
	switch {
	case err != nil:
		return err
	case !vouched:
		r.claimed = false // a claim will tell why
		x.free()
	case refused != "":
		return refused
	case x.probe != nil && len(x.probe.items) == 1:
		r.marks.add(x.from, x.probe.items[0])
	case x.probe != nil:
		r.astray = true // there is no such item
	case x.gone:
		r.claimed = false // a claim tells which items are set aside
		x.free()
	case x.ask > 0:
		r.take(x)
	}
	return nil
}

// receive reads the items.
func (x *exchange) receive(c *redisconn.Conn) error {
	sink := redisconn.Sink(&x.got)
	if x.probe != nil {
		sink = x.probe
	}
	if !x.aside {
		return c.Items(sink, x.ask)
	}
	there, err := c.Item(sink)
	x.gone = err == nil && !there
	return err
}

// heed follows the script's outcome, and reports whether the list is the known one.
func (r *reader) heed(x *exchange, reply any) (vouched bool, _ error) {
	out, err := ledger.ParseOutcome(reply)
	if err != nil {
		return false, err
	}
	wrote := r.unknown != 0
	r.saved(out.What == ledger.OK)
	r.standing(out, x.now)
	if out.What != ledger.OK {
		r.astray = r.astray || out.What == ledger.Moved && out.Why != "serial" && out.Why != "owner"
		return false, nil
	}
	r.unproven = false
	if r.renew {
		r.renewed = x.now
	}
	if wrote {
		r.full, r.purge = out.Full, false
	}
	if r.removed(out.First); out.Serial != r.serial {
		r.serial, r.updated = out.Serial, out.Serial
	}
	r.first = out.First
	r.ends(out.Length)
	return true, nil
}

// heedOwner is heed for the replies that come in place of the script's.
func (r *reader) heedOwner(owner, length any) (vouched bool, _ error) {
	o, _ := owner.([]any)
	n, ok := length.(int64)
	if len(o) != 2 || !ok {
		return false, errors.New("unexpected reply to HMGET and LLEN")
	}
	if o[0] != r.loop.holder || o[1] != fmt.Sprint(r.serial) {
		return false, nil
	}
	r.ends(n)
	r.note(func(st *Status) { st.Backlog = n })
	return true, nil
}

// saved tells the relay whether the ledger has the changes of the last call.
func (r *reader) saved(ok bool) {
	if r.saving {
		r.relay.Saved(ok)
	}
	r.saving, r.unknown = false, 0
}

// ends notes the length of the list. Items that were read are missing where it is too
// short.
func (r *reader) ends(length int64) {
	r.end = r.first + uint64(length)
	r.astray = r.astray || r.end < r.top
}

// standing notes a script's answer about the owner.
func (r *reader) standing(out ledger.Outcome, now time.Time) {
	twin := ""
	if out.What == ledger.Standby && r.own(out.Holder) {
		twin = out.Holder // it replaced this process, which still runs
	}
	r.note(func(st *Status) {
		st.Backlog, st.Holder, st.Twin, st.Standing = out.Length, out.Holder, twin, nil
		switch {
		case out.What == ledger.Standby && r.standby:
			st.StoodBy.Holder = out.Holder
		case out.What == ledger.Standby:
			st.StoodBy = StoodBy{Holder: out.Holder, Since: now}
		case out.What == ledger.OK && r.standby:
			st.StoodBy.Until = now
			r.log.Info("the list was taken over", zap.String("from", st.StoodBy.Holder), zap.Duration("stood_by", now.Sub(st.StoodBy.Since)))
		}
	})
	r.fresh = false
	switch r.standby = out.What == ledger.Standby; {
	case r.standby:
		r.tell(out.Holder, twin)
		r.owner, r.placed, r.purge = false, false, false
		r.relay.Unload()
	case out.What == ledger.OK:
		r.owner, r.told = true, ""
	}
}

// removed notes that the items below a number were removed from the head.
func (r *reader) removed(below uint64) {
	if below <= r.first {
		return
	}
	for len(r.held) > 0 && r.held[0].Next() <= below {
		r.letGo()
	}
	if r.repeats != nil {
		r.repeats.removed(below)
	}
	r.note(func(st *Status) { st.Removed += below - r.first })
}

const noNumber = 1<<64 - 1

// take offers the items that were read to the relay.
func (r *reader) take(x *exchange) {
	got := &x.got
	if r.list.FromRight && !x.aside {
		if got.cut && got.total > 1 {
			// The items left out are at the wrong end. Ask for fewer.
			r.limit, r.most, r.more = got.total/2, 0, true
			got.memory.Free()
			return
		}
		slices.Reverse(got.memory.Spans)
	}
	if !x.aside {
		limit := r.limit
		if r.learn(got, got.total, time.Since(x.now)); x.capped && !time.Now().Before(r.slowUntil) {
			r.limit = max(r.limit, limit)
		}
		r.end = max(r.end, x.from+uint64(got.total)) // LLEN was asked for after a removal
		r.top = max(r.top, x.from+uint64(len(got.memory.Spans)))
		r.more = false // end tells
	}
	switch {
	case len(got.memory.Spans) > 0:
		r.idle = 0
		b := batch.New(r.list.Subject, x.from, got.memory)
		b.Stamp(r.epoch, x.now, max(0, int64(r.end-b.Next())))
		if x.aside {
			r.relay.Offer(b, x.plan.Sweep)
			b.Release()
			return
		}
		if !r.recognizes(b) {
			r.astray = true
			b.Release()
			return
		}
		if x.from > r.first {
			r.marks.follow(x.from-1, b.Item(0))
		}
		r.marks.add(b.Next()-1, printOf(r.seed, b.Item(b.Len()-1)))
		if r.repeats != nil {
			r.repeats.see(x.keys, b)
		}
		if x.keys != nil {
			r.more = true
			b.Release()
			return
		}
		r.relay.Offer(b, x.plan.Sweep)
		if !x.plan.Sweep {
			r.hold(b)
		} else {
			b.Release()
		}
	case got.large != nil:
		got.memory.Free()
		if !x.aside { // if it is, max_payload is another one now
			r.top = max(r.top, x.from+1)
			r.marks.add(x.from, print{Mark: got.large.mark})
			if r.repeats != nil {
				r.repeats.seeNone(x.keys, x.from)
			}
		}
		if x.keys != nil {
			r.more = true
			return
		}
		r.log.Warn("an item is too large to deliver; it is in the dead-letter list",
			zap.Int("bytes", got.large.size), zap.String("dead", r.keys.Dead))
		r.relay.Bury(x.from, fmt.Sprintf("larger than max_payload (%d bytes)", r.loop.opts.MaxPayload))
	default:
		got.memory.Free()
	}
}

// hold keeps a batch, as long as its items are not finished and there are not too many.
func (r *reader) hold(b *batch.Batch) {
	r.forgetHeld(b.First(), b.Next()) // it was read once more
	r.held = append(r.held, b)
	r.holds += b.Held(1)
	for len(r.held) > 1 && (r.held[0].Next() <= r.first || r.holds > maxHeld*r.loop.opts.BatchBytes) {
		r.letGo()
	}
}

// maxHeld is how many times the bytes of a batch are held.
const maxHeld = 4

// forgetHeld lets go of the batches that have items of a range.
func (r *reader) forgetHeld(from, to uint64) {
	r.held = slices.DeleteFunc(r.held, func(b *batch.Batch) bool {
		if b.Next() <= from || b.First() >= to {
			return false
		}
		r.holds -= b.Held(1)
		b.Release()
		return true
	})
}

// letGo lets go of the oldest batch.
func (r *reader) letGo() {
	r.holds -= r.held[0].Held(1)
	r.held[0].Release()
	r.held[0] = nil
	r.held = r.held[1:]
}

// claim makes the list this process's, or finds out whether it still is, and whether
// a call was carried out whose reply was lost.
func (r *reader) claim(ctx context.Context, now time.Time) error {
	call := r.call()
	call.Claim, call.Start, call.Grace = true, !r.started, r.loop.opts.RejoinGrace
	if !r.started {
		call.Instead = r.loop.opts.Instance + "/"
	}
	call.Epoch, call.First = newEpoch(), max(r.top, r.first)
	call.ByReplication = len(r.loop.opts.Redis.Sentinel.Addresses) > 0
	out, err := r.carryOut(ctx, call, now)
	if err != nil {
		return err
	}
	if out.What != ledger.OK {
		r.saved(false)
		r.claimed = false
		r.standsBy, r.more = out.Ends, false // more: the owner has given the list back
		return r.watchFree(ctx)
	}
	st := out.State
	if st.RunChanged || st.Created {
		r.forgetCuts()
	}
	ours := r.placed && !st.Created && (st.Unbroken || st.Serial == r.serial) // no update yet, but this process's claim
	executed := r.unknown != 0 && ours && st.Serial == r.unknown
	same := ours && (st.Serial == r.serial || st.Serial == r.updated || executed) && (st.RunChanged || st.Epoch == r.epoch)
	back := r.placed && !st.Created && !same && st.Serial < r.serial
	r.saved(executed)
	r.claimed, r.renewed = true, now
	if !same || out.First != r.first {
		r.search = nil
	}
	r.serial, r.updated, r.epoch, r.headMoved, r.head = out.Serial, st.Serial, st.Epoch, st.HeadMoved, st.Head
	if same {
		r.removed(out.First)
	}
	r.first, r.end = out.First, out.First+uint64(out.Length)
	if r.repeats != nil {
		r.repeats.heed(st.Seen, out.First, same)
	}
	r.astray = r.astray || st.HeadMoved || st.RunChanged && same || back
	if back {
		r.revived = r.firstDead()
	}
	for _, name := range st.Malformed {
		r.log.Error("a field of the list's ledger can't be read; what it said is not known",
			zap.String("ledger", r.keys.Ledger), zap.String("field", name))
	}
	switch {
	case same || back:
		r.relay.Renew(r.epoch)
		r.relay.Aside(r.first, st.Aside)
		if r.relay.Plan(r.first, r.end).Floor < r.first {
			r.relay.Gone(r.first)
		}
	case st.Created && r.placed:
		r.log.Warn("Redis has lost what it knew of the list: all that it holds is delivered again", zap.String("ledger", r.keys.Ledger))
		r.begin(nil)
		r.relay.Reset(r.epoch, r.first)
	default:
		r.begin(st)
	}
	r.started, r.placed = true, true
	return nil
}

// carryOut is the round trip of a call by itself.
func (r *reader) carryOut(ctx context.Context, call *ledger.Call, now time.Time) (ledger.Outcome, error) {
	reply, err := r.Server.DoWithin(ctx, ledger.MaxState, call.Words(r.keys)...)
	if err != nil {
		return ledger.Outcome{}, err
	}
	out, err := ledger.ParseOutcome(reply)
	if err == nil && call.Claim && out.What == ledger.OK && out.State == nil {
		err = errors.New("unexpected reply to a claim from the ledger's script")
	}
	if err == nil {
		r.standing(out, now)
	}
	return out, err
}

// watchFree makes Redis tell when the owner gives the list back.
func (r *reader) watchFree(ctx context.Context) error {
	_, err := r.Server.Do(ctx, "GET", r.keys.Free)
	return err
}

// begin takes the place in the list from the ledger, and forgets the old one.
func (r *reader) begin(st *ledger.State) {
	r.marks, r.astray, r.top = nil, r.headMoved, r.first
	r.forgetHeld(0, noNumber)
	r.dead, r.vanished, r.deadBelow, r.revived = nil, nil, r.first, noNumber
	if st == nil {
		return
	}
	s := batch.Snapshot{
		Epoch: r.epoch, First: r.first, End: r.end, Consumers: st.Consumers, Lost: st.Unbroken || st.Created, Finished: st.Finished, Aside: st.Aside, Times: seen(st.Times), Done: st.Done, Plain: st.Plain, HasPlain: st.HasPlain, Records: make(map[batch.Name]numbers.Set),
	}
	if !st.Grace.IsZero() { // one that ends too late was written before the clock was set back
		s.Grace = min(st.Grace.Sub(st.Now), r.loop.opts.RejoinGrace)
	}
	for durable, records := range map[bool]map[string]numbers.Set{false: st.Groups, true: st.Durables} {
		for name, acked := range records {
			s.Records[batch.Name{Durable: durable, Name: name}] = acked
			r.top = max(r.top, acked.Top())
		}
	}
	r.top = max(r.top, st.Done, st.Finished.Top(), st.Plain)
	r.confirmed, r.noted = st.Done, noNumber
	if r.unproven = st.Known >= r.first && st.HasKnown; r.unproven {
		r.marks.add(st.Known, print{Mark: st.KnownMark})
	}
	r.relay.Load(s)
}

func seen(times []ledger.Time) []batch.Seen {
	all := make([]batch.Seen, len(times))
	for i, t := range times {
		all[i] = batch.Seen(t)
	}
	return all
}

// look asks how the list stands: its length, how much of it is kept, and the durable consumers, as
// long as no consumer is there.
func (r *reader) look(ctx context.Context, _ time.Time) error {
	known := ""
	if r.stood != nil {
		known = r.stood.Serial
	}
	reply, err := r.Server.DoWithin(ctx, ledger.MaxState, ledger.Stand(r.keys, known, r.loop.opts.Instance+"/")...)
	if err != nil {
		return err
	}
	st, err := ledger.ParseStanding(reply)
	if err != nil {
		return err
	}
	r.noteStanding(st)
	if r.list.Keep == 0 || st.Length == 0 {
		r.setKept(0, 0)
		return nil
	}
	if r.setKept(min(st.Finished, st.First+uint64(st.Length)), st.First) == 0 {
		return nil
	}
	reply, err = r.Server.Do(ctx, "INFO", "memory")
	text, _ := reply.(string)
	r.purge = err == nil && memoryFull(text)
	r.full = r.full || r.purge
	return nil // the ACL may deny INFO
}

// noteStanding notes how the list stands. If Redis has of it what the relay wrote last, the
// relay knows more.
func (r *reader) noteStanding(st ledger.Standing) {
	if st.Same && r.stood != nil {
		st.Durables = r.stood.Durables
	}
	if r.stood = &st; st.Holder != "" {
		r.stood = nil
	}
	twin := r.namesake.alive(st, r.own(st.Own))
	r.tell(cmp.Or(twin, st.Holder), twin)
	stood := r.stood
	if r.placed && st.Serial == strconv.FormatUint(r.serial, 10) {
		stood = nil
	}
	r.note(func(is *Status) { is.Backlog, is.Holder, is.Twin, is.Standing = st.Length, st.Holder, twin, stood })
}

// memoryFull reports whether Redis refuses more data, as far as INFO tells.
func memoryFull(info string) bool {
	value := func(name string) uint64 {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		text, _, _ := strings.Cut(rest, "\r")
		return number(text)
	}
	most := value("maxmemory")
	return most > 0 && value("used_memory") >= most
}

// setKept notes how many items are kept, and returns it.
func (r *reader) setKept(floor, first uint64) int64 {
	kept := int64(max(floor, first) - first)
	r.note(func(st *Status) { st.Kept = kept })
	return kept
}

// release gives the list back while no consumer is there, so that another instance can
// have it.
func (r *reader) release(ctx context.Context, _ time.Time) error {
	call := r.call()
	call.Release = true
	if _, err := r.Server.Do(ctx, call.Words(r.keys)...); err != nil {
		return err
	}
	r.owner, r.claimed = false, false
	return nil
}
