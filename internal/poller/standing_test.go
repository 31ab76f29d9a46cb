package poller

import (
	"fmt"
	"testing"
	"time"

	"edged/internal/ledger"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// looks takes a turn of list "a" in which it is polled, and returns its status.
func (l *life) looks() Status {
	l.t.Helper()
	for range 2 { // one may give the list back
		l.loop.readers[0].due = time.Time{}
		l.turn()
	}
	return l.status("a")
}

func TestAListWithoutClientsShowsItsDurableConsumersAsRedisHasThem(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(5)...)
	do(t, s, "HSET", keys.Consumers, "d", `{"from":3}`)
	do(t, s, "HSET", keys.Ledger, "serial", "7", "first", "2", "done", "5", "epoch", "e", ledger.Durable("d"), "4")

	l := byHand(t, s.Address())
	st := l.looks().Standing
	if st == nil || st.Length != 5 || st.First != 2 || st.Done != 5 || len(st.Durables) != 1 || st.Durables[0].Acked.Floor() != 4 {
		t.Fatalf("after a start it stands %+v", st)
	}
	s.Push("a", "one more")
	if st := l.looks().Standing; st == nil || st.Length != 6 || len(st.Durables) != 1 {
		t.Errorf("with one more item it stands %+v", st)
	}

	handTo(t, s, "other/1", time.Hour)
	if is := l.looks(); is.Standing != nil || is.Holder != "other/1" {
		t.Errorf("of another instance's list: %+v", is)
	}
	do(t, s, "HSET", keys.Ledger, "deadline", "1", "serial", "8", ledger.Durable("d"), "6")
	if st := l.looks().Standing; st == nil || st.Durables[0].Acked.Floor() != 6 {
		t.Errorf("after another instance has served it, it stands %+v", st)
	}
}

func TestARelayThatWasTheLastToServeAListKnowsMoreThanRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Push("a", numbered(3)...)
	l := byHand(t, s.Address(), func(o *setup) { o.Lists[0].Keep = 1 })
	if err := l.logs[0].SetDurable("d", relay.Durable{Terms: relay.Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 10}}); err != nil {
		t.Fatal(err)
	}
	c := l.join(0, true)
	l.settle(0)
	c.wait(t, 3)
	c.confirm()
	l.settle(0)
	if l.status("a").Standing != nil {
		t.Error("the list is served")
	}

	c.m.Leave()
	l.settle(0)
	if st := l.looks().Standing; st != nil || owner(t, s) != "" {
		t.Errorf("it stands %+v, and the owner is %q", st, owner(t, s))
	}
	do(t, s, "HSET", keys.Ledger, "serial", fmt.Sprint(l.loop.readers[0].serial+1))
	if st := l.looks().Standing; st == nil || len(st.Durables) != 1 || st.Served.IsZero() {
		t.Errorf("after a change of another process it stands %+v", st)
	}

	l.join(0, true)
	l.settle(0)
	if st := l.status("a").Standing; st != nil {
		t.Errorf("the list is served again, and stands %+v", st)
	}
}
