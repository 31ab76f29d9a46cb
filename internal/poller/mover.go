package poller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/redisconn"
)

// mover is one list whose items are acknowledged one by one: LMOVE takes them to
// this instance's in-flight list, from where they are removed in whatever order
// they are settled. All fields are owned by the loop.
//
// The in-flight list holds what held holds, in the same order. Where that may
// not be so, after a lost reply, it is read again.
type mover struct {
	*lane
	seed   maphash.Seed
	held   []moved
	places uint64    // given out
	asked  []removal // asked for since serial, the last ones: at most one has been carried out
	excess int       // items at the end of the in-flight list that are too much for now
	clean  bool      // what an earlier life of this instance left has been given back
	unsure bool      // held may not be what is in flight
	full   bool      // Redis refuses LMOVE: it is at its maxmemory
	tomb   string    // marks items for removal
	tick   time.Time
	next   time.Time // when others' in-flight lists are looked at
}

// moved is an item that is in flight.
type moved struct {
	place uint64 // its own; ascending along held
	seq   uint64
	size  int
	sum   uint64 // hash of its bytes
	large bool   // it can't be delivered, and has no seq and no sum
}

// removal is of the items in these places.
type removal struct {
	serial uint64
	places []uint64
}

func newMover(l *Loop, list List) *mover {
	m := &mover{seed: maphash.MakeSeed(), lane: newLane(l, list, aliveKey(list.Key, l.opts.Instance)), tomb: "edged removes this item " + l.holder}
	m.keys = append(m.keys, inFlightKey(list.Key, l.opts.Instance), instancesKey(list.Key))
	return m
}

// most items that are settled in one round trip.
const maxSettle = 1000

// mostInFlight bounds the items that find reads; max_ack_pending is far below.
const mostInFlight = 1 << 20

func (m *mover) side() string {
	if m.list.FromRight {
		return "R"
	}
	return "L"
}

func (m *mover) turn(ctx context.Context, now time.Time) bool {
	m.tick = m.list.Explicit.Tick()
	plan := m.list.Explicit.Plan()
	takes := m.listen(plan.Active)
	if now.Before(m.retryAt) {
		return false
	}
	m.Server.Settle(0)
	if m.broken() && m.clean {
		m.unsure = true
	}
	if !m.tick.IsZero() && m.tick.Before(m.due) {
		m.due = m.tick
	}
	due := !now.Before(m.due)
	if m.standby && !due {
		m.say(plan.Active, plan.Items)
		return false
	}
	settled := m.list.Explicit.Settled(maxSettle)
	large := m.large()
	read := takes && plan.Items > 0 && (m.more || due)
	finding := m.clean && m.unsure
	var err error
	switch {
	case !m.clean:
		err = m.recover(ctx, now)
	case m.unsure:
		err = m.find(ctx, now)
	case m.excess > 0:
		err = m.giveBackExcess(ctx)
	case len(settled) > 0, large, read, due && (takes || len(m.held) > 0):
		err = m.exchange(ctx, now, plan, settled, read)
	case !plan.Active && len(m.held) > 0 && m.list.Explicit.Withdraw(false):
		err = m.giveBackOwn(ctx)
	case due && m.owner && m.loop.taking.Load() && !takes:
		err = m.release(ctx)
	case due:
		err = m.look(ctx)
	default:
		m.say(plan.Active, plan.Items)
		return false
	}
	if err == nil && takes && !now.Before(m.next) {
		m.next = now.Add(m.loop.opts.PollInterval)
		err = m.reclaim(ctx)
	}
	if err != nil {
		m.unsure = true // a reply may have been lost
	}
	if err == nil && finding && m.faults > 0 {
		m.due = now // finding the place only reads: whether the fault is over is not known yet
	} else {
		m.done(err, now, takes)
	}
	m.say(plan.Active, plan.Items)
	return true
}

// large tells whether an item is in flight that can't be delivered.
func (m *mover) large() bool {
	for _, x := range m.held {
		if x.large {
			return true
		}
	}
	return false
}

