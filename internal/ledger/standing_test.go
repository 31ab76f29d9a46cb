package ledger

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// stands returns the Standing of the list for instance m, which knows a serial.
func (b *box) stands(known string) Standing {
	b.t.Helper()
	before := b.snapshot()
	reply, err := b.server.Do(context.Background(), Stand(b.keys, known, "m/")...)
	if err != nil {
		b.t.Fatal(err)
	}
	if !b.snapshot().equal(before) {
		b.t.Error("reading has changed the ledger")
	}
	st, err := ParseStanding(reply)
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

func TestAProcessThatDoesNotServeAListSeesItsDurableConsumers(t *testing.T) {
	b := start(t)
	if st := b.stands(""); st.Serial != "" || len(st.Durables) > 0 || !st.Served.IsZero() {
		t.Errorf("without a ledger: %+v", st)
	}
	b.do("HSET", b.keys.Consumers, "new", `{"from":2}`, "old", `{"from":1}`)
	if st := b.stands(""); len(st.Durables) != 2 || st.Durables[0].Name != "new" || st.Durables[0].Placed || st.Durables[1].Config != `{"from":1}` {
		t.Errorf("with consumers and without a ledger: %+v", st)
	}

	p := b.owner(false, "i0", "i1", "i2")
	p.updates(Call{Set: []Field{{Done, "2"}, {Durable("old"), "1+1"}}})
	if st := b.stands(""); st.Holder != "a/1" || !st.Same || st.Length != 3 {
		t.Errorf("with an owner: %+v", st)
	}
	want(t, b.call(Call{Release: true, Holder: "a/1"}), OK, "")
	st := b.stands("")
	if st.Holder != "" || st.Same || st.Length != 3 || st.Done != 2 || st.First != 0 || st.Epoch != p.epoch || fmt.Sprint(p.serial) != st.Serial {
		t.Errorf("without an owner: %+v", st)
	}
	if old := st.Durables[1]; !old.Placed || old.Acked.String() != "1+1" || st.Durables[0].Placed {
		t.Errorf("the consumers are %+v", st.Durables)
	}
	if ago := time.Since(st.Served); ago > time.Minute || ago < -time.Second {
		t.Errorf("the list was served %v ago, and has just been given back", ago)
	}
	if st := b.stands(st.Serial); !st.Same || st.Durables != nil || st.Length != 3 {
		t.Errorf("with a known serial: %+v", st)
	}
}

func TestAnOwnerWhoseLeaseIsOverIsNone(t *testing.T) {
	b := start(t)
	b.owner(false, "i0")
	b.do("HSET", b.keys.Ledger, "deadline", time.Now().Add(-time.Hour).UnixMilli())
	if st := b.stands(""); st.Holder != "" || time.Since(st.Served).Round(time.Minute) != time.Hour {
		t.Errorf("an hour after its lease: %+v", st)
	}
	b.do("HSET", b.keys.Ledger, "deadline", time.Now().Add(time.Hour).UnixMilli(), "owner", "m/before")
	if st := b.stands(""); st.Holder != "" || st.Own != "m/before" || time.Since(st.Served) > time.Minute {
		t.Errorf("an earlier process of this instance: %+v", st)
	}
	b.do("HSET", b.keys.Ledger, "deadline", time.Now().Add(10*time.Minute).UnixMilli(), "lease", time.Hour.Milliseconds())
	if st := b.stands(""); time.Since(st.Served).Round(time.Minute) != 30*time.Minute {
		t.Errorf("it renewed the lease 50 minutes ago, and would have done so 30 minutes ago: %+v", st)
	}
}

func TestAGarbledStandingIsAnError(t *testing.T) {
	for _, reply := range []any{nil, int64(1), []any{}, []any{int64(1), "x"}} {
		if _, err := ParseStanding(reply); err == nil {
			t.Errorf("%v is taken for a standing", reply)
		}
	}
}
