package poller

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/batch"
	"edged/internal/redistest"
)

func TestItemsOfBothListsArriveInOrderAndLeaveRedis(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, right := range []bool{false, true} {
			s := redistest.Start(t)
			pushed(t, s, right, numbered(20_000)...)
			s.Push("b", numbered(30_000)...)
			l := start(t, s.Address(), mode, func(o *setup) { o.Lists[0].FromRight = right })
			a, b := l.join(0, false), l.join(1, false)
			redistest.Eventually(t, "both lists are empty", func() bool { return s.Len("a") == 0 && s.Len("b") == 0 })
			wantNumbered(t, a.got(), 20_000)
			wantNumbered(t, b.got(), 30_000)
			l.balanced()
			if err := l.stop(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWithoutAClientTheBacklogIsKnownAndNothingIsTaken(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address()) // the slow poll is a minute away
	l.is(Waiting)
	s.Push("a", numbered(10)...)
	redistest.Eventually(t, "the backlog is known", func() bool { return l.status("a").Backlog == 10 })
	if s.Len("a") != 10 {
		t.Fatal("items left the list")
	}
	s.Kill()
	l.is(Failing)
	s.Restart()
	l.is(Waiting)
	if err := l.stop(); err != nil {
		t.Error(err)
	}
}

func TestAnItemStaysInRedisUntilItIsConfirmed(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, _, a := held(t, 10, mode)
		if n := s.Len("a"); n != 10 {
			t.Fatalf("%d items in Redis before they were confirmed, want 10", n)
		}
		gone(t, s, a)
	})
}

func TestArbitraryBytesArriveUnchanged(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	items := []string{"", "\x00", "\r\n", "$5\r\nhello\r\n", "a\x00b\r\nMSG", string(random), "end", ""}
	for _, item := range items {
		s.Push("a", item)
	}
	a := start(t, s.Address()).join(0, false)
	gone(t, s)
	if got := a.got(); !slices.Equal(got, items) {
		t.Fatalf("%d items arrived, changed", len(got))
	}
}

func TestALongListDoesNotHoldUpTheOther(t *testing.T) {
	t.Parallel()
	const long, short = 50000, 2000
	s := redistest.Start(t)
	s.Push("a", numbered(long)...)
	s.Push("b", numbered(short)...)
	l := start(t, s.Address(), func(o *setup) { o.Lists[0].Paused, o.Lists[1].Paused = true, true })
	a, b := l.join(0, false), l.join(1, false)

	before := make(chan int, 1) // items of the long list that arrived before the short one's last
	b.arrived = func() {
		if len(b.items) == short {
			before <- a.count()
		}
	}
	resume := func() { // between two rounds, so that both begin in the same one
		l.loop.Pause("a", false)
		l.loop.Pause("b", false)
	}
	if err := l.loop.between(t.Context(), resume); err != nil {
		t.Fatal(err)
	}

	redistest.Eventually(t, "the short list arrived", func() bool { return len(before) == 1 })
	if n := <-before; n == 0 || n > long/10 {
		t.Errorf("%d items of the long list arrived before the last of the short one, want some, at most a tenth of %d", n, long)
	}
	wantNumbered(t, b.got(), short)
}

func TestAFullWindowStopsReadingUntilItemsAreConfirmed(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		s.Push("a", numbered(10000)...)
		l := start(t, s.Address(), mode)
		a := l.join(0, true)
		l.is(Full)
		a.wait(t, 4000)
		gone(t, s, a)
		wantNumbered(t, a.got(), 10000)
	})
}

func TestAConsumerThatConfirmsNothingStopsNoOther(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		s.Push("a", numbered(50_000)...)
		l := start(t, s.Address(), mode)
		stopped, fast := l.join(0, true), l.join(0, false)
		redistest.Eventually(t, "the other has all", func() bool { return fast.count() == 50_000 })
		wantNumbered(t, fast.got(), 50_000)
		if n := s.Len("a"); n != 50_000 {
			t.Errorf("%d items in Redis, but one consumer owes all", n)
		}
		if n := stopped.count(); n > 4000 {
			t.Errorf("the one that confirms nothing was handed %d items", n)
		}
		gone(t, s, stopped)
		wantNumbered(t, stopped.got(), 50_000)
	})
}

