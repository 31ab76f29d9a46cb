package daemon

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"edged/internal/signals"
	"edged/internal/watchdog"
)

// The numbers in this file are the steps of "The order of the drain" in
// docs/ARCHITECTURE.md.

func (d *daemon) drainTimeout() time.Duration {
	return time.Duration(d.served.config().Drain.Timeout)
}

// awaitStop waits for the first signal or order.
func (d *daemon) awaitStop(ctx context.Context) stop {
	select {
	case sig := <-d.options.Signals:
		return stop{why: signals.Name(sig), timeout: d.drainTimeout()}
	case s := <-d.life.orders:
		return s
	case <-ctx.Done():
		return stop{why: context.Cause(ctx).Error(), quit: true}
	}
}

// beginDrain announces the drain (1) and lets the loop take nothing more (2).
func (d *daemon) beginDrain(s stop) {
	d.life.beginDrain(s.why)
	d.options.Notify.Stopping("draining: " + s.why)
	d.log.Info("draining", zap.String("why", s.why), zap.Duration("timeout", s.timeout), zap.Int("clients", d.tcp.Stats().Clients),
		zap.String("event", "draining"))

	d.reloading <- struct{}{} // a reload that is under way gives up
	defer func() { <-d.reloading }()
	for _, l := range d.served.lists() {
		l.Stop()
	}
	d.loop.StopTaking()
}

// drainClients stops accepting (2). Clients are told (3), get and confirm the items in
// flight (4), and have until the timeout to leave (5). A second signal, the order to
// quit, or the end of ctx ends the waiting.
func (d *daemon) drainClients(ctx context.Context, s stop, listener *watchdog.Listener) {
	waiting, hurry := context.WithCancel(ctx)
	if s.quit {
		hurry()
	}
	var second sync.WaitGroup
	second.Go(func() {
		d.awaitSecond(waiting)
		hurry()
	})

	listener.Stop()
	d.tcp.Drain(waiting, s.timeout)
	hurry()
	second.Wait()
}

// awaitSecond waits for a signal during the drain, or the order to quit, or the end
// of ctx.
func (d *daemon) awaitSecond(ctx context.Context) {
	for {
		why := ""
		select {
		case sig := <-d.options.Signals:
			why = "second signal: " + signals.Name(sig)
		case s := <-d.life.orders:
			if !s.quit {
				continue
			}
			why = s.why
		case <-ctx.Done():
			return
		}
		d.log.Warn("not waiting for the clients any more", zap.String("why", why))
		return
	}
}

// closeBooks ends the loop and the writer (6): items that were confirmed are removed,
// all others stay in Redis.
func (d *daemon) closeBooks(r *running) {
	r.writer.cancel()
	r.loop.cancel()
	for _, t := range []task{r.writer, r.loop} {
		if err := <-t.ended; err != nil {
			d.log.Error("the end was not clean", zap.Error(err))
		}
	}

	total := d.served.books()
	total.Returned += uint64(total.InFlight) // Redis did not answer at the end, and still has them
	d.log.Info("drained", zap.Uint64("taken", total.Taken), zap.Uint64("confirmed", total.Confirmed),
		zap.Uint64("returned", total.Returned), zap.Uint64("dead", total.Dead), zap.Uint64("gone", total.Gone))
	close(d.life.drained)
}
