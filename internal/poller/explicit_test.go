package poller

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/redistest"
)

func TestItemsAreAcknowledgedInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{false, true} {
		s := redistest.Start(t)
		s.Push("a", numbered(10)...)
		l := start(t, s.Address(), explicit, func(o *setup) { o.RejoinGrace = time.Minute })
		c := l.joinGroup(0, "g", true)
		c.wait(t, 10)
		if full {
			do(t, s, "CONFIG", "SET", "maxmemory", "1")
		}
		var saved atomic.Int32
		c.acknowledge(7, batch.Acked, func(err error) {
			if err == nil && strings.Contains(s.Client().HGet(t.Context(), keys.Ledger, "group:g").Val(), "+7") {
				saved.Add(1)
			}
		})
		redistest.Eventually(t, "the answer comes when the ledger has it", func() bool { return saved.Load() == 1 })
		c.say(0, batch.Acked)
		c.say(3, batch.Terminated)
		redistest.Eventually(t, "the first is removed, and another a dead letter", func() bool { return s.Len("a") == 9 && s.Len(keys.Dead) == 1 })
		if dead := s.Client().LRange(t.Context(), keys.Dead, 0, -1).Val(); !strings.HasSuffix(dead[0], "\nitem 3") || !strings.Contains(dead[0], "given up by a client") {
			t.Errorf("dead letters are %q", dead)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		again := start(t, s.Address(), explicit, func(o *setup) { o.RejoinGrace = time.Minute }).joinGroup(0, "g", false)
		gone(t, s)
		if got := strings.Join(again.got(), ","); got != "item 1,item 2,item 4,item 5,item 6,item 8,item 9" {
			t.Errorf("after a restart came %s", got)
		}
	}
}

func TestAnItemThatIsNotAcknowledgedComesAgainAndBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{false, true} {
		s := redistest.Start(t)
		pushed(t, s, right, numbered(3)...)
		l := start(t, s.Address(), explicit, func(o *setup) {
			o.Lists[0].FromRight, o.Relay.AckWait, o.Relay.MaxDeliver = right, 20*time.Millisecond, 3
		})
		c := l.join(0, true)
		redistest.Eventually(t, "all are dead letters", func() bool { return s.Len("a") == 0 && s.Len(keys.Dead) == 3 })
		var tries []int
		for i, item := range c.got() {
			if item == "item 1" {
				tries = append(tries, c.places[i].tries)
			}
		}
		if !slices.Equal(tries, []int{1, 2, 3}) {
			t.Errorf("the deliveries of an item have the numbers %v", tries)
		}
		dead := s.Client().LRange(t.Context(), keys.Dead, 0, -1).Val()
		if len(dead) != 3 || !strings.HasSuffix(dead[0], "\nitem 0") || !strings.Contains(dead[0], "delivered 3 times") {
			t.Errorf("dead letters are %q", dead)
		}
		l.balanced()
	}
}

func TestItemsThatAFinishedMemberAcknowledgesAreRemoved(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, l, c := held(t, 2, mode)
		c.m.Finish(2)
		l.round()
		l.round()
		gone(t, s, c)
		l.balanced()
	})
}
