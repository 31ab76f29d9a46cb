package poller

import (
	"errors"
	"testing"
	"time"

	"edged/internal/ledger"
	"edged/internal/redisconn"
	"edged/internal/redistest"
)

// storeOf returns a store for the list a, which has five items.
func storeOf(t *testing.T, s *redistest.Server) *Store {
	t.Helper()
	loop := New(Options{Redis: redisconn.Options{Address: s.Address(), Timeout: 10 * time.Second}, Instance: "box"})
	store := loop.NewStore()
	t.Cleanup(store.Close)
	pushed(t, s, false, numbered(5)...)
	return store
}

func TestTheStoreRegistersConsumersAtTheirPlace(t *testing.T) {
	t.Parallel()
	store := storeOf(t, redistest.Start(t))
	for from, want := range map[string]string{
		End:  `{"from":5,"epoch":"","x":1}`,
		Last: `{"from":4,"epoch":"","x":1}`,
		"3":  `{"from":3,"epoch":"","x":1}`,
		"9":  `{"from":5,"epoch":"","x":1}`,

		"18446744073709551615": `{"from":5,"epoch":"","x":1}`,
	} {
		if got, err := store.Register(t.Context(), "a", "w", from, `{"x":1}`); err != nil || got != want {
			t.Errorf("from %s: %s, %v, want %s", from, got, err, want)
		}
	}
}

func TestTheStoreLeavesAnotherInstancesConsumersAlone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	store := storeOf(t, s)
	if _, err := store.Register(t.Context(), "a", "w", End, `{"x":1}`); err != nil {
		t.Fatal(err)
	}
	do(t, s, "HSET", keys.Ledger, "first", "100", "epoch", "e", "owner", "other/1", "deadline", "9999999999999")

	var standby ErrStandby
	if own, err := store.Owns(t.Context(), "a"); err != nil || own {
		t.Errorf("another instance's list is its own: %v, %v", own, err)
	}
	if _, err := store.Register(t.Context(), "a", "w", End, `{"x":2}`); !errors.As(err, &standby) {
		t.Errorf("another instance's list, a consumer that it knows: %v", err)
	}
	if err := store.Unregister(t.Context(), "a", "w"); !errors.As(err, &standby) || standby.Holder != "other/1" {
		t.Errorf("another instance's consumer is deleted: %v", err)
	}
	if _, err := store.Register(t.Context(), "a", "new", End, `{"x":2}`); !errors.As(err, &standby) || standby.Holder != "other/1" {
		t.Errorf("another instance's list: %v", err)
	}

	do(t, s, "HSET", keys.Ledger, "deadline", "1")
	if _, err := store.Register(t.Context(), "a", "new", End, `{"x":2}`); err != nil {
		t.Errorf("the other one's lease is over: %v", err)
	}
	if got := owner(t, s); got != "" {
		t.Errorf("%s goes on as the owner without the consumer", got)
	}
}

func TestTheStoreTellsWhatConsumersHaveConfirmed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	store := storeOf(t, s)
	if _, err := store.Register(t.Context(), "a", "w", End, `{"x":1}`); err != nil {
		t.Fatal(err)
	}
	do(t, s, "HSET", keys.Ledger, "first", "100", "epoch", "e", ledger.Durable("w"), "102", ledger.Durable("new"), "103")
	if _, err := store.Register(t.Context(), "a", "new", End, `{"x":2}`); err != nil {
		t.Fatal(err)
	}

	if _, known, err := store.Confirmed(t.Context(), "a", "new"); err != nil || known {
		t.Errorf("a new consumer has the place of an old one of its name: known %v, %v", known, err)
	}
	if acked, known, err := store.Confirmed(t.Context(), "a", "w"); err != nil || !known || acked.String() != "102" {
		t.Errorf("a consumer that is there has confirmed %v, known %v, %v", acked.String(), known, err)
	}

	if err := store.Unregister(t.Context(), "a", "w"); err != nil {
		t.Error(err)
	}
	if _, known, err := store.Confirmed(t.Context(), "a", "w"); err != nil || known {
		t.Errorf("a deleted consumer keeps its place: known %v, %v", known, err)
	}
	if all, err := store.Registered(t.Context(), "a"); err != nil || len(all) != 1 || all["new"] == "" {
		t.Errorf("registered: %v, %v", all, err)
	}
	do(t, s, "HSET", keys.Ledger, ledger.Durable("w"), "101+2,1")
	if acked, known, err := store.Confirmed(t.Context(), "a", "w"); err != nil || !known || acked.String() != "101+2,1" {
		t.Errorf("confirmed are %v, known %v, %v", acked.String(), known, err)
	}
	if _, known, err := store.Confirmed(t.Context(), "a", "new"); err != nil || known {
		t.Errorf("a consumer without a place: known %v, %v", known, err)
	}
	p, err := store.Part(t.Context(), "a", false, From{Number: 103}, 1, 100)
	if err != nil || p.First != 100 || p.Length != 5 || len(p.Items) != 1 || string(p.Items[0].Head) != "item 3" {
		t.Errorf("the part is %+v, %v", p, err)
	}
}

