package poller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"edged/internal/batch"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// Each test has servers of its own and runs in parallel, except those that measure
// memory or the loop's turns and those with a timeout below half a second.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is a member of a list that keeps what it gets.
type client struct {
	t     *testing.T
	hold  bool // confirm nothing by itself
	mu    sync.Mutex
	items [][]byte
	owed  []batch.Receipt
	slow  chan batch.Receipt // receipts on their way to being confirmed

	arrived func() // called by the loop after each delivery, if set
}

func (c *client) Deliver(b *batch.Batch, from, to int, r batch.Receipt) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := from; i < to; i++ {
		c.items = append(c.items, slices.Clone(b.Item(i)))
	}
	if c.hold {
		c.owed = append(c.owed, r)
	} else {
		c.slow <- r
	}
	if c.arrived != nil {
		c.arrived()
	}
	return to - from
}

// confirm confirms what is owed.
func (c *client) confirm() {
	c.mu.Lock()
	owed := c.owed
	c.owed = nil
	c.mu.Unlock()
	for _, r := range owed {
		r.Confirm()
	}
}

func (c *client) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

func (c *client) got() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.items)
}

// join makes a client that confirms what it gets, from a goroutine of its own as
// a real one does; with hold it waits for confirm.
func (r *rig) join(list int, hold bool) (*client, batch.Membership) {
	c := &client{t: r.t, hold: hold, slow: make(chan batch.Receipt, 10000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for rc := range c.slow {
			rc.Confirm()
		}
	}()
	m := r.windows[list].Join("", "1", c)
	r.t.Cleanup(func() {
		m.Leave()
		close(c.slow)
		<-done
	})
	return c, m
}

// rig is a loop over two lists, "a" and "b", of a Redis.
type rig struct {
	t       *testing.T
	loop    *Loop
	windows []*relay.List
	stop    func() error // ends the loop
}

func start(t *testing.T, address string, change ...func(*Options)) *rig {
	r := &rig{t: t}
	opts := Options{
		Redis:    redisconn.Options{Address: address, Timeout: 2 * time.Second},
		Instance: "test", PollInterval: time.Minute, Lease: 5 * time.Minute,
		BatchItems: 500, BatchBytes: 128 << 10, MaxPayload: 1 << 20,
		Log:   zaptest.NewLogger(t),
		Lists: []List{{Key: "a", Subject: "sa"}, {Key: "b", Subject: "sb"}},
	}
	for _, c := range change {
		c(&opts)
	}
	for i := range opts.Lists {
		w := relay.NewList(relay.Options{Window: 4000, Memory: 4 << 20, Changed: func() { r.loop.Wake() }})
		r.windows = append(r.windows, w)
		if wrapped, ok := opts.Lists[i].Window.(*leavesBeforeBury); ok {
			wrapped.Window = w
		} else {
			opts.Lists[i].Window = w
		}
	}
	r.loop = New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.loop.Run(ctx) }()
	var once sync.Once
	var err error
	r.stop = func() error {
		once.Do(func() {
			cancel()
			err = <-ended
		})
		return err
	}
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) status(key string) Status {
	for _, s := range r.loop.Lists() {
		if s.Key == key {
			return s
		}
	}
	return Status{}
}

func numbered(n int) []any {
	items := make([]any, n)
	for i := range items {
		items[i] = fmt.Sprintf("item %d", i)
	}
	return items
}

func wantNumbered(t *testing.T, got [][]byte, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d items, want %d", len(got), n)
	}
	for i, item := range got {
		if want := fmt.Sprintf("item %d", i); string(item) != want {
			t.Fatalf("item %d is %q, want %q", i, item, want)
		}
	}
}

func TestItemsOfBothListsArriveInOrderAndLeaveRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(20000)...)
	s.Push("b", numbered(30000)...)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	b, _ := r.join(1, false)
	redistest.Eventually(t, "both lists are empty", func() bool { return s.Len("a") == 0 && s.Len("b") == 0 })
	wantNumbered(t, a.got(), 20000)
	wantNumbered(t, b.got(), 30000)
}

func TestItemsComeFromTheRightEndWhereThatIsTheHead(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	for _, item := range numbered(3000) {
		s.Client().LPush(t.Context(), "a", item)
	}
	r := start(t, s.Address(), func(o *Options) { o.Lists[0].FromRight = true })
	a, _ := r.join(0, false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 3000)
}

