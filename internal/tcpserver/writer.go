package tcpserver

import (
	"errors"
	"net"
	"os"
	"time"
)

const (
	// roundSize is the size of a round, in bytes: large enough to make the system calls cheap, and
	// small enough for confirmations to keep flowing.
	roundSize = 256 << 10
	// pieceSize is the number of bytes of a round that a frugal client seals at once.
	pieceSize = 16 << 10
	// firstPing is the time from accept to a client's first PING.
	firstPing = 2 * time.Second
	// looks is the number of checks, within ReceiptTimeout, of a client that owes items.
	looks = 4
	// keptSegments bounds the queue's memory that is kept for later.
	keptSegments = 256
)

// writer is the state of a client's writer goroutine, or of Uncork in its place. It comes from a
// pool: a client has one only while bytes are written to it.
type writer struct {
	out   []segment // taken from the queue
	more  []segment // the part of out that is not yet in a round
	spare []segment // for the queue
	round round
}

// round is a part of the queue that is written at once.
type round struct {
	began      bool // not written yet
	segments   []segment
	deliveries []delivery
	written    []delivery // deliveries that count as confirmed when written
	queued     int        // bytes in chunks
	chunks     int
	asks       bool // a PING ends it
	bufs       net.Buffers
	rest       net.Buffers // the part of bufs that is not yet written, or not yet sealed
}

var ping = []byte("PING\r\n")

// write is the writer goroutine: it ends when there is nothing to write, and wakeWriter starts it
// again. The last one closes the connection.
func (c *client) write() {
	defer c.server.wg.Done()
	if c.tls != nil {
		<-c.tls.ready
	}
	for c.await() {
		if err := c.writeAll(); err != nil {
			c.end(endBroken)
			c.close()
			return
		}
	}
}

// await takes the queue. It returns false when the writer goroutine is to end: the queue is empty,
// or the connection has ended and all that can still be written is written.
func (c *client) await() bool {
	for {
		c.mu.Lock()
		work := c.take()
		expired := c.expired
		c.expired = nil
		ended := c.ended.Load()
		due := c.due
		c.due = false
		idle := !work && !ended && !due && len(expired) == 0
		if idle {
			c.putWriter()
		}
		c.mu.Unlock()

		for _, sub := range expired {
			sub.retire()
		}
		if due {
			c.look()
		}
		switch {
		case idle:
			return false
		case ended && c.writer.finished():
			c.close()
			return false
		case ended || work:
			return true
		}
	}
}

// take takes the queue if everything taken before is written, and reports whether there is
// something to write. mu is held.
func (c *client) take() (work bool) {
	w := c.writer
	if !w.finished() {
		return true
	}
	w.out, c.queue.segments = c.queue.segments, w.out
	w.more = w.out
	return len(w.out) > 0 || c.pings.wanted()
}

// finished reports whether everything taken is written.
func (w *writer) finished() bool { return !w.round.began && len(w.more) == 0 }

// writeAll writes everything taken, however long that takes.
func (c *client) writeAll() error {
	for w := c.writer; ; {
		if !w.round.began {
			c.fill()
		}
		if err := c.writeBufs(); err != nil {
			return err
		}
		if c.roundWritten(); len(w.more) == 0 {
			return nil
		}
	}
}

// writeNow writes the queue, as far as the socket takes it at once. The caller has called
// getWriter. The rest is left to the writer goroutine.
func (c *client) writeNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := func() bool { return c.ended.Load() || c.due || len(c.expired) > 0 }
	work := c.raw == nil || c.queue.size() > corkedBytes || others()

	if !work && c.take() {
		c.mu.Unlock()
		c.fill()
		all := c.tryWrite()
		if all {
			c.roundWritten()
		}
		c.mu.Lock()
		work = !all || others() || c.take() // only once: bytes may be queued for ever
	}

	if work {
		c.server.wg.Add(1)
		go c.write()
	} else {
		c.putWriter()
	}
}

// wakeWriter starts the writer goroutine unless a writer is running. It is called before bytes are
// queued, so that the queue uses the writer's spare memory. mu is held.
func (c *client) wakeWriter() {
	if c.idle {
		c.getWriter()
		c.server.wg.Add(1)
		go c.write()
	}
}

// getWriter gives the client a writer, which the caller must use to write the queue. mu is held,
// and the client is idle.
func (c *client) getWriter() {
	c.idle = false
	c.writer = c.server.writers.Get().(*writer)
	if w := c.writer; c.queue.segments == nil {
		c.queue.segments, w.spare = w.spare[:0], nil
	}
}

