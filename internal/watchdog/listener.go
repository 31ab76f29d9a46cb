package watchdog

import (
	"net"
	"sync"
	"time"
)

// Listener is a listener whose accept loop has a heartbeat and can be stopped before the socket is
// closed, so that no connection is lost in between. Its Accept fails with os.ErrDeadlineExceeded
// now and then, so that an idle loop beats too.
type Listener struct {
	net.Listener
	heartbeat *heartbeat
	every     time.Duration // between two beats; 0 means that no beats are needed

	mu      sync.Mutex
	stopped bool          // guarded by mu
	idle    chan struct{} // closed when the accept loop has noticed the stop
	closed  chan struct{}
	once    sync.Once // closes closed
}

// Listener returns ln with a heartbeat of this name. ln must have a SetDeadline, as TCP and Unix
// listeners do.
func (w *Watchdog) Listener(name string, ln net.Listener) *Listener {
	return &Listener{
		Listener: ln, heartbeat: w.add(name), every: w.every(),
		idle: make(chan struct{}), closed: make(chan struct{}),
	}
}

type deadliner interface{ SetDeadline(time.Time) error }

// Accept is called by one goroutine. After Stop it waits for Close.
func (l *Listener) Accept() (net.Conn, error) {
	l.heartbeat.beat()
	if !l.extend() {
		close(l.idle)
		<-l.closed
		return nil, net.ErrClosed
	}
	return l.Listener.Accept()
}

// Unwrap returns the listener under l.
func (l *Listener) Unwrap() net.Listener { return l.Listener }

// extend sets the deadline that wakes the accept loop. It reports whether connections are still
// accepted.
func (l *Listener) extend() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped && l.every > 0 {
		l.Listener.(deadliner).SetDeadline(time.Now().Add(l.every))
	}
	return !l.stopped
}

// Stop stops accepting connections, and returns when the accept loop is done with those that it has
// accepted. A later connection stays in the queue of the socket: if systemd holds the socket too,
// the next daemon accepts it. Stop is called once.
func (l *Listener) Stop() {
	l.mu.Lock()
	l.stopped = true
	l.Listener.(deadliner).SetDeadline(time.Now())
	l.mu.Unlock()

	select {
	case <-l.idle:
	case <-l.closed:
	}
}

// Close closes the socket and ends the heartbeat.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		l.heartbeat.end()
		close(l.closed)
	})
	return err
}
