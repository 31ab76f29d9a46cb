package relay

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
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
	aside    map[uint64]bool
	mostHeld uint64
	graceEnd time.Time // zero: none in the ledger
	known    numbers.Set
	dead     numbers.Set
	clients  []*client
	names    int
	unknown  bool // the reply to the last script was lost
	lines    []string
	cut      []batch.Member
	keep     uint64 // finished items that stay in the list
	quiet    quiet
	durables map[string]*owes
	dedup    bool
	judged   numbers.Set // items of which the Log learns whether they are duplicates
}

// quiet is the last Plan, if it had no work.
type quiet struct {
	yes   bool
	end   uint64
	wake  time.Time
	woken bool
}

// ledger stands beside the list in Redis.
type ledger struct {
	finished string
	done     uint64
	plain    uint64
	hasPlain bool
	records  map[batch.Name]string
}

// client is a plain subscriber, a member of a group or of a durable consumer, which comes back
// by itself, or a viewer.
type client struct {
	w          *world
	name       string
	group      string
	durable    bool // group is its name
	viewer     bool
	owes       *owes
	membership batch.Membership
	debts      []handed
	tap        *tap // the member in its place, if that is metered
}

// tap is a metered member: it takes as many items as it is asked for, or fewer.
type tap struct {
	*client
	wants int
}

func (m *tap) Room() int { return m.wants }

func (m *tap) Passed(int) {}

func (m *tap) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	n := min(to-from, m.wants, m.w.rand.IntN(8))
	if n == 0 {
		return 0
	}
	m.wants -= n
	return m.client.Deliver(b, from, from+n, receipt)
}

func (c *client) member() batch.Member {
	if c.tap != nil {
		return c.tap
	}
	return c
}

type handed struct {
	from, to uint64
	receipt  batch.Receipt
}

// owes has the items that a consumer has to confirm: all from start on.
type owes struct {
	start     uint64
	confirmed numbers.Set
	finished  numbers.Set // before it began
	handed    numbers.Set
	given     numbers.Set // handed, earlier lives included
}

func newWorld(t *testing.T, seed uint64, explicit bool) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0), dedup: seed%3 == 2}
	w.opts = Options{
		Changed: func() { w.quiet.woken = true },
		Window:  1 + w.rand.IntN(12), Memory: 1 << 20, Now: func() time.Time { return w.now },
		Terms: Terms{Explicit: explicit, AckWait: 20 * time.Second, MaxAckPending: 1 + w.rand.IntN(12), MaxDeliver: w.rand.IntN(4) * 2},
	}
	if w.dedup {
		w.opts.Duplicate = func(n uint64) (is, known bool) { return w.repeats(n), w.judged.Has(n) }
	}
	if seed%3 == 1 {
		w.opts.Delay = 2 * time.Second
	}
	if seed%2 == 1 {
		w.opts.MaxLag = 20 * time.Second
		w.opts.CutOff = func(c ConsumerInfo) { w.cut = append(w.cut, c.Members...) }
	}
	w.ledger.records = map[batch.Name]string{}
	w.aside, w.mostHeld = map[uint64]bool{}, 1+w.rand.Uint64N(5)
	w.keep, w.durables = w.rand.Uint64N(4), map[string]*owes{}
	w.start()
	return w
}

func (w *world) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) story() string {
	return strings.Join(w.lines[max(0, len(w.lines)-260):], "\n")
}

func (w *world) parse(text string) numbers.Set {
	set, err := numbers.Parse(cmp.Or(text, "0"))
	if err != nil {
		w.t.Fatal(err)
	}
	return set
}

const grace = 30 * time.Second

