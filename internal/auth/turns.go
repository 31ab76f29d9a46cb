package auth

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
)

// Errors of a peer that did not get its turn.
var (
	ErrCrowded   = errors.New("too many peers waited for the same")
	ErrAbandoned = errors.New("the peer did not wait for its turn")
	ErrLate      = os.ErrDeadlineExceeded // the same as that of its connection's deadline
)

// Peer is the other side of a connection.
type Peer struct {
	Origin string // see Origin

	// Look reports whether the peer is gone, and whether it has closed its sending side. It is
	// called with a lock held and must not block. If it is nil, only the context tells.
	Look func() (gone, closed bool)
}

// Origin returns the address that a peer shares with the rest of its host or network: its IP
// address, or the first 64 bits of an IPv6 address, because a host owns all of those. It is empty
// if the peer has no IP address.
func Origin(ip netip.Addr) string {
	switch ip = ip.Unmap(); {
	case !ip.IsValid():
		return ""
	case ip.Is4():
		return ip.String()
	default:
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
}

// Turns lets peers that are not authenticated yet use a processor, one at a time, so such work
// takes one core at most. Its methods may be called from any goroutine.
//
// Peers wait in the order of their ranks, which are those of fair queueing: the first peer of an
// origin goes before the second peer of another. Peers that are gone are skipped. A peer that has
// closed its sending side may still wait for the answer, or be gone: it goes last.
type Turns struct {
	limit int // waiting peers

	mu      sync.Mutex // guards everything below
	busy    bool       // a peer has its turn
	rank    uint64     // of the peer that had the last turn
	waiting []*waiter  // in order of arrival
}

// NewTurns makes Turns for which at most limit peers wait.
func NewTurns(limit int) *Turns { return &Turns{limit: limit} }

// waiter is a peer that waits for its turn.
type waiter struct {
	peer   Peer
	rank   uint64
	closed bool       // the peer has closed its sending side
	ends   chan error // gets nil when it is the peer's turn; holds one
}

// Begin waits for the peer's turn, which the caller ends with End unless Begin returns an error.
// The error is ErrCrowded, ErrAbandoned if the peer is gone or ctx was canceled, or ErrLate at the
// deadline of ctx.
func (t *Turns) Begin(ctx context.Context, peer Peer) error {
	w := &waiter{peer: peer, ends: make(chan error, 1)}
	t.mu.Lock()
	w.rank = t.nextRank(peer.Origin)
	t.waiting = append(t.waiting, w)
	if !t.busy {
		t.advance()
	} else if len(t.waiting) > t.limit {
		t.shrink()
	}
	t.mu.Unlock()

	select {
	case err := <-w.ends:
		return err
	case <-ctx.Done():
	}

	t.mu.Lock()
	waits := slices.Contains(t.waiting, w)
	t.remove(w)
	t.mu.Unlock()
	switch {
	case !waits:
		return <-w.ends // the turn came at the same moment
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ErrLate
	default:
		return ErrAbandoned
	}
}

// End ends a turn.
func (t *Turns) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance()
}

// Waiting returns the number of peers that wait.
func (t *Turns) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// nextRank returns the rank of a peer that arrives now from origin. mu is held.
func (t *Turns) nextRank(origin string) uint64 {
	last := t.rank
	for _, w := range t.waiting {
		if w.peer.Origin == origin {
			last = max(last, w.rank)
		}
	}
	return last + 1
}

// advance gives the turn to the next peer. mu is held.
func (t *Turns) advance() {
	for t.busy = false; len(t.waiting) > 0 && !t.busy; {
		w := slices.MinFunc(t.waiting, (*waiter).compare)
		closed := w.closed
		if !w.look() {
			t.remove(w)
			w.ends <- ErrAbandoned
		} else if w.closed == closed { // otherwise another peer goes first
			t.remove(w)
			t.busy, t.rank = true, max(t.rank, w.rank)
			w.ends <- nil
		}
	}
}

// shrink makes the waiting peers fit into the limit: it drops those that are gone, or else the last
// one. mu is held.
func (t *Turns) shrink() {
	for _, w := range slices.Clone(t.waiting) {
		if !w.look() {
			t.remove(w)
			w.ends <- ErrAbandoned
		}
	}

	if len(t.waiting) > t.limit {
		last := t.waiting[0]
		for _, w := range t.waiting { // of equals, the one that arrived last
			if w.compare(last) >= 0 {
				last = w
			}
		}
		t.remove(last)
		last.ends <- ErrCrowded
	}
}

// remove removes w from the waiting peers, if it is there. mu is held.
func (t *Turns) remove(w *waiter) {
	t.waiting = slices.DeleteFunc(t.waiting, func(other *waiter) bool { return other == w })
}

// look reports whether the peer is still there. It notes whether the peer has closed its sending
// side.
func (w *waiter) look() bool {
	if w.peer.Look == nil {
		return true
	}
	gone, closed := w.peer.Look()
	w.closed = w.closed || closed
	return !gone
}

// compare orders peers by their turns.
func (w *waiter) compare(other *waiter) int {
	if w.closed != other.closed {
		if w.closed {
			return 1
		}
		return -1
	}
	return cmp.Compare(w.rank, other.rank)
}