func TestNothingIsTakenWithoutAClient(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	r := start(t, s.Address())
	redistest.Eventually(t, "the list was looked at", func() bool { return r.status("a").State == Waiting && r.status("a").Backlog == 10 })
	if r.stop() != nil || s.Len("a") != 10 {
		t.Fatal("items left the list")
	}
}

func TestTheBacklogIsKnownSoonWithoutAClient(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address()) // the slow poll is a minute away
	redistest.Eventually(t, "the list was looked at", func() bool { return r.status("a").State == Waiting })
	s.Push("a", numbered(10)...)
	redistest.Eventually(t, "the backlog is known", func() bool { return r.status("a").Backlog == 10 })
	s.Kill()
	redistest.Eventually(t, "the trouble is visible", func() bool { return r.status("a").State == Failing })
	s.Restart()
	redistest.Eventually(t, "and over", func() bool { return r.status("a").State == Waiting })
}

func TestAnItemStaysInRedisUntilItIsConfirmed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 10 })
	if n := s.Len("a"); n != 10 {
		t.Fatalf("%d items in Redis before they were confirmed, want 10", n)
	}
	a.confirm()
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
}

func TestArbitraryBytesArriveUnchanged(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	items := [][]byte{{}, {0}, []byte("\r\n"), []byte("$5\r\nhello\r\n"), []byte("a\x00b\r\nMSG"), random, []byte("end"), {}}
	for _, item := range items {
		s.Push("a", item)
	}
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	if got := a.got(); !slices.EqualFunc(got, items, bytes.Equal) {
		t.Fatalf("%d items arrived, changed", len(got))
	}
}

func TestALongListDoesNotHoldUpTheOther(t *testing.T) {
	t.Parallel()
	const long, short = 50000, 2000
	s := redistest.Start(t)
	s.Push("a", numbered(long)...)
	s.Push("b", numbered(short)...)
	r := start(t, s.Address(), func(o *Options) { o.Lists[0].Paused, o.Lists[1].Paused = true, true })
	a, _ := r.join(0, false)
	b, _ := r.join(1, false)

	before := make(chan int, 1) // items of the long list that arrived before the short one's last
	b.arrived = func() {
		if len(b.items) == short {
			before <- a.count()
		}
	}
	resume := func(context.Context) (struct{}, error) { // between two rounds, so that both begin in the same one
		r.loop.Pause("a", false)
		r.loop.Pause("b", false)
		return struct{}{}, nil
	}
	if _, err := ask(t.Context(), r.loop, resume); err != nil {
		t.Fatal(err)
	}

	redistest.Eventually(t, "the short list arrived", func() bool { return len(before) == 1 })
	if n := <-before; n == 0 || n > long/10 {
		t.Errorf("%d items of the long list arrived before the last of the short one, want some, at most a tenth of %d", n, long)
	}
	wantNumbered(t, b.got(), short)
}

func TestAFullWindowStopsReadingUntilItemsAreConfirmed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10000)...)
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	redistest.Eventually(t, "the window is full", func() bool { return r.status("a").State == Full })
	if n := a.count(); n != 4000 {
		t.Fatalf("%d items were handed out, want the window's 4000", n)
	}
	redistest.Eventually(t, "the list is empty", func() bool { a.confirm(); return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 10000)
}

func TestItemsOfALeaverAreReadAgainForTheNext(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(1000)...)
	r := start(t, s.Address())
	a, m := r.join(0, true)
	redistest.Eventually(t, "all items arrived", func() bool { return a.count() == 1000 })
	m.Leave()
	b, _ := r.join(0, false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, b.got(), 1000)
}

func TestHintsWakeTheLoopWithoutIdleCommands(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address()) // the slow poll is a minute away
	a, _ := r.join(0, false)
	redistest.Eventually(t, "the list is served", func() bool { return r.status("a").State == Serving })
	for i := range 50 {
		s.Push("a", fmt.Sprintf("item %d", i))
		redistest.Eventually(t, "the item is gone", func() bool { return s.Len("a") == 0 })
	}
	wantNumbered(t, a.got(), 50)
}

func TestWithoutHintsThePollAdapts(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	r := start(t, m.Addr())
	a, _ := r.join(0, false)
	for i := range 20 {
		m.RPush("a", fmt.Sprintf("item %d", i))
		redistest.Eventually(t, "the item is gone", func() bool { l, _ := m.List("a"); return len(l) == 0 })
	}
	wantNumbered(t, a.got(), 20)
}

