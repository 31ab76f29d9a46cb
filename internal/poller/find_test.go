package poller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/ledger"
	"edged/internal/redistest"
)

// Each letter is an item; the head had number 10. A dot is an item that is not known.
func TestSearchFindsTheNumberOfTheHead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		known, list string
		head, end   int // 0: not certain
	}{
		{"abcd", "abcd", 10, 14}, {"abcd", "cdxx", 12, 14}, {"abcd", "wxyz", 0, 0}, {"abcd", "", 0, 0}, {"abcd", "d", 13, 14},
		{"aaaa", "aaaa", 10, 14}, {"abab", "abab", 10, 14}, {"abab", "abx", 12, 14}, {"abcd", "bcde", 11, 14}, {"abcd", "abxd", 10, 12},
		{"abcd", "xabcd", 9, 14}, {"abcd", "xyzabcde", 7, 14}, {"a..d", "xabxd", 9, 14}, {"abcd", "xabab", 0, 0}, {"aab", "xaaab", 8, 13},
		{"a", "xyzwvutsrqpa", 0, 0}, {"a", "yzwvutsrqa", 1, 11},
		{"a..d", "bcd", 11, 14}, {"a..de", "cdx", 0, 0}, {"a.....gh", "xxghy", 14, 18},
		{"abcdefghi", "xygfi", 0, 0}, {"a.....a", "xxaaaaaaa", 8, 17}, {"a............a", "xyzwvutsrqpaa", 0, 0},
	} {
		s := &search{known: map[uint64]print{}, first: 10, top: 10 + uint64(len(c.known))}
		for i, item := range c.known {
			if item != '.' {
				s.known[10+uint64(i)] = print{Mark: ledger.Mark(item)}
			}
		}
		s.findGaps()
		for s.more(uint64(len(c.list))) {
			s.found(print{Mark: ledger.Mark(c.list[s.at])})
		}
		got := s.best()
		if got == nil {
			got = &answer{}
		}
		if int(got.head) != c.head || int(got.end) != c.end {
			t.Errorf("%q in %q: %+v, want %d to %d", c.known, c.list, *got, c.head, c.end)
		}
	}
}

// headPushes are items that another program pushes to the head of a list whose head has
// number 10, in order from the new head on.
var headPushes = map[string][]any{
	"one":               {"new 0"},
	"several":           {"new 0", "new 1", "new 2"},
	"one like the next": {"new 0", "item 11"},
	"one like the head": {"new 0", "item 10"},
}

func TestItemsPushedToTheHeadAreDeliveredAndNothingComesTwice(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for name, items := range headPushes {
			for _, right := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " right=", right), func(t *testing.T) {
					s := redistest.Start(t)
					pushed(t, s, right, numbered(20)...)
					l := byHand(t, s.Address(), mode, func(o *setup) { o.Lists[0].FromRight, o.BatchItems = right, 10 })
					l.loop.readers[0].limit = 10
					a := l.join(0, true)
					l.settle(0)
					a.confirmSome(1)
					l.settle(0)
					if a.wait(t, 20); s.Len("a") != 10 {
						t.Fatalf("%d items are left", s.Len("a"))
					}

					back := slices.Clone(items)
					slices.Reverse(back)
					pushed(t, s, !right, back...)
					for range 5 {
						l.settle(0)
					}
					if got := a.got()[20:]; !slices.Equal(got, texts(items)) {
						t.Errorf("then came %q", got)
					}
					pushed(t, s, right, "last")
					for s.Len("a") > 0 {
						a.confirm()
						l.settle(0)
					}
					if got := a.got()[20+len(items):]; !slices.Equal(got, []string{"last"}) {
						t.Errorf("at last came %q", got)
					}
					l.balanced()
				})
			}
		}
	})
}

func texts(items []any) (all []string) {
	for _, item := range items {
		all = append(all, item.(string))
	}
	return all
}

