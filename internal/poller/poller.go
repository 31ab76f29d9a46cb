// Package poller reads the Redis lists: one goroutine serves them in turn, at
// most one batch each, and does every read, trim and move, so that no list
// starves another whatever their backlogs. Lists of a lower class go first (classes).
// Nothing in it waits for a client.
//
// What it promises:
//
//   - An item is removed only when the relay says that it may be, by a script
//     that checks inside Redis that this instance still has the list and that
//     its head is the one that was read. Where it is not, less is removed.
//   - Items are offered in list order, unchanged, each with its own sequence number.
//   - While no client takes items, nothing is read.
//   - Idle costs a slow poll, and a list with nothing to do is not visited; a hint from
//     Redis (client tracking) wakes the loop. Where the server gives none, the poll
//     adapts between 1 and 50 ms.
//   - A fault of one list does not stop another; retries back off to two a second. An item
//     that can't be read goes to the dead letters, and the list goes on.
//
// Lists are added and removed while it runs: that is done between two turns.
//
// Goroutines: Run is the loop; it owns one more for each Redis server in use, which
// receives its hints, and waits for them. All other methods may be called from any goroutine.
package poller

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/dedup"
	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// List is one Redis list to serve.
type List struct {
	Key       string
	Subject   string
	FromRight bool // the head is the right end (producers LPUSH)
	Paused    bool // until Pause resumes it
	Log       Log  // the relay's
	Keep      int  // finished items that stay in the list, unless Redis is full
	Class     int  // lists of lower classes are read first

	Dedup      dedup.By // which part of an item tells that it is a duplicate
	DedupItems int      // so many items before an item count
}

// side is the end of a list that is its head, for the scripts.
func side(fromRight bool) string {
	if fromRight {
		return "R"
	}
	return "L"
}

// Options are what the loop needs to know.
type Options struct {
	Redis        redisconn.Options
	Instance     string // this instance's name among those that share a list
	Lists        []List
	PollInterval time.Duration // slow poll behind the hints
	Lease        time.Duration // how long a list stays this instance's without renewal
	RejoinGrace  time.Duration // after a start: how long consumers that were there before it still owe
	Share        int           // of so many reads a class that is passed over has one; 0: none
	BatchItems   int
	BatchBytes   int                   // of a batch; one item is always read
	MaxPayload   int                   // bytes; larger items go to the dead-letter list
	Alive        func(time.Time)       // called each time round, for the watchdog
	MaxSleep     time.Duration         // between two calls of Alive; 0 means no bound
	Random       func(n uint64) uint64 // returns a number below n; nil: rand.Uint64N
	Log          *zap.Logger
}

// The adaptive poll, where Redis gives no hints.
const (
	minPoll = time.Millisecond
	maxPoll = 50 * time.Millisecond
)

// State is what a list is doing.
type State string

const (
	Starting State = "starting" // not looked at yet
	Serving  State = "serving"  // items go to clients as they come
	Waiting  State = "waiting"  // no client is subscribed; nothing is taken
	Full     State = "full"     // as much is on its way as may be; clients are slower than the list
	Paused   State = "paused"   // by an operator
	Standby  State = "standby"  // another instance has the list
	Failing  State = "failing"  // Redis does not answer for it; Reason says why
	Draining State = "draining" // nothing more is taken
)

// Status is a snapshot of one list.
type Status struct {
	Key        string
	Subject    string
	State      State
	Paused     bool      // by an operator, whatever the state
	Reason     string    // why it fails
	FaultSince time.Time // since when
	Holder     string    // who has the list, when it is another instance
	Twin       string    // the same, if it calls itself as this instance does, and both run: a mistake
	Backlog    int64     // items in Redis when last looked, without those kept
	Kept       int64     // items that are finished and stay in the list for a while
	Removed    uint64    // items removed from Redis
	Shared     uint64    // reads while a lower class had items: see Options.Share
	StoodBy    StoodBy   // the last time that it did

	// Standing is the list as it was when last looked at, in place of the state that the relay knows; nil: the
	// relay knows more, or another process serves the list. It is never changed.
	Standing *ledger.Standing
}

// StoodBy is a time in which another instance served a list.
type StoodBy struct {
	Holder string    // that instance
	Since  time.Time // zero: there was no such time
	Until  time.Time // when this instance took the list over; zero: it has not
}