// putWriter returns the writer to the pool when there is nothing to write. mu is held.
func (c *client) putWriter() {
	c.idle = true
	c.writer.spare, c.queue.segments = c.queue.segments, nil
	c.server.writers.Put(c.writer)
	c.writer = nil
}

// close ends the connection for good.
func (c *client) close() {
	if c.tls != nil {
		c.tls.Close()
	}
	c.conn.Close()
	c.mu.Lock()
	if c.timer.Stop() {
		c.server.wg.Done() // instead of tick
	}
	c.mu.Unlock()
	close(c.wrote)
}

// start starts reading, writing and the timer; the server's wg already counts all three.
func (c *client) start() {
	c.mu.Lock()
	c.writer = c.server.writers.Get().(*writer)
	c.pings.next = c.since.Add(c.server.first)
	c.fires = c.pings.next
	c.timer = time.AfterFunc(time.Until(c.fires), c.tick)
	c.mu.Unlock()
	go c.write()
	go c.read()
}

// arm sets the timer for the next check of the client. mu is held.
func (c *client) arm(now time.Time) {
	next := c.pings.nextLook(now, c.server.limits.Load().ReceiptTimeout)
	if c.ended.Load() || !c.fires.IsZero() && !next.Before(c.fires) { // firing too soon does no harm
		return
	}
	c.fires = next
	if !c.timer.Reset(next.Sub(now)) {
		c.server.wg.Add(1) // one more tick
	}
}

// tick is called by the timer, in a goroutine of its own. If a writer is running, it checks the
// client before its next write.
func (c *client) tick() {
	defer c.server.wg.Done()
	c.mu.Lock()
	c.fires = time.Time{}
	c.due = !c.idle
	due := c.due
	c.mu.Unlock()
	if !due {
		c.look()
	}
}

func (c *client) lookInterval() time.Duration { return c.server.limits.Load().ReceiptTimeout / looks }

// look cuts the client off if it is too slow or does not answer.
func (c *client) look() {
	now := time.Now()
	limits := c.server.limits.Load()
	c.mu.Lock()
	owing := c.pings.owed > 0
	if c.pings.tick(now, limits.PingInterval, c.connected && !c.ended.Load()) {
		c.wakeWriter()
	}
	stale := c.pings.stale()
	c.arm(now)
	c.mu.Unlock()

	switch {
	case stale:
		c.send(errLine(errStale))
		c.end(endStale)
	case owing && c.tooSlow(now):
		c.send(errLine(errStale))
		c.end(endStuck)
	}
}

