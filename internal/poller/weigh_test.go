package poller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
)

// Redis would close the connection at a reply that has all the large items.
func TestLargeItemsBehindSmallOnesAreNotAskedForAtOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, right := range []bool{false, true} {
			t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) {
				s := redistest.Start(t)
				do(t, s, "CONFIG", "SET", "client-output-buffer-limit", "normal 48000000 0 0")
				large := strings.Repeat("x", 4<<20)
				pushed(t, s, right, numbered(2000)...)
				for range 30 {
					pushed(t, s, right, large)
				}
				pushed(t, s, right, "behind")
				l := byHand(t, s.Address(), mode, func(o *setup) { o.Lists[0].FromRight = right })
				c := l.join(0, true)
				l.settle(0)
				if r := l.loop.readers[0]; !r.weight.known || r.Server.Breaks() > 0 {
					t.Errorf("Redis closed the connection %d times; the weight is known: %v", r.Server.Breaks(), r.weight.known)
				}
				c.wait(t, 2001)
				for s.Len("a") > 0 {
					c.confirm()
					l.settle(0)
				}
				if n := s.Len(keys.Dead); n != 30 {
					t.Errorf("%d dead letters, want 30", n)
				}
			})
		}
	})
}

func TestAReadStopsBeforeTooManyBytesButHasOneItem(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", "aa", "bb", "cc", "dd")
	for _, test := range []struct {
		side              string
		from, items, most int
		want              string
	}{
		{"L", 0, 10, 100, "[aa bb cc dd]"}, {"L", 0, 3, 100, "[aa bb cc]"}, {"L", 1, 10, 5, "[bb cc]"}, {"L", 0, 10, 1, "[aa]"}, {"L", 4, 10, 9, "[]"},
		{"R", 0, 10, 100, "[aa bb cc dd]"}, {"R", 1, 2, 100, "[bb cc]"}, {"R", 0, 10, 5, "[cc dd]"}, {"R", 0, 10, 1, "[dd]"},
	} {
		got, err := within.RunBy(t.Context(), s.Client(), []string{"a"}, test.side, test.from, test.items, test.most)
		if err != nil || fmt.Sprint(got) != test.want {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
	}
}

func TestAReadWaitsForAWeightOnlyWhereRedisTells(t *testing.T) {
	now := time.Now()
	var w weight
	if w.old(now) || !w.due(now, 2) || w.due(now, 1) {
		t.Errorf("nothing is known: %+v", w)
	}
	w.weighed(int64(100<<20), nil, now, 1000, 100)
	if !w.heavy || w.old(now) || w.due(now, 500) || !w.old(now.Add(2*weighOld)) || !w.due(now.Add(weighEvery), 500) {
		t.Errorf("it is heavy: %+v", w)
	}
	w.weighed(int64(100<<20), nil, now, 1000, 100<<10)
	if w.heavy {
		t.Errorf("the items are as large as the last: %+v", w)
	}
	w.weighed(nil, fmt.Errorf("NOPERM"), now, 1000, 100)
	if w.heavy || w.old(now.Add(time.Hour)) || w.due(now.Add(time.Second), 500) {
		t.Errorf("Redis does not tell: %+v", w)
	}
}