// start begins a life of edged.
func (w *world) start() {
	w.log = New(w.opts)
	w.log.mostHeld = w.mostHeld
	s := batch.Snapshot{First: w.first, Finished: w.parse(w.ledger.finished), Done: w.ledger.done, Plain: w.ledger.plain, HasPlain: w.ledger.hasPlain,
		Records: map[batch.Name]numbers.Set{}, Aside: slices.Sorted(maps.Keys(w.aside))}
	for name, text := range w.ledger.records {
		s.Records[name] = w.parse(text)
	}
	if w.graceEnd.IsZero() {
		w.graceEnd = w.now.Add(grace)
	}
	s.Grace = w.graceEnd.Sub(w.now)
	w.say("load %+v", s)
	w.log.Load(s)
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
	case n < 32 && len(w.clients) < 7:
		w.joinDurable([]string{"d", "e"}[w.rand.IntN(2)])
	case n < 33 && len(w.clients) < 7:
		w.view()
	case n < 34 && !slices.ContainsFunc(w.clients, func(c *client) bool { return c.tap != nil }):
		w.joinDurable("tap")
	case n < 36:
		w.ask(w.rand.IntN(6))
	case n < 39 && len(w.clients) > 0:
		w.leave()
	case n < 65 && len(w.clients) > 0:
		w.confirm()
	case n < 70:
		w.now = w.now.Add(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
	case n < 71:
		w.now = w.now.Add(time.Duration(w.rand.IntN(60)) * time.Second)
	case n < 73:
		w.crash()
	case n < 78 && len(w.clients) > 0:
		w.acknowledgeEarlier()
	default:
		w.turn(w.rand.IntN(10) == 0)
		w.leaveCut()
	}
	w.check()
}

func (w *world) join(group string) {
	c := &client{group: group}
	for _, other := range w.clients {
		if group != "" && other.group == group {
			c.owes = other.owes
		}
	}
	if c.owes == nil {
		c.owes = &owes{start: never}
	}
	w.enter(c)
	c.membership = w.log.Join(group, "k", c)
	if c.owes.start == never { // it begins where the Log says, which is no later than done
		mem := c.membership.(*member)
		c.owes.start = mem.consumer.cursor
		c.owes.confirmed = mem.consumer.acked.Clone()
		for n := range c.owes.start {
			dying := func(g grave) bool { return g.number == n } // a dead letter may not be written yet
			if !w.known.Has(n) && !w.repeats(n) && !slices.Contains(w.log.dead, n) && !slices.ContainsFunc(slices.Concat(w.log.records.graves, w.log.records.written), dying) {
				w.t.Errorf("%s begins at %d, but %d is not done", c.name, c.owes.start, n)
			}
		}
	}
}

// joinDurable makes a client of a durable consumer, and that one first, if it is not there.
func (w *world) joinDurable(name string) {
	o := w.durables[name]
	if o == nil {
		from := w.first + w.rand.Uint64N(w.end-w.first+1)
		if err := w.log.SetDurable(name, Durable{Terms: w.opts.Terms, From: from}); err != nil {
			w.t.Errorf("%v", err)
		}
		o = &owes{start: from, finished: w.log.finished.Clone()}
		o.confirmed.Raise(from)
		w.durables[name] = o
		w.say("durable %q from %d on", name, from)
	}
	c := w.enter(&client{group: name, durable: true, owes: o})
	if name == "tap" {
		c.tap = &tap{client: c}
	}
	c.membership = w.log.JoinDurable(name, "k", c.member())
}

// ask lets the metered member take items.
func (w *world) ask(n int) {
	for _, c := range w.clients {
		if c.tap != nil {
			w.say("%s is asked for %d", c.name, n)
			c.tap.wants = n
			c.membership.(batch.Consumption).Update()
		}
	}
}

func (w *world) view() {
	from := w.first + w.rand.Uint64N(w.end-w.first+1)
	c := w.enter(&client{viewer: true, owes: &owes{start: never}})
	c.owes.confirmed.Raise(from)
	w.say("it views from %d on", from)
	c.membership = w.log.View(from, "k", c)
}

// enter gives a client a name.
func (w *world) enter(c *client) *client {
	w.names++
	c.w, c.name = w, fmt.Sprint("c", w.names)
	w.clients = append(w.clients, c)
	w.say("%s joins %q, durable %v", c.name, c.group, c.durable)
	return c
}

func (w *world) leave() {
	if i := w.rand.IntN(len(w.clients)); w.clients[i].tap == nil { // one that is metered stays
		w.leaves(i)
	}
}

// leaveCut lets those leave that were cut off.
func (w *world) leaveCut() {
	for _, m := range w.cut {
		if i := slices.Index(w.clients, m.(*client)); i >= 0 {
			w.leaves(i)
		}
	}
	w.cut = nil
}

func (w *world) leaves(i int) {
	c := w.clients[i]
	w.say("%s leaves", c.name)
	w.clients = slices.Delete(w.clients, i, i+1)
	c.membership.Leave()
}

