package poller

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/redistest"
)

// largeItems has an item for each letter.
func largeItems(names string) (items []any) {
	for name := range strings.SplitSeq(names, "") {
		items = append(items, sized(name, 5000))
	}
	return items
}

// records are items as fixed layouts have them: they differ in the middle.
func records(from, to int) (items []any) {
	pad := strings.Repeat("p", 200)
	for i := from; i < to; i++ {
		items = append(items, fmt.Sprintf("%s%04d%s", pad, i, pad))
	}
	return items
}

// Loss: that one item stands in its place does not tell that the head has not moved.
func TestAListThatIsReplacedByALikeOneLosesNoItem(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, c := range []struct{ before, after []any }{
			{largeItems("ABC"), largeItems("DEC")}, {largeItems("AB"), largeItems("AC")}, {largeItems("AAA"), largeItems("AEAA")},
			{records(0, 5), records(2, 20)}, {[]any{"tick", "data 0", "data 1", "tick"}, []any{"tick", "data 0", "data 2", "tick"}},
		} {
			s := redistest.Start(t)
			l := byHand(t, s.Address(), mode)
			a := l.join(0, true)
			s.Push("a", c.before...)
			l.settle(0)
			a.wait(t, len(c.before))
			do(t, s, "DEL", "a") // the producer caps its list, and goes on
			s.Push("a", c.after...)
			for range 10 {
				a.confirm()
				l.settle(0)
			}
			for i, item := range texts(c.after) {
				if !slices.Contains(a.got(), item) {
					t.Errorf("item %d of %d was never delivered; %d are left in Redis", i, len(c.after), s.Len("a"))
				}
			}
			l.balanced()
		}
	})
}

func TestAnItemTooLargeCostsNoMemory(t *testing.T) {
	s := redistest.Start(t)
	l := byHand(t, s.Address(), func(o *setup) { o.MaxPayload = 1000 })
	l.join(0, true)
	s.Push("a", strings.Repeat("x", 8<<20))
	src := l.loop.readers[0]
	redistest.Eventually(t, "the item was read", func() bool { l.turn(); return src.most > 0 })
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
	l := byHand(t, s.Address(), func(o *setup) { o.BatchBytes, o.Relay.Window = 1<<20, 1000 })
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what a pool keeps is free after the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	k := &keeper{}
	l.logs[0].Join("", "1", k)
	l.settle(0)
	if n := l.logs[0].Stats().InFlight; n != 1000 {
		t.Fatalf("%d items are on their way, the window has 1000", n)
	}
	if took := heap() - before; took > 8<<20 {
		t.Errorf("%d bytes, twice the budget", took)
	}
	runtime.KeepAlive(k)
}

// Loss: the removal was carried out before its number was refused.
func TestACallWhoseNumberCantBeWrittenDoesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := startWithUser(t)
		l := byHand(t, s.Address(), mode, logIn, func(o *setup) { o.MaxPayload = 1000 })
		c := l.join(0, true)
		s.Push("a", equalItems(6000)...)
		l.settle(0)
		c.wait(t, 4000)
		do(t, s, "ACL", "SETUSER", "edged", "-hset")
		c.confirm()
		fail := func() {
			for range 20 {
				l.turn()
				l.now = l.now.Add(time.Second)
			}
			if left, dead := s.Len("a"), s.Len(keys.Dead); left < 6000 || dead > 0 || l.loop.readers[0].faults == 0 {
				t.Errorf("%d items are left of 6000, %d dead letters; %d faults in a row", left, dead, l.loop.readers[0].faults)
			}
		}
		fail()
		s.Push("a", strings.Repeat("x", 2000), strings.Repeat("x", 2000))
		fail()
		do(t, s, "ACL", "SETUSER", "edged", "+hset")
		redistest.Eventually(t, "the list is empty", func() bool {
			l.settle(0)
			c.confirm()
			return s.Len("a") == 0
		})
		c.wait(t, 6000)
		if books := l.logs[0].Stats(); books.Dead != 2 || s.Len(keys.Dead) != 2 {
			t.Errorf("%d dead letters; books %+v", s.Len(keys.Dead), books)
		}
	})
}

func TestItemsThatGrowKeepToTheMemory(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		l := byHand(t, s.Address(), mode, func(o *setup) { o.Relay.Window = 1000 })
		c := l.join(0, true)
		s.Push("a", numbered(5000)...)
		for s.Len("a") > 0 {
			l.settle(0)
			c.confirm()
		}
		s.Push("a", numbered(500)...)
		for i := range 500 {
			s.Push("a", sized(fmt.Sprint("large", i), 200<<10))
		}
		l.settle(0)
		total := 0
		for _, item := range c.got()[5000:] {
			total += len(item)
		}
		if total < 1<<20 || total > 2*4<<20 {
			t.Errorf("%d KB are on their way, 4096 can be", total>>10)
		}
	})
}

// A batch of one small item takes much more memory than its item.
func TestTheMemoryOfItemsThatComeOneByOneIsBounded(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := byHand(t, s.Address(), func(o *setup) { o.BatchBytes = 1000 })
	c := l.join(0, true)
	l.turn() // takes the list
	l.turn() // and notes that the client owes
	for i := range 50 {
		s.Push("a", fmt.Sprint(i))
		for c.count() <= i {
			l.turn()
		}
	}
	if r := l.loop.readers[0]; len(r.held) > maxHeld {
		t.Errorf("%d batches are held, want at most %d", len(r.held), maxHeld)
	}
}