func TestAHintConnectionThatBreaksIsReplaced(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	for i := range 10 {
		s.Push("a", fmt.Sprintf("item %d", i))
		redistest.Eventually(t, "the item is gone", func() bool { return s.Len("a") == 0 })
		if err := s.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
	}
	wantNumbered(t, a.got(), 10)
}

func TestEveryConnectionKilledAgainAndAgainLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(50000)...)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	for s.Len("a") > 0 {
		s.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		before := r.status("a").Removed
		redistest.Eventually(t, "it goes on", func() bool { return r.status("a").Removed > before || s.Len("a") == 0 })
	}
	// After a lost reply the place in the list is found again, so nothing comes
	// twice here either: all items are different.
	wantNumbered(t, a.got(), 50000)
}

func TestRedisKilledAndRestartedWithItsDataLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	s.Push("a", numbered(30000)...)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	for range 3 {
		before := r.status("a").Removed
		redistest.Eventually(t, "items flow", func() bool { return r.status("a").Removed > before || s.Len("a") == 0 })
		s.Kill()
		redistest.Eventually(t, "the trouble is visible", func() bool { return r.status("a").State == Failing && r.status("a").Reason != "" })
		s.Restart()
	}
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 30000)
	if st := r.status("a"); st.State == Failing {
		t.Errorf("still %s (%s)", st.State, st.Reason)
	}
}

func TestRedisStoppedForAWhileIsWaitedFor(t *testing.T) {
	s := redistest.Start(t)
	r := start(t, s.Address(), func(o *Options) { o.Redis.Timeout = 100 * time.Millisecond })
	a, _ := r.join(0, false)
	s.Push("a", "item 0")
	redistest.Eventually(t, "the first item is gone", func() bool { return s.Len("a") == 0 })
	s.Push("a", "item 1")
	s.Signal(syscall.SIGSTOP)
	r.loop.changed("a")
	redistest.Eventually(t, "the trouble is visible", func() bool { return r.status("a").State == Failing })
	s.Signal(syscall.SIGCONT)
	s.Push("a", "item 2")
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 3)
}

func TestAKeyOfTheWrongTypeDoesNotStopTheOtherList(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Client().Set(t.Context(), "a", "no list", 0)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	b, _ := r.join(1, false)
	s.Push("b", numbered(100)...)
	redistest.Eventually(t, "the other list is empty", func() bool { return s.Len("b") == 0 })
	wantNumbered(t, b.got(), 100)
	redistest.Eventually(t, "the fault is visible", func() bool {
		st := r.status("a")
		return st.State == Failing && strings.Contains(st.Reason, "no list")
	})
	s.Client().Del(t.Context(), "a")
	s.Push("a", numbered(10)...)
	redistest.Eventually(t, "the list is served again", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 10)
}

func TestAFlushedScriptCacheIsFilledAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	for i := range 5 {
		s.Client().ScriptFlush(t.Context())
		s.Push("a", fmt.Sprintf("item %d", i))
		redistest.Eventually(t, "the item is gone", func() bool { return s.Len("a") == 0 })
	}
	wantNumbered(t, a.got(), 5)
}

func TestAListDeletedOrReplacedInMidFlightIsReadAfresh(t *testing.T) {
	t.Parallel()
	for _, change := range []string{"DEL", "FLUSHALL", "RENAME"} {
		t.Run(change, func(t *testing.T) {
			s := redistest.Start(t)
			s.Push("a", numbered(10)...)
			r := start(t, s.Address())
			a, _ := r.join(0, true)
			redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 10 })
			switch change {
			case "DEL":
				s.Client().Del(t.Context(), "a")
			case "FLUSHALL":
				s.Client().FlushAll(t.Context())
			case "RENAME":
				s.Client().Rename(t.Context(), "a", "elsewhere")
			}
			s.Push("a", "x", "y", "z")
			redistest.Eventually(t, "the list is empty", func() bool { a.confirm(); return s.Len("a") == 0 })
			redistest.Eventually(t, "the new items arrived", func() bool {
				got := a.got()
				return len(got) >= 13 && string(bytes.Join(got[len(got)-3:], nil)) == "xyz"
			})
		})
	}
}