// Deliver implements batch.Member.
func (c *client) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	first := b.First() + uint64(from)
	for n := first; n < b.First()+uint64(to); n++ {
		if string(b.Item(int(n-b.First()))) != fmt.Sprint(n) {
			c.w.t.Errorf("%s got %q as number %d", c.name, b.Item(int(n-b.First())), n)
		}
		if c.w.repeats(n) {
			c.w.t.Errorf("%s got %d, which is a duplicate", c.name, n)
		}
		if c.durable && !c.owes.given.Has(n) && n < c.owes.given.Top() {
			c.w.t.Errorf("%s got %d for the first time, after %d", c.name, n, c.owes.given.Top()-1)
		}
		c.owes.given.Add(n, n+1)
		twice := c.viewer && c.w.aside[n] // of a run with items set aside in its middle, the end comes again
		if c.owes.confirmed.Has(n) && (n >= c.owes.start || c.viewer) && !twice {
			c.w.t.Errorf("%s got %d, which was confirmed", c.name, n)
		}
		if c.owes.handed.Has(n) {
			continue
		}
		if gap, _ := c.owes.confirmed.Gap(c.owes.handed.Top()); c.owes.handed.Top() > 0 && n > gap && !c.skipped(gap, n) {
			c.w.t.Errorf("%s got %d, and not %d before", c.name, n, gap)
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
		if !c.w.dead.Has(n) && !c.w.repeats(n) && !c.owes.confirmed.Has(n) && n >= c.w.first {
			return false
		}
	}
	return true
}

func (c *client) explicit() bool { return c.w.opts.Explicit && !c.viewer }

// confirmed notes that a client has confirmed items.
func (c *client) confirmed(from, to uint64) {
	c.owes.confirmed.Add(from, to)
	if !c.viewer {
		c.w.known.Add(from, to)
	}
}

// acknowledge acknowledges an item.
func (c *client) acknowledge(n uint64, a batch.Ack) {
	err := c.membership.(batch.Acknowledger).Acknowledge("", n, a, nil)
	c.w.say("%s says %v to %d: %v", c.name, a, n, err)
	for m := c.owes.start; err == nil && a.Kind == batch.AckedAll && m <= n; m++ {
		if c.w.isOwed(c.owes, m) && !c.owes.given.Has(m) {
			c.w.t.Errorf("%s confirms %d, which it was never handed", c.name, m)
		}
		c.confirmed(m, m+1)
	}
	if err == nil && a.Kind == batch.Acked {
		c.confirmed(n, n+1)
	}
}

