package poller

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"edged/internal/redistest"
)

// stat is a number that Redis counts.
func stat(t *testing.T, s *redistest.Server, name string) (n int) {
	t.Helper()
	_, text, _ := strings.Cut(s.Client().Info(t.Context(), "stats").Val(), name+":")
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// commands are those that Redis has carried out, with those of scripts.
const commands = "total_commands_processed"

// roundTrips makes n round trips to Redis, one after the other: a loop that spins
// takes turns at about the same rate, whatever the speed of the machine.
func roundTrips(t *testing.T, s *redistest.Server, n int) {
	t.Helper()
	for range n {
		if err := s.Client().Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// An hour of the test's own clock, with the default poll interval.
func TestIdleCostsLessThanACommandASecond(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		l := byHand(t, s.Address(), mode, func(o *setup) { o.PollInterval = 10 * time.Second })
		a, b := l.join(0, true), l.join(1, true)
		watch, cancel := context.WithCancel(t.Context())
		defer cancel()
		l.loop.servers.Watch(watch)
		server := l.loop.readers[0].Server
		round := func() (busy bool) {
			server.Heed(t.Context())
			for _, r := range l.loop.readers {
				busy = r.turn(t.Context(), l.now) || busy
			}
			server.Settle(0)
			return busy
		}
		s.Push("a", "x")
		s.Push("b", "x")
		redistest.Eventually(t, "the items are gone and hints come", func() bool {
			l.now = l.now.Add(time.Second)
			round()
			a.confirm()
			b.confirm()
			return s.Len("a")+s.Len("b") == 0 && server.Hinted() && a.count() == 1 && b.count() == 1
		})

		const seconds = 3600
		before, rounds := stat(t, s, commands), 0
		for end := l.now.Add(seconds * time.Second); l.now.Before(end) && rounds < seconds; rounds++ {
			if !round() {
				l.now = l.now.Add(l.loop.pause(l.now))
			}
		}
		if n := stat(t, s, commands) - before; n >= seconds || rounds == seconds {
			t.Errorf("%d commands in %d rounds while idle for %d seconds", n, rounds, seconds)
		}
	})
}

func TestAnIdleLoopSleeps(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		var turns atomic.Int64
		l := start(t, s.Address(), mode, func(o *setup) { // the slow poll is a minute away
			o.Alive = func(time.Time) { turns.Add(1) }
		})
		a := l.join(0, false)
		l.join(1, false)
		redistest.Eventually(t, "both are served", func() bool { return l.status("a").State == Serving && l.status("b").State == Serving })
		s.Push("a", "x")
		redistest.Eventually(t, "the item is gone", func() bool { return a.count() == 1 && s.Len("a") == 0 })
		l.round()

		const own = 2000
		before, turned, began := stat(t, s, commands), turns.Load(), time.Now()
		roundTrips(t, s, own)
		polls := int(time.Since(began)/time.Minute) + 1
		if n := stat(t, s, commands) - before - own; n > 8*polls {
			t.Errorf("%d commands while idle", n)
		}
		if n := turns.Load() - turned; n > int64(20*polls) {
			t.Errorf("%d turns while idle", n)
		}
	})
}
