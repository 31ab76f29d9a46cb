package poller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/redisconn"
)

// replyHeader is more than stands in front of an item in a reply, and behind it.
const replyHeader = 16

// fill gives g memory for as many items as the next read may ask for, at most most
// and at least one, and returns how many that are. The memory is what such items
// take as were read last, not what they could take: it is kept until they are
// confirmed, and only the items are counted.
func (r *reader) fill(g *gather, most int) (ask int) {
	ask = min(most, r.loop.opts.BatchItems, r.limit)
	if r.most > 0 {
		ask = max(1, min(ask, min(g.bound(1, r.most), r.loop.opts.BatchBytes)/r.most))
	}
	r.last = ask
	g.memory = r.loop.pool.Get(ask*(min(r.most, r.mean+r.mean/2)+replyHeader)+replyHeader, ask)
	return ask
}

// slowFor is how many leases long the reads stay small after one that took too long.
const slowFor = 10

// learn notes the sizes of the n items in the last reply, which took a time. The next read
// asks for at most twice as many: later items may be larger.
//
// While a reply takes longer than the lease, another instance takes the list over, and the
// same happens to that one. So after a slow reply reads ask for as many as come in a third of
// a lease, for some time: one of small items does not tell how long the next will take.
func (r *reader) learn(g *gather, n int, took time.Duration) {
	if n == 0 {
		return
	}
	r.limit, r.most, r.mean = 2*n, g.most, g.size/max(1, len(g.memory.Spans))
	now, most := time.Now(), r.loop.opts.Lease/3
	if took >= most {
		r.few, r.slowUntil = max(1, int(int64(n)*int64(most)/int64(took))), now.Add(slowFor*r.loop.opts.Lease)
	}
	if now.Before(r.slowUntil) {
		r.limit = min(r.limit, r.few)
	}
}

// lookWait is the least time between two looks at a list that no client takes from,
// however busy its producers are.
const lookWait = time.Second

// broken tells whether the connection has broken, or is another one, since the
// last time it was asked: Redis may have come back with other data.
func (r *reader) broken() bool {
	known, breaks := r.place, r.breaks
	r.place, r.breaks = r.Server, r.Server.Breaks()
	return r.place != known || r.breaks != breaks
}

// listen takes the hints that have come, and tells whether items may be taken.
func (r *reader) listen(active bool) (takes bool) {
	takes = active && !r.ending && !r.paused.Load() && r.loop.taking.Load()
	if takes && !r.took {
		r.more, r.idle = true, 0 // items may have come while no client was there
	}
	r.took = takes
	hint, freed := r.hint.Swap(false), r.freed.Swap(false)
	if freed || hint && takes && !r.standby {
		r.more, r.idle = true, 0
	}
	if hint && (!takes || r.standby) && r.faults == 0 { // worth a look, but not one for each item
		if soon := r.asked.Add(lookWait); soon.Before(r.due) {
			r.due = soon
		}
	}
	return takes
}

// note changes the status.
func (r *reader) note(change func(*Status)) {
	r.mu.Lock()
	change(&r.status)
	r.mu.Unlock()
}

// pollsAtRest is how many lists at rest are polled in an interval.
const pollsAtRest = 100

// schedule sets the next slow poll. If Redis gives no hints, the poll is all
// there is: it is quick while items come, and slows down to maxPoll. If hints come, a list
// without consumers is polled for its backlog only, and less often if there are many lists.
func (r *reader) schedule(now time.Time, takes bool) {
	r.asked = now
	wait := r.loop.opts.PollInterval
	switch hinted := r.Server.Hinted(); {
	case takes && r.owner && !hinted:
		r.idle = min(max(2*r.idle, minPoll), maxPoll)
		wait = min(wait, r.idle)
	case !takes && !r.owner && hinted && r.list.Keep == 0:
		wait *= time.Duration(1 + len(r.loop.readers)/pollsAtRest)
	}
	if r.standby { // the owner may be dead: look when its lease ends
		wait = min(r.loop.opts.PollInterval, r.standsBy+leaseSlack)
	}
	r.due = now.Add(wait)
}

// leaseSlack is how long after the end of another's lease it is asked for.
const leaseSlack = 50 * time.Millisecond

