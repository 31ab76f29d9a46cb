package poller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"edged/internal/batch"
)

// source is one list, read by peek and trim: LRANGE reads, the items stay where
// they are, and a prefix that was confirmed is removed in the same round trip as
// the next read. All fields but those said otherwise are owned by the loop.
type source struct {
	list List
	loop *Loop
	keys []string // the list, its lease, its dead-letter list
	log  *zap.Logger

	base uint64 // sequence number of the item at the head of the Redis list
	held []run  // what was read from there on, in order, without a gap
	next uint64 // sequence number behind held

	took    bool        // somebody was there to receive the last time round
	more    bool        // there may be items behind next
	hint    atomic.Bool // set by the hints: the list has changed
	freed   atomic.Bool // set by the hints: its lease has changed
	paused  atomic.Bool // set by an operator
	unsure  bool        // base may be wrong: find held in the list again before anything else
	owner   bool        // this process holds the lease, as far as it knows
	standby bool        // another one holds it
	fresh   bool        // no lease was held yet: one that this instance left is taken over
	renewed time.Time
	renew   bool      // the guard that is under way renews the lease
	asked   time.Time // when Redis was last asked
	due     time.Time // when it is asked next even if nothing happens: the slow poll
	idle    time.Duration

	most  int // bytes of the largest item in the last read
	limit int // how many items the next read may ask for: sizes may change, so it doubles at most

	loaded  bool // the scripts were loaded because Redis did not know them
	retry   *backoff
	retryAt time.Time // after a fault
	faults  int       // in a row

	mu     sync.Mutex
	status Status // guarded by mu
}

// firstRead is how many items are asked for while their size is not known.
const firstRead = 32

// lookWait is the least time between two looks at a list that nobody takes from,
// however busy its producers are.
const lookWait = time.Second

// run is a batch, or one item that can't be delivered.
type run struct {
	first uint64
	n     int
	b     *batch.Batch
	large *mark
}

func newSource(l *Loop, list List) *source {
	s := &source{
		list: list, loop: l, fresh: true, more: true, limit: firstRead, retry: newBackoff(),
		keys: []string{list.Key, leaseKey(list.Key), DeadKey(list.Key)},
		log:  l.opts.Log.With(zap.String("list", list.Key)),
	}
	s.status = Status{Key: list.Key, Subject: list.Subject, State: Starting}
	return s
}

// turn does what is to be done for the list now, in at most one round trip, and
// reports whether there was anything.
func (s *source) turn(ctx context.Context, now time.Time) bool {
	plan := s.follow()
	paused := s.paused.Load()
	takes := plan.Active && !paused && s.loop.taking.Load()
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
	if now.Before(s.retryAt) {
		return false
	}
	due := !now.Before(s.due)
	trim := plan.Head > s.base
	read := takes && plan.Items > 0 && (s.more || due)
	var err error
	switch {
	case s.unsure:
		err = s.find(ctx, now)
	case trim && s.held[0].large != nil:
		err = s.bury(ctx, now)
	case trim, read, due && (takes || len(s.held) > 0):
		err = s.exchange(ctx, now, plan, read)
	case due && s.owner && s.loop.taking.Load():
		err = s.release(ctx)
	case due:
		err = s.look(ctx)
	default:
		s.say(plan, paused)
		return false
	}
	if err != nil {
		s.fail(err, now)
	} else {
		s.succeed(now)
		s.schedule(now, takes)
	}
	s.say(plan, paused)
	return true
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
		s.held = s.held[:len(s.held)-1]
		s.more = true
	}
	s.next = plan.Next
	return plan
}

// schedule sets the next slow poll. Where Redis gives no hints the poll is all
// there is: it is quick while items come, and slows down to maxPoll.
func (s *source) schedule(now time.Time, takes bool) {
	s.asked = now
	wait := s.loop.opts.PollInterval
	if takes && s.owner && !s.loop.conn.hinted() {
		s.idle = min(max(2*s.idle, minPoll), maxPoll)
		wait = min(wait, s.idle)
	}
	s.due = now.Add(wait)
}

// exchange is the round trip of delivery: read what comes next, check that this
// instance still has the list and that its head is the one that was read, and
// remove what was confirmed. The check comes behind the read, so that it vouches
// for it: Redis carries out commands in the order in which they were sent.
func (s *source) exchange(ctx context.Context, now time.Time, plan batch.Plan, read bool) error {
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
	read = read && s.owner // a list of another instance's is not read, it is asked for
	var reply listReply
	var got gather
	pipe := s.loop.conn.client.Pipeline()
	ask := 0
	if read {
		got = gather{maxBytes: min(plan.Bytes, s.loop.opts.BatchBytes), maxItem: s.loop.opts.MaxPayload}
		ask = min(plan.Items, s.loop.opts.BatchItems, s.limit)
		if s.most > 0 {
			ask = max(1, min(ask, got.maxBytes/s.most))
		}
		got.data = make([]byte, 0, min(got.maxBytes, ask*s.most))
		got.ends = make([]int, 0, ask)
		reply.sink = &got
		from := int(s.next - s.base)
		first, last := from, from+ask-1
		if s.list.FromRight {
			first, last = -from-ask, -from-1
		}
		pipe.Process(ctx, redis.NewRawWriteToCmd(ctx, &reply, "LRANGE", s.list.Key, first, last))
	}
	check := s.guard(ctx, pipe, now, trim)
	_, err := pipe.Exec(ctx)
	if reply.err != nil {
		return reply.err
	}
	what, err := s.verdict(check, err, now)
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
	s.trimmed(uint64(trim))
	if read {
		s.take(&got, ask)
	}
	return nil
}

