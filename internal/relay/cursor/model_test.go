package cursor

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// TestTheRuleHoldsWhateverHappens plays random lives of a list: consumers come, go,
// confirm, refuse and crash, other programs push, and edged itself is killed, and looks
// after each step whether an item has left Redis that a consumer still owed.
func TestTheRuleHoldsWhateverHappens(t *testing.T) {
	lives := 400
	if testing.Short() {
		lives = 100
	}
	for seed := range lives {
		for _, explicit := range []bool{false, true} {
			w := newWorld(t, uint64(seed), explicit)
			for range 150 {
				if w.step(); t.Failed() {
					break
				}
			}
			if !t.Failed() {
				w.finish()
			}
			if t.Failed() {
				t.Fatalf("seed %d, explicit %v:\n%s", seed, explicit, w.story())
			}
		}
	}
}

// world is a list in a Redis, its Log, and the clients.
type world struct {
	t        *testing.T
	rand     *rand.Rand
	now      time.Time
	opts     Options
	log      *Log
	first    uint64 // of the list in Redis
	end      uint64 // one past its last item
	ledger   ledger
	graceEnd time.Time // zero: none in the ledger
	known    numbers.Set
	dead     numbers.Set
	clients  []*client
	names    int
	unknown  bool // the reply to the last script was lost
	lines    []string
}

// ledger stands beside the list in Redis.
type ledger struct {
	finished string
	done     uint64
	plain    uint64
	hasPlain bool
	groups   map[string]string
}

// client is a plain subscriber, or a member of a group, which comes back by itself.
type client struct {
	w          *world
	name       string
	group      string
	owes       *owes
	membership batch.Membership
	debts      []handed
}

type handed struct {
	from, to uint64
	receipt  batch.Receipt
}

// owes has the items that a consumer has to confirm: all from start on.
type owes struct {
	start     uint64
	confirmed numbers.Set
	handed    numbers.Set
	members   int
}

func newWorld(t *testing.T, seed uint64, explicit bool) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0)}
	w.opts = Options{
		Window: 1 + w.rand.IntN(12), Memory: 1 << 20, Explicit: explicit, AckWait: 20 * time.Second,
		MaxAckPending: 1 + w.rand.IntN(12), MaxDeliver: w.rand.IntN(4) * 2, Now: func() time.Time { return w.now },
	}
	w.ledger.groups = map[string]string{}
	w.start()
	return w
}

func (w *world) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) story() string {
	text := ""
	for _, line := range w.lines[max(0, len(w.lines)-260):] {
		text += line + "\n"
	}
	return text
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf(format, args...)
}

const grace = 30 * time.Second

// start begins a life of edged.
func (w *world) start() {
	w.log = New(w.opts)
	w.load()
}

