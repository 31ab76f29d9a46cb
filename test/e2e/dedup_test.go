package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/redistest"
)

const deduped = "[[list]]\nkey = \"events\"\nack = \"explicit\"\ndedup = \"json:id\"\ndedup_items = 100\n"

// twice pushes n items, from one id on, each of them again among the hundred after it.
func twice(t *testing.T, r *redistest.Server, from, n int) {
	t.Helper()
	var items []any
	for i := range n + 50 {
		if i < n {
			items = append(items, fmt.Sprintf(`{"id":%d,"copy":1}`, from+i))
		}
		if i >= 40 && i-40 < n {
			items = append(items, fmt.Sprintf(`{"copy":2,"id":%d}`, from+i-40))
		}
	}
	r.Push("events", items...)
}

// work consumes the events as a durable consumer, and acknowledges them.
func work(t *testing.T, nc *nats.Conn) *inbox {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}

	c, err := js.CreateOrUpdateConsumer(t.Context(), "events", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}

	got := newInbox()
	consuming, err := c.Consume(func(m jetstream.Msg) {
		got.add(string(m.Data()))
		_ = m.Ack()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consuming.Stop)
	return got
}

// wantOnce checks that of each id the first copy came, in order, and no other.
func wantOnce(t *testing.T, items []string, n int) {
	t.Helper()
	if len(items) != n {
		t.Errorf("%d items came, want %d", len(items), n)
	}
	for i, item := range items {
		if want := fmt.Sprintf(`{"id":%d,"copy":1}`, i); item != want {
			t.Fatalf("item %d is %s, want %s", i, item, want)
		}
	}
}

func TestTheFirstOfEqualItemsIsDeliveredAcrossACrash(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, deduped)
	nc := connect(t, d)
	got := work(t, nc)
	twice(t, r, 0, 500)
	got.wait(t, 500)
	d.Kill()
	nc.Close()

	d = startEdged(t, r, deduped)
	nc = connect(t, d)
	again := work(t, nc)
	r.Push("events", `{"id":499,"copy":3}`)
	twice(t, r, 500, 500)
	again.last(t, `{"id":999,"copy":1}`)
	waitEmpty(t, r, "events")
	first, _, _ := strings.Cut(again.all()[0], ",")
	var resumed int
	fmt.Sscanf(first, `{"id":%d`, &resumed)
	wantOnce(t, append(got.all()[:resumed], again.all()...), 1000)

	var lists struct {
		Lists []struct{ Taken, Duplicates int }
	}
	d.ControlJSON("lists", &lists)
	if l := lists.Lists[0]; l.Duplicates < 501 || l.Duplicates > l.Taken {
		t.Errorf("lists say %+v", l)
	}
	if text := d.Control("lists"); !strings.Contains(text, "duplicates dropped since the start") {
		t.Errorf("lists say\n%s", text)
	}
}

func TestReloadTurnsDedupOnAndOff(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	off := strings.Replace(deduped, "json:id", "", 1)
	d := startEdged(t, r, off)
	got := work(t, connect(t, d))
	r.Push("events", `{"id":1,"n":1}`, `{"id":1,"n":2}`)
	got.wait(t, 2)
	d.reload(deduped)
	r.Push("events", `{"id":2,"n":3}`, `{"id":2,"n":4}`, `{"id":3,"n":5}`)
	got.wait(t, 4)
	d.reload(off)
	r.Push("events", `{"id":3,"n":6}`)
	got.wait(t, 5)

	want := []string{`{"id":1,"n":1}`, `{"id":1,"n":2}`, `{"id":2,"n":3}`, `{"id":3,"n":5}`, `{"id":3,"n":6}`}
	if items := got.all(); strings.Join(items, " ") != strings.Join(want, " ") {
		t.Errorf("came %v, want %v", items, want)
	}
}

func TestAFetchThatDoesNotWaitEndsAmongDuplicates(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, deduped)
	js, err := jetstream.New(connect(t, d))
	if err != nil {
		t.Fatal(err)
	}

	c, err := js.CreateOrUpdateConsumer(t.Context(), "events", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}

	r.Push("events", `{"id":1}`, `{"id":2}`, `{"id":1}`, `{"id":2}`)
	for _, want := range []int{2, 0} {
		batch, err := c.FetchNoWait(10)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for m := range batch.Messages() {
			got++
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if got != want || batch.Error() != nil {
			t.Errorf("%d items came, want %d: %v", got, want, batch.Error())
		}
	}

	waitEmpty(t, r, "events")
}
