package poller

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/redistest"
)

func TestALeaverDuringTheReadOfAnItemTooLargeLosesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	left := make(chan struct{})
	var a *client
	joined := make(chan struct{})
	wrapped := &leavesBeforeBury{leave: sync.OnceFunc(func() {
		<-joined
		a.m.Leave()
		close(left)
	})}
	l := start(t, s.Address(), func(o *setup) {
		o.MaxPayload = 1000
		o.Lists[0].Log = wrapped
	})
	a = l.join(0, true)
	close(joined)
	s.Push("a", "one", "two", "three", strings.Repeat("x", 2000), "four")
	<-left
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	got := s.Client().LRange(t.Context(), "a", 0, -1).Val()
	if len(got) != 5 || got[0] != "one" {
		t.Fatalf("no item was confirmed, yet %d items are left; books %+v", len(got), l.logs[0].Stats())
	}
}

func TestItemsThatAlternateAreToldApart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), func(o *setup) { o.BatchItems = 3 })
	a := l.join(0, true)
	s.Push("a", "tick", "data 0", "tick", "data 1", "tick", "data 2")
	a.wait(t, 6)
	s.Client().LTrim(t.Context(), "a", 2, -1)
	a.confirmSome(2) // tick; data 0, tick
	redistest.Eventually(t, "the one that was not cut is removed", func() bool { return s.Len("a") == 3 })
	a.m.Leave()
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	left := strings.Join(s.Client().LRange(t.Context(), "a", 0, -1).Val(), ",")
	if !strings.Contains(left, "data 1") {
		t.Fatalf("data 1 was neither confirmed nor cut; left in Redis: %s", left)
	}
}

func TestAFailingListWithHintsDoesNotSpin(t *testing.T) {
	s := redistest.Start(t)
	var turns atomic.Int64
	change := func() {
		s.Client().XAdd(t.Context(), &redis.XAddArgs{Stream: "a", Values: []string{"k", "v"}})
	}
	change()
	l := start(t, s.Address(), func(o *setup) { o.Alive = func(time.Time) { turns.Add(1) } })
	l.join(0, false)
	l.is(Failing)
	const changes, trips = 50, 200
	before := turns.Load()
	for range changes {
		change()
		roundTrips(t, s, trips)
	}
	if n := turns.Load() - before; n > changes*trips/10 {
		t.Errorf("%d turns during %d changes and %d round trips", n, changes, changes*trips)
	}
}

// Visitors come and go, connections break, scripts are flushed, the lease is
// taken away, strange items appear at the head: every item is confirmed by
// a client, or in Redis, or a dead letter, and the books close. EDGED_TEST_SEED
// makes the same random choices again.
func TestNothingIsLostWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("EDGED_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("EDGED_TEST_SEED is not a valid seed: %v", err)
		}
	}
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, right := range []bool{false, true} {
			t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) { turmoil(t, seed, mode, right) })
		}
	})
}

func turmoil(t *testing.T, seed uint64, mode func(*setup), right bool) {
	t.Parallel()
	t.Logf("EDGED_TEST_SEED=%d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	s := redistest.Start(t)
	l := start(t, s.Address(), mode, func(o *setup) {
		o.MaxPayload, o.BatchItems, o.BatchBytes, o.Relay.Window = 1000, 7, 900, 40
		o.PollInterval, o.Lease, o.RejoinGrace = 50*time.Millisecond, 300*time.Millisecond, 100*time.Millisecond
		o.Log, o.Lists[0].FromRight = nil, right
	})

	var mu sync.Mutex
	seen := map[string]bool{} // guarded by mu
	note := func(items []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range items {
			id, _, _ := strings.Cut(item, " ")
			seen[id] = true
		}
	}
	done := make(chan struct{})
	var visitors sync.WaitGroup
	for i := range 3 {
		group := []string{"", "g", "g"}[i]
		rand := rand.New(rand.NewPCG(seed, 1+uint64(i)))
		visitors.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				v := &client{hold: true, most: 1 + rand.IntN(60)}
				leave := l.joinAs(0, group, v)
				for range rand.IntN(12) {
					l.comesRound()
					note(v.confirmSome(rand.IntN(4)))
				}
				leave()
			}
		})
	}
	ctx, c, push, odd := t.Context(), s.Client(), s.Client().RPush, s.Client().LPush
	if right {
		push, odd = odd, push
	}
	const items = 6000
	sent := map[int]bool{} // of a push that failed the outcome is not known
	for i := 0; i < items; {
		for range chance.IntN(30) {
			size := chance.IntN(200)
			if chance.IntN(15) == 0 {
				size = 1200 // too large
			}
			err := push(ctx, "a", fmt.Sprintf("%d %s", i, strings.Repeat("x", size))).Err()
			if sent[i] = err == nil; err != nil {
				t.Logf("item %d was not pushed: %v", i, err)
			}
			i++
		}
		switch chance.IntN(12) {
		case 0:
			c.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		case 1:
			c.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub")
		case 2:
			c.ScriptFlush(ctx)
		case 3:
			handTo(t, s, "", 0)
		case 4:
			handTo(t, s, "other/1", 20*time.Millisecond)
		case 5:
			odd(ctx, "a", "odd")
		}
		for range chance.IntN(8) {
			l.comesRound()
		}
	}
	close(done)
	visitors.Wait()
	if err := l.stop(); err != nil {
		t.Log(err) // what was confirmed may remain; it counts as seen and as left
	}
	note(c.LRange(t.Context(), "a", 0, -1).Val())
	for _, dead := range c.LRange(t.Context(), keys.Dead, 0, -1).Val() {
		_, item, _ := strings.Cut(dead, "\n")
		note([]string{item})
	}
	lost, failed := 0, 0
	for i, ok := range sent {
		switch {
		case !ok:
			failed++
		case !seen[fmt.Sprint(i)]:
			lost++
		}
	}
	st := l.logs[0].Stats()
	if failed > items/10 {
		t.Errorf("%d of %d pushes failed", failed, len(sent))
	}
	if lost > 0 {
		t.Errorf("%d items lost; books %+v", lost, st)
	}
	if left := int(s.Len("a")); st.InFlight > left {
		t.Errorf("%d items are left; books %+v", left, st)
	}
}
