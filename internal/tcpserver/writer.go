package tcpserver

import (
	"errors"
	"net"
	"os"
	"time"
)

const (
	// roundSize is how much is written at once, in bytes: enough to make the
	// system calls cheap, and little enough for confirmations to keep flowing.
	roundSize = 256 << 10
	// firstPing is how soon a client is asked for a first sign of life.
	firstPing = 2 * time.Second
	// looks is how often progress is looked for within ReceiptTimeout.
	looks = 4
	// keptSegments bounds the queue's memory that is kept for the next time.
	keptSegments = 256
)

// writer is what whoever writes works with: the writing goroutine, or Flush in its
// place. The memory is used again.
type writer struct {
	out   []segment // taken from the queue
	more  []segment // of out, not yet in a round
	spare []segment // for the queue
	round round
}

// round is what is written at once.
type round struct {
	began      bool // and is not written yet
	segments   []segment
	deliveries []delivery
	written    []delivery // those that count as confirmed when written
	queued     int        // bytes in chunks
	asks       bool       // a PING stands at the end
	bufs       net.Buffers
	rest       net.Buffers // of bufs, or of the records made of them, not yet written
	sealed     *[]byte     // the records' memory
}

var ping = []byte("PING\r\n")

// write is the writing goroutine: it ends when there is nothing to write, and
// wakeWriter starts it again. The last one closes the connection.
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

// await takes what there is to write. It returns false when the writing goroutine
// is to end: there is nothing, or the connection has ended and all is written that
// still can be.
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
			c.restWriter()
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
		case ended && c.finished():
			c.close()
			return false
		case ended || work:
			return true
		}
	}
}

// take takes what is queued, if all is written that was taken before, and tells
// whether there is something to write. mu is held.
func (c *client) take() (work bool) {
	if !c.finished() {
		return true
	}
	c.out, c.queue.segments = c.queue.segments, c.out
	c.more = c.out
	return len(c.out) > 0 || !c.pinged && (c.askPing || len(c.uncovered) > 0)
}

// finished tells whether all is written that was taken.
func (c *client) finished() bool { return !c.round.began && len(c.more) == 0 }

// writeAll writes what was taken, however long that takes.
func (c *client) writeAll() error {
	for {
		if !c.round.began {
			c.fill()
		}
		if err := c.writeBufs(); err != nil {
			return err
		}
		if c.roundWritten(); len(c.more) == 0 {
			return nil
		}
	}
}

// writeNow is for who has hired the writer: it writes what is queued, as far as the
// socket takes it at once. What is left, and all else, is the writing goroutine's.
func (c *client) writeNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := func() bool { return c.ended.Load() || c.due || len(c.expired) > 0 }
	work := c.raw == nil || c.queue.size() > promptBytes || others()
	if !work && c.take() {
		c.mu.Unlock()
		c.fill()
		all := c.tryWrite()
		if all {
			c.roundWritten()
		}
		c.mu.Lock()
		work = !all || others() || c.take() // once only: others may queue for ever
	}
	if work {
		c.server.wg.Add(1)
		go c.write()
	} else {
		c.restWriter()
	}
}

// wakeWriter lets somebody write what is being queued: best before that, so that
// the queue uses memory that is there. mu is held.
func (c *client) wakeWriter() {
	if c.idle {
		c.hireWriter()
		c.server.wg.Add(1)
		go c.write()
	}
}

// hireWriter makes the caller the one who writes. mu is held, and nobody writes.
func (c *client) hireWriter() {
	c.idle = false
	c.writer = c.server.writers.Get().(*writer)
	if c.queue.segments == nil {
		c.queue.segments, c.spare = c.spare[:0], nil
	}
}

// restWriter gives back what whoever wrote has worked with. mu is held.
func (c *client) restWriter() {
	c.idle = true
	c.spare, c.queue.segments = c.queue.segments, nil
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
		c.server.wg.Done() // in place of tick
	}
	c.mu.Unlock()
	close(c.wrote)
}

// start lets the client be read and written, and the timer run; the server's wg
// counts the three already.
func (c *client) start() {
	c.mu.Lock()
	c.writer = c.server.writers.Get().(*writer)
	c.nextPing = c.since.Add(c.server.first)
	c.fires = c.nextPing
	c.timer = time.AfterFunc(time.Until(c.fires), c.tick)
	c.mu.Unlock()
	go c.write()
	go c.read()
}

// arm sets the timer for the next look at the client. mu is held.
func (c *client) arm(now time.Time) {
	next := c.nextPing
	if c.owed > 0 {
		if look := now.Add(c.lookInterval()); look.Before(next) {
			next = look
		}
	}
	if c.ended.Load() || !c.fires.IsZero() && !next.Before(c.fires) { // too soon does no harm
		return
	}
	c.fires = next
	if !c.timer.Reset(next.Sub(now)) {
		c.server.wg.Add(1) // a tick more
	}
}

// tick is what the timer does, in a goroutine of its own. Where somebody writes,
// it is them who look, before they write on.
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

// look looks for clients that make no progress or do not answer.
func (c *client) look() {
	now := time.Now()
	c.mu.Lock()
	owing := c.owed > 0
	pingDue := !now.Before(c.nextPing)
	if pingDue {
		c.nextPing = now.Add(c.server.limits.Load().PingInterval)
		if c.pinged {
			c.unanswered++
		} else if c.connected && !c.ended.Load() {
			c.askPing = true
			c.wakeWriter()
		}
	}
	stale := c.unanswered >= 2
	c.arm(now)
	c.mu.Unlock()
	switch {
	case stale:
		c.send(errLine(errStale))
		c.end(endStale)
	case owing && c.stuck(now):
		c.send(errLine(errStale))
		c.end(endStuck)
	}
}