// fail backs off. The log has one line for each new reason, not one a try, and
// one for all lists if the trouble is Redis's.
func (r *reader) fail(err error, now time.Time) {
	r.more = true
	r.Server.Failed(err)
	r.Server.Settle(0)
	if midway := redisconn.ClosedMidway(err); midway || redisconn.TimedOut(err) {
		r.limit = max(1, min(r.limit, r.last)/2)
		if midway {
			r.cutOff(now)
		}
	}
	if !r.again {
		if r.again, err = r.recovered(err); r.again {
			r.due = now // at once again, but only once
			return
		}
	}
	r.again = false
	if redisconn.Says(err, "READONLY") {
		r.renewed = time.Time{} // so that the next script writes: at a replica one that does not succeeds
	}

	asked := r.Server
	r.loop.opts.Alive(now) // the Sentinels may be asked now
	atOnce, err := r.Detour(err)
	if atOnce {
		return
	}
	reason := redisconn.Explain(err, asked.Address)
	r.faults++
	r.retryAt = now.Add(r.retry.Next())
	r.due = r.retryAt
	news := r.status.Reason != reason // which the loop alone changes
	r.note(func(st *Status) {
		st.Reason = reason
		if r.faults == 1 {
			st.FaultSince = now
		}
	})
	switch {
	case !ownFault(err):
		if !r.loop.away() {
			r.loop.reasons = nil
		}
		if r.away = true; r.loop.newReason(reason) {
			r.loop.opts.Log.Error("Redis does not serve the lists; trying again",
				zap.String("event", "redis-lost"), zap.String("reason", reason))
		}
	case news:
		r.log.Error("can't serve the list; trying again", zap.String("reason", reason))
	}
}

// cutOff notes that Redis closed the connection in place of the reply to a read. If that
// is not the first time lately, reads ask for less from then on, for some time.
func (r *reader) cutOff(now time.Time) {
	lately := now.Before(r.cutUntil)
	if r.cutUntil = now.Add(slowFor * r.loop.opts.Lease); !lately {
		return
	}
	r.few, r.slowUntil, r.cutShort = r.limit, r.cutUntil, true
	if !slices.Contains(r.loop.cutShort, r) {
		r.loop.cutShort = append(r.loop.cutShort, r)
	}
}

// forgetCuts forgets the connections that a Redis closed which has ended since: that was its end.
func (r *reader) forgetCuts() {
	r.misses, r.cutUntil = 0, time.Time{}
	if r.cutShort {
		r.slowUntil = time.Time{}
	}
}

// notice says that reads are bounded as Redis has closed the connection in some, as long as
// they are.
func (r *reader) notice(now time.Time) string {
	if r.cutShort = r.cutShort && now.Before(r.cutUntil); !r.cutShort {
		return ""
	}
	return fmt.Sprintf("Redis at %s closes the connection in the middle of large replies; raise its client-output-buffer-limit or maxmemory-clients: "+
		"reads of list %s are bounded to %d items meanwhile", r.Server.Address, r.list.Key, r.few)
}

// maxReasons is how many reasons the log has of one outage.
const maxReasons = 16

// newReason reports whether the log does not have a reason of this outage yet, and
// notes it. Each list meets it, and it may come back.
func (l *Loop) newReason(reason string) bool {
	if len(l.reasons) >= maxReasons || slices.Contains(l.reasons, reason) {
		return false
	}
	l.reasons = append(l.reasons, reason)
	return true
}

// recovered reports whether the same call is likely to work now: Redis did not know
// the scripts, and they are loaded; or a server that has served the list closed the
// connection, as it does with idle ones. Otherwise it returns the error to report.
func (r *reader) recovered(err error) (bool, error) {
	if redisconn.NoScript(err) {
		if err = r.Server.LoadScripts(context.Background()); err != nil {
			r.Server.Failed(err)
		}
		return err == nil, err
	}
	return r.faults == 0 && r.served == r.Server.Address && redisconn.ClosedByPeer(err), err
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

func (r *reader) succeed(now time.Time) {
	r.again = false
	r.Reached()
	if r.served != r.Server.Address {
		if r.served != "" {
			r.log.Info("the list is served by another Redis server now", zap.String("redis", r.Server.Address))
		}
		r.served = r.Server.Address
	}
	if r.faults == 0 {
		return
	}
	after := zap.Duration("after", now.Sub(r.status.FaultSince))
	r.note(func(st *Status) { st.Reason, st.FaultSince = "", time.Time{} })
	if !r.away {
		r.log.Info("the list is served again", after, zap.Int("tries", r.faults))
	} else if r.away = false; !r.loop.away() {
		r.loop.opts.Log.Info("Redis serves the lists again", zap.String("event", "redis-back"), after)
	}
	r.faults = 0
	r.retry.Reset()
}

// say writes down the state for those who ask.
func (r *reader) say(active, full bool) {
	state := Serving
	switch {
	case r.status.Reason != "":
		state = Failing
	case r.ending, !r.loop.taking.Load():
		state = Draining
	case r.paused.Load():
		state = Paused
	case !active:
		state = Waiting
	case r.fresh:
		state = Starting
	case r.status.Holder != "":
		state = Standby
	case full:
		state = Full
	}
	r.note(func(st *Status) { st.State = state })
}
