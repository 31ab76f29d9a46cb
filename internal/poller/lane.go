package poller

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// lane is what every list has, however it is read: when it is to be asked, what
// went wrong, and what it looks like from outside. All fields but those said
// otherwise are owned by the loop.
type lane struct {
	*redisconn.Route // to the list
	list             List
	loop             *Loop
	keys             ledger.Keys
	log              *zap.Logger

	ending  bool        // nothing more is taken for good
	took    bool        // somebody was there to receive the last time round
	more    bool        // there may be items that were not read
	hint    atomic.Bool // set by the hints: the list has changed
	freed   atomic.Bool // set by the hints: its owner has given it back
	paused  atomic.Bool // set by an operator
	owner   bool        // this process holds the lease, as far as it knows
	standby bool        // another one holds it
	fresh   bool        // no lease was held yet: one that this instance left is taken over
	renewed time.Time
	renew   bool              // the script that is under way renews the lease
	known   *redisconn.Server // the one that the place in the list was last known on
	breaks  int               // of it, at that time
	asked   time.Time         // when Redis was last asked
	due     time.Time         // when it is asked next even if nothing happens: the slow poll
	idle    time.Duration

	most  int // bytes of the largest item in the last read
	mean  int // of those that were kept
	limit int // items that the next read may ask for: one at first, half as many after a timeout
	last  int // items that the last read asked for

	served  string // the address where it was served last
	again   bool   // the last call failed, but is likely to work now: see recovered
	retry   *redisconn.Backoff
	retryAt time.Time // after a fault
	faults  int       // in a row
	away    bool      // the last of them was Redis's, not the list's own

	mu     sync.Mutex
	status Status // guarded by mu
}

// replyHeader is more than stands in front of an item in a reply, and behind it.
const replyHeader = 16

// fill gives g memory for as many items as the next read may ask for, at most most
// and at least one, and returns how many that are. The memory is what such items
// take as were read last, not what they could take: it is kept until they are
// confirmed, and only the items are counted.
func (s *lane) fill(g *gather, most int) (ask int) {
	ask = min(most, s.loop.opts.BatchItems, s.limit)
	if s.most > 0 {
		ask = max(1, min(ask, min(g.bound(1, s.most), s.loop.opts.BatchBytes)/s.most))
	}
	s.last = ask
	g.memory = s.loop.pool.Get(ask*(min(s.most, s.mean+s.mean/2)+replyHeader)+replyHeader, ask)
	return ask
}

// learn notes the sizes of the n items in the last reply. The next read asks for at
// most twice as many: later items may be larger.
func (s *lane) learn(g *gather, n int) {
	if n > 0 {
		s.limit, s.most, s.mean = 2*n, g.most, g.size/max(1, len(g.memory.Spans))
	}
}

// lookWait is the least time between two looks at a list that nobody takes from,
// however busy its producers are.
const lookWait = time.Second

func newLane(l *Loop, list List) *lane {
	s := &lane{
		Route: l.servers.Route(), list: list, loop: l, fresh: true, more: true, limit: 1, retry: l.opts.Redis.Backoff(),
		keys:   ledger.KeysOf(list.Key),
		log:    l.opts.Log.With(zap.String("list", list.Key)),
		status: Status{Key: list.Key, Subject: list.Subject, State: Starting},
	}
	s.paused.Store(list.Paused)
	return s
}

// broken tells whether the connection has broken, or is another one, since the
// last time it was asked: Redis may have come back with other data.
func (s *lane) broken() bool {
	known, breaks := s.known, s.breaks
	s.known, s.breaks = s.Server, s.Server.Breaks()
	return s.known != known || s.breaks != breaks
}

// listen takes the hints that have come, and tells whether items may be taken.
func (s *lane) listen(active bool) (takes bool) {
	takes = active && !s.ending && !s.paused.Load() && s.loop.taking.Load()
	if takes && !s.took {
		s.more, s.idle = true, 0 // what came while nobody was there is not known
	}
	s.took = takes
	hint, freed := s.hint.Swap(false), s.freed.Swap(false)
	if freed || hint && takes && !s.standby {
		s.more, s.idle = true, 0
	}
	if hint && (!takes || s.standby) && s.faults == 0 { // worth a look, but not one for each item
		if soon := s.asked.Add(lookWait); soon.Before(s.due) {
			s.due = soon
		}
	}
	return takes
}

