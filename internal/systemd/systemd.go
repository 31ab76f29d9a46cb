// Package systemd reports the state of the daemon to the service manager: sd_notify(3) and the
// watchdog of systemd.service(5), over the datagram socket in NOTIFY_SOCKET. It does not change the
// environment.
//
// A notification that cannot be sent never stops the daemon; only the first such failure is
// reported.
package systemd

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier sends notifications. A nil Notifier does nothing, so that callers need not ask whether
// there is a service manager. Except Alive, its methods may be called from any goroutine.
type Notifier struct {
	log      func(error)
	logOnce  sync.Once
	watchdog time.Duration // 0: not asked for
	last     time.Time     // of WATCHDOG=1; owned by the caller of Alive
}

// New returns a notifier, or nil if the environment has no NOTIFY_SOCKET. log is called with the
// first failure to notify, and with a watchdog setting that cannot be parsed, which leaves the
// watchdog off.
func New(log func(error)) *Notifier {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log(fmt.Errorf("the watchdog stays off: read WATCHDOG_USEC and WATCHDOG_PID: %w", err))
	}
	return &Notifier{log: log, watchdog: watchdog}
}

// Ready says that the daemon serves, with its state in words.
func (n *Notifier) Ready(status string) {
	n.send(daemon.SdNotifyReady, statusLine(status))
}

// Status sets the daemon's state in words, for "systemctl status".
func (n *Notifier) Status(status string) {
	n.send(statusLine(status))
}

// Stopping says that the daemon is shutting down.
func (n *Notifier) Stopping(status string) {
	n.send(daemon.SdNotifyStopping, statusLine(status))
}

// ExtendTimeout asks for d more, from now on, before the service manager gives up on the start or
// stop in progress. systemd counts microseconds.
func (n *Notifier) ExtendTimeout(d time.Duration) {
	n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Watchdog returns the time without a call of Alive after which the service manager kills the
// daemon, or 0 if it does not watch.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Alive tells the watchdog that the daemon works. The daemon's main loop calls it in each round,
// from one goroutine, at least every third of Watchdog. It sends once in a third; otherwise it only
// compares two times.
func (n *Notifier) Alive(now time.Time) {
	if n == nil || n.watchdog == 0 || now.Sub(n.last) < n.watchdog/3 {
		return
	}
	n.last = now
	n.send(daemon.SdNotifyWatchdog)
}

// send sends assignments in one datagram.
func (n *Notifier) send(assignments ...string) {
	if n == nil {
		return
	}
	if _, err := daemon.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		n.logOnce.Do(func() {
			n.log(fmt.Errorf("notify the service manager (later failures are not reported): %w", err))
		})
	}
}

// statusLine keeps a status on one line: a second line would be another assignment.
func statusLine(status string) string {
	return "STATUS=" + strings.ReplaceAll(status, "\n", " ")
}