func TestItemsOfALeaverAreReadAgainForTheNext(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, l, a := held(t, 1000, mode)
		a.m.Leave()
		b := l.join(0, false)
		gone(t, s)
		wantNumbered(t, b.got(), 1000)
		l.balanced()
	})
}

func TestHintsWakeTheLoopWhateverHappensBetween(t *testing.T) {
	t.Parallel()
	for _, happens := range [][]any{{"PING"}, {"CLIENT", "KILL", "TYPE", "pubsub"}, {"SCRIPT", "FLUSH"}} {
		s := redistest.Start(t)
		l := start(t, s.Address()) // the slow poll is a minute away
		a := l.join(0, false)
		l.is(Serving)
		for i := range 20 {
			do(t, s, happens...)
			s.Push("a", fmt.Sprintf("item %d", i))
			gone(t, s)
		}
		wantNumbered(t, a.got(), 20)
	}
}

func TestWithoutHintsThePollAdapts(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	a := start(t, m.Addr()).join(0, false)
	for i := range 20 {
		m.RPush("a", fmt.Sprintf("item %d", i))
		redistest.Eventually(t, "the item is gone", func() bool { l, _ := m.List("a"); return len(l) == 0 })
	}
	wantNumbered(t, a.got(), 20)
}

func TestAClientThatJoinsGetsABacklogAtOnceWithoutHints(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	l := start(t, m.Addr()) // the slow poll is a minute away
	first := l.join(0, false)
	m.RPush("a", "x")
	redistest.Eventually(t, "the first item is gone", func() bool { return first.count() == 1 && !m.Exists("a") })
	first.m.Leave()
	l.is(Waiting)
	m.RPush("a", "y")
	l.join(0, false).wait(t, 1)
}

// After a lost reply the ledger tells whether the call was carried out, so nothing comes twice.
func TestEveryConnectionKilledAgainAndAgainLosesAndDoublesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		l := start(t, s.Address(), mode)
		a, items := l.join(0, false), numbered(50_000)
		for len(items) > 0 || s.Len("a") > 0 {
			more := min(len(items), 1000)
			s.Push("a", items[:more]...)
			items = items[more:]
			disconnectAll(t, s)
			before := l.status("a").Removed
			redistest.Eventually(t, "it goes on", func() bool { return l.status("a").Removed > before || s.Len("a") == 0 })
		}
		wantNumbered(t, a.got(), 50_000)
		l.balanced()
	})
}

func TestRedisKilledAndRestartedWithItsDataLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	s.Push("a", numbered(30000)...)
	l := start(t, s.Address())
	a := l.join(0, false)
	for range 3 {
		before := l.status("a").Removed
		redistest.Eventually(t, "items flow", func() bool { return l.status("a").Removed > before || s.Len("a") == 0 })
		s.Kill()
		redistest.Eventually(t, "the trouble is visible", func() bool { return l.status("a").State == Failing && l.status("a").Reason != "" })
		s.Restart()
	}
	gone(t, s)
	wantNumbered(t, a.got(), 30000)
	l.is(Serving)
}

func TestAFaultOfAListDoesNotStopTheOther(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for reason, x := range map[string][2][]any{
			"no list":       {{"SET", "a", "no list"}, {"DEL", "a"}},
			"lacks a right": {{"ACL", "SETUSER", "edged", "resetkeys", "~b", "~{b}*"}, {"ACL", "SETUSER", "edged", "~*"}},
		} {
			s := startWithUser(t)
			l := start(t, s.Address(), mode, logIn)
			a, b := l.join(0, false), l.join(1, false)
			l.is(Serving)
			do(t, s, x[0]...)
			s.Push("b", numbered(100)...)
			redistest.Eventually(t, "the other list is empty", func() bool { return s.Len("b") == 0 })
			wantNumbered(t, b.got(), 100)
			s.Client().RPush(t.Context(), "a", "refused, or delivered later") // so that a hint comes
			l.is(Failing)
			if st := l.status("a"); !strings.Contains(st.Reason, reason) {
				t.Errorf("the reason is %q", st.Reason)
			}
			do(t, s, x[1]...)
			s.Push("a", "item")
			gone(t, s)
			if got := a.got(); got[len(got)-1] != "item" {
				t.Errorf("got %q", got)
			}
		}
	})
}

