package poller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/redistest"
)

// Loss: the guard looks at three of the items that it removes, and the number of the
// last removal came back with the data.
func TestARedisThatComesBackWithOlderDataLosesNoItemThatCameSince(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		l := start(t, s.Address(), mode, func(o *setup) {
			o.PollInterval, o.Relay.Window, o.Relay.MaxAckPending = 5*time.Second, 4, 4
		})
		c, other := l.join(0, true), l.join(1, false)
		s.Push("a", "tick", "data 0")
		c.wait(t, 2)
		do(t, s, "SAVE")
		s.Push("a", "data 1", "tick")
		c.wait(t, 4)
		l.is(Full)
		s.Kill()
		s.Restart()
		s.Push("a", "data 2", "tick") // the producer goes on
		s.Push("b", "x")              // the other list is the one that finds the scripts missing, and loads them
		redistest.Eventually(t, "the other list is served again", func() bool { return other.count() == 1 && s.Len("b") == 0 })
		c.mu.Lock()
		slices.Reverse(c.deliveries) // so that all becomes removable at once
		c.mu.Unlock()
		gone(t, s, c)
		if !slices.Contains(c.got(), "data 2") {
			t.Errorf("data 2 was never delivered and is gone from Redis; delivered: %q", c.got())
		}
		l.balanced()
	})
}

func TestALostReplyWithAnItemTooLargeInFlightDoublesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		n := newNetwork(t, s)
		a := start(t, n.address, mode, func(o *setup) { o.MaxPayload = 1000 }).join(0, true)
		items := numbered(10)
		s.Push("a", items[:5]...)
		s.Push("a", strings.Repeat("x", 2000))
		s.Push("a", items[5:]...)
		a.wait(t, 10)
		n.lose.Store(1)
		gone(t, s, a)
		if s.Len(keys.Dead) != 1 {
			t.Error("the item is no dead letter")
		}
		wantNumbered(t, a.got(), 10)
	})
}

func TestADeadLetterIsCountedOnceHoweverLongItCantBeWritten(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		do(t, s, "SET", keys.Dead, "no list")
		s.Push("a", strings.Repeat("x", 2000), "item 0")
		l := start(t, s.Address(), mode, func(o *setup) { o.MaxPayload = 1000 })
		a := l.join(0, false)
		tries := 0
		redistest.Eventually(t, "it has failed for a while", func() bool {
			if l.status("a").State == Failing {
				tries++
			}
			return tries > 500
		})
		do(t, s, "DEL", keys.Dead)
		redistest.Eventually(t, "all is gone", func() bool { return s.Len("a") == 0 && a.count() > 0 })
		if st := l.logs[0].Stats(); st.Dead != 1 || st.Taken != 2 || s.Len(keys.Dead) != 1 {
			t.Errorf("%d dead letters, the books say %+v", s.Len(keys.Dead), st)
		}
	})
}

func TestAnAcknowledgementIsNotSaidToBeSavedWhereTheListIsAnothers(t *testing.T) {
	t.Parallel()
	for lost := range int32(2) {
		s := redistest.Start(t)
		n := newNetwork(t, s)
		l := byHand(t, n.address, explicit)
		c := l.join(0, true)
		s.Push("a", "item 0", "item 1")
		l.settle(0)
		c.wait(t, 2)
		handTo(t, s, "other/1", time.Hour)
		var told []error
		c.acknowledge(0, batch.Acked, func(err error) { told = append(told, err) })
		n.lose.Store(lost)
		l.settle(0)
		if len(told) != 1 || told[0] == nil {
			t.Errorf("told was %v", told)
		}
	}
}

func TestARequestThatIsGivenUpIsNotWrittenToAfterwards(t *testing.T) { // with -race
	s := redistest.Start(t)
	l := start(t, s.Address())
	s.Push(keys.Dead, "{}\nitem 0")
	s.Signal(syscall.SIGSTOP)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	letters, total, err := l.loop.Dead(ctx, "a", 10)
	s.Signal(syscall.SIGCONT)
	if err == nil {
		t.Fatal("a server that is stopped has answered")
	}
	l.round()
	if len(letters) != 0 || total != 0 || errors.Is(err, ErrNoList) {
		t.Error(letters, total, err)
	}
}