func TestTheStoreRestoresConsumersThatRedisHasLost(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	loop := New(Options{Redis: redisconn.Options{Address: s.Address(), Timeout: 10 * time.Second}, Instance: "box"})
	store := loop.NewStore()
	defer store.Close()

	for _, c := range []struct {
		name   string
		ledger []string
		had    string
		want   string
	}{
		{"all is lost", nil, "", `{"from":0,"epoch":"","x":1}`},
		{"the configuration is there", nil, `{"x":2}`, `{"x":2}`},
		{"the configuration alone is lost", []string{"owner", loop.holder, "deadline", "1", "first", "3", "epoch", "e"}, "", `{"from":7,"epoch":"e","x":1}`},
		{"a new epoch has begun", []string{"owner", loop.holder, "deadline", "1", "first", "3", "epoch", "f"}, "", `{"from":0,"epoch":"f","x":1}`},
		{"another process has deleted it", []string{"first", "3", "epoch", "e"}, "", ""},
		{"another process serves the list", []string{"owner", "other/1", "deadline", "9999999999999", "first", "3", "epoch", "e"}, "", ""},
	} {
		do(t, s, "FLUSHALL")
		if c.ledger != nil {
			args := []any{"HSET", keys.Ledger}
			for _, word := range c.ledger {
				args = append(args, word)
			}
			do(t, s, args...)
		}
		if c.had != "" {
			do(t, s, "HSET", keys.Consumers, "w", c.had)
		}

		there, err := store.Restore(t.Context(), "a", "w", 7, "e", `{"x":1}`)
		all, err2 := store.Registered(t.Context(), "a")
		if err != nil || err2 != nil || there != (c.want != "") || all["w"] != c.want {
			t.Errorf("%s: %v, %v, %v, %v", c.name, there, all, err, err2)
		}
	}
}

func TestTheStoreComparesItemsWithoutReadingThem(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	store := New(Options{Redis: redisconn.Options{Address: s.Address(), Timeout: 10 * time.Second}, Instance: "box"}).NewStore()
	defer store.Close()
	do(t, s, "HSET", ledger.KeysOf("a").Ledger, "first", "100")

	for _, right := range []bool{false, true} {
		do(t, s, "DEL", "a")
		pushed(t, s, right, "one", "two", "", "four")
		for _, c := range []struct {
			from  uint64
			items []string
			first uint64
			equal int
		}{
			{100, []string{"one", "two", "", "four"}, 100, 4},
			{101, []string{"two"}, 101, 1},
			{100, []string{"one", "owt", ""}, 100, 1},
			{103, []string{"four", "five"}, 103, 1},
			{98, []string{"gone", "gone", "one", "other"}, 100, 1},
			{97, []string{"gone", "gone"}, 100, 0},
			{200, []string{"lost"}, 200, 0},
		} {
			var items [][]byte
			for _, item := range c.items {
				items = append(items, []byte(item))
			}
			first, equal, err := store.Compare(t.Context(), "a", right, c.from, items)
			if err != nil || first != c.first || equal != c.equal {
				t.Errorf("right %v, %q from %d on: first %d, %d equal, %v; want %d, %d", right, c.items, c.from, first, equal, err, c.first, c.equal)
			}
		}
	}
}