func TestAListThatAnotherProgramChangesInMidFlightGoesOn(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, x := range []struct {
			change []any
			again  int // so many items come once more
		}{
			{[]any{"DEL", "a"}, 0}, {[]any{"FLUSHALL"}, 0}, {[]any{"RENAME", "a", "elsewhere"}, 0},
			{[]any{"LTRIM", "a", 300, -1}, 0}, // by items that are on their way
			{[]any{"DEL", keys.Ledger}, 1000},
		} {
			s, l, a := held(t, 1000, mode)
			do(t, s, x.change...)
			more := append(numbered(x.again), "x", "y", "z")
			s.Push("a", "x", "y", "z")
			gone(t, s, a)
			if got := a.got(); !slices.Equal(got[1000:], texts(more)) {
				t.Errorf("%v: after 1000 items came %d, want %d", x.change, len(got)-1000, len(more))
			}
			l.balanced()
		}
	})
}

func TestASecondConsumerOfTheListCostsNothingElse(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(20000)...)
	a := start(t, s.Address()).join(0, false)
	seen := map[string]bool{}
	for s.Len("a") > 0 {
		if v, err := s.Client().LPop(t.Context(), "a").Result(); err == nil {
			seen[v] = true
		}
	}
	for _, item := range a.got() {
		seen[item] = true
	}
	if len(seen) != 20000 {
		t.Errorf("%d items of 20000 went to either", len(seen))
	}
}

func TestAnItemTooLargeGoesToTheDeadLettersAndHoldsUpNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, right := range []bool{false, true} {
			s := redistest.Start(t)
			large := strings.Repeat("large\r\n\x00", 1000)
			pushed(t, s, right, "item 0", "item 1", large, "item 2", large, large, "item 3")
			core, logged := observer.New(zap.WarnLevel)
			l := start(t, s.Address(), mode, func(o *setup) { o.MaxPayload, o.Lists[0].FromRight, o.Log = 4096, right, zap.New(core) })
			a := l.join(0, false)
			gone(t, s)
			wantNumbered(t, a.got(), 4)
			if n := logged.FilterMessageSnippet("too large to deliver").Len(); n != 3 {
				t.Errorf("%d lines in the log say that an item is too large, want 3", n)
			}
			dead, _ := s.Client().LRange(t.Context(), keys.Dead, 0, -1).Result()
			if len(dead) != 3 {
				t.Fatalf("%d dead letters, want 3", len(dead))
			}
			head, body, _ := strings.Cut(dead[0], "\n")
			var why Epitaph
			if err := json.Unmarshal([]byte(head), &why); err != nil || why.Size != len(large) || why.Reason == "" {
				t.Errorf("epitaph %s: %v", head, err)
			}
			if body != large {
				t.Error("the dead letter's bytes have changed")
			}
			l.balanced()
		}
	})
}

func TestASecondInstanceStandsByAndTakesOverAtOnceWhenTheFirstStops(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		s.Push("a", numbered(1000)...)
		first := start(t, s.Address(), mode, func(o *setup) { o.Instance = "first" })
		a := first.join(0, false)
		gone(t, s)
		second := start(t, s.Address(), mode, func(o *setup) { o.Instance = "second" })
		b := second.join(0, false)
		second.is(Standby)
		standing := second.status("a")
		if !strings.HasPrefix(standing.Holder, "first/") || standing.StoodBy.Holder != standing.Holder || !standing.StoodBy.Until.IsZero() {
			t.Errorf("the holder is %q, and it stood by: %+v", standing.Holder, standing.StoodBy)
		}
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		s.Push("a", numbered(500)...)
		gone(t, s)
		wantNumbered(t, a.got(), 1000)
		wantNumbered(t, b.got(), 500)
		was, now := standing.StoodBy, second.status("a").StoodBy
		if now.Holder != was.Holder || now.Since != was.Since || now.Until.Before(now.Since) {
			t.Errorf("after the takeover it stood by: %+v, before it: %+v", now, was)
		}
	})
}

