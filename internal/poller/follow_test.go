package poller

import (
	"fmt"
	"testing"
	"time"

	"edged/internal/ledger"
	"edged/internal/redisconn"
	"edged/internal/redistest"
)

func TestAViewerFollowsAList(t *testing.T) {
	t.Parallel()
	for _, fromRight := range []bool{false, true} {
		s := redistest.Start(t)
		keys := ledger.KeysOf("a")
		store := New(Options{Redis: redisconn.Options{Address: s.Address(), Timeout: 10 * time.Second}, Instance: "box"}).NewStore()
		defer store.Close()
		pushed(t, s, fromRight, numbered(200)...)
		follow := func(from From, n, bytes int) (f Followed, items string) {
			t.Helper()
			f, err := store.Follow(t.Context(), "a", fromRight, from, n, bytes)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Items) > 0 {
				items = fmt.Sprintf("%d items from %d %s to %s", len(f.Items), f.Items[0].Number, f.Items[0].Head, f.Items[len(f.Items)-1].Head)
			}
			return f, items
		}

		if f, items := follow(From{}, 200, 1<<20); f.Epoch != "" || f.End != 200 || items != "200 items from 0 "+nth(0)+" to "+nth(199) {
			t.Errorf("without a ledger: %q, end %d, %s", f.Epoch, f.End, items)
		}
		do(t, s, "HSET", keys.Ledger, "first", "100", "epoch", "e", "owner", "other/1", "deadline", "9999999999999")
		do(t, s, "RPUSH", keys.Times, "150:1000", "160:2000")
		if f, items := follow(From{Number: 7}, 3, 1<<20); f.Owner != "other/1" || f.First != 100 || items != "3 items from 100 "+nth(0)+" to "+nth(2) {
			t.Errorf("a place before the head: %+v, %s", f, items)
		}
		if f, items := follow(From{Number: 298}, 9, 1<<20); f.End != 300 || items != "2 items from 298 "+nth(198)+" to "+nth(199) {
			t.Errorf("the last items: %+v, %s", f, items)
		}
		if f, items := follow(From{Number: AtEnd}, 9, 1<<20); f.End != 300 || items != "" {
			t.Errorf("the end: %+v, %s", f, items)
		}
		if f, _ := follow(From{Since: time.UnixMilli(1500)}, 20, 1<<20); f.Items[0].Number != 150 || !f.Items[0].Seen.Equal(time.UnixMilli(2000)) || !f.Items[10].Seen.IsZero() {
			t.Errorf("from a time on: %+v", f.Items)
		}
		if _, items := follow(From{Number: 100}, 99, 1); items != "1 items from 100 "+nth(0)+" to "+nth(0) {
			t.Errorf("one item at least: %s", items)
		}
		do(t, s, "HSET", keys.Ledger, "owner", "box/2")
		if f, _ := follow(From{Number: AtEnd}, 9, 1); f.Owner != "" {
			t.Errorf("an earlier process of this instance: %q", f.Owner)
		}
	}
}

// nth is an item of numbered.
func nth(i int) string { return fmt.Sprint(numbered(i + 1)[i]) }