// done notes how a round trip went and sets the next one.
func (s *lane) done(err error, now time.Time, takes bool) {
	if err != nil {
		s.fail(err, now)
		return
	}
	s.succeed(now)
	s.schedule(now, takes)
}

// schedule sets the next slow poll. Where Redis gives no hints the poll is all
// there is: it is quick while items come, and slows down to maxPoll.
func (s *lane) schedule(now time.Time, takes bool) {
	s.asked = now
	wait := s.loop.opts.PollInterval
	if takes && s.owner && !s.Server.Hinted() {
		s.idle = min(max(2*s.idle, minPoll), maxPoll)
		wait = min(wait, s.idle)
	}
	s.due = now.Add(wait)
}

// fail backs off. One line in the log when the trouble begins, not one a try, and
// one for all lists where the trouble is Redis's.
func (s *lane) fail(err error, now time.Time) {
	s.more = true
	s.Server.Failed(err)
	s.Server.Settle(0)
	if redisconn.TimedOut(err) {
		s.limit = max(1, min(s.limit, s.last)/2)
	}
	if !s.again {
		if s.again, err = s.recovered(err); s.again {
			s.due = now // at once again, but only once
			return
		}
	}
	s.again = false
	if redisconn.Says(err, "READONLY") {
		s.renewed = time.Time{} // so that the next script writes: at a replica one that does not succeeds
	}

	asked := s.Server
	s.loop.opts.Alive(now) // the Sentinels may be asked now
	atOnce, err := s.Detour(err)
	if atOnce {
		return
	}
	reason := redisconn.Explain(err, asked.Address)
	s.faults++
	s.retryAt = now.Add(s.retry.Next())
	s.due = s.retryAt
	s.mu.Lock()
	news := s.status.Reason != reason
	s.status.Reason = reason
	if s.faults == 1 {
		s.status.FaultSince = now
	}
	s.mu.Unlock()
	switch first := !s.loop.away(); {
	case !ownFault(err):
		if s.away = true; first {
			s.loop.opts.Log.Error("Redis does not serve the lists; trying again",
				zap.String("event", "redis-lost"), zap.String("reason", reason))
		}
	case news:
		s.log.Error("can't serve the list; trying again", zap.String("reason", reason))
	}
}

// recovered reports whether the same call is likely to work now: Redis did not know
// the scripts, and they are loaded; or a server that has served the list closed the
// connection, as it does with idle ones. Otherwise it returns the error to report.
func (s *lane) recovered(err error) (bool, error) {
	if redisconn.NoScript(err) {
		if err = s.Server.LoadScripts(context.Background()); err != nil {
			s.Server.Failed(err)
		}
		return err == nil, err
	}
	return s.faults == 0 && s.served == s.Server.Address && redisconn.ClosedByPeer(err), err
}

// ownFault tells whether a fault is that of one list, whatever the others do.
func ownFault(err error) bool {
	text := err.Error()
	for _, sign := range []string{"WRONGTYPE", "NOPERM", "The user executing the script can't", "ACL failure in script"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// away tells whether Redis serves a list no more for a reason that is Redis's.
func (l *Loop) away() bool {
	return slices.ContainsFunc(l.readers, func(r *reader) bool { return r.away })
}

func (s *lane) succeed(now time.Time) {
	s.again = false
	s.Reached()
	if s.served != s.Server.Address {
		if s.served != "" {
			s.log.Info("the list is served by another Redis server now", zap.String("redis", s.Server.Address))
		}
		s.served = s.Server.Address
	}
	if s.faults == 0 {
		return
	}
	s.mu.Lock()
	since := s.status.FaultSince
	s.status.Reason, s.status.FaultSince = "", time.Time{}
	s.mu.Unlock()
	after := zap.Duration("after", now.Sub(since))
	if !s.away {
		s.log.Info("the list is served again", after, zap.Int("tries", s.faults))
	} else if s.away = false; !s.loop.away() {
		s.loop.opts.Log.Info("Redis serves the lists again", zap.String("event", "redis-back"), after)
	}
	s.faults = 0
	s.retry.Reset()
}

// say writes down the state for those who ask.
func (s *lane) say(active, full bool) {
	state := Serving
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status.Reason != "":
		state = Failing
	case s.ending, !s.loop.taking.Load():
		state = Draining
	case s.paused.Load():
		state = Paused
	case !active:
		state = Waiting
	case s.fresh:
		state = Starting
	case s.status.Holder != "":
		state = Standby
	case full:
		state = Full
	}
	s.status.State = state
}