func TestAnInstanceWhoseListIsTakenOverTakesNothingMore(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for name, change := range map[string]func(*setup){
			"by one of its name, at once": received,
			"by another, after its lease": func(o *setup) { o.Instance, o.Lease = "killed", time.Second },
		} {
			s, killed, a := heldByHand(t, 10, mode, change)
			b := start(t, s.Address(), mode).join(0, true)
			b.wait(t, 10)
			s.Push("a", "item 10")
			a.confirm() // it was only stopped, and wakes up
			killed.settle(0)
			if st := killed.status("a"); st.State != Standby || s.Len("a") != 11 || a.count() != 10 {
				t.Errorf("%s: it is %s, %d of 11 items are left, it was given %d", name, st.State, s.Len("a"), a.count())
			}
			gone(t, s, b)
			wantNumbered(t, b.got(), 11)
		}
	})
}

// Redis's restart alone would mean that this process knows more than Redis.
func TestAnInstanceThatTakesItsListBackAfterARestartOfRedisGoesOnWhereTheOtherWas(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
		s.Push("a", numbered(10)...)
		first := byHand(t, s.Address(), mode, func(o *setup) { o.Instance, o.Lease = "first", time.Second })
		a := first.join(0, true)
		first.settle(0)
		a.wait(t, 10)
		second := start(t, s.Address(), mode, func(o *setup) { o.Instance = "second" })
		b := second.join(0, true)
		b.wait(t, 10)
		b.confirm()
		gone(t, s)
		s.Push("a", "later")
		b.wait(t, 11)
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		s.Kill()
		s.Restart()

		first.settle(0)
		if gone, n := first.logs[0].Stats().Gone, s.Len("a"); gone != 0 || n != 1 {
			t.Errorf("%d items count as removed by others, and %d of 1 are left", gone, n)
		}
	})
}

func TestAnInstanceThatLostItsLeaseRemovesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, l, a := held(t, 10, mode)
		handTo(t, s, "other/1", time.Hour)
		a.confirm()
		l.is(Standby)
		if n := s.Len("a"); n != 10 {
			t.Fatalf("%d of 10 items left in a list that is another's", n)
		}
		handTo(t, s, "", 0)
		do(t, s, "SET", keys.Free, "1", "PX", "1000") // as the other does when it gives the list back
		gone(t, s, a)
		if a.count() != 20 {
			t.Fatalf("%d items, want all ten again", a.count())
		}
	})
}

func TestAListThatWasTakenOverWhileItWasEmptyIsNotReadAnyMore(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", "first")
	l := start(t, s.Address())
	a := l.join(0, false)
	a.wait(t, 1)
	gone(t, s)
	tx := s.Client().TxPipeline()
	tx.HSet(t.Context(), keys.Ledger, "owner", "other/1", "deadline", time.Now().Add(time.Hour).UnixMilli(), "lease", 3600_000)
	tx.RPush(t.Context(), "a", "second")
	tx.Exec(t.Context())
	l.is(Standby)
	if got := a.got(); len(got) != 1 {
		t.Errorf("%q were delivered; the second is another instance's", got)
	}
}

// After a crash consumers get again only the items that they had not confirmed.
func TestAfterAKillConsumersGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	grace := func(o *setup) { o.RejoinGrace = time.Minute }
	t.Run("received", func(t *testing.T) {
		s := redistest.Start(t)
		s.Push("a", numbered(10_000)...)
		killed := byHand(t, s.Address(), grace)
		slow, group := killed.join(0, true), killed.joinGroup(0, "g", true)
		for range 1000 {
			if killed.settle(0); group.count() == 10_000 {
				break
			}
			group.confirm()
			killed.now = killed.now.Add(time.Second)
		}
		group.confirm()
		slow.confirmSome(3)
		killed.settle(0)
		slow.mu.Lock()
		seen := slow.deliveries[2].to
		slow.mu.Unlock()

		l := start(t, s.Address(), grace)
		again, regrouped := l.join(0, false), l.joinGroup(0, "g", false)
		s.Push("a", "item 10000")
		defer func() {
			if t.Failed() {
				t.Logf("the group got %q, and the other %d items after %d, of the list %+v", regrouped.got(), again.count(), seen, l.logs[0].State())
			}
		}()
		redistest.Eventually(t, "both go on", func() bool { return regrouped.count() == 1 && again.count() == 10_001-seen })
		if got := again.got()[0]; got != fmt.Sprintf("item %d", seen) {
			t.Errorf("the plain consumer had %d items, and goes on with %s", seen, got)
		}
	})
	t.Run("explicit", func(t *testing.T) {
		s := redistest.Start(t)
		s.Push("a", numbered(10)...)
		killed := byHand(t, s.Address(), explicit, grace)
		group := killed.joinGroup(0, "g", true)
		killed.settle(0)
		group.wait(t, 10)
		for _, i := range []int{0, 3, 7} {
			group.say(i, batch.Acked)
		}
		killed.settle(0)

		again := start(t, s.Address(), explicit, grace).joinGroup(0, "g", false)
		gone(t, s)
		if got := strings.Join(again.got(), ","); got != "item 1,item 2,item 4,item 5,item 6,item 8,item 9" {
			t.Errorf("got %s", got)
		}
	})
}