func (w *world) load() {
	finished, err := numbers.Parse(cmpOr(w.ledger.finished, "0"))
	if err != nil {
		w.t.Fatal(err)
	}
	s := batch.Snapshot{First: w.first, Finished: finished, Done: w.ledger.done, Plain: w.ledger.plain, HasPlain: w.ledger.hasPlain,
		Groups: map[string]numbers.Set{}}
	for name, text := range w.ledger.groups {
		set, err := numbers.Parse(text)
		if err != nil {
			w.t.Fatal(err)
		}
		s.Groups[name] = set
	}
	if w.graceEnd.IsZero() {
		w.graceEnd = w.now.Add(grace)
	}
	s.Grace = w.graceEnd.Sub(w.now)
	w.say("load %+v", s)
	w.log.Load(s)
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (w *world) step() {
	switch n := w.rand.IntN(100); {
	case n < 15:
		w.end += uint64(w.rand.IntN(8))
		w.say("pushed up to %d", w.end)
	case n < 25 && len(w.clients) < 6:
		w.join("")
	case n < 30 && len(w.clients) < 6:
		w.join([]string{"g", "h"}[w.rand.IntN(2)])
	case n < 33:
		w.leave()
	case n < 65:
		w.confirm()
	case n < 70:
		w.now = w.now.Add(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
	case n < 71:
		w.now = w.now.Add(time.Duration(w.rand.IntN(60)) * time.Second)
	case n < 73:
		w.crash()
	default:
		w.turn(w.rand.IntN(10) == 0)
	}
	w.check()
}

// done is the number of items from the first on that at least one consumer has confirmed.
func (w *world) done() uint64 { return w.known.Floor() }

func (w *world) join(group string) {
	w.names++
	c := &client{w: w, name: fmt.Sprint("c", w.names), group: group}
	for _, other := range w.clients {
		if group != "" && other.group == group {
			c.owes = other.owes
		}
	}
	if c.owes == nil {
		c.owes = &owes{start: never}
	}
	c.owes.members++
	w.clients = append(w.clients, c)
	w.say("%s joins %q", c.name, group)
	c.membership = w.log.Join(group, "k", c)
	if c.owes.start == never { // it begins where the Log says, which is no later than done
		mem := c.membership.(*member)
		c.owes.start = mem.consumer.cursor
		c.owes.confirmed = mem.consumer.acked.Clone()
		if c.owes.start > w.done() {
			w.fail("%s begins at %d, but only %d are done", c.name, c.owes.start, w.done())
		}
	}
}

func (w *world) leave() {
	if len(w.clients) == 0 {
		return
	}
	i := w.rand.IntN(len(w.clients))
	c := w.clients[i]
	w.say("%s leaves", c.name)
	w.clients = slices.Delete(w.clients, i, i+1)
	c.owes.members--
	c.membership.Leave()
}

// Deliver implements batch.Member.
func (c *client) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	first := b.First() + uint64(from)
	for n := first; n < b.First()+uint64(to); n++ {
		if string(b.Item(int(n-b.First()))) != fmt.Sprint(n) {
			c.w.fail("%s got %q as number %d", c.name, b.Item(int(n-b.First())), n)
		}
		if c.owes.confirmed.Has(n) && n >= c.owes.start {
			c.w.fail("%s got %d, which was confirmed", c.name, n)
		}
		if c.owes.handed.Has(n) {
			continue
		}
		if gap, _ := c.owes.confirmed.Gap(c.owes.handed.Top()); c.owes.handed.Top() > 0 && n > gap && !c.skipped(gap, n) {
			c.w.fail("%s got %d, and not %d before", c.name, n, gap)
		}
		c.owes.handed.Add(n, n+1)
	}
	c.debts = append(c.debts, handed{first, first + uint64(to-from), receipt})
	c.w.say("%s gets %d to %d", c.name, first, first+uint64(to-from))
	return to - from
}

// skipped reports whether all items of a range are dead.
func (c *client) skipped(from, to uint64) bool {
	for n := from; n < to; n++ {
		if !c.w.dead.Has(n) && !c.owes.confirmed.Has(n) {
			return false
		}
	}
	return true
}

func (w *world) confirm() {
	if len(w.clients) == 0 {
		return
	}
	c := w.clients[w.rand.IntN(len(w.clients))]
	if len(c.debts) == 0 {
		return
	}
	if !w.opts.Explicit {
		d := c.debts[0]
		c.debts = c.debts[1:]
		w.say("%s confirms %d to %d", c.name, d.from, d.to)
		c.owes.confirmed.Add(d.from, d.to)
		w.known.Add(d.from, d.to)
		d.receipt.Confirm()
		return
	}
	i := w.rand.IntN(len(c.debts))
	d := c.debts[i]
	d.receipt.Confirm()
	n := d.from + w.rand.Uint64N(d.to-d.from)
	ack := batch.Ack{Kind: batch.AckKind(w.rand.IntN(3))}
	if w.rand.IntN(2) == 0 {
		ack.Kind = batch.Acked
	}
	if ack.Kind == batch.Refused && w.rand.IntN(2) == 0 {
		ack.Delay = time.Duration(w.rand.IntN(10)) * time.Second
	}
	err := c.membership.(batch.Acknowledger).Acknowledge(n, time.Time{}, ack, nil)
	w.say("%s says %v to %d: %v", c.name, ack, n, err)
	if err == nil && ack.Kind == batch.Acked {
		c.owes.confirmed.Add(n, n+1)
		w.known.Add(n, n+1)
	}
}

// crash kills edged. The clients come back at once.
func (w *world) crash() {
	w.say("crash")
	var ready []bool // the ledger knew of it, so that items may have gone out
	for _, c := range w.clients {
		ready = append(ready, c.membership.(*member).consumer.ready)
	}
	w.unknown = false
	w.start()
	for i, c := range w.clients {
		c.debts = nil
		c.membership = w.log.Join(c.group, "k", c)
		mem := c.membership.(*member)
		if !ready[i] {
			c.owes.start = mem.consumer.cursor
		}
		c.owes.handed = mem.consumer.acked.Clone() // it may get again items that the ledger does not have as confirmed
		for n := c.owes.start; n < w.end; n++ {
			if ready[i] && mem.consumer.acked.Has(n) && !c.owes.confirmed.Has(n) && !w.dead.Has(n) && w.now.Before(w.graceEnd) {
				w.fail("%s came back, but does not get %d any more", c.name, n)
			}
		}
		// A client that comes back later has no claim to the items it missed.
		c.owes.confirmed = mem.consumer.acked.Clone()
	}
}

// turn is a round trip of the loop. Its reply may be lost.
func (w *world) turn(lost bool) {
	if w.unknown {
		w.unknown = false
		w.log.Saved(true) // the serial in the ledger tells
	}
	p := w.log.Plan(w.end)
	var read *batch.Batch
	if p.Items > 0 && p.From < w.end {
		if p.From < w.first {
			w.fail("read at %d, but the list begins at %d", p.From, w.first)
			w.dump()
			return
		}
		read = w.read(p)
	}
	ch := w.log.Changes()
	if lost && w.rand.IntN(2) == 0 {
		w.say("a request is lost")
		w.log.Saved(false)
		return
	}
	w.write(&ch)
	if lost {
		w.say("a reply is lost")
		w.unknown = true
		return
	}
	w.log.Saved(true)
	if read != nil {
		w.log.Offer(read, p.Sweep)
	}
}

func (w *world) read(p batch.Place) *batch.Batch {
	to := min(w.end, p.From+uint64(min(p.Items, 1+w.rand.IntN(6))))
	var items [][]byte
	for n := p.From; n < to; n++ {
		items = append(items, []byte(fmt.Sprint(n)))
	}
	b := batch.Of("list", p.From, items...)
	if w.opts.Explicit {
		b.Explicit(w.now, 0)
	}
	return b
}

// write is the script: it writes the ledger, and removes the finished items.
func (w *world) write(ch *batch.Changes) {
	if ch.Finished != "" {
		w.ledger.finished = ch.Finished
	}
	if ch.Done != "" {
		fmt.Sscan(ch.Done, &w.ledger.done)
	}
	if ch.Plain != "" {
		fmt.Sscan(ch.Plain, &w.ledger.plain)
		w.ledger.hasPlain = true
	}
	if ch.NoPlain {
		w.ledger.plain, w.ledger.hasPlain = 0, false
	}
	if ch.GraceOver {
		w.graceEnd = time.Time{}
	}
	for _, r := range ch.Groups {
		if w.ledger.groups[r.Group] = r.Acked; r.Acked == "" {
			delete(w.ledger.groups, r.Group)
		}
	}
	for _, d := range ch.Dead {
		if d.Number < w.first {
			w.fail("%d becomes a dead letter, but is not in the list", d.Number)
		}
		w.dead.Add(d.Number, d.Number+1)
		w.known.Add(d.Number, d.Number+1)
	}
	finished, err := numbers.Parse(cmpOr(w.ledger.finished, "0"))
	if err != nil {
		w.t.Fatal(err)
	}
	if !ch.Empty() {
		w.say("wrote %+v", *ch)
	}
	if f := finished.Floor(); f > w.first {
		w.say("removed up to %d", f)
		w.first = f
	}
}

// check looks whether an item is gone that a consumer still owed.
func (w *world) check() {
	w.invariants()
	for n := range w.first {
		if !w.known.Has(n) {
			w.fail("%d is gone, but no consumer has confirmed it", n)
			return
		}
		for _, c := range w.clients {
			if n >= c.owes.start && !c.owes.confirmed.Has(n) && !w.dead.Has(n) {
				w.fail("%d is gone, but %s has not confirmed it", n, c.name)
				return
			}
		}
	}
	st := w.log.Stats()
	if st.Taken != st.Confirmed+st.Dead+st.Gone+st.Returned+st.InFlight || int64(st.InFlight) < 0 || int64(st.Confirmed) < 0 {
		w.fail("the books are wrong: %+v", st)
	}
}

// finish lets all clients confirm: then nothing is left.
func (w *world) finish() {
	if w.join(""); w.t.Failed() {
		return
	}
	for range 2000 {
		w.turn(false)
		for _, c := range w.clients {
			for _, d := range c.debts {
				if !w.opts.Explicit {
					c.owes.confirmed.Add(d.from, d.to)
					w.known.Add(d.from, d.to)
					d.receipt.Confirm()
					continue
				}
				d.receipt.Confirm()
				for n := d.from; n < d.to; n++ {
					if c.membership.(batch.Acknowledger).Acknowledge(n, time.Time{}, batch.Ack{Kind: batch.Acked}, nil) == nil {
						c.owes.confirmed.Add(n, n+1)
						w.known.Add(n, n+1)
					}
				}
			}
			c.debts = nil
		}
		w.now = w.now.Add(100 * time.Millisecond)
	}
	w.check()
	if w.first != w.end {
		w.fail("%d items are left of the list: %d to %d", w.end-w.first, w.first, w.end)
		w.dump()
	}
	if st := w.log.Stats(); st.InFlight != 0 || st.Behind != 0 {
		w.fail("after the end: %+v", st)
	}
}

// invariants compares fields of a Log that depend on each other.
func (w *world) invariants() {
	l := w.log
	for _, c := range l.consumers {
		if c.closing || len(c.members) == 0 {
			continue
		}
		below := c.acked.Clone()
		below.Cut(c.cursor)
		if out := int(c.cursor - below.Count()); out != c.out {
			w.fail("consumer %q: out is %d, not %d; cursor %d, acked %s", c.group, c.out, out, c.cursor, c.acked.String())
		}
		owed := 0
		for _, m := range c.members {
			owed += m.owed
			held := 0
			for _, s := range l.holds(m) {
				held += int(s.To - s.From)
			}
			if held != m.owed {
				w.fail("consumer %q: a member owes %d, but holds %d", c.group, m.owed, held)
			}
		}
		waiting := 0
		for _, k := range c.singles {
			if k.member == nil {
				waiting++
			}
		}
		if !w.opts.Explicit {
			waiting = int(c.again.Count())
		}
		if owed+waiting != c.out {
			w.fail("consumer %q: %d in hands and %d waiting, but %d are out", c.group, owed, waiting, c.out)
		}
	}
}

// dump adds the consumers to the story.
func (w *world) dump() {
	for _, c := range w.log.consumers {
		w.say("  consumer %q: %v, cursor %d, again %v, out %d, ready %v, front %v, closing %v", c.group, c.acked.String(), c.cursor, c.again.String(),
			c.out, c.ready, c.front, c.closing)
	}
	w.say("  front %d, done %s, finished %s, taken %s", w.log.front, w.log.done.String(), w.log.finished.String(), w.log.taken.String())
}
