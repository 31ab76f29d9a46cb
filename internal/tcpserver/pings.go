package tcpserver

import (
	"slices"
	"time"
)

// maxUnanswered is the number of PING intervals after which a client that has not
// answered is cut off.
const maxUnanswered = 2

// pings says when a client is to be sent a PING, which deliveries its PONG confirms,
// and whether the client makes progress. At most one PING is outstanding; deliveries
// that are written meanwhile wait for the next one.
//
// It does no I/O and reads no clock. The client's mu guards it.
type pings struct {
	owed     int       // list items delivered and not confirmed
	progress time.Time // when the client last took bytes or answered
	unsent   int       // bytes in the kernel's send queue at the last look

	next       time.Time // when the next PING is due, even if no items need one
	asked      bool      // it is due and not yet in a round
	unanswered int       // intervals that ended with the same PING outstanding

	outstanding bool      // a PING is in a round or written, and is not answered
	end         uint64    // bytes written to the client up to that PING's end; 0 until it is written
	arrived     time.Time // when the client's host was first known to have it
	early       bool      // its PONG came before it was written

	covered   []delivery // confirmed by the PONG of the outstanding PING
	uncovered []delivery // in need of another PING
}

// owe adds n items that the client is to confirm. It reports whether it owed none
// before; then the time in which it has to make progress begins.
func (p *pings) owe(n int) (first bool) {
	p.owed += n
	return p.owed == n
}

// settle removes n items that are confirmed, or that the client no longer owes.
func (p *pings) settle(n int) { p.owed -= n }

// moved notes that the client made progress.
func (p *pings) moved(now time.Time) { p.progress = now }

// written adds a delivery of the round that is being made, to be confirmed by a PONG.
func (p *pings) written(d delivery) { p.uncovered = append(p.uncovered, d) }

// wanted reports whether a PING is to be sent as soon as possible.
func (p *pings) wanted() bool { return !p.outstanding && (p.asked || len(p.uncovered) > 0) }

// ask notes that a PING ends the round that is being made: it covers all deliveries
// that were written.
func (p *pings) ask() {
	p.covered, p.uncovered = p.uncovered, nil
	p.outstanding, p.asked, p.early = true, false, false
}

// roundDone notes that a round is written, which makes bytes in all, and whether
// a PING ended it. It returns the deliveries that an early PONG confirms.
func (p *pings) roundDone(now time.Time, asked bool, bytes uint64) (confirmed []delivery) {
	p.progress = now
	if !asked {
		return nil
	}
	p.end = bytes
	if p.early {
		return p.answer(now)
	}
	return nil
}

// pong notes a PONG, and returns the deliveries that it confirms. One that comes before
// roundDone counts then, as the client may be quicker than the writer goroutine. One
// without a PING means nothing.
func (p *pings) pong(now time.Time) (confirmed []delivery) {
	switch {
	case !p.outstanding:
		return nil
	case p.end == 0:
		p.early = true
		return nil
	}
	return p.answer(now)
}

// answer ends the outstanding PING.
func (p *pings) answer(now time.Time) (confirmed []delivery) {
	confirmed, p.covered = p.covered, nil
	p.outstanding, p.end, p.arrived, p.unanswered = false, 0, time.Time{}, 0
	p.progress = now
	return confirmed
}

// drop forgets the deliveries that gone reports: other clients owe them now.
func (p *pings) drop(gone func(delivery) bool) {
	p.covered = slices.DeleteFunc(p.covered, gone)
	p.uncovered = slices.DeleteFunc(p.uncovered, gone)
}

// tick counts an interval that has ended with a PING outstanding, or asks for a PING
// if the client is ready for one. It reports whether it asked.
func (p *pings) tick(now time.Time, interval time.Duration, ready bool) (asked bool) {
	if now.Before(p.next) {
		return false
	}
	p.next = now.Add(interval)
	if p.outstanding {
		p.unanswered++
		return false
	}
	p.asked = p.asked || ready
	return ready
}

// stale reports whether the client has left a PING unanswered for too long.
func (p *pings) stale() bool { return p.unanswered >= maxUnanswered }

// nextLook returns when the client is to be looked at next: at the next PING or, if it
// owes items, after the given time when that is sooner.
func (p *pings) nextLook(now time.Time, after time.Duration) time.Time {
	if look := now.Add(after); p.owed > 0 && look.Before(p.next) {
		return look
	}
	return p.next
}

// looked notes that the kernel holds unsent bytes that the client's host has not
// acknowledged, at a time when at least written had been written in all. A slow client
// behind a large socket buffer makes progress that no write shows.
func (p *pings) looked(now time.Time, written uint64, unsent int) {
	if unsent < p.unsent {
		p.progress = now
	}
	p.unsent = unsent
	if p.end > 0 && p.arrived.IsZero() && written >= p.end+uint64(unsent) {
		p.arrived = now
	}
}

// stuck reports whether timeout has passed without progress: a PONG, bytes that the
// socket took, or bytes that the kernel got rid of. Once the client's host has the
// PING only the PONG counts, as other clients may send messages to this one for ever.
func (p *pings) stuck(now time.Time, timeout time.Duration) bool {
	since := p.progress
	if !p.arrived.IsZero() {
		since = p.arrived
	}
	return now.Sub(since) >= timeout
}