func TestAProducerThatCapsItsListLosesNoMoreThanItCut(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(1000)...)
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 1000 })
	s.Client().LTrim(t.Context(), "a", 300, -1) // 300 items that are on their way
	s.Push("a", numbered(10)...)
	a.confirm() // the ten may have come already, and are among it then
	redistest.Eventually(t, "what was confirmed is gone", func() bool { return s.Len("a") <= 10 })
	redistest.Eventually(t, "the list is empty", func() bool { a.confirm(); return s.Len("a") == 0 })
	if got := a.got(); len(got) != 1010 || string(got[1009]) != "item 9" {
		t.Fatalf("%d items, the last %q", len(got), got[len(got)-1])
	}
}

func TestASecondConsumerOfTheListCostsNothingElse(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(20000)...)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	popped := map[string]bool{}
	for s.Len("a") > 0 {
		if v, err := s.Client().LPop(t.Context(), "a").Result(); err == nil {
			popped[v] = true
		}
	}
	for _, item := range a.got() {
		delete(popped, string(item))
		popped["got "+string(item)] = true
	}
	for i := range 20000 {
		item := fmt.Sprintf("item %d", i)
		if !popped[item] && !popped["got "+item] {
			t.Fatalf("%s went to neither", item)
		}
	}
}

func TestEqualItemsAreAllDelivered(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	items := make([]any, 5000)
	for i := range items {
		items[i] = "same"
	}
	s.Push("a", items...)
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	for s.Len("a") > 0 {
		s.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		before := r.status("a").Removed
		redistest.Eventually(t, "it goes on", func() bool { return r.status("a").Removed > before || s.Len("a") == 0 })
	}
	if a.count() < 5000 {
		t.Fatalf("%d items of 5000", a.count())
	}
}

func TestAnItemTooLargeGoesToTheDeadLettersAndHoldsUpNothing(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{false, true} {
		t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) {
			s := redistest.Start(t)
			push := s.Client().RPush
			if right {
				push = s.Client().LPush
			}
			large := bytes.Repeat([]byte("large\r\n\x00"), 1000)
			push(t.Context(), "a", "item 0", "item 1", large, "item 2", large, large, "item 3")
			r := start(t, s.Address(), func(o *Options) {
				o.MaxPayload = 4096
				o.Lists[0].FromRight = right
			})
			a, _ := r.join(0, false)
			redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
			wantNumbered(t, a.got(), 4)
			dead, _ := s.Client().LRange(t.Context(), DeadKey("a"), 0, -1).Result()
			if len(dead) != 3 {
				t.Fatalf("%d dead letters, want 3", len(dead))
			}
			head, body, _ := strings.Cut(dead[0], "\n")
			var why Epitaph
			if err := json.Unmarshal([]byte(head), &why); err != nil || why.Size != len(large) || why.Reason == "" {
				t.Errorf("epitaph %s: %v", head, err)
			}
			if body != string(large) {
				t.Error("the dead letter's bytes have changed")
			}
		})
	}
}

func TestASecondInstanceStandsByAndTakesOverAtOnceWhenTheFirstStops(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(1000)...)
	first := start(t, s.Address(), func(o *Options) { o.Instance = "first" })
	a, _ := first.join(0, false)
	redistest.Eventually(t, "the first has served the list", func() bool { return s.Len("a") == 0 })
	second := start(t, s.Address(), func(o *Options) { o.Instance = "second" })
	b, _ := second.join(0, false)
	redistest.Eventually(t, "the second stands by", func() bool {
		st := second.status("a")
		return st.State == Standby && strings.HasPrefix(st.Holder, "first/")
	})
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	s.Push("a", numbered(500)...)
	redistest.Eventually(t, "the second serves the list", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 1000)
	wantNumbered(t, b.got(), 500)
}

func TestAnInstanceThatLostItsLeaseRemovesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 10 })
	s.Client().Set(t.Context(), leaseKey("a"), "other/1", 0) // as if this process had been stopped for longer than the lease
	a.confirm()
	redistest.Eventually(t, "it stands by", func() bool { return r.status("a").State == Standby })
	if n := s.Len("a"); n != 10 {
		t.Fatalf("%d of 10 items left in a list that is another's", n)
	}
	s.Client().Del(t.Context(), leaseKey("a")) // the other gives it back
	redistest.Eventually(t, "it serves the list again", func() bool { a.confirm(); return s.Len("a") == 0 })
	if a.count() != 20 {
		t.Fatalf("%d items, want all ten again", a.count())
	}
}