func (m *mover) unremoved() int { return len(m.list.Explicit.Settled(maxSettle)) }

// settle is the script's call: it holds the lease, and removes of what is held what
// is settled or can't be delivered. gone are the places of what it removes.
func (m *mover) settle(now time.Time, held []moved, settled []batch.Settlement) (words []any, gone []uint64, buried int, err error) {
	o := &m.loop.opts
	instead, renew := "", "0"
	if m.fresh {
		instead = o.Instance + "/"
	}
	if m.renew = now.Sub(m.renewed) >= o.Lease/3; m.renew {
		renew = "1"
	}
	fate := make(map[uint64]batch.Settlement, len(settled))
	for _, s := range settled {
		fate[s.Seq] = s
	}
	front, ahead := 0, true
	var others []any
	for i, x := range held {
		s, ok := fate[x.seq]
		if x.large {
			s, ok = batch.Settlement{Dead: fmt.Sprintf("larger than max_payload (%d bytes)", o.MaxPayload)}, true
			buried++
		}
		if !ok {
			ahead = false
			continue
		}
		gone = append(gone, x.place)
		switch {
		case s.Dead != "":
			ahead = false
			why, err := json.Marshal(Epitaph{Reason: s.Dead, Time: now.UTC(), Deliveries: s.Deliveries, Size: x.size, Instance: o.Instance})
			if err != nil {
				return nil, nil, 0, err
			}
			others = append(others, i, why)
		case ahead:
			front++
		default:
			others = append(others, i, "")
		}
	}
	if m.attempt += 2; len(gone) > 0 {
		m.ask(gone)
	}
	words = settle.Call(m.keys, m.loop.holder, instead, o.Lease.Milliseconds(), renew, o.Instance,
		m.tomb, m.serial, m.attempt, front, len(held))
	return append(words, others...), gone, buried, nil
}

// ask notes what the call under way is to remove.
func (m *mover) ask(places []uint64) {
	if len(m.asked) == maxAsked {
		m.asked = slices.Delete(m.asked, 0, 1)
	}
	m.asked = append(m.asked, removal{m.attempt, places})
}

// judge is verdict, but says "lost" also where a call that said so got no answer:
// the last removal has a number then that none has.
func (m *mover) judge(reply any, err error, now time.Time) (string, error) {
	before := m.serial
	what, err := m.verdict(reply, err, now)
	asked := func(r removal) bool { return r.serial == m.serial }
	if err == nil && what != "standby" && m.serial != before && !slices.ContainsFunc(m.asked, asked) {
		what = "lost"
	}
	return what, err
}

// exchange is the round trip of delivery: remove what is settled, take what
// comes next.
func (m *mover) exchange(ctx context.Context, now time.Time, plan batch.Plan, settled []batch.Settlement, read bool) error {
	c, err := m.Server.Open(ctx)
	if err != nil {
		return err
	}
	words, gone, buried, err := m.settle(now, m.held, settled)
	if err != nil {
		return err
	}
	c.Command(words...)
	got := m.taken(plan, 0)
	read = read && m.owner
	ask := 0
	if read {
		ask = m.fill(&got.gather, plan.Items)
		m.take(c, ask)
		// Taking ends Redis's tracking of the list for this connection; asking for
		// its length begins it again.
		c.Command("LLEN", m.list.Key)
	}
	if err := c.Send(ctx); err != nil {
		return err
	}
	c.Receive(got.memory)
	reply, err := c.Value()
	if err := redisconn.Broken(err); err != nil {
		return err
	}
	var refused error
	var length any
	end := err
	if read {
		if refused = m.taking(c, got, ask); redisconn.Broken(refused) != nil {
			return refused
		}
		length, end = c.Value()
	}
	if err := c.Finish(end); err != nil {
		return err
	}
	if refused != nil && strings.HasPrefix(refused.Error(), "OOM") && !m.full {
		m.full = true // from now on by script; the removal may have been carried out
		m.unsure = true
		return nil
	}
	if refused != nil {
		return refused
	}
	what, err := m.judge(reply, err, now)
	if err != nil {
		return err
	}
	switch what {
	case "standby":
		m.forget()
		return nil
	case "lost":
		m.reclaimed()
		return nil
	case "moved":
		m.unsure, m.more = true, true // what was taken now is found behind what that is
		return nil
	case "ok":
		m.asked = m.asked[:0]
		m.held = without(m.held, gone)
		m.list.Explicit.Removed(len(settled))
		m.removed(len(settled))
		if buried > 0 {
			m.list.Explicit.Buried(buried)
			m.log.Warn("items too large to deliver are in the dead-letter list", zap.Int("items", buried), zap.String("dead", m.keys[2]))
		}
	}
	if read {
		n, _ := length.(int64)
		m.learn(&got.gather, len(got.items))
		m.more = n > 0
		m.mu.Lock()
		m.status.Backlog = n
		m.mu.Unlock()
		m.hold(got, 0)
	}
	return nil
}

