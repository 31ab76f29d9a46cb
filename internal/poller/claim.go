package poller

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/ledger"
	"edged/internal/numbers"
)

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
	r.owns(out, now)
	return nil
}

// owns takes over how list and ledger stand, after a claim that made the list this process's.
func (r *reader) owns(out ledger.Outcome, now time.Time) {
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