// Loop is the goroutine that serves the lists.
type Loop struct {
	opts    Options
	holder  string // the lease's value: instance/token
	servers *redisconn.Servers
	pool    batch.Pool
	taking  atomic.Bool
	wake    chan struct{} // holds one

	requests chan func(context.Context) // what others have asked the loop to do
	ended    chan struct{}              // closed when Run has returned

	visits  visits
	classes classes
	breaks  map[*redisconn.Server]int // as far as the loop has noticed; owned by it

	notices   []string  // Redis's drawbacks, as of the last look; written by the loop with mu held
	noticesAt time.Time // when the next look is due
	cutShort  []*reader // lists whose reads are bounded since Redis closed the connection in one; owned by the loop
	reasons   []string  // of the outage of Redis, as far as the log has them; owned by the loop

	// Written by the loop alone, which therefore reads them without it, with mu
	// held, readers never in place: the others read a snapshot.
	mu      sync.Mutex
	readers []*reader          // of the lists
	byKey   map[string]*reader // by the keys that hints name
}

// New makes a loop; it connects to nothing yet.
func New(opts Options) *Loop {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Alive == nil {
		opts.Alive = func(time.Time) {}
	}
	if opts.Random == nil {
		opts.Random = rand.Uint64N
	}
	var token [6]byte
	cryptorand.Read(token[:])
	l := &Loop{
		opts:     opts,
		holder:   opts.Instance + "/" + hex.EncodeToString(token[:]),
		wake:     make(chan struct{}, 1),
		requests: make(chan func(context.Context), 16),
		ended:    make(chan struct{}),
		breaks:   make(map[*redisconn.Server]int),
		byKey:    make(map[string]*reader),
	}
	l.taking.Store(true)
	l.classes.share = opts.Share
	l.servers = redisconn.NewServers(opts.Redis, redisconn.Callbacks{
		Changed: l.changed, Closed: l.comeRound, Progress: func() { opts.Alive(time.Now()) }, Scripts: scripts,
	})
	for _, list := range opts.Lists {
		l.add(list)
	}
	return l
}

// snapshot returns the readers as they are now, for all but the loop.
func (l *Loop) snapshot() []*reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readers
}

// Wake makes the loop look at the list with this key: its Log may say something new. If there
// is none it does nothing.
func (l *Loop) Wake(key string) {
	l.mu.Lock()
	r := l.byKey[key]
	l.mu.Unlock()
	if r != nil {
		l.visits.ring(r)
		l.comeRound()
	}
}

// wakeAll makes the loop look at all lists.
func (l *Loop) wakeAll() {
	for _, r := range l.snapshot() {
		l.visits.ring(r)
	}
	l.comeRound()
}

// comeRound wakes the loop.
func (l *Loop) comeRound() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// changed is called by the hints. Without a key any list may have changed.
func (l *Loop) changed(key string) {
	if key == "" {
		for _, r := range l.snapshot() {
			r.hint.Store(true)
			r.freed.Store(true)
		}
		l.wakeAll()
		return
	}
	l.mu.Lock()
	r := l.byKey[key]
	l.mu.Unlock()
	if r == nil {
		return
	}
	if key == r.keys.List {
		r.hint.Store(true)
	} else {
		r.freed.Store(true)
	}
	l.visits.ring(r)
	l.comeRound()
}

// StopTaking ends reading for good; what was confirmed is still removed.
func (l *Loop) StopTaking() {
	l.taking.Store(false)
	l.wakeAll()
}

// Run serves the lists until ctx is done. Then it removes what was confirmed by
// then, gives the leases back and returns; the caller sees to it that the
// windows don't change any more. It fails only where that last step does: the
// error says how many items were confirmed and yet remain in Redis.
func (l *Loop) Run(ctx context.Context) error {
	defer close(l.ended)
	l.servers.Watch(ctx)
	defer l.servers.Close()

	// A round trip that has begun is finished, so that its outcome is known; its
	// timeout bounds it.
	call := context.WithoutCancel(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		for _, c := range l.servers.All() {
			if c.Heed(call) {
				l.reconnect(c)
			}
		}
		l.noteNotices()
		l.serveRequest(call)
		if l.round(ctx, call) {
			continue
		}
		now := time.Now()
		l.opts.Alive(now)
		timer.Reset(l.pause(now))
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		}
	}
	return l.finish()
}

// round takes a turn of each list that has to be looked at, and reports whether there was anything to do.
func (l *Loop) round(ctx, call context.Context) (busy bool) {
	lists := l.visits.next(time.Now())
	l.classes.order(lists)
	for _, r := range lists {
		now := time.Now()
		l.opts.Alive(now)
		r.passedOver = false
		worked := ctx.Err() == nil && r.turn(call, now)
		if worked || r.passedOver {
			l.visits.ring(r)
		} else {
			l.visits.wait(r)
		}
		busy = busy || worked
		l.settle()
	}
	return busy
}

// noticeEvery is the time between two looks at Redis's drawbacks.
const noticeEvery = 100 * time.Millisecond

