package poller

import (
	"slices"
	"testing"

	"edged/internal/redistest"
)

// classed makes a life with a list of each of these classes, whose rounds the test takes. A read is one item.
func classed(t *testing.T, share int, classes ...int) (*redistest.Server, *life, []*client) {
	s := redistest.Start(t)
	l := byHand(t, s.Address(), func(o *setup) {
		o.Lists, o.Share, o.BatchItems = nil, share, 1
		for i, class := range classes {
			key := string(rune('a' + i))
			o.Lists = append(o.Lists, List{Key: key, Subject: key, Class: class})
		}
	})
	l.loop.servers.Watch(t.Context())
	redis := l.loop.readers[0].Server
	redistest.Eventually(t, "Redis sends hints", func() bool {
		redis.Heed(t.Context())
		return redis.Hinted()
	})
	clients := make([]*client, len(classes))
	for i := range classes {
		clients[i] = l.join(i, true)
		l.settle(i) // so that all turns to come are reads
	}
	return s, l, clients
}

// rounds takes rounds of the loop, and returns how many items of each list came.
func (l *life) rounds(n int, clients []*client) []int {
	for _, r := range l.loop.readers {
		r.more = true
		l.loop.visits.ring(r)
	}
	before := counts(clients)
	for range n {
		l.loop.round(l.t.Context(), l.t.Context())
	}
	l.loop.settleAll()
	came := counts(clients)
	for i := range came {
		came[i] -= before[i]
	}
	return came
}

func counts(clients []*client) []int {
	n := make([]int, len(clients))
	for i, c := range clients {
		n[i] = c.count()
	}
	return n
}

func TestTheLowestClassIsReadFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		classes, waiting []int
		share, rounds    int
		want, shared     []int
	}{
		"one class":                      {[]int{3, 3}, []int{90, 90}, 10, 50, []int{50, 50}, []int{0, 0}},
		"a tenth for the higher one":     {[]int{0, 1}, []int{190, 190}, 10, 90, []int{90, 10}, []int{0, 10}},
		"whatever the order of lists":    {[]int{1, 0}, []int{190, 190}, 10, 90, []int{10, 90}, []int{10, 0}},
		"half":                           {[]int{0, 9}, []int{190, 190}, 2, 90, []int{90, 90}, []int{0, 90}},
		"strict":                         {[]int{0, 1}, []int{190, 190}, 0, 90, []int{90, 0}, []int{0, 0}},
		"strict, until it is empty":      {[]int{0, 1}, []int{20, 190}, 0, 90, []int{20, 70}, []int{0, 0}},
		"a share for each class":         {[]int{0, 1, 2}, []int{190, 190, 190}, 10, 80, []int{80, 10, 10}, []int{0, 10, 10}},
		"the middle one is first":        {[]int{0, 1, 2}, []int{0, 190, 190}, 10, 90, []int{0, 90, 10}, []int{0, 0, 10}},
		"lists of a class take turns":    {[]int{0, 0, 1}, []int{190, 190, 190}, 10, 45, []int{45, 45, 10}, []int{0, 0, 10}},
		"turns within the higher class":  {[]int{0, 1, 1}, []int{190, 190, 190}, 10, 90, []int{90, 5, 5}, []int{0, 5, 5}},
		"no items are passed over there": {[]int{0, 1}, []int{190, 3}, 10, 90, []int{90, 3}, []int{0, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, l, clients := classed(t, c.share, c.classes...)
			for i, n := range c.waiting {
				if n > 0 {
					s.Push(l.loop.readers[i].list.Key, numbered(n)...)
				}
			}

			if got := l.rounds(c.rounds, clients); !nearly(got, c.want) {
				t.Errorf("%v items came, want %v", got, c.want)
			}
			for i, want := range c.shared {
				if got := int(l.loop.Lists()[i].Shared); !nearly([]int{got}, []int{want}) {
					t.Errorf("list %d had %d reads by its share, want %d", i, got, want)
				}
			}
		})
	}
}

// nearly reports whether no number is further than 2 from its counterpart: a hint that comes late has an empty list
// read once more. A 0 has to be one.
func nearly(got, want []int) bool {
	return slices.EqualFunc(got, want, func(a, b int) bool { return a == b || b != 0 && max(a-b, b-a) <= 2 })
}

func TestAListThatIsPassedOverIsReadWhenTheLowerClassHasNoRoom(t *testing.T) {
	t.Parallel()
	s, l, clients := classed(t, 0, 0, 1)
	l.logs[0].Stop() // no room for good
	s.Push("a", numbered(50)...)
	s.Push("b", numbered(50)...)
	if got := l.rounds(30, clients); got[0] != 0 || got[1] < 29 {
		t.Errorf("%v items came, want none and 30", got)
	}
}

func TestAListThatIsPassedOverIsStillTrimmed(t *testing.T) {
	t.Parallel()
	s, l, clients := classed(t, 0, 0, 1)
	s.Push("b", numbered(5)...)
	l.rounds(10, clients)
	s.Push("a", numbered(100)...)
	s.Push("b", numbered(5)...)
	clients[1].confirm()

	l.rounds(20, clients)
	if clients[1].count() != 5 || s.Len("b") != 5 {
		t.Errorf("%d items of the higher class came and %d are in Redis, want 5 and 5", clients[1].count(), s.Len("b"))
	}
}

func TestClassAndShareChangeWhileTheLoopRuns(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), func(o *setup) { o.BatchItems = 1 })
	if err := l.loop.SetClass(t.Context(), "b", 1); err != nil {
		t.Fatal(err)
	}
	if err := l.loop.SetShare(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	s.Push("a", numbered(2000)...)
	s.Push("b", numbered(2000)...)
	a, b := l.join(0, false), l.join(1, false)
	redistest.Eventually(t, "all items came", func() bool { return a.count() == 2000 && b.count() == 2000 })
	if l.status("b").Shared == 0 || l.status("a").Shared != 0 {
		t.Errorf("reads by share: %d of a, %d of b", l.status("a").Shared, l.status("b").Shared)
	}
	if err := l.loop.SetClass(t.Context(), "none", 1); err != ErrNoList {
		t.Errorf("a list that is not there: %v", err)
	}
}
