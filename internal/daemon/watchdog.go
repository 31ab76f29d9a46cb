package daemon

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"edged/internal/systemd"
)

// lifeline feeds systemd's watchdog while all loops of the daemon go round: the
// poll loop, which calls feed; the accept loops, which show a pulse; and whoever
// holds the locks that probe takes. There is no ticker that would go on feeding
// when they stand still.
type lifeline struct {
	notify *systemd.Notifier
	probe  func() // returns when the state that the loops share can be had
	log    *zap.Logger

	// Written before the poll loop starts.
	pulses []*pulse

	// Owned by the poll loop.
	looked time.Time // when feed last looked at the others
	still  bool      // somebody stood still then
}

// pulse is when a loop last went round.
type pulse struct {
	name string
	at   atomic.Int64 // in ns since 1970; hasEnded when the loop has
}

const hasEnded = -1

func (p *pulse) beat() { p.at.Store(time.Now().UnixNano()) }

func (p *pulse) end() { p.at.Store(hasEnded) }

// every is how often a loop has to go round; 0 where nobody watches.
func (l *lifeline) every() time.Duration { return l.notify.Watchdog() / 4 }

// pulse is that of one more loop, which must beat at least each time that every
// tells.
func (l *lifeline) pulse(name string) *pulse {
	p := &pulse{name: name}
	p.beat()
	l.pulses = append(l.pulses, p)
	return p
}

// feed is for the poll loop to call each time round.
func (l *lifeline) feed(now time.Time) {
	standStill("poll")
	interval := l.notify.Watchdog()
	if interval == 0 || now.Sub(l.looked) < interval/3 {
		return
	}
	l.looked = now
	l.probe()
	for _, p := range l.pulses {
		at := p.at.Load()
		if at == hasEnded || now.UnixNano()-at < int64(interval/2) {
			continue
		}
		if !l.still {
			l.still = true
			l.log.Error("a loop stands still: systemd's watchdog will restart edged", zap.String("loop", p.name))
		}
		return
	}
	l.still = false
	l.notify.Alive(now)
}

// door is a listener whose accept loop shows a pulse, and which can be shut before
// it is closed, so that nobody who has come in is sent away. Its Accept fails with
// os.ErrDeadlineExceeded now and then, to make an idle loop go round.
type door struct {
	net.Listener
	pulse *pulse
	every time.Duration // between two beats; 0 means that nobody watches

	mu     sync.Mutex
	shut   bool // guarded by mu
	empty  chan struct{}
	closed chan struct{}
	once   sync.Once // closes closed
}

func newDoor(ln net.Listener, pulse *pulse, every time.Duration) *door {
	return &door{Listener: ln, pulse: pulse, every: every, empty: make(chan struct{}), closed: make(chan struct{})}
}

// deadliner is what TCP and Unix listeners are besides.
type deadliner interface{ SetDeadline(time.Time) error }

// Accept is for one goroutine.
func (d *door) Accept() (net.Conn, error) {
	d.pulse.beat()
	standStill(d.pulse.name)
	if !d.open() {
		close(d.empty)
		<-d.closed
		return nil, net.ErrClosed
	}
	return d.Listener.Accept()
}

// Unwrap is for whoever needs to know the kind of the listener.
func (d *door) Unwrap() net.Listener { return d.Listener }

// open reports whether somebody may come in, and sees to it that the accept loop
// goes round in time.
func (d *door) open() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.shut && d.every > 0 {
		d.Listener.(deadliner).SetDeadline(time.Now().Add(d.every))
	}
	return !d.shut
}

// Shut lets nobody in any more, and returns when the accept loop is done with
// those who were. Where systemd holds the socket too, whoever connects from now on
// waits for the next daemon. It is called once.
func (d *door) Shut() {
	d.mu.Lock()
	d.shut = true
	d.Listener.(deadliner).SetDeadline(time.Now())
	d.mu.Unlock()
	select {
	case <-d.empty:
	case <-d.closed:
	}
}

func (d *door) Close() error {
	err := d.Listener.Close()
	d.once.Do(func() {
		d.pulse.end()
		close(d.closed)
	})
	return err
}
