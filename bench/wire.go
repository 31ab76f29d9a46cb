package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wire is a long link to a server: a proxy that delays bytes and bounds their rate. Each direction
// of each connection is independent.
type wire struct {
	listener net.Listener
	target   string
	delay    time.Duration // in each direction
	rate     int           // bytes a second; 0: no bound
	carried  atomic.Int64  // bytes to the target

	mu      sync.Mutex
	conns   []net.Conn // guarded by mu
	closed  bool       // guarded by mu
	running sync.WaitGroup
}

func newWire(target string, delay time.Duration, rate int) (*wire, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{listener: listener, target: target, delay: delay, rate: rate}
	w.running.Go(w.accept)
	return w, nil
}

func (w *wire) address() string { return w.listener.Addr().String() }

func (w *wire) close() {
	w.listener.Close()
	w.mu.Lock()
	w.closed = true
	for _, c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.running.Wait()
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}

		far, err := net.Dial("tcp", w.target)
		if err != nil {
			near.Close()
			continue
		}
		w.mu.Lock()
		if w.conns = append(w.conns, near, far); w.closed {
			near.Close()
			far.Close()
		}
		w.mu.Unlock()
		w.running.Go(func() { w.carry(far, near, &w.carried) })
		w.running.Go(func() { w.carry(near, far, new(atomic.Int64)) })
	}
}

// oversleep is how much too long a sleep may be: a wire makes up for it.
const oversleep = 20 * time.Millisecond

// piece is some bytes in flight.
type piece struct {
	arrives time.Time
	data    []byte
}

// carry moves bytes until either end closes. A wire with a bound takes them in small pieces. The
// kernel's buffers belong to the wire: if they were small, TCP would wait for its timers over
// loopback, whose packets have 64 KiB.
func (w *wire) carry(to, from net.Conn, count *atomic.Int64) {
	size := 64 << 10
	if w.rate > 0 {
		size = min(1<<10, max(64, w.rate/100))
	}
	under := make(chan piece, 1024)
	w.running.Go(func() {
		for p := range under {
			time.Sleep(time.Until(p.arrives))
			if _, err := to.Write(p.data); err != nil {
				from.Close()
			}
		}
		to.Close()
	})
	defer close(under)
	defer from.Close()

	free := time.Now() // when it takes more bytes
	buf := make([]byte, size)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			begins := time.Now()
			if w.rate > 0 {
				free = later(free, begins.Add(-oversleep)).Add(w.takes(n))
				time.Sleep(time.Until(free))
				begins = free
			}
			count.Add(int64(n))
			under <- piece{begins.Add(w.delay), append([]byte(nil), buf[:n]...)}
		}
		if err != nil {
			return
		}
	}
}

// takes is how long a wire with a bound takes for n bytes.
func (w *wire) takes(n int) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(w.rate)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
