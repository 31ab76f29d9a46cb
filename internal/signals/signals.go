// Package signals receives the signals that end the daemon; nothing else in it
// calls signal.Notify.
//
// SIGHUP, SIGINT, SIGTERM and SIGQUIT all mean the same: the first starts the
// drain, the second ends it. SIGHUP never means reload, and SIGQUIT does not dump
// goroutines. New belongs before whatever is slow at start: until then each of
// the four kills the process.
//
// Where the other end of a pipe on file descriptor 1 or 2 is gone, Go lets
// SIGPIPE kill the process at the next write (see "SIGPIPE" in the documentation
// of os/signal); on other descriptors the write just fails with EPIPE. A daemon
// must not die of a log reader that went away with items under way, so New has
// SIGPIPE ignored: writes fail on every descriptor alike.
package signals

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher receives the signals.
type Watcher struct {
	// C yields each signal in turn. It is never closed. Only the first two
	// matter, so its buffer is large enough for a reader that is busy.
	C <-chan os.Signal

	c chan os.Signal // C, for sending
}

// New starts to receive signals, and has SIGPIPE ignored from now on.
func New() *Watcher {
	signal.Ignore(syscall.SIGPIPE)
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	return &Watcher{C: c, c: c}
}

// Stop gives the four signals the effect that they had before New. C yields
// what arrived until then. SIGPIPE stays ignored.
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
