package e2e

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/redistest"
)

// explicit is the setting of a list whose items are acknowledged one by one.
// Nothing falls overdue by itself.
const explicit = "[[list]]\nkey = \"events\"\nack = \"explicit\"\nack_wait = \"1h\"\n"

// shortGrace is how long after a start no item is removed that plain subscriptions owed before it.
const shortGrace = `delivery.rejoin_grace = "1s"`

// messages subscribes and passes on the messages themselves.
func messages(t *testing.T, nc *nats.Conn, subject string) chan *nats.Msg {
	t.Helper()
	c := make(chan *nats.Msg, 100_000)
	if _, err := nc.ChanSubscribe(subject, c); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return c
}

func next(t *testing.T, c chan *nats.Msg, want string) *nats.Msg {
	t.Helper()
	select {
	case m := <-c:
		if string(m.Data) != want {
			t.Fatalf("got %q, want %q", m.Data, want)
		}
		return m
	case <-time.After(patience):
		t.Fatalf("waited in vain for %q", want)
		return nil
	}
}

// confirmed returns how many items at the head a consumer has confirmed, according to the ledger.
func confirmed(t *testing.T, r *redistest.Server) int {
	t.Helper()
	n, err := r.Client().HGet(t.Context(), "{events}:edged", "done").Int()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEveryKindOfAcknowledgementOfNatsGoWorks(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, explicit)
	nc := connect(t, d)
	c := messages(t, nc, "events")
	r.Push("events", "ack", "sync", "nak", "late", "term", "busy", "empty")

	m := next(t, c, "ack")
	if err := m.Ack(); err != nil {
		t.Fatal(err)
	}
	m = next(t, c, "sync")
	if meta, err := m.Metadata(); err != nil || meta.NumDelivered != 1 || meta.Stream != "events" || meta.Sequence.Stream != 2 {
		t.Fatalf("metadata %+v, %v", meta, err)
	}
	redistest.Eventually(t, "the first is removed, and the rest stays", func() bool { return r.Len("events") == 6 })
	if err := m.AckSync(); err != nil {
		t.Fatal(err)
	}
	if n := confirmed(t, r); n != 2 {
		t.Errorf("AckSync returned when the ledger had %d acknowledgements, want 2", n)
	}
	if err := errors.Join(
		next(t, c, "nak").Nak(),
		next(t, c, "late").NakWithDelay(10*time.Millisecond),
		next(t, c, "term").Term(),
		next(t, c, "busy").InProgress(),
		next(t, c, "empty").Respond(nil),
	); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m := <-c
		if meta, err := m.Metadata(); err != nil || meta.NumDelivered != 2 || string(m.Data) != "nak" && string(m.Data) != "late" {
			t.Fatalf("%q came again with %+v, %v", m.Data, meta, err)
		}
		m.Ack()
	}
	redistest.Eventually(t, "all before the one that was not acknowledged are removed", func() bool { return r.Len("events") == 2 })
	dead := r.Client().LRange(t.Context(), "{events}:dead", 0, -1).Val()
	if len(dead) != 1 || !strings.HasSuffix(dead[0], "\nterm") {
		t.Errorf("dead letters are %q", dead)
	}
	d.Signal(syscall.SIGTERM)
	d.Control("quit")
	d.close()
	nc.Close()
	if left := inRedis(t, r, "events"); !slices.Equal(left, []string{"busy", "empty"}) {
		t.Errorf("left are %q", left)
	}

	d.Start() // the ledger has the acknowledgement of "empty"
	next(t, messages(t, connect(t, d), "events"), "busy").AckSync()
	waitEmpty(t, r, "events")
}

func TestUnacknowledgedItemsGoToTheNextClient(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, explicit)
	first := connect(t, d)
	c := messages(t, first, "events")
	r.Push("events", "one", "two")
	next(t, c, "one")
	next(t, c, "two").AckSync()
	first.Close()
	again := next(t, messages(t, connect(t, d), "events"), "one")
	again.AckSync()
	waitEmpty(t, r, "events")
}

func TestKilledAgainAndAgainExplicitItemsAreNotLost(t *testing.T) {
	t.Parallel()
	const n, kills = 20_000, 8
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, explicit)
	r.Push("events", numbers(0, n)...)
	box := newInbox()
	broken := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // writes fail while edged is killed
	nc := connect(t, d, broken)
	if _, err := nc.Subscribe("events", func(m *nats.Msg) {
		box.add(string(m.Data))
		m.Ack()
	}); err != nil {
		t.Fatal(err)
	}

	for i := range kills {
		box.wait(t, (i+1)*n/(kills+2))
		d.Kill()
		d.Start()
	}

	waitEmpty(t, r, "events")
	twice := wantAll(t, n, box.all())
	t.Logf("%d kills: %d of %d came twice", kills, twice, n)
	if twice > kills*window {
		t.Errorf("%d came twice", twice)
	}
}