// guard adds the guard script to a pipeline.
func (s *source) guard(ctx context.Context, pipe redis.Pipeliner, now time.Time, trim int) *redis.Cmd {
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
	args := []any{"EVALSHA", guard.Hash(), 2, s.keys[0], s.keys[1],
		s.loop.holder, instead, o.Lease.Milliseconds(), renew, trim, side, markEnd}
	for _, seq := range s.landmarks(trim) {
		m := s.at(seq)
		args = append(args, seq-s.base, m.size, m.sum)
	}
	cmd := redis.NewCmd(ctx, args...)
	pipe.Process(ctx, cmd)
	return cmd
}

// landmarks are the items whose places tell that the head has not moved: the
// head, the last to be removed, and the first that differs from the head. Where
// somebody else removes items, and all items repeat in the very rhythm of what
// was removed, that can't be seen.
func (s *source) landmarks(trim int) []uint64 {
	if len(s.held) == 0 {
		return nil
	}
	marks := []uint64{s.base}
	if s.held[0].large == nil {
		head := s.item(s.base)
		for seq := s.base + 1; seq < min(s.next, s.base+maxRepeat); seq++ {
			if item := s.item(seq); item != nil && !bytes.Equal(item, head) {
				marks = append(marks, seq)
				break
			}
		}
	}
	if trim > 1 {
		marks = append(marks, s.base+uint64(trim)-1)
	}
	return marks
}

// maxRepeat bounds the search for an item that differs from the head.
const maxRepeat = 64

// verdict reads what a script said about lease and head.
func (s *source) verdict(cmd *redis.Cmd, err error, now time.Time) (what string, _ error) {
	if err == nil {
		err = cmd.Err()
	}
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		return "", errNoScript
	}
	if err != nil {
		return "", err
	}
	v, _ := cmd.Slice()
	if len(v) != 3 {
		return "", errors.New("unexpected reply from the guard script")
	}
	what, _ = v[0].(string)
	length, _ := v[1].(int64)
	holder, _ := v[2].(string)
	s.mu.Lock()
	s.status.Backlog = length
	s.status.Holder = ""
	if what == "standby" {
		s.status.Holder = holder
	}
	s.mu.Unlock()
	s.fresh = false
	s.standby = what == "standby"
	switch {
	case what == "standby":
		if s.owner {
			s.log.Warn("another instance has taken the list over; standing by", zap.String("holder", holder))
		}
		s.owner = false
	case !s.owner || what == "lost":
		s.owner, s.more, s.renewed = true, true, now
	case s.renew:
		s.renewed = now
	}
	return what, nil
}

var errNoScript = errors.New("NOSCRIPT")

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
			return
		}
		got.reverse()
	}
	s.limit, s.most = max(2*got.total, firstRead), got.most
	s.more = got.cut || got.total == ask
	if len(got.ends) > 0 {
		s.idle = 0
		b := batch.New(s.list.Subject, s.next, got.data, got.ends)
		if !s.list.Window.Offer(b) {
			s.more = true // the window was given back meanwhile
			return
		}
		s.hold(run{first: s.next, n: b.Len(), b: b})
		return // an item too large that follows is read again, first
	}
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
	s.owner, s.unsure = false, false
	s.base, s.held = s.next, nil
	s.list.Window.Gone(s.next)
	s.more = false // a hint or the slow poll asks again
}

