package poller

import (
	"testing"
	"time"

	"edged/internal/redistest"
)

func keeps(n int) func(*setup) {
	return func(o *setup) {
		o.Lists[0].Keep = n
		o.Relay.Times = true
	}
}

func TestFinishedItemsAreKept(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, right := range []bool{false, true} {
			s := redistest.Start(t)
			pushed(t, s, right, numbered(5000)...)
			side := func(o *setup) { o.Lists[0].FromRight = right }
			l := start(t, s.Address(), mode, side, keeps(100))
			c := l.join(0, false)
			c.wait(t, 5000)
			redistest.Eventually(t, "about a hundred are left", func() bool { return s.Len("a") <= 106 })
			l.stop()
			if n := s.Len("a"); n < 100 {
				t.Fatalf("%d items are left", n)
			}

			l = start(t, s.Address(), mode, side, keeps(100))
			l.is(Waiting)
			if st := l.status("a"); st.Backlog != 0 || st.Kept != s.Len("a") {
				t.Errorf("the backlog is %d, and %d items are kept", st.Backlog, st.Kept)
			}
			again := l.join(0, false)
			pushed(t, s, right, "one more")
			again.wait(t, 1)
			h, err := l.loop.History(t.Context(), "a", From{Number: 4990}, 3, 100)
			if err != nil || len(h.Items) != 3 || h.Items[0].Number != 4990 || string(h.Items[0].Head) != "item 4990" || h.Items[0].Seen.IsZero() {
				t.Errorf("%+v, %v", h, err)
			}
		}
	})
}

func TestTheHistoryBeginsWhereItIsAsked(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), keeps(1000))
	c := l.join(0, false)
	pushed(t, s, false, numbered(10)...)
	c.wait(t, 10)
	redistest.Eventually(t, "they are finished", func() bool { return l.status("a").Kept == 10 })
	l.stop()
	do(t, s, "DEL", keys.Times)
	do(t, s, "RPUSH", keys.Times, "3:5000", "6:7000", "10:9000")
	pushed(t, s, false, "waits 0", "waits 1")

	l = start(t, s.Address(), keeps(1000))
	for _, tc := range []struct {
		from  From
		first uint64
	}{
		{From{}, 0}, {From{Number: 4}, 4}, {From{Number: 11}, 11}, {From{Waiting: true}, 10},
		{From{Since: time.UnixMilli(1)}, 0}, {From{Since: time.UnixMilli(6999)}, 3}, {From{Since: time.UnixMilli(7001)}, 6},
		{From{Since: time.UnixMilli(9001)}, 10},
	} {
		h, err := l.loop.History(t.Context(), "a", tc.from, 1, 100)
		if err != nil || len(h.Items) != 1 || h.Items[0].Number != tc.first || h.First != 0 || h.Floor != 10 || h.Length != 12 {
			t.Errorf("%+v: %+v, %v", tc.from, h, err)
		}
	}
	if h, err := l.loop.History(t.Context(), "a", From{Number: 12}, 5, 1); err != nil || len(h.Items) != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestKeptItemsGoFirstWhenRedisIsFull(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), keeps(1000), func(o *setup) { o.PollInterval = 20 * time.Millisecond })
	c := l.join(0, false)
	pushed(t, s, false, numbered(500)...)
	c.wait(t, 500)
	redistest.Eventually(t, "they are kept", func() bool { return l.status("a").Kept == 500 })
	do(t, s, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	do(t, s, "CONFIG", "SET", "maxmemory", 1)
	redistest.Eventually(t, "nothing is kept", func() bool { return s.Len("a") == 0 })

	do(t, s, "CONFIG", "SET", "maxmemory", 0)
	items := uint64(500)
	redistest.Eventually(t, "items are kept again", func() bool {
		pushed(t, s, false, "item")
		items++
		return l.status("a").Kept > 0
	})
	redistest.Eventually(t, "all are finished", func() bool { return l.logs[0].Stats().Confirmed == items })
	c.m.Leave()
	l.is(Waiting)
	do(t, s, "CONFIG", "SET", "maxmemory", 1)
	redistest.Eventually(t, "nothing is kept, with no client too", func() bool { return s.Len("a") == 0 })
}

func TestAKeptListThatAnotherProgramCapsGoesOn(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		l := start(t, s.Address(), mode, keeps(3000))
		c := l.join(0, false)
		pushed(t, s, false, numbered(2000)...)
		c.wait(t, 2000)
		redistest.Eventually(t, "they are kept", func() bool { return l.status("a").Kept == 2000 })
		do(t, s, "LTRIM", "a", 701, -1)
		pushed(t, s, false, "one more")
		c.wait(t, 2001)
		redistest.Eventually(t, "it is kept", func() bool { return l.status("a").Kept == 1300 && s.Len("a") == 1300 })
		h, err := l.loop.History(t.Context(), "a", From{}, 1, 100)
		if err != nil || h.First != 701 || string(h.Items[0].Head) != "item 701" {
			t.Errorf("%+v, %v", h, err)
		}
		l.balanced()
	})
}
