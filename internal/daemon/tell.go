package daemon

import (
	"context"
	"fmt"
	"time"

	"edged/internal/poller"
)

// tell keeps systemd informed until ctx is done: of the state in words, and during
// the drain of the time that is still needed, which the drain's own timeout bounds.
func (d *daemon) tell(ctx context.Context) {
	notify := d.options.Notify
	if notify == nil {
		return
	}
	const every = time.Second
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}

		if d.life.draining() != "" {
			notify.ExtendTimeout(10 * every)
		}
		if text := d.summary(); text != told {
			notify.Status(text)
			told = text
		}
	}
}

// summary is the state in words: "2 lists, 3 clients, backlog 12".
func (d *daemon) summary() string {
	var backlog int64
	failing := ""
	for _, s := range d.loop.Lists() {
		backlog += s.Backlog
		if s.State == poller.Failing {
			failing = "; " + s.Reason
		}
	}
	text := fmt.Sprintf("%s, %s, backlog %d%s", counted(len(d.served.lists()), "list"), counted(d.tcp.Stats().Clients, "client"), backlog, failing)
	if why := d.life.draining(); why != "" {
		return fmt.Sprintf("draining (%s): %s", why, text)
	}
	return text
}

// alive is called by the loop each time round.
func (d *daemon) alive(now time.Time) {
	standStill("poll")
	d.watchdog.Check(now)
}

// probe takes the locks of the relay and of the TCP server. If one of them is held
// for good, it does not return.
func (d *daemon) probe() {
	for _, l := range d.served.lists() {
		jam(l.window)
		l.Stats()
	}
	d.tcp.Stats()
}
