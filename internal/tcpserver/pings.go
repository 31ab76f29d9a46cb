package tcpserver

import (
	"slices"
	"time"
)

// maxUnanswered is the number of PING intervals after which a client that has not answered is cut
// off.
const maxUnanswered = 2

// leastRate is the least rate, in bytes a second, at which a client must take its messages.
const leastRate = 1 << 10

// pings decides when a client is sent a PING, which deliveries its PONG confirms, and whether the
// client is too slow. At most one PING is outstanding; deliveries that are written meanwhile wait
// for the next one.
//
// A client is too slow when its oldest item is older than a timeout plus its bytes at leastRate.
// The age counts from the previous PONG, since the client cannot answer earlier. The bytes are
// those that the client's host has taken since then, up to the end of the PING that covers the
// item. A client reads all of them before it answers, and a proxy may hold them all while a slow
// link empties it. Bytes that its host has not taken do not count, so a client that takes less than
// leastRate has little more than the timeout.
//
// It does no I/O and reads no clock. The client's mu guards it.
type pings struct {
	owed  int       // list items delivered and not confirmed
	since time.Time // time of the last PONG, or when the oldest item was queued if that is later
	base  uint64    // bytes that the client's host had taken then
	taken uint64    // bytes that the host has taken since, at the last check

	next       time.Time // when the next PING is due, even if no items need one
	asked      bool      // a PING is due but not yet in a round
	unanswered int       // intervals that ended with the same PING outstanding

	outstanding bool          // a PING is in a round or written, and is not answered
	end         uint64        // bytes written to the client up to that PING's end; 0 until it is written
	sent        time.Time     // when that PING was written
	early       bool          // its PONG came before roundDone
	rtt         time.Duration // from the last PING, including the items before it, to its PONG; 0: unknown

	covered   []delivery // confirmed by the PONG of the outstanding PING
	uncovered []delivery // need another PING
}

// owe adds n items that the client is to confirm. It reports whether it owed none before; then its
// time begins.
func (p *pings) owe(n int) (first bool) {
	p.owed += n
	return p.owed == n
}

// settle removes n items that are confirmed, or that the client no longer owes.
func (p *pings) settle(n int) { p.owed -= n }

// begin starts the client's time; written is the number of bytes written to it so far.
func (p *pings) begin(now time.Time, written uint64) {
	p.since, p.base, p.taken = now, written, 0
}

// written adds a delivery of the current round, to be confirmed by a PONG.
func (p *pings) written(d delivery) { p.uncovered = append(p.uncovered, d) }

// wanted reports whether a PING is to be sent as soon as possible.
func (p *pings) wanted() bool { return !p.outstanding && (p.asked || len(p.uncovered) > 0) }

// ask notes that a PING ends the current round: it covers all deliveries that were written.
func (p *pings) ask() {
	p.covered, p.uncovered = p.uncovered, nil
	p.outstanding, p.asked, p.early = true, false, false
}

// roundDone notes that a round is written, which makes bytes in all, and whether a PING ended it.
// It returns the deliveries that an early PONG confirms.
func (p *pings) roundDone(now time.Time, asked bool, bytes uint64) (confirmed []delivery) {
	if asked {
		p.end, p.sent = bytes, now
	}
	switch {
	case asked && p.early:
		return p.answer(now)
	case !p.outstanding && len(p.uncovered) == 0: // its items are not written yet
		p.begin(now, bytes)
	}
	return nil
}

// pong notes a PONG, and returns the deliveries that it confirms. A PONG before roundDone counts
// then, because the client may be faster than the writer goroutine. A PONG without a PING means
// nothing.
func (p *pings) pong(now time.Time) (confirmed []delivery) {
	switch {
	case !p.outstanding:
		return nil
	case p.end == 0:
		p.early = true
		return nil
	}
	p.rtt = now.Sub(p.sent)
	return p.answer(now)
}

// answer ends the outstanding PING.
func (p *pings) answer(now time.Time) (confirmed []delivery) {
	confirmed, p.covered = p.covered, nil
	p.begin(now, p.end)
	p.outstanding, p.end, p.unanswered = false, 0, 0
	return confirmed
}

// drop forgets the deliveries that gone reports: other clients owe them now.
func (p *pings) drop(gone func(delivery) bool) {
	p.covered = slices.DeleteFunc(p.covered, gone)
	p.uncovered = slices.DeleteFunc(p.uncovered, gone)
}

// tick counts an interval that has ended with a PING outstanding, or asks for a PING if the client
// is ready for one. It reports whether it asked. A PING that covers items does not count: tooSlow
// allows more time for its answer if the items are large.
func (p *pings) tick(now time.Time, interval time.Duration, ready bool) (asked bool) {
	if now.Before(p.next) {
		return false
	}
	p.next = now.Add(interval)
	if p.outstanding {
		if len(p.covered) == 0 {
			p.unanswered++
		}
		return false
	}
	p.asked = p.asked || ready
	return ready
}

// stale reports whether the client has left a PING unanswered for too long.
func (p *pings) stale() bool { return p.unanswered >= maxUnanswered }

// nextLook returns when the client is to be checked next: at the next PING or, if it owes items,
// several times within timeout and when its time is over.
func (p *pings) nextLook(now time.Time, timeout time.Duration) time.Time {
	next := p.next
	if p.owed == 0 {
		return next
	}
	for _, look := range []time.Time{now.Add(timeout / looks), p.deadline(timeout)} {
		if look.After(now) && look.Before(next) {
			next = look
		}
	}
	return next
}

// looked notes that at least written bytes have been written in all, of which the client's host has
// not taken the last unsent ones.
func (p *pings) looked(written uint64, unsent int) {
	has := written - min(written, uint64(unsent))
	p.base = min(p.base, has) // begin knows only the bytes written
	if p.end > 0 {
		has = min(has, p.end) // later ones may be messages of other clients, without end
	}
	p.taken = has - min(has, p.base)
}

// deadline returns when the client is too slow if it takes no more bytes.
func (p *pings) deadline(timeout time.Duration) time.Time {
	seconds := float64(p.taken) / leastRate
	return p.since.Add(timeout + time.Duration(seconds*float64(time.Second)))
}

// tooSlow reports whether the client is to be cut off.
func (p *pings) tooSlow(now time.Time, timeout time.Duration) bool {
	return !now.Before(p.deadline(timeout))
}
