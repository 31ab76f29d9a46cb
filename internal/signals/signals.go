// Package signals receives the signals that end the daemon; no other package calls signal.Notify.
//
// SIGHUP, SIGINT, SIGTERM and SIGQUIT all mean the same: the first starts the drain, the second
// ends it. SIGHUP never means reload, and SIGQUIT does not dump goroutines. New must be called
// before anything slow at start: until then each of the four kills the process.
//
// If the other end of a pipe on file descriptor 1 or 2 is gone, Go lets SIGPIPE kill the process at
// the next write (see "SIGPIPE" in the documentation of os/signal). On other descriptors the write
// just fails with EPIPE. A daemon with items in flight must not die because a log reader went away.
// So New ignores SIGPIPE, and writes fail on every descriptor alike.
package signals

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher receives the signals.
type Watcher struct {
	// C yields each signal in turn. It is never closed. Only the first two matter, so its buffer is
	// large enough for a busy reader.
	C <-chan os.Signal

	c chan os.Signal // C, for sending
}

// New starts to receive signals, and ignores SIGPIPE from now on.
func New() *Watcher {
	signal.Ignore(syscall.SIGPIPE)
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	return &Watcher{C: c, c: c}
}

// Stop restores the effect that the four signals had before New. C yields the signals that arrived
// until then. SIGPIPE stays ignored.
func (w *Watcher) Stop() { signal.Stop(w.c) }

// Name returns the name of a signal as kill(1) and people write it: "SIGTERM".
func Name(s os.Signal) string {
	if number, ok := s.(syscall.Signal); ok {
		if name := unix.SignalName(number); name != "" {
			return name
		}
	}
	return s.String()
}