// stuck tells whether ReceiptTimeout has passed without progress. Progress is a
// PONG, bytes that the socket took, and bytes that the kernel got rid of: a slow
// client behind a large socket buffer makes progress that no write shows. Once
// the client's host has the PING only the PONG counts: others may write to the
// client for ever.
func (c *client) stuck(now time.Time) bool {
	unsent, known := sendQueue(c.conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known && unsent < c.unsent {
		c.progress = now
	}
	c.unsent = unsent
	if known && c.pingOut > 0 && c.bytesOut.Load()-uint64(unsent) >= c.pingOut {
		if c.pingThere.IsZero() {
			c.pingThere = now
		}
		return now.Sub(c.pingThere) >= c.server.limits.Load().ReceiptTimeout
	}
	return now.Sub(c.progress) >= c.server.limits.Load().ReceiptTimeout
}

// owe notes that n items more are to be confirmed. mu is held.
func (c *client) owe(n int) {
	if c.owed += n; c.owed == n {
		now := time.Now()
		c.progress = now
		c.arm(now)
	}
}

// fill makes a round of the first segments of more, about roundSize bytes. Where
// deliveries wait for a PING and none is outstanding, it stands at the end.
func (c *client) fill() {
	r := &c.round
	r.began, r.bufs, r.deliveries, r.written, r.queued = true, r.bufs[:0], r.deliveries[:0], r.written[:0], 0
	ended := c.ended.Load()
	n := 0
	for size := 0; n < len(c.more) && size < roundSize; n++ {
		seg := &c.more[n]
		switch {
		case seg.chunk != nil:
			r.bufs = append(r.bufs, seg.chunk[:seg.used])
			r.queued += seg.used
			size += seg.used
		case ended || seg.member.left.Load(): // owed by others now
		default:
			var bytes int
			r.bufs, bytes = seg.batch.Encoded(seg.member.key, seg.member.encode).Append(r.bufs, seg.from, seg.to)
			r.deliveries = append(r.deliveries, seg.delivery)
			size += bytes
		}
	}
	r.segments, c.more = c.more[:n], c.more[n:]

	c.mu.Lock()
	for _, d := range r.deliveries {
		switch {
		case d.member.left.Load(): // since this round began
		case d.member.confirm == OnPong:
			c.uncovered = append(c.uncovered, d)
		default:
			r.written = append(r.written, d)
		}
	}
	r.asks = !c.pinged && !ended && (c.askPing || len(c.uncovered) > 0)
	if r.asks {
		c.covered, c.uncovered = c.uncovered, nil
		c.pinged, c.askPing, c.early = true, false, false
		r.bufs = append(r.bufs, ping)
	}
	if c.owed == 0 {
		c.progress = time.Now()
	}
	c.mu.Unlock()
	r.rest = r.bufs
}

// roundWritten notes that the round is written.
func (c *client) roundWritten() {
	r := &c.round
	for _, seg := range r.segments {
		if seg.chunk != nil {
			c.server.chunks.Put(seg.chunk)
		} else {
			seg.batch.Release()
		}
	}
	c.mu.Lock()
	c.queue.bytes -= r.queued
	c.progress = time.Now()
	if r.asks {
		c.pingOut = c.bytesOut.Load()
	}
	answered := r.asks && c.early
	c.mu.Unlock()
	if answered {
		c.pong()
	}
	c.confirm(r.written)
	r.began = false
	clear(r.deliveries)
	clear(r.written)
	clear(r.segments)
	if len(c.more) > 0 {
		return
	}
	if c.more, c.out = nil, c.out[:0]; cap(c.out) > keptSegments {
		c.out = nil
	}
}

// tryWrite writes what the socket takes at once, and tells whether that is all.
func (c *client) tryWrite() (all bool) {
	r := &c.round
	c.raw.Write(func(fd uintptr) bool {
		for len(r.rest) > 0 {
			n, err := writev(fd, r.rest[:min(len(r.rest), maxBuffers)])
			if n <= 0 || err != nil {
				break // who waits learns of an error
			}
			c.bytesOut.Add(uint64(n))
			consume(&r.rest, n)
		}
		return true
	})
	return len(r.rest) == 0
}

// maxBuffers is how many buffers a system call writes at most (IOV_MAX).
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

// writeBufs writes the round, however long that takes as long as there is progress.
func (c *client) writeBufs() error {
	r := &c.round
	if c.tls != nil && r.sealed == nil {
		r.sealed = c.server.sealed.Get().(*[]byte)
		var err error
		if *r.sealed, err = c.tls.seal(r.bufs, *r.sealed); err != nil {
			return err
		}
		r.rest = net.Buffers{*r.sealed}
	}
	err := c.writeRest()
	if r.sealed != nil {
		c.server.sealed.Put(r.sealed)
		r.sealed = nil
	}
	return err
}

func (c *client) writeRest() error {
	r := &c.round
	if c.raw != nil && c.tryWrite() {
		return nil
	}
	for len(r.rest) > 0 {
		c.mu.Lock()
		if !c.ended.Load() { // an end has set its own deadline
			c.conn.SetWriteDeadline(time.Now().Add(c.lookInterval()))
		}
		c.mu.Unlock()
		n, err := r.rest.WriteTo(c.conn)
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
		now := time.Now()
		if n > 0 {
			c.mu.Lock()
			c.progress = now
			c.mu.Unlock()
		}
		if c.stuck(now) {
			c.end(endStuck)
			c.conn.Close()
			return err
		}
	}
	return nil
}