func TestAListThatWasTakenOverWhileItWasEmptyIsNotReadAnyMore(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", "first")
	r := start(t, s.Address())
	a, _ := r.join(0, true)
	redistest.Eventually(t, "the first item arrived", func() bool { return a.count() == 1 })
	a.confirm()
	redistest.Eventually(t, "it is removed", func() bool { return s.Len("a") == 0 })
	lease := s.Client().Get(t.Context(), leaseKey("a")).Val()
	tx := s.Client().TxPipeline()
	tx.Set(t.Context(), leaseKey("a"), "other"+lease, time.Hour)
	tx.RPush(t.Context(), "a", "second")
	tx.Exec(t.Context())
	redistest.Eventually(t, "it stands by", func() bool { return r.status("a").State == Standby })
	if got := a.got(); len(got) != 1 {
		t.Errorf("%q were delivered; the second is another instance's", got)
	}
}

func TestARestartedInstanceTakesItsOwnLeaseBackAtOnce(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	s.Client().Set(t.Context(), leaseKey("a"), "test/before", time.Hour)
	r := start(t, s.Address())
	r.join(0, false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
}

func TestAPausedListIsLeftAloneUntilItIsResumed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address())
	if r.loop.Pause("nosuch", true) {
		t.Fatal("paused a list that there is not")
	}
	r.loop.Pause("a", true)
	a, _ := r.join(0, false)
	b, _ := r.join(1, false)
	s.Push("a", numbered(10)...)
	s.Push("b", numbered(10)...)
	redistest.Eventually(t, "the other list is served", func() bool { return b.count() == 10 })
	redistest.Eventually(t, "the list is paused", func() bool { return r.status("a").State == Paused })
	if a.count() != 0 {
		t.Fatal("a paused list was served")
	}
	r.loop.Pause("a", false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
}

func TestAtTheEndWhatWasConfirmedIsRemovedAndTheRestStaysInOrder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(1000)...)
	r := start(t, s.Address())
	a, m := r.join(0, true)
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 1000 })
	r.loop.StopTaking()
	a.mu.Lock()
	half := a.owed[:len(a.owed)/2]
	a.mu.Unlock()
	for _, rc := range half {
		rc.Confirm()
	}
	m.Leave()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	st := r.windows[0].Stats()
	if st.Taken != st.Confirmed+st.Returned || st.Confirmed == 0 || st.Returned == 0 {
		t.Fatalf("books %+v", st)
	}
	left, _ := s.Client().LRange(t.Context(), "a", 0, -1).Result()
	if len(left) != int(st.Returned) || left[0] != fmt.Sprintf("item %d", st.Confirmed) {
		t.Fatalf("%d items left, the first %q; books %+v", len(left), left[0], st)
	}
	if n, _ := s.Client().Exists(t.Context(), leaseKey("a")).Result(); n != 0 {
		t.Error("the lease was not given back")
	}
}

func TestAFullRedisIsDrained(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(2000)...)
	if err := s.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
	if a.count() < 2000 {
		t.Fatalf("%d items of 2000", a.count())
	}
}

