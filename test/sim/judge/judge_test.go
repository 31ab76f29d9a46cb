package judge

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// found are the kinds of the findings after steps and a check.
func found(j *Judge, held Held) string {
	j.Check(held)
	var kinds []string
	for _, f := range j.Findings() {
		kind, _, _ := strings.Cut(f, " ")
		kinds = append(kinds, kind)
	}
	return strings.Join(kinds, " ")
}

// numbered makes the n-th item of the list.
func numbered(n int) string { return Payload("l", n, 10, false, false) }

func TestTheJudgeFindsABrokenPromise(t *testing.T) {
	waiting := func(items ...string) (h Held) {
		h.Waiting = map[string]int{}
		for _, it := range items {
			h.Waiting[it]++
		}
		return h
	}
	subscribe := func(j *Judge, daemon string) *Session { return j.Subscribed("c", daemon, "l", "", true) }
	consume := func(j *Judge, daemon string) *Session {
		s := j.Consuming("w", daemon, "l", "d", 2*time.Second, true)
		j.Created("l", "d", time.Now())
		return s
	}
	receive := func(s *Session, ns ...int) {
		for _, n := range ns {
			s.Received([]byte(numbered(n)))
		}
	}
	acknowledge := func(s *Session, n int) {
		receive(s, n)
		s.Acknowledged([]byte(numbered(n)))
		s.Settled([]byte(numbered(n)))
	}
	push := func(j *Judge, n int) {
		for i := range n {
			j.Pushed("l", numbered(i+1))
		}
	}

	for name, c := range map[string]struct {
		mode Mode
		run  func(j *Judge) Held
		want string
	}{
		"all is well": {"received", func(j *Judge) Held {
			push(j, 2)
			s := subscribe(j, "a")
			receive(s, 1, 2)
			s.Ponged()
			return Held{}
		}, ""},
		"an item is neither confirmed nor in Redis": {"received", func(j *Judge) Held {
			push(j, 2)
			s := subscribe(j, "a")
			receive(s, 1)
			s.Ponged()
			receive(s, 2)
			return Held{}
		}, "lost"},
		"an equal item is missing": {"received", func(j *Judge) Held {
			j.Pushed("l", "twin")
			j.Pushed("l", "twin")
			s := subscribe(j, "a")
			s.Received([]byte("twin"))
			s.Ponged()
			return Held{}
		}, "lost"},
		"Redis itself lost the item": {"received", func(j *Judge) Held {
			push(j, 1)
			j.Changed(waiting(numbered(1)), Held{})
			return Held{}
		}, ""},
		"an item is altered": {"received", func(j *Judge) Held {
			push(j, 1)
			s := subscribe(j, "a")
			s.Received([]byte(numbered(1) + "x"))
			receive(s, 1)
			s.Ponged()
			return Held{}
		}, "invented"},
		"the order is wrong": {"received", func(j *Judge) Held {
			push(j, 2)
			s := subscribe(j, "a")
			receive(s, 2, 1)
			s.Ponged()
			return Held{}
		}, "order"},
		"a subscription is passed over": {"received", func(j *Judge) Held {
			push(j, 3)
			s, other := subscribe(j, "a"), j.Subscribed("d", "a", "l", "g", true)
			time.Sleep(time.Millisecond)
			receive(s, 1, 3)
			receive(other, 2)
			s.Ponged()
			other.Ponged()
			return Held{}
		}, "skipped"},
		"a client subscribes as an item is confirmed": {"received", func(j *Judge) Held {
			push(j, 3)
			other := j.Subscribed("d", "a", "l", "g", true)
			receive(other, 2)
			other.Ponged()
			s := subscribe(j, "a")
			receive(s, 1, 3)
			s.Ponged()
			return Held{}
		}, ""},
		"another instance had the list meanwhile": {"received", func(j *Judge) Held {
			push(j, 3)
			s, other := subscribe(j, "a"), j.Subscribed("d", "b", "l", "", true)
			receive(s, 1, 3)
			receive(other, 2)
			s.Ponged()
			other.Ponged()
			return Held{}
		}, ""},
		"an item comes twice for no reason": {"received", func(j *Judge) Held {
			push(j, 1)
			time.Sleep(2 * settling)
			s := subscribe(j, "a")
			receive(s, 1, 1)
			s.Ponged()
			return Held{}
		}, "repeated"},
		"an equal item comes more often than it was pushed": {"received", func(j *Judge) Held {
			j.Pushed("l", "twin")
			j.Pushed("l", "twin")
			time.Sleep(2 * settling)
			s := subscribe(j, "a")
			for range 3 {
				s.Received([]byte("twin"))
			}
			s.Ponged()
			return Held{}
		}, "repeated"},
		"an item comes twice after a mild fault": {"received", func(j *Judge) Held {
			push(j, 1)
			time.Sleep(2 * settling)
			j.Mild()
			s := subscribe(j, "a")
			receive(s, 1, 1)
			s.Ponged()
			return Held{}
		}, "repeated"},
		"an item comes twice after a fault": {"received", func(j *Judge) Held {
			push(j, 1)
			j.Trouble()
			s := subscribe(j, "a")
			receive(s, 1, 1)
			s.Ponged()
			return Held{}
		}, ""},
		"items come again and again": {"received", func(j *Judge) Held {
			push(j, 2)
			j.Trouble()
			s := subscribe(j, "a")
			for range 20 {
				receive(s, 1, 2)
			}
			s.Ponged()
			return Held{}
		}, "duplicates"},
		"an item comes again though its acknowledgement was confirmed": {"explicit", func(j *Judge) Held {
			push(j, 1)
			time.Sleep(2 * settling)
			j.Trouble()
			s := subscribe(j, "a")
			acknowledge(s, 1)
			receive(s, 1)
			return Held{}
		}, "unsettled"},
		"an item comes again after the list was with another instance": {"explicit", func(j *Judge) Held {
			push(j, 1)
			s := subscribe(j, "a")
			acknowledge(s, 1)
			j.Fault()
			receive(s, 1)
			return Held{}
		}, ""},
		"a finished item comes to another client": {"explicit", func(j *Judge) Held {
			push(j, 1)
			acknowledge(subscribe(j, "a"), 1)
			j.Fault()
			time.Sleep(2 * onTheWay)
			receive(j.Subscribed("d", "b", "l", "", true), 1)
			return Held{}
		}, "unsettled"},
		"an item comes to another client while a third owes it": {"explicit", func(j *Judge) Held {
			push(j, 1)
			third := j.Subscribed("e", "a", "l", "", true)
			acknowledge(subscribe(j, "a"), 1)
			time.Sleep(2 * onTheWay)
			receive(j.Subscribed("d", "a", "l", "", true), 1)
			acknowledge(third, 1)
			return Held{}
		}, ""},
		"a durable consumer is passed over": {"received", func(j *Judge) Held {
			consume(j, "a")
			time.Sleep(time.Second)
			push(j, 1)
			plain := subscribe(j, "a")
			receive(plain, 1)
			plain.Ponged()
			return Held{}
		}, "lost"},
		"a durable consumer gave the item up": {"received", func(j *Judge) Held {
			s := consume(j, "a")
			time.Sleep(time.Second)
			push(j, 1)
			receive(s, 1)
			s.Refused([]byte(numbered(1)), true)
			return Held{Dead: map[string][]string{numbered(1): {"given up"}}}
		}, ""},
		"Redis may have lost the durable consumer": {"received", func(j *Judge) Held {
			consume(j, "a")
			time.Sleep(time.Second)
			j.Forgotten()
			push(j, 1)
			plain := subscribe(j, "a")
			receive(plain, 1)
			plain.Ponged()
			return Held{}
		}, ""},
		"a durable consumer gets an acknowledged item after a restart": {"received", func(j *Judge) Held {
			push(j, 1)
			s := consume(j, "a")
			acknowledge(s, 1)
			s.End()
			j.Fault()
			time.Sleep(time.Second)
			receive(consume(j, "a"), 1)
			return Held{}
		}, "unsettled"},
		"a viewer sees items out of order": {"received", func(j *Judge) Held {
			time.Sleep(time.Second)
			push(j, 2)
			s, plain := j.Viewing("v", "a", "l", true), subscribe(j, "a")
			receive(plain, 1, 2)
			plain.Ponged()
			receive(s, 2, 1)
			return Held{}
		}, "order"},
		"a viewer takes an item": {"received", func(j *Judge) Held {
			push(j, 1)
			receive(j.Viewing("v", "a", "l", true), 1)
			return Held{}
		}, "lost"},
		"an acknowledgement in time is refused": {"explicit", func(j *Judge) Held {
			time.Sleep(2 * settling)
			push(j, 1)
			s := subscribe(j, "a")
			receive(s, 1)
			s.Acknowledged([]byte(numbered(1)))
			s.Denied([]byte(numbered(1)))
			return Held{}
		}, "denied"},
		"a late acknowledgement is refused": {"explicit", func(j *Judge) Held {
			time.Sleep(2 * settling)
			push(j, 1)
			s := subscribe(j, "a")
			receive(s, 1)
			time.Sleep(5 * time.Second)
			s.Acknowledged([]byte(numbered(1)))
			s.Denied([]byte(numbered(1)))
			return Held{}
		}, ""},
		"an item is not delivered": {"received", func(j *Judge) Held {
			push(j, 1)
			return waiting(numbered(1))
		}, "stalled"},
		"an item in Redis was never pushed": {"received", func(j *Judge) Held {
			return waiting("strange")
		}, "foreign"},
		"a dead letter has the wrong reason": {"received", func(j *Judge) Held {
			push(j, 1)
			return Held{Dead: map[string][]string{numbered(1): {"larger than max_payload"}}}
		}, "dead"},
		"an item is dead after too few deliveries": {"explicit", func(j *Judge) Held {
			time.Sleep(2 * settling)
			push(j, 1)
			first, others := subscribe(j, "a"), []*Session{}
			receive(first, 1)
			first.End()
			for _, name := range []string{"d", "e", "f"} {
				others = append(others, j.Subscribed(name, "a", "l", "", true))
			}
			for _, s := range others {
				receive(s, 1)
			}
			return Held{Dead: map[string][]string{numbered(1): {"delivered 3 times"}}}
		}, "dead"},
		"a dead letter is doubled": {"explicit", func(j *Judge) Held {
			push(j, 1)
			s := subscribe(j, "a")
			receive(s, 1)
			s.Refused([]byte(numbered(1)), true)
			return Held{Dead: map[string][]string{numbered(1): {"given up", "given up"}}}
		}, "twice-dead"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := New([]List{{Name: "l", Mode: c.mode, AckWait: 2 * time.Second, MaxDeliver: 3, MaxPayload: 100, Window: 10}})
				if got := found(j, c.run(j)); got != c.want {
					t.Errorf("found %q, want %q: %q", got, c.want, j.Findings())
				}
			})
		})
	}
}