// take sends what moves n items.
func (m *mover) take(c *redisconn.Conn, n int) {
	if m.full {
		c.Command(takeFull.Call(m.keys, m.side(), n)...)
		return
	}
	from := "LEFT"
	if m.list.FromRight {
		from = "RIGHT"
	}
	c.Repeat(n, "LMOVE", m.list.Key, m.keys[3], from, "RIGHT")
}

// taking reads what take has moved. An error that is a reply is the first of them.
func (m *mover) taking(c *redisconn.Conn, got *taken, n int) (refused error) {
	if m.full {
		m.full = false // try again without
		return c.Items(got, n)
	}
	for range n {
		if _, err := c.Item(got); redisconn.Broken(err) != nil {
			return err
		} else if refused == nil {
			refused = err
		}
	}
	return refused
}

// hold keeps what was taken, from item at on, and offers it to the relay. What
// found no room goes back.
func (m *mover) hold(got *taken, at int) {
	m.excess = 0
	if at == len(got.items) {
		return
	}
	m.idle = 0
	m.mu.Lock()
	backlog := m.status.Backlog
	m.mu.Unlock()
	first := m.list.Explicit.Plan().Next
	kept := 0
	for i, it := range got.items[at:] {
		large := it.size > got.maxItem
		if !large && !it.kept {
			m.excess = len(got.items) - at - i
			break
		}
		m.places++
		x := moved{place: m.places, size: it.size, sum: it.sum, large: large}
		if !large {
			x.seq = first + uint64(kept)
			kept++
		}
		m.held = append(m.held, x)
	}
	if kept > 0 {
		b := batch.New(m.list.Subject, first, got.memory).Explicit(time.Now(), backlog)
		m.list.Explicit.Offer(b)
		b.Release()
	}
}

// recover gives back what an earlier life of this instance left in flight, and
// what this one lost hold of.
func (m *mover) recover(ctx context.Context, now time.Time) error {
	words, _, _, err := m.settle(now, nil, nil)
	if err != nil {
		return err
	}
	reply, err := m.Server.Do(ctx, words...)
	what, err := m.verdict(reply, err, now)
	if err != nil || what == "standby" {
		return err
	}
	if err := m.giveBackOwn(ctx); err != nil {
		return err
	}
	m.clean = true
	return nil
}

// giveBackOwn puts what is in flight and not in held any more back to the head.
func (m *mover) giveBackOwn(ctx context.Context) error {
	m.attempt += 2
	n, err := m.giveBack(ctx, 0)
	m.held, m.asked, m.excess, m.more = nil, nil, 0, true
	if err != nil || n < 0 {
		m.clean = false
		return err
	}
	m.serial = m.attempt
	if n > 0 {
		m.log.Info("items went back to the head of the list", zap.Int64("items", n))
	}
	return nil
}

// giveBackExcess puts back what was taken and found no room: items may be larger
// than those before them.
func (m *mover) giveBackExcess(ctx context.Context) error {
	m.attempt += 2
	m.ask(nil)
	n, err := m.giveBack(ctx, m.excess)
	if err != nil {
		return err
	}
	m.unsure = n != int64(m.excess)
	m.excess, m.more = 0, true
	if n >= 0 {
		m.serial, m.asked = m.attempt, m.asked[:0]
	}
	return nil
}

