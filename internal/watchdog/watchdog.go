// Package watchdog reports to the service manager that the daemon is alive, as long as all its
// loops make progress.
//
// Only Check sends the report, and only the poll loop calls Check, in each round. Check sends it if
// each other loop has beaten within half the watchdog's interval or has ended, and if the probe
// returns, which takes the locks that the loops share. There is no ticker that would go on
// reporting while a loop or a lock is stuck. In that case the service manager restarts the daemon.
package watchdog

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Notifier is the service manager.
type Notifier interface {
	Watchdog() time.Duration // the interval without a report after which it restarts the daemon; 0: never
	Alive(now time.Time)     // the report
}

// Options configure a Watchdog.
type Options struct {
	Notify Notifier
	Probe  func() // returns as soon as the locks that the loops share are free
	Log    *zap.Logger
}

// Watchdog watches the heartbeats of loops. Heartbeats are added before the first Check.
type Watchdog struct {
	notify Notifier
	probe  func()
	log    *zap.Logger

	heartbeats []*heartbeat
	turned     atomic.Int64 // time of the last call of Check, in ns since 1970

	// Owned by the poll loop.
	checked time.Time // time of the last check of the heartbeats
	stalled bool      // a loop was stuck at that time
}

// New returns a Watchdog without heartbeats.
func New(o Options) *Watchdog {
	w := &Watchdog{notify: o.Notify, probe: o.Probe, log: o.Log}
	w.turned.Store(time.Now().UnixNano())
	return w
}

// every returns how often a loop must beat; 0 means that it need not.
func (w *Watchdog) every() time.Duration { return w.notify.Watchdog() / 4 }

// Check is called by the poll loop in each round.
func (w *Watchdog) Check(now time.Time) {
	w.turned.Store(now.UnixNano())
	interval := w.notify.Watchdog()
	if interval == 0 || now.Sub(w.checked) < interval/3 {
		return
	}
	w.checked = now

	w.probe()
	if h := w.late(now.Add(-interval / 2)); h != nil {
		if !w.stalled {
			w.log.Error("a loop stands still: systemd's watchdog will restart edged", zap.String("loop", h.name))
		}
		w.stalled = true
		return
	}
	w.stalled = false
	w.notify.Alive(now)
}

// Stalled returns the name of a loop that is stuck, or "". The poll loop is stuck if it has not
// called Check for longer than bound, any other loop if it has not beaten. It may be called from
// any goroutine, and takes no lock.
func (w *Watchdog) Stalled(now time.Time, bound time.Duration) string {
	if w.turned.Load() <= now.Add(-bound).UnixNano() {
		return "poll"
	}
	interval := w.notify.Watchdog()
	if interval == 0 {
		return "" // no beats are needed
	}
	if h := w.late(now.Add(-interval / 2)); h != nil {
		return h.name
	}
	return ""
}

// late returns a heartbeat that has neither ended nor beaten since a time, or nil.
func (w *Watchdog) late(since time.Time) *heartbeat {
	for _, h := range w.heartbeats {
		if at := h.at.Load(); at != hasEnded && at <= since.UnixNano() {
			return h
		}
	}
	return nil
}

// heartbeat is the time of a loop's last round.
type heartbeat struct {
	name string
	at   atomic.Int64 // in ns since 1970, or hasEnded
}

const hasEnded = -1

// add adds the heartbeat of a loop, which must beat at least once in the time
// that every returns.
func (w *Watchdog) add(name string) *heartbeat {
	h := &heartbeat{name: name}
	h.beat()
	w.heartbeats = append(w.heartbeats, h)
	return h
}

func (h *heartbeat) beat() { h.at.Store(time.Now().UnixNano()) }

func (h *heartbeat) end() { h.at.Store(hasEnded) }
