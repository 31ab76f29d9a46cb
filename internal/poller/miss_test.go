package poller

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/redistest"
)

// limited is a server that closes the connection of a client for which more than 1 MB waits.
func limited(t *testing.T) *redistest.Server {
	s := redistest.Start(t)
	do(t, s, "CONFIG", "SET", "client-output-buffer-limit", "normal 1000000 0 0")
	return s
}

func TestAnItemThatCantBeReadBecomesADeadLetterAndHoldsNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for name, items := range map[string][]any{
			"first": {"huge", "one", "two"}, "between": {"one", "huge", "two"}, "last": {"one", "two", "huge"}, "alone": {"huge"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := limited(t)
				huge := strings.Repeat("x", 3<<20)
				for _, item := range items {
					if item == "huge" {
						item = huge
					}
					s.Push("a", item.(string))
				}
				s.Push("b", numbered(50)...)
				l := start(t, s.Address(), mode, func(o *setup) { o.MaxPayload = 4 << 20 })
				a, b := l.join(0, false), l.join(1, false)
				redistest.Eventually(t, "the lists are empty", func() bool { return s.Len("a") == 0 && s.Len("b") == 0 })
				wantNumbered(t, b.got(), 50)
				if got := a.count(); got != len(items)-1 {
					t.Errorf("%d items arrived, want %d", got, len(items)-1)
				}
				letters, _, err := l.loop.Dead(t.Context(), "a", 10)
				if err != nil || len(letters) != 1 || letters[0].Size != len(huge) || !strings.Contains(letters[0].Reason, "client-output-buffer-limit") {
					t.Errorf("dead letters %.200v, %v", letters, err)
				}
				if n := s.Len("{b}:dead"); n != 0 {
					t.Errorf("%d items of the other list are dead letters", n)
				}
			})
		}
	})
}

func TestReadsThatAreTooLargeForRedisGetSmallerAndThatIsSaid(t *testing.T) {
	t.Parallel()
	s := limited(t)
	for range 100 {
		s.Push("a", strings.Repeat("x", 200_000))
	}
	core, logged := observer.New(zap.WarnLevel)
	l := start(t, s.Address(), func(o *setup) { o.BatchBytes, o.Relay.Memory, o.Log = 16<<20, 64<<20, zap.New(core) })
	a := l.join(0, false)
	a.wait(t, 100)
	redistest.Eventually(t, "it is said", func() bool {
		l.round()
		return strings.Contains(strings.Join(l.loop.Notices(), "\n"), "client-output-buffer-limit or maxmemory-clients: reads of list a are bounded to")
	})
	if n := logged.FilterMessageSnippet("with a drawback").Len(); n == 0 || n > 4 {
		t.Errorf("it is logged %d times", n)
	}
}

// A Redis that ends in the middle of replies is none whose replies are too large.
func TestReadsAreNotBoundedByRepliesOfARedisThatHasEnded(t *testing.T) {
	t.Parallel()
	s := limited(t)
	for range 100 {
		s.Push("a", strings.Repeat("x", 200_000))
	}
	l := start(t, s.Address(), func(o *setup) { o.BatchBytes, o.Relay.Memory = 16<<20, 64<<20 })
	a := l.join(0, false)
	said := func() bool {
		l.round()
		return strings.Contains(strings.Join(l.loop.Notices(), "\n"), "reads of list a are bounded to")
	}
	redistest.Eventually(t, "it is said", said)
	a.wait(t, 100)
	s.Kill()
	s.Restart()
	redistest.Eventually(t, "it is over", func() bool { return !said() })
}

// The list is compared with the known items after a break, and reads what it can.
func TestAListIsFoundAgainThoughOneItemCantBeRead(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	huge := strings.Repeat("x", 3<<20)
	s.Push("a", "one", huge, "two", "three")
	l := start(t, s.Address(), func(o *setup) { o.MaxPayload, o.BatchBytes, o.Relay.Memory = 4<<20, 16<<20, 64<<20 })
	a := l.join(0, true)
	a.wait(t, 4)
	do(t, s, "CONFIG", "SET", "client-output-buffer-limit", "normal 1000000 0 0")
	s.Client().LPop(t.Context(), "a") // others remove the head
	a.confirm()
	redistest.Eventually(t, "the list is empty", func() bool { a.confirm(); return s.Len("a") == 0 })
	a.wait(t, 4)
	if n := s.Len(keys.Dead); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

func TestTrackingThatIsRefusedIsSaidAsLongAsItLasts(t *testing.T) {
	t.Parallel()
	for _, right := range []string{"-client|tracking", "-subscribe", "-client"} {
		s := startWithUser(t)
		do(t, s, "ACL", "SETUSER", "edged", right)
		core, logged := observer.New(zap.WarnLevel)
		l := start(t, s.Address(), logIn, func(o *setup) { o.Log = zap.New(core) })
		l.join(0, false)
		said := func() bool {
			l.round()
			return strings.Contains(strings.Join(l.loop.Notices(), "\n"), "does not tell of new items, so edged asks every 1 to 50 ms, which takes up to 7 % of a core: the Redis user lacks a right")
		}
		redistest.Eventually(t, right+" is said", said)
		if n := logged.FilterMessageSnippet("with a drawback").Len(); n != 1 {
			t.Errorf("%s is logged %d times", right, n)
		}
		s.Push("a", "one")
		redistest.Eventually(t, "the item is gone", func() bool { return s.Len("a") == 0 })
		do(t, s, "ACL", "SETUSER", "edged", "+@all")
		disconnectAll(t, s)
		if right != "-subscribe" { // it is asked again after a minute
			redistest.Eventually(t, "it is over", func() bool { return !said() })
		}
	}
}