func TestDeadLettersAreShownAndPutBack(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, explicit)
	c := messages(t, connect(t, d), "events")
	r.Push("events", "bad\x00item")
	next(t, c, "bad\x00item").Respond([]byte("+TERM no picture"))
	redistest.Eventually(t, "it is dead", func() bool { return r.Len("{events}:dead") == 1 })
	if got := d.Control("dead events"); !strings.Contains(got, `"bad\x00item"`) || !strings.Contains(got, "given up by a client: no picture") {
		t.Errorf("dead says %q", got)
	}

	if got := d.Control("requeue events all"); !strings.Contains(got, "1 dead letter put back") {
		t.Errorf("requeue says %q", got)
	}
	next(t, c, "bad\x00item").AckSync()
	if got := d.Control("dead nosuch"); !strings.HasPrefix(got, "ERR NotFound") {
		t.Errorf("dead of no list says %q", got)
	}
}

func TestClientsWriteToListsAndAreToldWhenRedisHasTheItem(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, explicit+"[[inbound]]\nsubject = \"in.orders\"\nlist = \"orders\"\nmax_len = 2\n")
	nc := connect(t, d)
	old, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}

	if ack, err := old.PublishMsg(&nats.Msg{Subject: "in.orders", Data: []byte("one")}); err != nil || ack.Stream != "orders" || ack.Sequence != 1 {
		t.Fatalf("%+v, %v", ack, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}

	if ack, err := js.Publish(t.Context(), "in.orders", []byte("two")); err != nil || ack.Sequence != 2 {
		t.Fatalf("%+v, %v", ack, err)
	}
	var refused *jetstream.APIError
	if _, err := js.Publish(t.Context(), "in.orders", []byte("three")); !errors.As(err, &refused) {
		t.Fatalf("over max_len: %v", err)
	}

	if got := inRedis(t, r, "orders"); len(got) != 2 || got[0] != "one" || got[1] != "two" {
		t.Fatalf("in Redis are %q", got)
	}
	r.Client().Del(context.Background(), "orders")
	nc.Publish("in.orders", []byte("without an answer"))
	redistest.Eventually(t, "it is written", func() bool { return r.Len("orders") == 1 })
	if got := d.Control("inbound"); !strings.Contains(got, "in.orders") {
		t.Errorf("inbound says %q", got)
	}
}

func TestATermSignalLeavesAllFromTheFirstUnacknowledgedItemOnInOrder(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, explicit)
	nc := connect(t, d)
	c := messages(t, nc, "events")
	r.Push("events", numbers(0, 3000)...)
	for i := range 500 {
		switch m := <-c; {
		case i == 498: // when this is answered the ledger has those before it too
			m.AckSync()
		case i%2 == 0:
			m.Ack()
		}
	}
	d.Signal(syscall.SIGTERM)
	d.Control("quit")
	d.close()
	nc.Close()
	wantRun(t, inRedis(t, r, "events"), 1, 3000)

	d.Start()
	c = messages(t, connect(t, d), "events")
	for i := range 500 {
		if i%2 != 0 {
			next(t, c, strconv.Itoa(i))
		}
	}
	next(t, c, "500")
}

func TestAfterACrashAQueueGroupGetsOnlyItemsThatItHasNotAcknowledged(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, explicit)
	plain := messages(t, connect(t, d), "events")
	group := make(chan *nats.Msg, 100)
	if _, err := connect(t, d).ChanQueueSubscribe("events", "workers", group); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, "both are subscribed", func() bool { return d.subscriptions() == 2 })
	r.Push("events", numbers(0, 10)...)
	for i := range 10 {
		next(t, plain, strconv.Itoa(i))
		if m := next(t, group, strconv.Itoa(i)); i%2 == 0 {
			m.AckSync()
		}
	}

	d.Kill()
	d.Start()
	for i := range 10 {
		next(t, plain, strconv.Itoa(i)).Ack()
	}
	for i := range 5 {
		next(t, group, strconv.Itoa(2*i+1)).Ack()
	}
	r.Push("events", "last")
	next(t, plain, "last")
	next(t, group, "last")
}
