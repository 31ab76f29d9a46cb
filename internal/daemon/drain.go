package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/signals"
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
	d.life.beginDrain(s.why, d.tasks.Begin(drainTask, "", ""))
	d.options.Notify.Stopping("draining: " + s.why)
	d.log.Info("draining", zap.String("why", s.why), zap.Duration("timeout", s.timeout), zap.Int("clients", d.tcp.Stats().Clients),
		zap.String("event", "draining"))

	d.reloading <- struct{}{} // a reload that is under way gives up
	defer func() { <-d.reloading }()
	for _, l := range d.served.lists() {
		l.Stop()
	}
	d.loop.StopTaking()
	if d.js != nil {
		d.js.Stop()
	}
}

// drainClients stops accepting (2). Clients are told (3), get and confirm the items in
// flight (4), and have until the timeout to leave (5). A second signal, the order to
// quit, or the end of ctx ends the waiting.
func (d *daemon) drainClients(ctx context.Context, s stop, on *sockets) {
	waiting, hurry := context.WithCancel(ctx)
	if s.quit {
		hurry()
	}
	var beside sync.WaitGroup
	beside.Go(func() {
		d.awaitSecond(waiting)
		hurry()
	})
	beside.Go(func() { d.reportDrain(waiting, time.Now().Add(s.timeout)) })

	on.tcp.Stop()
	if on.web != nil {
		on.web.Close()
		d.events.Drain()
	}
	d.tcp.Drain(waiting, s.timeout)
	hurry()
	beside.Wait()
}

// reportDrain reports each second how many clients are left, and how much time, until ctx
// is done.
func (d *daemon) reportDrain(ctx context.Context, deadline time.Time) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	most := d.tcp.Stats().Clients
	for {
		p := d.drainProgress("draining", deadline)
		most = max(most, p.Clients)
		d.life.drain.Report(uint64(most-p.Clients), uint64(most), p.left())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
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
	d.stopUplinks(func(config.Uplink) bool { return true })
	r.writer.cancel()
	r.js.cancel()
	r.loop.cancel()
	var failed []error
	for _, t := range []task{r.writer, r.js, r.loop} {
		if err := <-t.ended; err != nil {
			d.log.Error("shutdown failed", zap.Error(err))
			failed = append(failed, err)
		}
	}

	total := d.served.books()
	total.Returned += uint64(total.InFlight) // Redis did not answer at the end, and still has them
	d.log.Info("drained", zap.Uint64("taken", total.Taken), zap.Uint64("confirmed", total.Confirmed),
		zap.Uint64("returned", total.Returned), zap.Uint64("dead", total.Dead), zap.Uint64("gone", total.Gone))
	if err := errors.Join(failed...); err != nil {
		d.life.drain.Fail(err.Error())
	} else {
		d.life.drain.Finish(d.drainProgress("drained", time.Time{}).books())
	}
	close(d.life.drained)
}