func (m *mover) giveBack(ctx context.Context, most int) (int64, error) {
	return m.run(ctx, giveBack, m.keys[1], m.keys[3], m.loop.holder, m.side(), m.loop.opts.Instance, m.serial, m.attempt, most)
}

// run runs a script that returns a number.
func (m *mover) run(ctx context.Context, script *redisconn.Script, lease, inFlight string, args ...any) (int64, error) {
	keys := []string{m.keys[0], lease, m.keys[2], inFlight, m.keys[4]}
	reply, err := m.Server.Run(ctx, script, keys, args...)
	n, ok := reply.(int64)
	if err == nil && !ok {
		err = errors.New("unexpected reply from a script that gives items back")
	}
	return n, err
}

// reclaim gives back what instances left in flight that are gone for good.
func (m *mover) reclaim(ctx context.Context) error {
	reply, err := m.Server.Do(ctx, "HKEYS", m.keys[4])
	if err != nil {
		return err
	}
	names, _ := reply.([]any)
	for _, name := range names {
		name, _ := name.(string)
		if name == "" || name == m.loop.opts.Instance {
			continue
		}
		n, err := m.run(ctx, reclaim, aliveKey(m.list.Key, name), inFlightKey(m.list.Key, name), m.side(), name)
		if err != nil {
			return err
		}
		if n > 0 {
			m.more = true
			m.log.Warn("another instance is gone; its items went back to the list", zap.String("instance", name), zap.Int64("items", n))
		}
	}
	return nil
}

// find reads the in-flight list and compares it with held: what is missing was
// removed by a call whose reply was lost, or given back by another instance;
// what follows was taken by a call whose reply was lost.
func (m *mover) find(ctx context.Context, now time.Time) error {
	c, err := m.Server.Open(ctx)
	if err != nil {
		return err
	}
	words, _, _, err := m.settle(now, nil, nil)
	if err != nil {
		return err
	}
	c.Command(words...)
	c.Command("LRANGE", m.keys[3], 0, -1)
	if words, _, _, err = m.settle(now, nil, nil); err != nil { // a removal that comes late can come in between
		return err
	}
	c.Command(words...)
	got := m.taken(m.list.Explicit.Plan(), len(m.held))
	got.memory = m.loop.pool.Get(0, 0)
	if err := c.Send(ctx); err != nil {
		return err
	}
	c.Receive(got.memory)
	check, again, err := c.Around(got, mostInFlight)
	if err != nil {
		return err
	}
	what, err := m.judge(check.Value, check.Err, now)
	serial := m.serial
	if err == nil && what != "standby" && what != "lost" {
		what, err = m.judge(again.Value, again.Err, now)
	}
	switch {
	case err != nil:
		return err
	case what == "standby":
		m.forget()
		return nil
	case what == "lost":
		m.reclaimed()
		return nil
	case m.serial != serial:
		return nil // once more
	}
	m.unsure = false
	m.more = true
	m.match(got)
	return nil
}

// match makes held what is in flight. The number of the last removal tells
// whether one whose reply was lost has been carried out; the items tell whether
// anybody else had a hand in it.
func (m *mover) match(got *taken) {
	var removed []uint64
	for _, r := range m.asked {
		if r.serial == m.serial {
			removed = r.places
		}
	}
	m.asked = slices.DeleteFunc(m.asked, func(r removal) bool { return r.serial <= m.serial })
	same := func(x moved, at int) bool {
		return at < len(got.items) && x.size == got.items[at].size && (x.large || x.sum == got.items[at].sum)
	}
	var kept []moved
	var missing []uint64
	at, buried := 0, 0 // at is a place in got
	for _, x := range m.held {
		_, gone := slices.BinarySearch(removed, x.place)
		switch {
		case !gone && same(x, at):
			kept = append(kept, x)
			at++
		case !x.large:
			missing = append(missing, x.seq)
		case gone:
			buried++
		}
	}
	m.held = kept
	m.list.Explicit.Buried(buried)
	if len(missing) > 0 {
		m.missing(missing)
	}
	m.hold(got, at)
}

