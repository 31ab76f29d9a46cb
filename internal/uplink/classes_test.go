package uplink

import (
	"slices"
	"testing"

	"go.uber.org/zap"
)

func TestTheNextItemIsChosenByClass(t *testing.T) {
	for name, c := range map[string]struct {
		classes []int
		share   int
		waiting []int // number of items in each list
		take    int
		want    []int // order of the items sent
	}{
		"one class":                     {[]int{2, 2, 2}, 10, []int{90, 90, 90}, 60, []int{20, 20, 20}},
		"a tenth for the higher one":    {[]int{1, 0}, 10, []int{90, 90}, 50, []int{5, 45}},
		"half":                          {[]int{1, 0}, 2, []int{90, 90}, 50, []int{25, 25}},
		"strict":                        {[]int{1, 0}, 0, []int{90, 90}, 50, []int{0, 50}},
		"strict, until it is empty":     {[]int{1, 0}, 0, []int{90, 20}, 50, []int{30, 20}},
		"three classes":                 {[]int{0, 4, 9}, 10, []int{90, 90, 90}, 100, []int{80, 10, 10}},
		"lists of a class take turns":   {[]int{0, 0, 1}, 10, []int{90, 90, 90}, 100, []int{45, 45, 10}},
		"turns within the higher class": {[]int{0, 1, 1}, 10, []int{190, 90, 90}, 100, []int{90, 5, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			u := New(Options{WindowItems: 1000, WindowBytes: 1 << 20, Log: zap.NewNop()})
			u.flow.Bytes = 1 << 20
			of, got := make(map[string]int), make(map[string]int)
			for i, n := range c.waiting {
				list := string(rune('a' + i))
				f := u.NewFeed(list, list)
				f.queue, of[list] = slices.Repeat([]Item{{List: list}}, n), c.classes[i]
			}
			u.SetClasses(c.share, of)

			for range c.take {
				got[u.take(true).item.List]++
			}
			for i, want := range c.want {
				if n := got[u.feeds[i].list]; max(n-want, want-n) > 1 || want == 0 && n > 0 {
					t.Errorf("%d items of list %d were taken, want %d", n, i, want)
				}
			}
		})
	}
}

func TestAListThatCannotBeSentDoesNotHoldUpAHigherClass(t *testing.T) {
	u := New(Options{WindowItems: 1000, WindowBytes: 1 << 20, Log: zap.NewNop()})
	lower, higher := u.NewFeed("lower", ""), u.NewFeed("higher", "")
	u.SetClasses(0, map[string]int{"higher": 1})
	lower.queue, higher.queue = make([]Item, 9), make([]Item, 9)
	if s := u.take(false); s.feed != lower {
		t.Fatalf("the first item is one of %q", s.feed.list)
	}
	if s := u.take(false); s.feed != higher { // one item of a list at a time
		t.Error("the second item is none of the higher class")
	}
}