// noteNotices notes Redis's drawbacks, and logs new ones.
func (l *Loop) noteNotices() {
	now := time.Now()
	if now.Before(l.noticesAt) {
		return
	}
	l.noticesAt = now.Add(noticeEvery)
	l.cutShort = slices.DeleteFunc(l.cutShort, func(r *reader) bool { return r.notice(now) == "" })

	var all []string
	for _, c := range l.servers.All() {
		unhinted, closes := c.Notices()
		all = append(all, unhinted, closes)
	}
	for _, r := range l.cutShort {
		all = append(all, r.notice(now))
	}
	all = slices.DeleteFunc(all, func(notice string) bool { return notice == "" })
	slices.Sort(all)
	all = slices.Compact(all)
	if slices.Equal(all, l.notices) {
		return
	}

	for _, notice := range all {
		if !slices.Contains(l.notices, notice) {
			l.opts.Log.Warn("Redis serves the lists, with a drawback", zap.String("reason", notice))
		}
	}
	l.mu.Lock()
	l.notices = all
	l.mu.Unlock()
}

// Notices are Redis's drawbacks although it serves the lists, in words.
func (l *Loop) Notices() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.notices // never changed in place
}

// settle receives the round trips under way but for the last one with each server. If a
// connection broke, its server may come back with other data: all its lists are looked at.
func (l *Loop) settle() {
	for _, c := range l.servers.All() {
		c.Settle(1)
		if l.breaks[c] == c.Breaks() {
			continue
		}
		l.breaks[c] = c.Breaks()
		for _, r := range l.readers {
			if r.Server == c {
				l.visits.ring(r)
			}
		}
	}
}

// settleAll receives all round trips under way.
func (l *Loop) settleAll() {
	for _, c := range l.servers.All() {
		c.Settle(0)
	}
}

// reconnect asks the lists of a server again at once. Its connection broke at rest,
// and until there is another one no hint tells of new items.
func (l *Loop) reconnect(server *redisconn.Server) {
	for _, r := range l.readers {
		if r.Server == server {
			if r.faults == 0 {
				r.more, r.due = true, time.Time{}
			}
			l.visits.ring(r)
		}
	}
}

// pause is how long the loop may sleep: until the next slow poll or retry.
func (l *Loop) pause(now time.Time) time.Duration {
	wait := l.opts.PollInterval
	if len(l.visits.waiting) > 0 {
		wait = min(wait, l.visits.waiting[0].visitAt.Sub(now))
	}
	if l.opts.MaxSleep > 0 {
		wait = min(wait, l.opts.MaxSleep)
	}
	return max(wait, 0)
}

// finish removes what was confirmed and gives the leases back. It has the time
// of one round trip for all.
func (l *Loop) finish() error {
	ctx, cancel := context.WithTimeout(context.Background(), l.opts.Redis.Timeout)
	defer cancel()
	l.taking.Store(false)
	l.settleAll()
	left := 0
	for _, r := range l.readers {
		left += l.end(ctx, r)
	}
	return leftBehind(left)
}

// end removes the confirmed items of a list that no client takes from any more, and
// gives its lease back. It returns how many items it could not remove.
func (l *Loop) end(ctx context.Context, r *reader) (left int) {
	r.Server.Settle(0)
	r.retryAt, r.faults, r.due = time.Time{}, 0, time.Now().Add(time.Hour)
	for r.unremoved() > 0 && r.faults < 3 && ctx.Err() == nil {
		r.turn(ctx, time.Now())
		r.Server.Settle(0)
		r.retryAt = time.Time{}
	}
	left = r.unremoved()
	r.faults = 0
	for r.owner && r.faults < 3 && ctx.Err() == nil {
		err := r.release(ctx, time.Now())
		if err == nil {
			break
		}
		r.fail(err, time.Now()) // in the end the lease runs out by itself
	}
	return left
}

func leftBehind(left int) error {
	if left == 0 {
		return nil
	}
	return fmt.Errorf("%d items were confirmed but could not be removed from Redis: they will be delivered again", left)
}

// Lists returns a snapshot of every list: those of the Options in their order,
// behind them those that were added.
func (l *Loop) Lists() []Status {
	readers := l.snapshot()
	all := make([]Status, len(readers))
	for i, s := range readers {
		s.mu.Lock()
		all[i] = s.status
		s.mu.Unlock()
		all[i].Backlog = max(0, all[i].Backlog-all[i].Kept)
		all[i].Paused = s.paused.Load()
		if all[i].Paused && all[i].State != Failing && all[i].State != Draining {
			all[i].State = Paused // said at once, not when the loop has come round
		}
	}
	return all
}

// Pause stops reading the list with this key, or with resume set starts it
// again. It reports whether there is such a list.
func (l *Loop) Pause(key string, paused bool) bool {
	s := l.reader(key)
	if s == nil {
		return false
	}
	s.paused.Store(paused)
	l.Wake(key)
	return true
}
