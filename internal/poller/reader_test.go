package poller

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"edged/internal/batch"
	"edged/internal/ledger"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay/cursor"
)

// life is one process of edged that serves the list "a" by cursors.
type life struct {
	t    *testing.T
	loop *Loop
	log  *cursor.Log
	end  func()
}

// begin begins a life. It ends as a killed process does: it gives nothing back.
func begin(t *testing.T, s *redistest.Server, instance string, change ...func(*Options)) *life {
	l := &life{t: t}
	l.log = cursor.New(cursor.Options{Window: 4000, Memory: 4 << 20, Changed: func() { l.loop.Wake() }})
	opts := Options{
		Redis: redisconn.Options{Address: s.Address(), Timeout: 2 * time.Second}, Instance: instance,
		PollInterval: time.Minute, Lease: time.Minute, RejoinGrace: time.Minute,
		BatchItems: 500, BatchBytes: 128 << 10, MaxPayload: 1 << 20, Log: zaptest.NewLogger(t),
		Lists: []List{{Key: "a", Subject: "sa", Log: l.log}},
	}
	for _, c := range change {
		c(&opts)
	}
	l.loop = New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.loop.Run(ctx)
	}()
	l.end = sync.OnceFunc(func() {
		l.log.Stop()
		cancel()
		<-ended
	})
	t.Cleanup(l.end)
	return l
}

// join makes a client that confirms its items; with hold it waits for confirm.
func (l *life) join(group string, hold bool) *client {
	c := &client{t: l.t, hold: hold, slow: make(chan batch.Receipt, 100_000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := range c.slow {
			r.Confirm()
		}
	}()
	m := l.log.Join(group, "1", c)
	l.t.Cleanup(func() {
		m.Leave()
		close(c.slow)
		<-done
	})
	return c
}

func TestAListIsReadByCursorsAndEmptied(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{false, true} {
		s := redistest.Start(t)
		if items := numbered(20_000); right {
			s.Client().LPush(t.Context(), "a", items...)
		} else {
			s.Push("a", items...)
		}
		l := begin(t, s, "x", func(o *Options) { o.Lists[0].FromRight = right })
		c := l.join("", false)
		redistest.Eventually(t, "the list is empty", func() bool { return s.Len("a") == 0 })
		wantNumbered(t, c.got(), 20_000)
		s.Client().RPush(t.Context(), "a", "one more") // the hint wakes the loop: its poll is a minute away
		redistest.Eventually(t, "it comes", func() bool { return c.count() == 20_001 && s.Len("a") == 0 })
	}
}

func TestAConsumerThatConfirmsNothingStopsNoOther(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(50_000)...)
	l := begin(t, s, "x")
	stopped := l.join("", true)
	fast := l.join("", false)
	redistest.Eventually(t, "the other has all", func() bool { return fast.count() == 50_000 })
	wantNumbered(t, fast.got(), 50_000)
	if n := s.Len("a"); n != 50_000 {
		t.Errorf("%d items in Redis, but one consumer owes all", n)
	}
	if n := stopped.count(); n > 4000 {
		t.Errorf("the one that confirms nothing was handed %d items", n)
	}
	for s.Len("a") > 0 {
		stopped.confirm()
	}
	wantNumbered(t, stopped.got(), 50_000)
}

func TestAfterAKillConsumersGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10_000)...)
	first := begin(t, s, "x")
	slow := first.join("", true)
	group := first.join("g", false)
	redistest.Eventually(t, "the group has all", func() bool { return group.count() == 10_000 })
	slow.confirm()
	seen := slow.count()
	first.end()

	second := begin(t, s, "x")
	again := second.join("", false)
	regrouped := second.join("g", false)
	s.Push("a", "item 10000")
	redistest.Eventually(t, "the group goes on", func() bool { return regrouped.count() > 0 })
	redistest.Eventually(t, "the plain one has the rest", func() bool {
		got := again.got()
		return len(got) > 0 && string(got[len(got)-1]) == "item 10000"
	})
	if n := len(again.got()); n < 10_001-seen {
		t.Errorf("the plain consumer got %d items, but had %d of 10001", n, seen)
	}
}

func TestItemsThatOthersTakeAreMissedByNoOneElse(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(1000)...)
	l := begin(t, s, "x")
	c := l.join("", true)
	redistest.Eventually(t, "all are on their way", func() bool { return c.count() == 1000 })
	s.Client().LTrim(t.Context(), "a", 300, -1)
	s.Push("a", "item 1000", "item 1001")
	c.confirm()
	redistest.Eventually(t, "the new ones come", func() bool {
		c.confirm()
		got := c.got()
		return string(got[len(got)-1]) == "item 1001" && s.Len("a") == 0
	})
	wantNumbered(t, c.got(), 1002)
}

func TestAListThatIsReplacedIsReadFromItsHead(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(10)...)
	l := begin(t, s, "x")
	c := l.join("", true)
	redistest.Eventually(t, "all are on their way", func() bool { return c.count() == 10 })
	s.Client().Del(t.Context(), "a")
	s.Push("a", "other 0", "other 1", "item 9")
	redistest.Eventually(t, "the others come", func() bool {
		c.confirm()
		return s.Len("a") == 0
	})
	var tail []string
	for _, item := range c.got()[10:] {
		tail = append(tail, string(item))
	}
	if !slices.Equal(tail, []string{"other 0", "other 1", "item 9"}) {
		t.Errorf("got %q", tail)
	}
}

func TestAnotherInstanceTakesOverWhenTheListIsGivenBack(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	x := begin(t, s, "x")
	a := x.join("", false)
	s.Push("a", "item 0")
	redistest.Eventually(t, "x serves", func() bool { return a.count() == 1 && s.Len("a") == 0 })
	y := begin(t, s, "y")
	b := y.join("", false)
	redistest.Eventually(t, "y stands by", func() bool { return y.loop.Lists()[0].State == Standby })
	x.end()
	s.Push("a", "item 1")
	redistest.Eventually(t, "y serves", func() bool { return b.count() == 1 })
}

func TestALedgerThatIsLostMakesAllComeAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(100)...)
	l := begin(t, s, "x")
	c := l.join("", true)
	redistest.Eventually(t, "all are on their way", func() bool { return c.count() == 100 })
	s.Client().Del(t.Context(), ledger.KeysOf("a").Ledger)
	redistest.Eventually(t, "all come again, and go", func() bool {
		c.confirm()
		return s.Len("a") == 0
	})
	wantNumbered(t, c.got()[:100], 100)
	wantNumbered(t, c.got()[len(c.got())-100:], 100)
}
