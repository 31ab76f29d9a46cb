package poller

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/ledger"
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
