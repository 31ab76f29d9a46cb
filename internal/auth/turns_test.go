package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line is Turns whose first turn is under way, in a bubble of synctest.
type line struct {
	t     *testing.T
	turns *Turns
	order []string // the peers that have had their turns
}

// inLine runs a test with a line for at most limit peers.
func inLine(t *testing.T, limit int, test func(t *testing.T, l *line)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{t: t, turns: NewTurns(limit)}
		if err := l.turns.Begin(t.Context(), Peer{}); err != nil {
			t.Fatal(err)
		}
		test(t, l)
	})
}

// join lets a peer wait; it has its turn until next. The result receives its error, nil when its
// turn has come.
func (l *line) join(ctx context.Context, name string, peer Peer) <-chan error {
	result := make(chan error, 1)
	go func() {
		err := l.turns.Begin(ctx, peer)
		if err == nil {
			l.order = append(l.order, name)
		}
		result <- err
	}()
	synctest.Wait()
	return result
}

// from lets a peer of an origin wait.
func (l *line) from(origin string) <-chan error {
	return l.join(l.t.Context(), origin, Peer{Origin: origin})
}

// next ends n turns.
func (l *line) next(n int) {
	for range n {
		l.turns.End()
		synctest.Wait()
	}
}

func (l *line) expect(want ...string) {
	l.t.Helper()
	if !slices.Equal(l.order, want) {
		l.t.Errorf("the turns were those of %q, want %q", l.order, want)
	}
}

func TestOriginsTakeTurns(t *testing.T) {
	inLine(t, 100, func(_ *testing.T, l *line) {
		for _, origin := range []string{"1", "1", "1", "1", "2", "2", "3"} {
			l.from(origin)
		}
		l.next(7)
		l.expect("1", "2", "3", "1", "2", "1", "1")
	})
}

// A peer that arrives late goes after at most one peer of each other origin.
func TestOriginThatAlwaysHasPeersWaitingHoldsUpNoOther(t *testing.T) {
	inLine(t, 100, func(_ *testing.T, l *line) {
		for range 10 {
			l.from("1")
		}
		for range 5 {
			l.next(1)
			l.from("1")
		}
		l.from("2")
		l.next(2)
		if !slices.Contains(l.order[5:], "2") {
			l.t.Errorf("%q went before it", l.order[5:])
		}
		l.next(9)
	})
}

// Peers of ever new origins must not hold up a peer that is already waiting.
func TestOriginThatComesLateGoesAfterThoseThatWait(t *testing.T) {
	inLine(t, 100, func(_ *testing.T, l *line) {
		l.from("early")
		l.from("early")
		l.next(1)
		l.from("late")
		l.next(2)
		l.expect("early", "early", "late")
	})
}

func TestPeersThatAreGoneAreSkipped(t *testing.T) {
	inLine(t, 100, func(t *testing.T, l *line) {
		var gone atomic.Bool
		left := l.join(t.Context(), "gone", Peer{Look: func() (bool, bool) { return gone.Load(), false }})
		l.from("there")
		gone.Store(true)
		l.next(1)
		l.expect("there")
		if err := <-left; err != ErrAbandoned {
			t.Errorf("the error is %v, want %v", err, ErrAbandoned)
		}
	})
}

func TestPeersThatHaveClosedTheirSendingSideComeLast(t *testing.T) {
	inLine(t, 100, func(t *testing.T, l *line) {
		for i := range 2 {
			l.join(t.Context(), fmt.Sprint("closed ", i), Peer{Look: func() (bool, bool) { return false, true }})
		}
		l.from("open")
		l.next(3)
		l.expect("open", "closed 0", "closed 1")
	})
}

func TestPeersOverTheLimitAreRefused(t *testing.T) {
	inLine(t, 3, func(t *testing.T, l *line) {
		var all []<-chan error
		for _, origin := range []string{"1", "1", "1", "1", "2"} {
			all = append(all, l.from(origin))
		}

		if got := l.turns.Waiting(); got != 3 {
			t.Errorf("%d wait, want 3", got)
		}
		l.next(3)
		l.expect("1", "2", "1")
		for i, want := range []error{nil, nil, ErrCrowded, ErrCrowded, nil} { // the origin's last peers
			if err := <-all[i]; err != want {
				t.Errorf("the error of peer %d is %v, want %v", i, err, want)
			}
		}
	})
}

func TestPeersThatAreGoneTakeNoPlace(t *testing.T) {
	inLine(t, 2, func(t *testing.T, l *line) {
		var gone atomic.Bool
		l.join(t.Context(), "gone", Peer{Look: func() (bool, bool) { return gone.Load(), false }})
		l.from("a")
		gone.Store(true)
		l.from("b")
		l.next(2)
		l.expect("a", "b")
	})
}

func TestPeerLeavesAtItsDeadline(t *testing.T) {
	inLine(t, 100, func(t *testing.T, l *line) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		late := l.join(ctx, "late", Peer{})
		if err := <-late; err != ErrLate || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the error is %v, want %v", err, ErrLate)
		}
		if got := l.turns.Waiting(); got != 0 {
			t.Errorf("%d wait, want none", got)
		}
	})
}

func TestPeerLeavesWhenItsContextIsCanceled(t *testing.T) {
	inLine(t, 100, func(t *testing.T, l *line) {
		ctx, cancel := context.WithCancel(t.Context())
		left := l.join(ctx, "left", Peer{})
		l.from("there")
		cancel()
		if err := <-left; err != ErrAbandoned {
			t.Errorf("the error is %v, want %v", err, ErrAbandoned)
		}
		l.next(1)
		l.expect("there")
	})
}

func TestOriginIsAHostOrItsNetwork(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "::1": "::/64",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1": "fe80::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := Origin(netip.MustParseAddr(ip)); got != want {
			t.Errorf("the origin of %s is %q, want %q", ip, got, want)
		}
	}
	if got := Origin(netip.Addr{}); got != "" {
		t.Errorf("the origin without an IP address is %q, want none", got)
	}
}