// missing tells the relay of items that are not in flight any more: those that
// were settled have been removed, the rest is another's.
func (m *mover) missing(seqs []uint64) {
	gone := make(map[uint64]bool, len(seqs))
	for _, seq := range seqs {
		gone[seq] = true
	}
	for settled := m.list.Explicit.Settled(len(seqs)); len(settled) > 0 && gone[settled[0].Seq]; settled = settled[1:] {
		m.list.Explicit.Removed(1)
		m.removed(1)
		delete(gone, settled[0].Seq)
	}
	var others []uint64
	for _, seq := range seqs {
		if gone[seq] {
			others = append(others, seq)
		}
	}
	if len(others) > 0 {
		m.log.Warn("items are not in flight any more that this instance had taken", zap.Int("items", len(others)))
		m.list.Explicit.Gone(others)
	}
}

func (m *mover) removed(n int) {
	m.mu.Lock()
	m.status.Removed += uint64(n)
	m.mu.Unlock()
}

// without returns held without the items in these places.
func without(held []moved, places []uint64) []moved {
	return slices.DeleteFunc(held, func(x moved) bool {
		if len(places) > 0 && x.place == places[0] {
			places = places[1:]
			return true
		}
		return false
	})
}

// reclaimed forgets what was in flight: another instance has given it back, or
// Redis has lost its data.
func (m *mover) reclaimed() {
	if len(m.held) > 0 {
		m.log.Warn("what this instance had taken is not in flight any more: its lease had run out, or Redis has lost its data", zap.Int("items", len(m.held)))
	}
	m.forget()
}

// forget drops everything that is held; what is in flight goes back first of all.
func (m *mover) forget() {
	var seqs []uint64
	for _, x := range m.held {
		if !x.large {
			seqs = append(seqs, x.seq)
		}
	}
	m.list.Explicit.Gone(seqs)
	m.held, m.asked, m.excess, m.unsure, m.clean, m.more = nil, nil, 0, false, false, false
}

// release gives back what is in flight, and the lease.
func (m *mover) release(ctx context.Context) error {
	m.list.Explicit.Withdraw(true)
	back := m.giveBackOwn
	if m.unsure || !m.clean { // the number of the last removal may not be known
		back = func(ctx context.Context) error { return m.recover(ctx, time.Now()) }
	}
	if err := back(ctx); err != nil {
		return err
	}
	m.unsure = false
	if _, err := m.Server.Run(ctx, release, m.keys[:2], m.loop.holder); err != nil {
		return err
	}
	m.owner = false
	return nil
}

// taken is the sink for items that were moved. It hashes all but those over
// maxItem, and of those from skip on it keeps as many as gather would; one always.
type taken struct {
	gather
	skip  int
	items []takenItem

	hash maphash.Hash
	keep bool // the current item
}

type takenItem struct {
	size int
	sum  uint64
	kept bool
}

func (m *mover) taken(plan batch.Plan, skip int) *taken {
	t := &taken{gather: gather{maxBytes: plan.Bytes, maxLarge: plan.Large, maxItem: m.loop.opts.MaxPayload}, skip: skip}
	t.hash.SetSeed(m.seed)
	return t
}

func (t *taken) Begin(size int) (keep bool) {
	t.hash.Reset()
	t.keep = false
	if size <= t.maxItem {
		t.most = max(t.most, size)
		if len(t.items) >= t.skip {
			t.keep = t.fits(size)
		}
	}
	t.items = append(t.items, takenItem{size: size, kept: t.keep})
	return t.keep
}

func (t *taken) Part(p []byte) {
	if t.items[len(t.items)-1].size <= t.maxItem {
		t.hash.Write(p)
	}
}

func (t *taken) End(s batch.Span) {
	if t.keep {
		t.memory.Spans = append(t.memory.Spans, s)
		t.hash.Write(t.memory.Data[s.From:s.To])
	}
	t.items[len(t.items)-1].sum = t.hash.Sum64()
}