func (w *world) confirm() {
	c := w.clients[w.rand.IntN(len(w.clients))]
	if len(c.debts) == 0 {
		return
	}
	if !c.explicit() {
		d := c.debts[0]
		c.debts = c.debts[1:]
		w.say("%s confirms %d to %d", c.name, d.from, d.to)
		c.confirmed(d.from, d.to)
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
	if n%8 == 3 && w.rand.IntN(10) > 0 {
		ack.Kind = batch.Refused // others go on meanwhile
	}
	if ack.Kind == batch.Refused && w.rand.IntN(2) == 0 {
		ack.Delay = time.Duration(w.rand.IntN(10)) * time.Second
	}
	if c.tap != nil && ack.Kind == batch.Acked && w.rand.IntN(3) == 0 {
		ack.Kind = batch.AckedAll
	}
	c.acknowledge(n, ack)
}

// acknowledgeEarlier lets a client of a durable consumer acknowledge an item that it was handed at
// any time, by a process that is gone too.
func (w *world) acknowledgeEarlier() {
	c := w.clients[w.rand.IntN(len(w.clients))]
	if !c.durable || !c.explicit() || c.owes.given.Count() == 0 {
		return
	}
	n := c.owes.start + w.rand.Uint64N(c.owes.given.Top()-c.owes.start)
	if !c.owes.given.Has(n) {
		return
	}
	ack := batch.Ack{Kind: batch.AckKind(w.rand.IntN(4))}
	if c.tap != nil && w.rand.IntN(3) == 0 {
		ack.Kind = batch.AckedAll
	}
	c.acknowledge(n, ack)
}

// crash kills edged. The clients come back at once.
func (w *world) crash() {
	w.say("crash")
	w.clients = slices.DeleteFunc(w.clients, func(c *client) bool {
		return c.viewer || c.durable && w.ledger.records[batch.Name{Durable: true, Name: c.group}] == ""
	})
	for name := range w.durables {
		if w.ledger.records[batch.Name{Durable: true, Name: name}] == "" {
			delete(w.durables, name) // Redis had not got it yet
		}
	}
	var ready []bool // the ledger knew of it, so that items may have gone out
	for _, c := range w.clients {
		ready = append(ready, c.membership.(*member).consumer.ready)
	}
	w.unknown = false
	w.start()
	for i, c := range w.clients {
		c.debts = nil
		if c.durable {
			w.log.SetDurable(c.group, Durable{Terms: w.opts.Terms})
			c.membership = w.log.JoinDurable(c.group, "k", c.member())
			continue
		}
		c.membership = w.log.Join(c.group, "k", c)
		mem := c.membership.(*member)
		if !ready[i] {
			c.owes.start = mem.consumer.cursor
		}
		c.owes.handed = mem.consumer.acked.Clone() // it may get again items that the ledger does not have as confirmed
		for n := c.owes.start; n < w.end; n++ {
			if ready[i] && mem.consumer.acked.Has(n) && w.isOwed(c.owes, n) && w.now.Before(w.graceEnd) {
				w.t.Errorf("%s came back, but does not get %d any more", c.name, n)
			}
		}
		// A client that comes back later has no claim to the items it missed.
		c.owes.confirmed = mem.consumer.acked.Clone()
	}
	for name, o := range w.durables {
		acked := w.log.named[batch.Name{Durable: true, Name: name}].acked.Clone()
		for n := o.start; n < w.end; n++ {
			if acked.Has(n) && w.isOwed(o, n) {
				w.t.Errorf("durable %q does not get %d any more", name, n)
			}
		}
		o.confirmed, o.handed = acked, acked.Clone()
	}
}

// turn is a round trip of the loop. Its reply may be lost.
func (w *world) turn(lost bool) {
	if w.unknown {
		w.unknown = false
		w.log.Saved(true) // the serial in the ledger tells
	}
	p := w.log.Plan(w.first, w.end)
	if p.Judge > 0 {
		w.judged.Add(p.Judge-1, p.Judge)
	}
	w.quiet = quiet{yes: !w.works(p), end: w.end, wake: p.Wake}
	var read *batch.Batch
	if p.Items > 0 && p.From < w.end {
		if p.From < w.first && !w.aside[p.From] {
			w.t.Errorf("read at %d, but the list begins at %d", p.From, w.first)
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
	if p.From < w.first {
		to = p.From + 1
	}
	var items [][]byte
	for n := p.From; n < to; n++ {
		items = append(items, []byte(fmt.Sprint(n)))
	}
	b := batch.Of("list", p.From, items...)
	var repeats numbers.Set
	for n := p.From; n < to; n++ {
		if w.repeats(n) {
			repeats.Add(n, n+1)
		}
	}
	b.SetDuplicates(repeats.Spans())
	if w.opts.Explicit {
		b.Stamp("", w.now, 0)
	}
	return b
}

// repeats reports whether an item is a duplicate: some of them are, in a third of the lives.
func (w *world) repeats(n uint64) bool { return w.dedup && n > 0 && n*0x9e3779b97f4a7c15>>62 == 0 }

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
	for _, r := range ch.Records {
		if w.ledger.records[r.Name] = r.Acked; r.Acked == "" {
			delete(w.ledger.records, r.Name)
		}
	}
	for _, d := range ch.Dead {
		if d.Number < w.first && !w.aside[d.Number] {
			w.t.Errorf("%d becomes a dead letter, but is not in the list", d.Number)
		}
		w.dead.Add(d.Number, d.Number+1)
		w.known.Add(d.Number, d.Number+1)
	}
	for _, n := range ch.Aside {
		if w.repeats(n) {
			w.t.Errorf("%d is to be set aside, but is a duplicate", n)
		}
		if n < w.first && !w.aside[n] {
			w.t.Errorf("%d is to be set aside, but is not in the list", n)
		}
		w.aside[n] = true
	}
	for _, n := range ch.Restored {
		delete(w.aside, n)
	}
	if !ch.Empty() {
		w.say("wrote %+v", *ch)
	}
	finished := w.parse(w.ledger.finished)
	if f := finished.Floor(); f > w.first+w.keep {
		w.first = f - w.keep
		w.say("removed up to %d", w.first)
	}
}