func TestAnAcknowledgedItemDoesNotComeAgainWhereItsRemovalFails(t *testing.T) {
	t.Parallel()
	for name, x := range map[string][2][]any{
		"missing right":                  {{"ACL", "SETUSER", "edged", "-rpush"}, {"ACL", "SETUSER", "edged", "+@all"}},
		"dead letters of the wrong type": {{"SET", keys.Dead, "no list"}, {"DEL", keys.Dead}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startWithUser(t)
			s.Push("a", numbered(4)...)
			l := start(t, s.Address(), explicit, logIn)
			c := l.join(0, true)
			c.wait(t, 4)
			do(t, s, x[0]...)
			var told, saved atomic.Int32
			c.say(1, batch.Terminated)
			c.acknowledge(2, batch.Acked, func(err error) {
				if told.Add(1); err == nil {
					saved.Add(1)
				}
			})
			tries := 0
			redistest.Eventually(t, "it has failed for a while", func() bool {
				if l.status("a").State == Failing {
					tries++
				}
				return tries > 200 || c.count() > 4
			})
			// The acknowledgement may have been saved before the dead letter was tried.
			if dead := s.Len(keys.Dead + "!"); c.count() != 4 || dead != 0 || s.Len("a") != 4 {
				t.Errorf("%d deliveries of 4 items, %d items left", c.count(), s.Len("a"))
			}
			do(t, s, x[1]...)
			redistest.Eventually(t, "it is said to be saved", func() bool { return saved.Load() == 1 && s.Len(keys.Dead) == 1 })
			gone(t, s, c)
			if c.count() != 4 || told.Load() != 1 {
				t.Errorf("%d deliveries of 4 items, %d answers", c.count(), told.Load())
			}
		})
	}
}

// Twice: the read was refused, and the removal behind it was carried out.
func TestARefusedReadDoublesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := startWithUser(t)
		l := byHand(t, s.Address(), mode, logIn)
		c := l.join(0, true)
		s.Push("a", "item 0")
		l.turn()
		l.settle(0)
		s.Push("a", "item 1")
		l.settle(0)
		do(t, s, "ACL", "SETUSER", "edged", "-lrange")
		s.Push("a", "item 2")
		c.confirmSome(1)
		l.turn()
		if l.loop.readers[0].faults == 0 || s.Len("a") != 2 {
			t.Fatalf("%d items are left, %d faults", s.Len("a"), l.loop.readers[0].faults)
		}
		do(t, s, "ACL", "SETUSER", "edged", "+lrange")
		l.settle(0)
		wantNumbered(t, c.got(), 3)
	})
}

// Stopped for longer than its lease, and no other instance was there.
func TestALeaseThatRanOutDoublesNoEqualItems(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		c := start(t, s.Address(), mode).join(0, true)
		s.Push("a", equalItems(10)...)
		c.wait(t, 10)
		do(t, s, "HSET", keys.Ledger, "deadline", 1)
		gone(t, s, c)
		c.wait(t, 10)
	})
}

// sated is a client that takes so many items, and asks for no more.
type sated struct {
	client
	wants int
}

func (c *sated) Room() int { return max(0, c.wants-c.count()) }

func (c *sated) Passed(int) {}

// TestAListWhoseOnlyConsumerIsFullStaysThisProcesssOverALossOfTheOwner has an uplink whose window is full: it sends
// nothing before the list is this process's again.
func TestAListWhoseOnlyConsumerIsFullStaysThisProcesssOverALossOfTheOwner(t *testing.T) {
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	l := byHand(t, s.Address())
	c := &sated{client{hold: true, most: 3}, 3}
	c.joined, c.wake = make(chan struct{}), make(chan struct{}, 1)
	c.m = l.logs[0].Join("", "1", c)
	t.Cleanup(c.m.Leave)
	l.settle(0)
	c.wait(t, 3)

	handTo(t, s, "", 0)
	s.Client().ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
	for range 20 {
		l.now = l.now.Add(l.loop.opts.PollInterval)
		l.turn()
	}
	if owner(t, s) != l.loop.holder {
		t.Errorf("the owner of the list is %q", owner(t, s))
	}
}
