package poller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
)

// loopConnection is the ID of the connection that the loop's calls come on: the one
// that has its keys tracked.
func loopConnection(t *testing.T, s *redistest.Server) (id string) {
	t.Helper()
	redistest.Eventually(t, "the loop has a connection with hints", func() bool {
		for line := range strings.Lines(s.Client().ClientList(t.Context()).Val()) {
			fields := strings.Fields(line)
			for _, field := range fields {
				if flags, ok := strings.CutPrefix(field, "flags="); ok && strings.Contains(flags, "t") {
					id = strings.TrimPrefix(fields[0], "id=")
				}
			}
		}
		return id != ""
	})
	return id
}

// What happens before the end, which the loop has not heard of.
var lastThings = map[string]func(*testing.T, *redistest.Server){
	"its connection is closed": func(t *testing.T, s *redistest.Server) {
		do(t, s, "CLIENT", "KILL", "ID", loopConnection(t, s))
	},
	"the script cache is flushed": func(t *testing.T, s *redistest.Server) { do(t, s, "SCRIPT", "FLUSH") },
}

func TestAtTheEndNothingStaysInFlightWhateverHappenedLast(t *testing.T) {
	t.Parallel()
	for name, happen := range lastThings {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			r := startExplicit(t, s.Address(), "x")
			h := r.join(false)
			redistest.Eventually(t, "it serves", func() bool { return r.loop.Lists()[0].State == Serving })
			s.Push("a", numbered(5)...)
			redistest.Eventually(t, "the items arrived", func() bool { return h.count() == 5 })
			if err := round(t, r.loop); err != nil {
				t.Fatal(err)
			}
			happen(t, s)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			back := s.Client().LRange(t.Context(), "a", 0, -1).Val()
			if fmt.Sprint(back) != fmt.Sprint(numbered(5)) || s.Len(inFlightKey("a", "x")) != 0 {
				t.Errorf("in the list are %q, %d items stayed in flight", back, s.Len(inFlightKey("a", "x")))
			}
			if s.Client().Exists(t.Context(), aliveKey("a", "x")).Val() != 0 {
				t.Error("the lease was not given back")
			}
		})
	}
}

func TestAtTheEndTheLeaseIsGivenBackWhateverHappenedLast(t *testing.T) {
	t.Parallel()
	for name, happen := range lastThings {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			r := start(t, s.Address())
			c, _ := r.join(0, false)
			s.Push("a", "item 0")
			redistest.Eventually(t, "the item is gone", func() bool { return c.count() == 1 && s.Len("a") == 0 })
			if err := round(t, r.loop); err != nil {
				t.Fatal(err)
			}
			happen(t, s)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if s.Client().Exists(t.Context(), leaseKey("a")).Val() != 0 {
				t.Error("the lease was not given back")
			}
		})
	}
}

func TestAtTheEndNothingStaysInFlightWhereTheLastReplyWasLost(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	n := newNetwork(t, s)
	m, w := byHand(t, n.address, 2*time.Second)
	m.loop.opts.MaxPayload = 1000
	h := joinExplicit(t, w)
	defer h.m.Leave()
	now := time.Now()
	s.Push("a", numbered(5)...)
	settleDown(t, m, &now)
	s.Push("a", strings.Repeat("x", 2000))
	m.more = true
	m.turn(t.Context(), now) // takes it
	if h.count() != 5 || !m.large() {
		t.Fatalf("%d items", h.count())
	}
	n.lose.Store(1)
	m.turn(t.Context(), now) // buries it
	if !m.unsure || s.Len(m.keys[2]) != 1 {
		t.Fatal("it was not buried, or its reply not lost")
	}
	w.Stop()
	if err := m.loop.finish(); err != nil {
		t.Fatal(err)
	}
	back := s.Client().LRange(t.Context(), "a", 0, -1).Val()
	if fmt.Sprint(back) != fmt.Sprint(numbered(5)) || s.Len(inFlightKey("a", "x")) != 0 {
		t.Errorf("in the list are %q, %d items stayed in flight", back, s.Len(inFlightKey("a", "x")))
	}
}