func TestAPausedListIsLeftAloneUntilItIsResumed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address())
	if l.loop.Pause("nosuch", true) {
		t.Fatal("paused a list that there is not")
	}
	l.loop.Pause("a", true)
	a, b := l.join(0, false), l.join(1, false)
	s.Push("a", numbered(10)...)
	s.Push("b", numbered(10)...)
	redistest.Eventually(t, "the other list is served", func() bool { return b.count() == 10 })
	l.is(Paused)
	if a.count() != 0 {
		t.Fatal("a paused list was served")
	}
	l.loop.Pause("a", false)
	gone(t, s)
}

func TestAtTheEndConfirmedItemsAreRemovedAndTheRestStaysInOrder(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s, l, a := held(t, 1000, mode)
		l.loop.StopTaking()
		l.logs[0].Stop()
		a.confirmSome(len(a.deliveries) / 2)
		a.m.Leave()
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		st := l.logs[0].Stats()
		if st.Confirmed == 0 || st.Confirmed == 1000 || st.InFlight != int(1000-st.Confirmed) {
			t.Fatalf("books %+v", st)
		}
		left := s.Client().LRange(t.Context(), "a", 0, -1).Val()
		if len(left) != int(1000-st.Confirmed) || left[0] != fmt.Sprintf("item %d", st.Confirmed) {
			t.Fatalf("%d items left, the first %q; books %+v", len(left), left[0], st)
		}
		if holder := owner(t, s); holder != "" {
			t.Errorf("the list was not given back: it is %s's", holder)
		}
	})
}

func TestAFullRedisIsDrained(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		s.Push("a", strings.Repeat("x", 200_000))
		s.Push("a", numbered(2000)...)
		do(t, s, "CONFIG", "SET", "maxmemory", "1")
		a := start(t, s.Address(), mode, func(o *setup) { o.MaxPayload = 1000 }).join(0, false)
		gone(t, s)
		wantNumbered(t, a.got(), 2000)
		if s.Len(keys.Dead) != 1 {
			t.Error("the item that is too large is no dead letter")
		}
	})
}

// Under a volatile policy a full Redis evicts keys with a TTL before each command: none of edged's
// may have one.
func TestAFullRedisThatEvictsKeysWithATTLIsDrainedWithoutDuplicates(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		do(t, s, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
		do(t, s, "SET", "cache", "x", "EX", "3600")
		s.Push("a", numbered(5000)...)
		do(t, s, "CONFIG", "SET", "maxmemory", "1")
		one := start(t, s.Address(), mode, func(o *setup) { o.Instance = "one" }).join(0, false)
		two := start(t, s.Address(), mode, func(o *setup) { o.Instance = "two" }).join(0, false)
		gone(t, s)
		if n := one.count() + two.count(); n != 5000 {
			t.Errorf("%d items were delivered, want 5000", n)
		}
		if n, err := s.Client().Exists(t.Context(), "cache").Result(); n != 0 || err != nil {
			t.Errorf("Redis was not full: %v", err)
		}
		if keys := s.Client().Keys(t.Context(), "*").Val(); slices.ContainsFunc(keys, func(key string) bool { return s.Client().TTL(t.Context(), key).Val() > 0 }) {
			t.Errorf("some of %q have a TTL", keys)
		}
	})
}
