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

// writer is what a writing goroutine works with; the memory is used again.
type writer struct {
	out     []segment // taken from the queue
	spare   []segment // for the queue
	bufs    net.Buffers
	rest    net.Buffers // of bufs, or of the records made of them, not yet written
	round   []delivery  // deliveries in bufs
	written []delivery  // those of them that count as confirmed when written
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
		for more := c.out; ; {
			n, err := c.writeRound(more)
			if err != nil {
				c.end(endBroken)
				c.close()
				return
			}
			if more = more[n:]; len(more) == 0 {
				break // after a first round, which may be nothing but a PING
			}
		}
	}
}

// await takes what there is to write. It returns false when the writing goroutine
// is to end: there is nothing, or the connection has ended and all is written that
// still can be.
func (c *client) await() bool {
	for {
		if cap(c.out) > keptSegments {
			c.out = nil
		}
		clear(c.out)
		c.mu.Lock()
		c.out, c.queue.segments = c.queue.segments, c.out[:0]
		expired := c.expired
		c.expired = nil
		ended := c.ended.Load()
		work := len(c.out) > 0 || !c.pinged && (c.askPing || len(c.uncovered) > 0)
		due := c.due && !work
		if due {
			c.due = false
		}
		c.idle = !work && !ended && !due && len(expired) == 0
		if c.idle {
			c.restWriter()
		}
		idle := c.idle
		c.mu.Unlock()

		for _, sub := range expired {
			sub.retire()
		}
		switch {
		case idle:
			return false
		case ended && len(c.out) == 0:
			c.close()
			return false
		case ended || work:
			return true
		case due:
			c.look()
		}
	}
}

// wakeWriter lets somebody write what is being queued: best before that, so that
// the queue uses memory that is there. mu is held.
func (c *client) wakeWriter() {
	if !c.idle {
		return
	}
	c.idle = false
	c.writer = c.server.writers.Get().(*writer)
	if c.queue.segments == nil {
		c.queue.segments, c.spare = c.spare[:0], nil
	}
	c.server.wg.Add(1)
	go c.write()
}

// restWriter gives back what the writing goroutine worked with. mu is held.
func (c *client) restWriter() {
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
// it is them who look, when they have nothing better to do.
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

// writeRound writes the first segments of out, about roundSize bytes, and tells
// how many. Where deliveries wait for a PING and none is outstanding, it stands
// at the end.
func (c *client) writeRound(out []segment) (n int, err error) {
	c.bufs, c.round, c.written = c.bufs[:0], c.round[:0], c.written[:0]
	ended := c.ended.Load()
	queued := 0
	for size := 0; n < len(out) && size < roundSize; n++ {
		seg := &out[n]
		switch {
		case seg.chunk != nil:
			c.bufs = append(c.bufs, seg.chunk[:seg.used])
			queued += seg.used
			size += seg.used
		case ended || seg.member.left.Load(): // owed by others now
		default:
			var bytes int
			c.bufs, bytes = seg.batch.Encoded(seg.member.key, seg.member.encode).Append(c.bufs, seg.from, seg.to)
			c.round = append(c.round, seg.delivery)
			size += bytes
		}
	}

	c.mu.Lock()
	for _, d := range c.round {
		switch {
		case d.member.left.Load(): // since this round began
		case d.member.confirm == OnPong:
			c.uncovered = append(c.uncovered, d)
		default:
			c.written = append(c.written, d)
		}
	}
	asks := !c.pinged && !ended && (c.askPing || len(c.uncovered) > 0)
	if asks {
		c.covered, c.uncovered = c.uncovered, nil
		c.pinged, c.askPing, c.early = true, false, false
		c.bufs = append(c.bufs, ping)
	}
	if c.owed == 0 {
		c.progress = time.Now()
	}
	c.mu.Unlock()

	if err := c.writeBufs(); err != nil {
		return 0, err
	}
	for _, seg := range out[:n] {
		if seg.chunk != nil {
			c.server.chunks.Put(seg.chunk)
		} else {
			seg.batch.Release()
		}
	}
	c.mu.Lock()
	c.queue.bytes -= queued
	c.progress = time.Now()
	if asks {
		c.pingOut = c.bytesOut.Load()
	}
	answered := asks && c.early
	c.mu.Unlock()
	if answered {
		c.pong()
	}
	c.confirm(c.written)
	clear(c.round)
	clear(c.written)
	return n, nil
}

// writeBufs writes bufs, however long that takes as long as there is progress.
func (c *client) writeBufs() error {
	c.rest = c.bufs
	if c.tls != nil {
		memory := c.server.sealed.Get().(*[]byte)
		defer c.server.sealed.Put(memory)
		var err error
		if *memory, err = c.tls.seal(c.bufs, *memory); err != nil {
			return err
		}
		c.rest = net.Buffers{*memory}
	}
	for len(c.rest) > 0 {
		c.mu.Lock()
		if !c.ended.Load() { // an end has set its own deadline
			c.conn.SetWriteDeadline(time.Now().Add(c.lookInterval()))
		}
		c.mu.Unlock()
		n, err := c.rest.WriteTo(c.conn)
		c.bytesOut.Add(uint64(n))
		switch {
		case err == nil:
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
