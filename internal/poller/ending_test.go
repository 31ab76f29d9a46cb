package poller

import (
	"fmt"
	"strings"
	"syscall"
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

func TestAtTheEndTheListIsGivenBackWhateverHappenedLast(t *testing.T) {
	t.Parallel()
	for name, happen := range lastThings {
		for confirms := range 2 {
			t.Run(fmt.Sprint(name, confirms), func(t *testing.T) {
				s := redistest.Start(t)
				l := start(t, s.Address())
				s.Push("a", numbered(5)...)
				c := l.join(0, true)
				c.wait(t, 5)
				l.round()
				happen(t, s)
				want := 5
				if confirms == 1 { // the loop may or may not hear of it before it ends
					l.loop.StopTaking()
					c.confirm()
					want = 0
				}
				if err := l.stop(); err != nil {
					t.Fatal(err)
				}
				if n := s.Len("a"); int(n) != want {
					t.Errorf("%d items are left, want %d", n, want)
				}
				if holder := owner(t, s); holder != "" {
					t.Errorf("the list was not given back: it is %s's", holder)
				}
			})
		}
	}
}

func TestAtTheEndALostReplyIsMadeUpFor(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		n := newNetwork(t, s)
		l := byHand(t, n.address, mode, func(o *setup) { o.MaxPayload = 1000 })
		c := l.join(0, true)
		s.Push("a", numbered(5)...)
		s.Push("a", strings.Repeat("x", 2000))
		l.settle(0)
		c.confirm()
		n.lose.Store(1)
		l.turn()
		if l.loop.readers[0].unknown == 0 || s.Len("a") != 0 {
			t.Fatal("nothing was removed, or the reply not lost")
		}
		l.logs[0].Stop()
		if err := l.loop.finish(); err != nil {
			t.Fatal(err)
		}
		if holder := owner(t, s); holder != "" || s.Len(keys.Dead) != 1 {
			t.Errorf("the list is %q's, %d dead letters", holder, s.Len(keys.Dead))
		}
		l.balanced()
	})
}

// The end has the time of one round trip, whatever Redis does.
func TestTheEndDoesNotWaitForARedisThatHangs(t *testing.T) {
	s, l, c := held(t, 5, func(o *setup) { o.Redis.Timeout = 100 * time.Millisecond })
	s.Signal(syscall.SIGSTOP)
	defer s.Signal(syscall.SIGCONT)
	c.confirm()
	err := l.stop()
	if err == nil || !strings.Contains(err.Error(), "5 items were confirmed but could not be removed") {
		t.Errorf("the end says %v", err)
	}
}