// tooSlow reports whether the client has neither answered within ReceiptTimeout nor taken the bytes
// before the PING at leastRate.
func (c *client) tooSlow(now time.Time) bool {
	written := c.bytesOut.Load() // before the kernel is asked, so it is a lower bound
	unsent, _ := sendQueue(c.conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pings.looked(written, unsent)
	return c.pings.tooSlow(now, c.server.limits.Load().ReceiptTimeout)
}

// owe notes that the client is to confirm n more items. mu is held.
func (c *client) owe(n int) {
	if c.pings.owe(n) {
		now := time.Now()
		c.pings.begin(now, c.bytesOut.Load())
		c.arm(now)
	}
}

// fill makes a round of the first segments of more, about roundSize bytes. A PING ends it if one is
// wanted.
func (c *client) fill() {
	w := c.writer
	r := &w.round
	r.began, r.bufs, r.deliveries, r.written, r.queued = true, r.bufs[:0], r.deliveries[:0], r.written[:0], 0
	r.chunks = 0
	ended := c.ended.Load()
	n := 0
	for size := 0; n < len(w.more) && size < roundSize; n++ {
		seg := &w.more[n]
		switch {
		case seg.chunk != nil:
			r.bufs = append(r.bufs, seg.chunk[:seg.used])
			r.queued += seg.used
			r.chunks++
			size += seg.used
		case ended || seg.member.left.Load(): // owed by other clients now
		default:
			var bytes int
			r.bufs, bytes = seg.batch.Encoded(seg.member.key, seg.member.encode).Append(r.bufs, seg.from, seg.to)
			r.deliveries = append(r.deliveries, seg.delivery)
			size += bytes
		}
	}
	r.segments, w.more = w.more[:n], w.more[n:]

	receipts := c.server.limits.Load().Receipts
	c.mu.Lock()
	for _, d := range r.deliveries {
		switch {
		case d.member.left.Load(): // since this round began
		case d.member.confirm == OnPong, d.member.confirm == Acknowledged && receipts:
			c.pings.written(d)
		default:
			r.written = append(r.written, d)
		}
	}
	if r.asks = !ended && c.pings.wanted(); r.asks {
		c.pings.ask()
		r.bufs = append(r.bufs, ping)
	}
	if c.pings.owed == 0 {
		c.pings.begin(time.Now(), c.bytesOut.Load())
	}
	c.mu.Unlock()
	r.rest = r.bufs
}

// roundWritten notes that the round is written.
func (c *client) roundWritten() {
	w := c.writer
	r := &w.round
	for _, seg := range r.segments {
		if seg.chunk != nil {
			c.server.chunks.Put(seg.chunk)
		} else {
			seg.batch.Release()
		}
	}

	now := time.Now()
	c.mu.Lock()
	if c.noted != c.sent {
		c.noted = c.sent
		c.active.Store(now.UnixNano())
	}
	c.queue.bytes -= r.queued
	c.queue.chunks -= r.chunks
	c.charge()
	answered := c.pings.roundDone(now, r.asks, c.bytesOut.Load())
	c.mu.Unlock()
	c.confirm(answered)
	c.confirm(r.written)

	r.began = false
	clear(r.deliveries)
	clear(r.written)
	clear(r.segments)
	if len(w.more) > 0 {
		return
	}
	if w.more, w.out = nil, w.out[:0]; cap(w.out) > keptSegments {
		w.out = nil
	}
}

// tryWrite writes as much as the socket takes at once, and reports whether that is all.
func (c *client) tryWrite() (all bool) {
	r := &c.writer.round
	c.raw.Write(func(fd uintptr) bool {
		for len(r.rest) > 0 {
			n, err := writev(fd, r.rest[:min(len(r.rest), maxBuffers)])
			if n <= 0 || err != nil {
				break // writeRest gets the error
			}
			c.bytesOut.Add(uint64(n))
			consume(&r.rest, n)
		}
		return true
	})
	return len(r.rest) == 0
}

// maxBuffers is the maximum number of buffers that a system call writes (IOV_MAX).
const maxBuffers = 1024

// consume takes the first n bytes off bufs.
func consume(bufs *net.Buffers, n int) {
	for len(*bufs) > 0 && n >= len((*bufs)[0]) {
		n -= len((*bufs)[0])
		*bufs = (*bufs)[1:]
	}
	if n > 0 {
		(*bufs)[0] = (*bufs)[0][n:]
	}
}

// writeBufs writes the round, however long that takes a client that is not too slow.
func (c *client) writeBufs() error {
	r := &c.writer.round
	if c.tls == nil {
		return c.writeRest(&r.rest)
	}

	pool, most := &c.server.sealed, roundSize
	if c.frugal { // or a thousand clients that read nothing would hold a round of records each
		pool, most = &c.server.pieces, pieceSize
	}
	sealed := pool.Get().(*[]byte)
	defer pool.Put(sealed)
	for len(r.rest) > 0 {
		var err error
		if *sealed, err = c.tls.seal(&r.rest, most, *sealed); err != nil {
			return err
		}
		if err := c.writeRest(&net.Buffers{*sealed}); err != nil {
			return err
		}
	}
	return nil
}

// writeRest writes bufs and removes the written bytes.
func (c *client) writeRest(rest *net.Buffers) error {
	if c.raw != nil && c.tryWrite() {
		return nil
	}

	for len(*rest) > 0 {
		c.mu.Lock()
		if !c.ended.Load() { // end has set its own deadline
			c.conn.SetWriteDeadline(time.Now().Add(c.lookInterval()))
		}
		c.mu.Unlock()
		n, err := rest.WriteTo(c.conn)
		c.bytesOut.Add(uint64(n))
		switch {
		case err == nil:
			c.mu.Lock()
			if !c.ended.Load() { // writeNow does not wait
				c.conn.SetWriteDeadline(time.Time{})
			}
			c.mu.Unlock()
			return nil
		case c.ended.Load() || !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
		if c.tooSlow(time.Now()) {
			c.end(endStuck)
			c.conn.Close()
			return err
		}
	}

	return nil
}