// find reads as many items as are held and looks where in them the list begins
// now. Afterwards base is right again: what is no longer there was removed by
// somebody else, or by a trim whose reply was lost.
func (s *source) find(ctx context.Context, now time.Time) error {
	count := int(s.next - s.base)
	if count == 0 {
		s.unsure, s.held = false, nil
		return nil
	}
	first, last := 0, count-1
	if s.list.FromRight {
		first, last = -count, -1
	}
	seed := maphash.MakeSeed()
	there := newPrints(seed)
	reply := listReply{sink: there}
	pipe := s.loop.conn.client.Pipeline()
	held := s.held
	s.held = nil // so that the guard checks the lease only
	check := s.guard(ctx, pipe, now, 0)
	s.held = held
	pipe.Process(ctx, redis.NewRawWriteToCmd(ctx, &reply, "LRANGE", s.list.Key, first, last))
	_, err := pipe.Exec(ctx)
	if reply.err != nil {
		return reply.err
	}
	what, err := s.verdict(check, err, now)
	if err != nil {
		return err
	}
	if what == "standby" {
		s.forget()
		return nil
	}
	if s.list.FromRight {
		for i, j := 0, len(there.sums)-1; i < j; i, j = i+1, j-1 {
			there.sums[i], there.sums[j] = there.sums[j], there.sums[i]
		}
	}
	gone := displaced(s.sums(seed), there.sums)
	if confirmed := s.list.Window.Plan().Head; s.base+uint64(gone) > confirmed {
		others := s.base + uint64(gone) - max(confirmed, s.base)
		s.log.Warn("somebody else removed items from the list while they were on their way", zap.Uint64("items", others))
	}
	s.trimmed(uint64(gone))
	s.list.Window.Gone(s.base)
	s.unsure = false
	s.more = true
	return nil
}

// sums hashes the items that are held, from base on. Of an item too large to
// hold only the mark is known: it is matched by nothing, so it is read again.
func (s *source) sums(seed maphash.Seed) []uint64 {
	var sums []uint64
	for _, r := range s.held {
		for i := range r.n {
			switch {
			case r.first+uint64(i) < s.base:
			case r.b == nil:
				sums = append(sums, 0)
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
	s.renew = false // this script renews nothing
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
	cmd := redis.NewCmd(ctx, "EVALSHA", bury.Hash(), 3, s.keys[0], s.keys[1], s.keys[2],
		s.loop.holder, side, large.size, large.sum, markEnd, why)
	what, err := s.verdict(cmd, s.loop.conn.client.Process(ctx, cmd), now)
	if err != nil {
		return err
	}
	switch what {
	case "standby":
		s.forget()
	case "moved":
		s.unsure = true
	case "ok":
		s.trimmed(1)
		s.log.Warn("an item is too large to deliver; it is in the dead-letter list",
			zap.Int("bytes", large.size), zap.String("dead", s.keys[2]))
	}
	return nil
}

// Epitaph is the line of JSON in front of a dead letter: its bytes follow
// unchanged behind the line feed.
type Epitaph struct {
	Reason     string    `json:"reason"`
	Time       time.Time `json:"time"`
	Deliveries int       `json:"deliveries"`
	Size       int       `json:"size"`
	Instance   string    `json:"instance"`
}

// release gives the lease back while nobody is there to receive, so that an
// instance with clients can have the list.
func (s *source) release(ctx context.Context) error {
	cmd := redis.NewCmd(ctx, "EVALSHA", release.Hash(), 2, s.keys[0], s.keys[1], s.loop.holder)
	if err := s.loop.conn.client.Process(ctx, cmd); err != nil {
		if strings.HasPrefix(err.Error(), "NOSCRIPT") {
			return errNoScript
		}
		return err
	}
	s.owner = false
	return nil
}

// look asks for the length of the list, which is all there is to know while
// nobody is there to receive.
func (s *source) look(ctx context.Context) error {
	n, err := s.loop.conn.client.LLen(ctx, s.list.Key).Result()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.status.Backlog = n
	s.status.Holder = ""
	s.mu.Unlock()
	return nil
}

// fail backs off. One line in the log when the trouble begins, not one a try.
func (s *source) fail(err error, now time.Time) {
	if errors.Is(err, errNoScript) && !s.loaded {
		s.loaded = true
		if err = s.loop.loadScripts(); err == nil {
			return // at once again, but only once
		}
	}
	if len(s.held) > 0 {
		s.unsure = true // the reply may have been lost behind a trim
	}
	s.more = true
	reason := explain(err, s.loop.opts.Redis.Address)
	s.faults++
	s.retryAt = now.Add(s.retry.next())
	s.due = s.retryAt
	s.mu.Lock()
	news := s.status.Reason != reason
	s.status.Reason = reason
	if s.faults == 1 {
		s.status.FaultSince = now
	}
	s.mu.Unlock()
	if news {
		s.log.Error("can't serve the list; trying again", zap.String("reason", reason))
	}
}

func (s *source) succeed(now time.Time) {
	s.loaded = false
	if s.faults == 0 {
		return
	}
	s.mu.Lock()
	since := s.status.FaultSince
	s.status.Reason, s.status.FaultSince = "", time.Time{}
	s.mu.Unlock()
	s.log.Info("the list is served again", zap.Duration("after", now.Sub(since)), zap.Int("tries", s.faults))
	s.faults = 0
	s.retry.reset()
}

// say writes down the state for those who ask.
func (s *source) say(plan batch.Plan, paused bool) {
	state := Serving
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status.Reason != "":
		state = Failing
	case !s.loop.taking.Load():
		state = Draining
	case paused:
		state = Paused
	case !plan.Active:
		state = Waiting
	case s.status.Holder != "":
		state = Standby
	case plan.Items == 0:
		state = Full
	}
	s.status.State = state
}
