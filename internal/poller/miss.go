package poller

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"edged/internal/dedup"
	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// maxMisses is how often in a row an item is read by itself in vain, before it is tested
// alone.
const maxMisses = 3

// noteMiss notes whether the read of a single item failed, though Redis is there.
func (r *reader) noteMiss(x *exchange, err error) {
	switch {
	case x.aside || x.probe != nil:
	case !redisconn.Uncarried(err):
		r.misses = 0
	case x.ask > 1:
	case r.missed != x.from:
		r.missed, r.misses = x.from, 1
	default:
		r.misses++
	}
}

// spare tests an item that could not be read, with nothing else under way: the fault may be
// that of another list's read. If it still can't be read it goes to the dead letters,
// inside Redis, and the list goes on. If only its key was wanted for a window, it has none.
func (r *reader) spare(ctx context.Context, keys *dedup.Window) error {
	n := r.missed
	mark, err := r.markOf(ctx, n)
	if err != nil {
		return err
	}
	if r.misses = 0; mark == "" {
		r.astray = true // there is no such item
		return nil
	}
	items, err := r.printsOf(ctx, n, 1)
	if !redisconn.Uncarried(err) || len(items) > 0 {
		return err
	}

	r.Server.Failed(err)
	r.top = max(r.top, n+1)
	r.marks.add(n, print{Mark: mark})
	if r.repeats != nil {
		r.repeats.seeNone(keys, n)
	}
	if keys != nil {
		return nil
	}
	reason := redisconn.Explain(err, r.Server.Address)
	r.log.Warn("an item can't be read; it is in the dead-letter list",
		zap.Int("bytes", mark.Size()), zap.String("reason", reason), zap.String("dead", r.keys.Dead))
	r.relay.Bury(n, fmt.Sprintf("can't be read (%d bytes): %s", mark.Size(), reason))
	return nil
}

// markOf returns the mark of an item, which Redis makes; empty: there is no such item.
func (r *reader) markOf(ctx context.Context, n uint64) (ledger.Mark, error) {
	reply, err := r.Server.Run(ctx, ledger.Look, []string{r.keys.List}, r.loop.holder, side(r.list.FromRight), int64(n-r.first))
	text, _ := reply.(string)
	return ledger.Mark(text), err
}

// printsOf reads up to ask items from one on, in the order of the list, and keeps only
// their prints.
func (r *reader) printsOf(ctx context.Context, from uint64, ask int) ([]print, error) {
	c, err := r.Server.Open(ctx)
	if err != nil {
		return nil, err
	}
	r.lrange(c, from, ask)
	if err := c.Send(ctx); err != nil {
		return nil, err
	}
	c.Receive(nil)
	there := prober{seed: r.seed}
	if err := c.Finish(c.Items(&there, ask)); err != nil {
		return nil, err
	}
	return there.items, nil
}