// The ledger says which item was the head, so a start recognizes it.
func TestItemsPushedToTheHeadWhileEdgedIsAwayComeFirst(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		grace := func(o *setup) { o.RejoinGrace, o.BatchItems = time.Minute, 10 }
		s := redistest.Start(t)
		s.Push("a", numbered(20)...)
		killed := byHand(t, s.Address(), mode, grace)
		killed.loop.readers[0].limit = 10
		a := killed.joinGroup(0, "g", true)
		killed.settle(0)
		a.confirmSome(1)
		killed.settle(0)
		s.Client().LPush(t.Context(), "a", "new 1", "new 0")
		again := start(t, s.Address(), mode, grace).joinGroup(0, "g", false)
		gone(t, s)
		want := append([]string{"new 0", "new 1"}, texts(numbered(20)[10:])...)
		if got := again.got(); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

// Head and neighbours look alike before and after, while the numbers of acknowledged items
// stand for others.
func TestItemsThatAreReadOnceMoreAreTheOnesThatWereRead(t *testing.T) {
	t.Parallel()
	for name, items := range map[string][]any{
		"equal at the head": append(equalItems(3), numbered(9)...),
		"in rhythm":         {"tick", "item 0", "tick", "item 1", "tick", "item 2", "tick", "item 3", "tick"},
	} {
		for reads := range 2 * len(items) {
			pushed := []any{"strange", "tick"}[reads%2:]
			reads = reads/2 + 1
			t.Run(fmt.Sprint(name, ", ", len(pushed), " pushed, ", reads, " a read"), func(t *testing.T) {
				s := redistest.Start(t)
				s.Push("a", "first")
				l := byHand(t, s.Address(), explicit, func(o *setup) { o.BatchItems = reads })
				a := l.joinGroup(0, "g", true)
				l.settle(0)
				a.confirm()
				l.settle(0)
				s.Push("a", items...)
				l.settle(0)
				seen := map[string]bool{}
				for i := 5; i < len(items); i += 3 {
					a.say(1+i, batch.Acked)
					seen[a.got()[1+i]] = true
				}
				l.settle(0)
				a.m.Leave()
				s.Client().LPush(t.Context(), "a", pushed...)
				b := l.joinGroup(0, "g", true)
				for range 20 {
					l.settle(0)
					b.confirm()
				}
				for _, item := range b.got() {
					seen[item] = true
				}
				for _, item := range items {
					if !seen[item.(string)] {
						t.Errorf("%q was never delivered; %d items are left", item, s.Len("a"))
					}
				}
				if s.Len("a") > 0 {
					t.Errorf("%d items are left", s.Len("a"))
				}
			})
		}
	}
}

// What the ledger says of a list fits more than one place in it, and acknowledged items
// have numbers that may stand for others now.
func TestItemsThatOthersPutBeforeKnownOnesAreDelivered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		items  []any
		acked  []int
		gone   int64
		pushed []any
	}{
		"equal items":               {equalItems(20), []int{3, 4, 5, 12, 13}, 0, []any{"new 3", "new 2", "new 1", "new 0"}},
		"in place of removed items": {numbered(20), []int{3, 4, 13}, 5, []any{"new 1", "new 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			s.Push("a", c.items...)
			killed := byHand(t, s.Address(), explicit, func(o *setup) { o.BatchItems = 1 })
			a := killed.joinGroup(0, "g", true)
			killed.settle(0)
			for _, i := range c.acked {
				a.say(i, batch.Acked)
			}
			killed.settle(0)

			s.Client().LTrim(t.Context(), "a", c.gone, -1)
			s.Client().LPush(t.Context(), "a", c.pushed...)
			b := start(t, s.Address(), explicit).joinGroup(0, "g", false)
			gone(t, s)
			for _, item := range c.pushed {
				if !slices.Contains(b.got(), item.(string)) {
					t.Errorf("%q was never delivered", item)
				}
			}
		})
	}
}