// commands is how many commands Redis has carried out, those of scripts included.
func commands(t *testing.T, s *redistest.Server) (n int) {
	t.Helper()
	_, text, _ := strings.Cut(s.Client().Info(t.Context(), "stats").Val(), "total_commands_processed:")
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// roundTrips makes n round trips to Redis, one after the other: a loop that spins
// takes turns at about the same rate, whatever the speed of the machine.
func roundTrips(t *testing.T, s *redistest.Server, n int) {
	t.Helper()
	for range n {
		if err := s.Client().Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// An hour of the test's own clock, with the default poll interval.
func TestIdleCostsLessThanACommandASecond(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	w := relay.NewList(relay.Options{Window: 1000, Memory: 4 << 20})
	src, v := receivedByHand(t, s.Address(), func(o *Options) {
		o.PollInterval = 10 * time.Second
		o.Lists = append(o.Lists, List{Key: "b", Subject: "sb", Window: w})
	})
	l := src.loop
	a, b := &client{t: t, hold: true}, &client{t: t, hold: true}
	defer v.Join("", "1", a).Leave()
	defer w.Join("", "1", b).Leave()
	watch, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.servers.Watch(watch)
	now := time.Now()
	round := func() (busy bool) {
		src.Server.Heed(t.Context())
		for _, each := range l.sources {
			busy = each.turn(t.Context(), now) || busy
		}
		src.Server.Settle(0)
		return busy
	}
	s.Push("a", "x")
	s.Push("b", "x")
	redistest.Eventually(t, "the items are gone and hints come", func() bool {
		now = now.Add(time.Second)
		round()
		a.confirm()
		b.confirm()
		return s.Len("a")+s.Len("b") == 0 && src.Server.Hinted() && a.count() == 1 && b.count() == 1
	})

	const seconds = 3600
	before, rounds := commands(t, s), 0
	for end := now.Add(seconds * time.Second); now.Before(end) && rounds < seconds; rounds++ {
		if !round() {
			now = now.Add(l.pause(now))
		}
	}
	if n := commands(t, s) - before; n >= seconds || rounds == seconds {
		t.Errorf("%d commands in %d rounds while idle for %d seconds", n, rounds, seconds)
	}
}

func TestAnIdleLoopSleeps(t *testing.T) {
	s := redistest.Start(t)
	var turns atomic.Int64
	r := start(t, s.Address(), func(o *Options) { // the slow poll is a minute away
		o.PollInterval = time.Minute
		o.Alive = func(time.Time) { turns.Add(1) }
	})
	a, _ := r.join(0, false)
	r.join(1, false)
	redistest.Eventually(t, "both are served", func() bool {
		return r.status("a").State == Serving && r.status("b").State == Serving
	})
	s.Push("a", "x")
	redistest.Eventually(t, "the item is gone", func() bool { return a.count() == 1 && s.Len("a") == 0 })
	if err := round(t, r.loop); err != nil {
		t.Fatal(err)
	}

	const own = 2000
	before, turned, began := commands(t, s), turns.Load(), time.Now()
	roundTrips(t, s, own)
	polls := int(time.Since(began)/time.Minute) + 1
	if n := commands(t, s) - before - own; n > 6*polls {
		t.Errorf("%d commands while idle", n)
	}
	if n := turns.Load() - turned; n > int64(20*polls) {
		t.Errorf("%d turns while idle", n)
	}
}

func TestTaggedKeysShareTheListsSlot(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"a": "{a}:dead", "{x}a": "{x}a:dead", "a{x}b": "a{x}b:dead", "a{}b": "{a{}b}:dead",
	} {
		if got := DeadKey(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}

func TestDisplacedFindsWhereTheListBeginsNow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		held, there string
		want        int
	}{
		{"abcd", "abcd", 0}, {"abcd", "cdxx", 2}, {"abcd", "wxyz", 4}, {"abcd", "", 4},
		{"abcd", "d", 3}, {"aaaa", "aaaa", 3}, {"abab", "abab", 2}, {"", "", 0}, {"abcd", "bcde", 1},
	} {
		sums := func(s string) (v []uint64) {
			for _, r := range s {
				v = append(v, uint64(r))
			}
			return v
		}
		if got := displaced(sums(c.held), sums(c.there)); got != c.want {
			t.Errorf("%q in %q: %d, want %d", c.held, c.there, got, c.want)
		}
	}
}

func TestPeekShowsTheHeadOfAListAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := start(t, s.Address(), func(o *Options) { o.Lists[1].FromRight = true })
	s.Client().RPush(t.Context(), "a", "one", "two\n\xff", "three")
	s.Client().LPush(t.Context(), "b", "one", "two", "three")
	for key, want := range map[string][]Peeked{
		"a": {{[]byte("on"), 3}, {[]byte("tw"), 5}},
		"b": {{[]byte("on"), 3}, {[]byte("tw"), 3}},
	} {
		got, total, err := r.loop.Peek(t.Context(), key, 2, 2)
		if err != nil || total != 3 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v of %d, %v, want %v", key, got, total, err, want)
		}
		if got, _, err := r.loop.Peek(t.Context(), key, 9, 2); err != nil || len(got) != 3 {
			t.Errorf("%s: got %v, %v, want all three", key, got, err)
		}
		if n := s.Client().LLen(t.Context(), key).Val(); n != 3 {
			t.Errorf("%s has %d items left", key, n)
		}
	}
	if _, _, err := r.loop.Peek(t.Context(), "none", 1, 1); !errors.Is(err, ErrNoList) {
		t.Errorf("got %v, want ErrNoList", err)
	}
	s.Client().Del(t.Context(), "a")
	s.Client().Set(t.Context(), "a", "no list", 0)
	if _, _, err := r.loop.Peek(t.Context(), "a", 1, 1); err == nil || !strings.Contains(err.Error(), "the key holds no list") {
		t.Errorf("got %v for a key that holds no list", err)
	}
}