func TestItemsThatRedisHasAgainAreNotInvented(t *testing.T) {
	for _, payload := range []string{numbered(1), "l:equal1", ""} {
		j := New([]List{{Name: "l", Mode: "received", MaxPayload: 100}})
		j.Pushed("l", payload)
		s := j.Subscribed("c", "a", "l", "", true)
		s.Received([]byte(payload))
		s.Ponged()
		j.Check(Held{})

		j.Changed(Held{}, Held{Waiting: map[string]int{payload: 1}})
		s.Received([]byte(payload))
		if got := found(j, Held{}); got != "" {
			t.Errorf("item %q: %q", payload, j.Findings())
		}
	}
}

func TestTheJudgeFindsWhatIsWrongWithTheStreamOfAnUplink(t *testing.T) {
	record := func(text string) Held { return Held{Records: map[string]string{"{l}:edged durable:uplink/up": text}} }
	for name, c := range map[string]struct {
		run  func(store func(ns ...int), j *Judge)
		want string
	}{
		"all is well":                     {func(store func(ns ...int), j *Judge) { store(1, 2, 3) }, ""},
		"an item is there twice":          {func(store func(ns ...int), j *Judge) { store(1, 2, 2, 3) }, "hub-twice"},
		"an item is missing":              {func(store func(ns ...int), j *Judge) { store(1, 3) }, "hub-lost lost"},
		"an item comes after a later one": {func(store func(ns ...int), j *Judge) { store(1, 3, 2) }, "hub-order"},
		"an item was never pushed":        {func(store func(ns ...int), j *Judge) { store(1, 2, 3, 4) }, "hub-invented"},
		"Redis lost the record of confirmations": {func(store func(ns ...int), j *Judge) {
			store(1, 2)
			j.Changed(record("1-2"), record("1"))
			store(2, 3)
		}, ""},
		"Redis restarted and lost nothing": {func(store func(ns ...int), j *Judge) {
			store(1, 2)
			j.Changed(record("1-2"), record("1-2"))
			store(2, 3)
		}, "hub-twice"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := New([]List{{Name: "l", Mode: "received", MaxPayload: 100, Uplink: true}})
				for n := range 3 {
					j.Pushed("l", numbered(n+1))
				}
				c.run(func(ns ...int) {
					for _, n := range ns {
						j.Stored("l", numbered(n), "a")
					}
				}, j)
				if got := found(j, Held{}); got != c.want {
					t.Errorf("found %q, want %q: %q", got, c.want, j.Findings())
				}
			})
		})
	}
}

func TestTheJudgeForgetsWhatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New([]List{{Name: "l", Mode: "received", MaxPayload: 100}})
		s := j.Subscribed("c", "a", "l", "", true)
		for n := range 100 {
			j.Pushed("l", numbered(n+1))
			s.Received([]byte(numbered(n + 1)))
		}
		s.Ponged()
		s.End()
		j.Check(Held{})
		if len(j.items)+len(j.sessions)+len(j.lists["l"].items) != 0 || len(j.Findings()) != 0 {
			t.Errorf("%d items and %d sessions are left: %q", len(j.items), len(j.sessions), j.Findings())
		}
	})
}

func TestItemsThatAreAlikeDifferInTheMiddleOnly(t *testing.T) {
	one, two := Alike("l", 7, 600), Alike("l", 8, 600)
	if len(one) != 600 || len(two) != 600 || one == two || one[:250] != two[:250] || one[350:] != two[350:] {
		t.Errorf("%d bytes %q, %d bytes %q", len(one), one, len(two), two)
	}
	if list, at := place(one); list != "l" || at != 7 {
		t.Errorf("it is item %d of %q", at, list)
	}
}
