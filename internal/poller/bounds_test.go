package poller

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// receivedByHand makes a loop over the list "a" whose turns the test takes.
func receivedByHand(t *testing.T, address string, change ...func(*Options)) (*source, *relay.List) {
	w := relay.NewList(relay.Options{Window: 1000, Memory: 4 << 20})
	opts := Options{
		Redis: redisconn.Options{Address: address, Timeout: 2 * time.Second}, Instance: "x",
		MaxPayload: 1 << 20, BatchItems: 500, BatchBytes: 128 << 10, PollInterval: time.Minute, Lease: 5 * time.Minute,
		Lists: []List{{Key: "a", Subject: "sa", Window: w}},
	}
	for _, c := range change {
		c(&opts)
	}
	l := New(opts)
	withoutRun(t, l)
	return l.sources[0].(*source), w
}

// sized is an item of size bytes.
func sized(name string, size int) string { return name + strings.Repeat(".", size-len(name)) }

// Loss: that one item stands in its place does not tell that the head has not moved.
func TestACappedListWhoseLargeItemsComeAgainLosesNone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ before, after string }{
		{"ABC", "DEC"}, {"AB", "AC"}, {"AAA", "AEAA"},
	} {
		t.Run(c.before+" then "+c.after, func(t *testing.T) {
			s := redistest.Start(t)
			src, w := receivedByHand(t, s.Address())
			a := &client{t: t, hold: true}
			w.Join("", "1", a)
			push := func(names string) {
				for _, name := range strings.Split(names, "") {
					s.Push("a", sized(name, 5000))
				}
			}
			now := time.Now()
			push(c.before)
			settleDown(t, src, &now)
			if a.count() != len(c.before) {
				t.Fatal("not all arrived")
			}
			do(t, s, "DEL", "a") // the producer caps its list, and goes on
			push(c.after)
			for range 10 {
				a.confirm()
				src.more = true
				settleDown(t, src, &now)
			}
			for _, name := range strings.Split(c.after, "") {
				found := false
				for _, item := range a.got() {
					found = found || string(item[:1]) == name
				}
				if !found {
					t.Errorf("%s was never delivered; %d are left in Redis", name, s.Len("a"))
				}
			}
		})
	}
}

func TestAnItemTooLargeCostsNoMemory(t *testing.T) {
	s := redistest.Start(t)
	src, w := receivedByHand(t, s.Address(), func(o *Options) { o.MaxPayload = 1000 })
	a := &client{t: t, hold: true}
	w.Join("", "1", a)
	s.Push("a", strings.Repeat("x", 8<<20))
	now := time.Now()
	redistest.Eventually(t, "the item was read", func() bool { src.turn(t.Context(), now); return src.most > 0 })
	got := gather{maxBytes: 1 << 20, maxLarge: 1 << 20, maxItem: 1000}
	if src.fill(&got, 100); cap(got.memory.Data) > 1<<20 {
		t.Errorf("%d bytes of memory for a read that keeps 1000 of an item", cap(got.memory.Data))
	}
}

// keeper is a member that keeps the batches it gets.
type keeper struct{ all []*batch.Batch }

func (k *keeper) Deliver(b *batch.Batch, from, to int, _ batch.Receipt) int {
	b.Retain()
	k.all = append(k.all, b)
	return to - from
}

func TestWhatIsOnItsWayTakesNoMoreThanItsBudget(t *testing.T) {
	s := redistest.Start(t)
	for range 100 {
		s.Push("a", sized("large", 32<<10))
		for range 31 {
			s.Push("a", "small")
		}
	}
	src, w := receivedByHand(t, s.Address(), func(o *Options) { o.BatchBytes = 1 << 20 })
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what a pool keeps is free after the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	k := &keeper{}
	w.Join("", "1", k)
	now := time.Now()
	settleDown(t, src, &now)
	if w.Stats().InFlight != 1000 {
		t.Fatal("the window is not full")
	}
	if took := heap() - before; took > 8<<20 {
		t.Errorf("%d bytes, twice the budget", took)
	}
	runtime.KeepAlive(k)
}

// Loss: the removal was carried out before its number was refused.
func TestARemovalWhoseNumberMayNotBeWrittenIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	s := startWithUser(t)
	src, w := receivedByHand(t, s.Address(), func(o *Options) { logIn(&o.Redis) })
	a := &client{t: t, hold: true}
	w.Join("", "1", a)
	s.Push("a", equalItems(5000)...)
	now := time.Now()
	settleDown(t, src, &now)
	if a.count() != 1000 {
		t.Fatal("the window is not full")
	}
	do(t, s, "ACL", "SETUSER", "edged", "-set")
	a.confirm()
	for range 20 {
		src.turn(t.Context(), now)
		now = now.Add(time.Second)
	}
	if left := s.Len("a"); left != 5000 || src.faults == 0 {
		t.Errorf("%d items were removed of 1000 that were confirmed; %d faults in a row", 5000-left, src.faults)
	}
	do(t, s, "ACL", "SETUSER", "edged", "+set")
	redistest.Eventually(t, "the list is empty", func() bool {
		settleDown(t, src, &now)
		a.confirm()
		return s.Len("a") == 0
	})
	if a.count() != 5000 {
		t.Errorf("%d items were delivered of 5000", a.count())
	}
}

// Books: three items were buried and one was counted, and none said to be buried.
func TestAnItemTooLargeWhoseNumberMayNotBeWrittenIsNotBuried(t *testing.T) {
	t.Parallel()
	s := startWithUser(t)
	src, w := receivedByHand(t, s.Address(), func(o *Options) { logIn(&o.Redis); o.MaxPayload = 1000 })
	w.Join("", "1", &client{t: t, hold: true})
	now := time.Now()
	settleDown(t, src, &now)
	do(t, s, "ACL", "SETUSER", "edged", "-set")
	for range 3 {
		s.Push("a", strings.Repeat("x", 2000))
	}
	src.more = true
	for range 20 {
		src.turn(t.Context(), now)
		now = now.Add(time.Second)
	}
	if dead := s.Len(DeadKey("a")); dead != 0 || src.faults == 0 {
		t.Errorf("%d dead letters, %d faults in a row", dead, src.faults)
	}
	do(t, s, "ACL", "SETUSER", "edged", "+set")
	settleDown(t, src, &now)
	if dead, books := s.Len(DeadKey("a")), w.Stats(); dead != 3 || books.Dead != 3 {
		t.Errorf("%d dead letters; books %+v", dead, books)
	}
}