func TestAListThatIsTakenOverWhileItIsSearchedIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(50)...)
	l := byHand(t, s.Address(), func(o *setup) { o.BatchItems = 1 })
	l.join(0, true)
	l.settle(0)
	s.Client().LPush(t.Context(), "a", texts(equalItems(50)))
	r := l.loop.readers[0]
	for r.search == nil {
		l.turn()
	}
	handTo(t, s, "other/1", time.Hour)
	l.now = l.now.Add(r.loop.opts.Lease)
	if l.settle(0); l.status("a").State != Standby {
		t.Errorf("it is %s", l.status("a").State)
	}
}

// With no free numbers below the head, all that Redis holds comes again.
func TestItemsPushedToTheHeadOfANewListMakeAllComeAgain(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, l, a := held(t, 10, mode)
		for i := range 2 { // the second time there are
			s.Client().LPush(t.Context(), "a", fmt.Sprintf("new %d", i))
			a.wait(t, 21+i)
		}
		gone(t, s, a)
		if got := a.got(); got[10] != "new 0" || got[21] != "new 1" {
			t.Errorf("got %q", got)
		}
		l.balanced()
	})
}

// By the time that the ledger gets the outcome of a search the list may have changed again.
func TestAnItemThatIsPushedToTheHeadBehindASearchIsDelivered(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, l, a := heldByHand(t, 4, mode)
		items := a.got()
		s.Client().LRem(t.Context(), "a", 0, items[1]) // the head alone is where it was
		r := l.loop.readers[0]
		for r.search == nil || r.search.more(r.end-r.first) {
			l.turn()
		}

		s.Client().LPush(t.Context(), "a", "new")
		for range 20 {
			l.settle(0)
			a.confirm()
		}
		if !slices.Contains(a.got(), "new") {
			t.Errorf("it was never delivered; %d items are left", s.Len("a"))
		}
	})
}

// A list whose take_from names the wrong end is such a one.
func TestAListThatIsPushedToAtItsHeadWithoutAPauseIsServed(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		l := start(t, s.Address(), mode)
		a := l.join(0, false)
		n, seen := 0, func() map[string]bool {
			all := map[string]bool{}
			for _, item := range a.got() {
				all[item] = true
			}
			return all
		}
		redistest.Eventually(t, "a thousand have come while more are pushed", func() bool {
			for range 200 {
				s.Client().LPush(t.Context(), "a", fmt.Sprint("item ", n))
				n++
			}
			return len(seen()) > 1000
		})
		gone(t, s)
		if got := len(seen()); got != n {
			t.Errorf("%d items came of %d", got, n)
		}
		t.Logf("%d items were pushed, %d deliveries", n, a.count())
	})
}

// The ledger remembers an item that is gone.
func TestAListThatIsReplacedWhileEdgedIsAwayIsReadFromItsHead(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		grace := func(o *setup) { o.RejoinGrace = time.Minute }
		s := redistest.Start(t)
		s.Push("a", numbered(10)...)
		killed := byHand(t, s.Address(), mode, grace)
		killed.join(0, true)
		fast := killed.join(0, true)
		killed.settle(0)
		fast.confirm()
		killed.settle(0)

		do(t, s, "DEL", "a")
		s.Push("a", "other 0", "other 1")
		l := byHand(t, s.Address(), mode, grace)
		c := l.join(0, true)
		l.settle(0)
		if got := c.got(); !slices.Equal(got, []string{"other 0", "other 1"}) {
			t.Errorf("got %q", got)
		}
	})
}

// The item that the ledger remembers was behind those that are left.
func TestAListWhoseTailIsGoneWhileEdgedIsAwayGoesOn(t *testing.T) {
	t.Parallel()
	grace := func(o *setup) { o.RejoinGrace = time.Minute }
	s, killed, c := heldByHand(t, 10, explicit, grace)
	c.say(9, batch.Acked)
	killed.settle(0)

	do(t, s, "LTRIM", "a", 0, 4)
	s.Push("a", "other 0", "other 1", "other 2", "other 3", "other 4", "other 5")
	l := byHand(t, s.Address(), explicit, grace)
	c = l.join(0, true)
	l.settle(0)
	if got := c.got(); len(got) != 11 || got[10] != "other 5" {
		t.Errorf("got %q", got)
	}
}
