package poller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/dedup"
	"edged/internal/ledger"
	"edged/internal/redisconn"
)

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
		r.takeItems(x)
	case got.large != nil:
		got.memory.Free()
		r.takeLarge(x)
	default:
		got.memory.Free()
	}
}

// takeItems offers the items that fit into memory, if they are the known ones.
func (r *reader) takeItems(x *exchange) {
	r.idle = 0
	b := batch.New(r.list.Subject, x.from, x.got.memory)
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
}

// takeLarge makes a dead letter of an item that is too large.
func (r *reader) takeLarge(x *exchange) {
	large := x.got.large
	if !x.aside { // if it is, max_payload is another one now
		r.top = max(r.top, x.from+1)
		r.marks.add(x.from, print{Mark: large.mark})
		if r.repeats != nil {
			r.repeats.seeNone(x.keys, x.from)
		}
	}
	if x.keys != nil {
		r.more = true
		return
	}
	r.log.Warn("an item is too large to deliver; it is in the dead-letter list",
		zap.Int("bytes", large.size), zap.String("dead", r.keys.Dead))
	r.relay.Bury(x.from, fmt.Sprintf("larger than max_payload (%d bytes)", r.loop.opts.MaxPayload))
}
