package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
)

// publish publishes and returns when the daemon has handled it.
func publish(t *testing.T, nc *nats.Conn, subject string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := nc.Publish(subject, []byte(p)); err != nil {
			t.Fatalf("publish to %s: %v", subject, err)
		}
	}
	flush(t, nc)
}

func wantItems(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNatsGoGetsMessagesOfOtherClients(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	taker, giver := connect(t, d), connect(t, d)
	_, plain := subscribe(t, taker, "room.door", "")
	_, star := subscribe(t, taker, "room.*", "")
	_, tail := subscribe(t, taker, "room.>", "")
	_, none := subscribe(t, taker, "room.door.*", "")

	publish(t, giver, "room.door", "open")
	publish(t, giver, "room.window", "shut")
	publish(t, giver, "room.door.lock", "locked")
	publish(t, giver, "room", "nobody")
	flush(t, taker)
	wantItems(t, plain.wait(t, 1), "open")
	wantItems(t, star.wait(t, 2), "open", "shut")
	wantItems(t, tail.wait(t, 3), "open", "shut", "locked")
	wantItems(t, none.wait(t, 1), "locked")
}

func TestNatsGoGetsItemsThroughPlainAndWildcardSubscriptions(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, `[[list]]
key = "readings"
subject = "box.readings"`)
	nc := connect(t, d)
	_, plain := subscribe(t, nc, "box.readings", "")
	_, star := subscribe(t, nc, "*.readings", "")
	_, all := subscribe(t, nc, ">", "")
	r.Push("readings", numbers(0, 1000)...)
	for _, box := range []*inbox{plain, star, all} {
		wantRun(t, box.wait(t, 1000), 0, 1000)
	}
	waitEmpty(t, r, "readings")
}

func TestOneMemberOfAQueueGroupGetsEachMessage(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	taker, giver := connect(t, d), connect(t, d)
	_, a := subscribe(t, taker, "jobs", "workers")
	_, b := subscribe(t, connect(t, d), "jobs", "workers")
	_, other := subscribe(t, taker, "jobs", "auditors")
	for i := range 100 {
		publish(t, giver, "jobs", strconv.Itoa(i))
	}

	wantRun(t, other.wait(t, 100), 0, 100)
	redistest.Eventually(t, "100 jobs are done", func() bool { return len(a.all())+len(b.all()) == 100 })
	if twice := wantAll(t, 100, a.all(), b.all()); twice != 0 {
		t.Errorf("%d jobs were done twice", twice)
	}
	if len(a.all()) == 0 || len(b.all()) == 0 {
		t.Errorf("the members did %d and %d jobs, want some each", len(a.all()), len(b.all()))
	}
}

func TestAutoUnsubscribeEndsASubscriptionAfterSoManyMessages(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	nc := connect(t, d)
	sub, box := subscribe(t, nc, "news", "")
	if err := sub.AutoUnsubscribe(3); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	publish(t, connect(t, d), "news", "0", "1", "2", "3", "4")
	flush(t, nc)
	wantRun(t, box.wait(t, 3), 0, 3)
	redistest.Eventually(t, "the subscription is gone", func() bool { return d.subscriptions() == 0 })
}

func TestAutoUnsubscribeLeavesTheOtherItemsInTheList(t *testing.T) {
	t.Parallel()
	const n, take = 2000, 3
	r := redistest.Start(t)
	d := startEdged(t, r)
	nc := connect(t, d)

	// The daemon knows the limit before there are items, so not one too many leaves.
	sub, box := subscribe(t, nc, "events", "")
	if err := sub.AutoUnsubscribe(take); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	r.Push("events", numbers(0, n)...)
	wantRun(t, box.wait(t, take), 0, take)
	redistest.Eventually(t, "three items are confirmed", func() bool { return r.Len("events") == n-take })
	wantRun(t, inRedis(t, r, "events"), take, n)

	// The items are there before the daemon knows the limit. The client ignores those beyond it, so
	// they have to stay. (The daemon is frozen until the client knows its own limit.)
	for from := take; from < 20*take; from += take {
		freeze(t, d.Process)
		box, done := newInbox(), make(chan struct{})
		sub, err := nc.Subscribe("events", func(m *nats.Msg) { box.add(string(m.Data)) })
		if err == nil {
			sub.SetClosedHandler(func(string) { close(done) })
			err = sub.AutoUnsubscribe(take)
		}
		if err != nil {
			t.Fatal(err)
		}
		thaw(d.Process)
		<-done
		wantRun(t, box.all(), from, from+take)
		redistest.Eventually(t, "three more are confirmed", func() bool { return r.Len("events") == int64(n-from-take) })
	}
	nc.Close()
	d.Signal(syscall.SIGTERM)
	b := d.close()
	left := inRedis(t, r, "events")
	wantRun(t, left, n-len(left), n)
	if b.confirmed != n-len(left) {
		t.Errorf("%d items were confirmed, %d are gone from Redis", b.confirmed, n-len(left))
	}
}

func TestRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	server, client := connect(t, d), connect(t, d)
	if _, err := server.Subscribe("double", func(m *nats.Msg) { m.Respond(append(m.Data, m.Data...)) }); err != nil {
		t.Fatal(err)
	}
	flush(t, server)

	for subject, want := range map[string]string{"double": "abab", "edged.echo": "ab"} {
		reply, err := client.Request(subject, []byte("ab"), patience)
		if err != nil {
			t.Fatalf("request to %s: %v", subject, err)
		}
		wantItems(t, []string{string(reply.Data)}, want)
	}
}

func TestARequestWithoutAResponderFailsAtOnce(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	nc := connect(t, d)
	if _, err := nc.Request("nobody", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a request without a responder fails with %v, want nats.ErrNoResponders", err)
	}
}

func TestHeadersArrive(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	taker, giver := connect(t, d), connect(t, d)
	sub, err := taker.SubscribeSync("with.headers")
	if err != nil {
		t.Fatal(err)
	}

	flush(t, taker)
	msg := nats.NewMsg("with.headers")
	msg.Header.Add("Unit", "°C")
	msg.Header.Add("Unit", "°F")
	msg.Data = []byte("21\r\n")
	if err := giver.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}

	got, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	wantItems(t, got.Header.Values("Unit"), "°C", "°F")
	wantItems(t, []string{string(got.Data)}, "21\r\n")
}

func TestPublishingToAListsSubjectIsRefusedAndTheConnectionGoesOn(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r)
	refused := make(chan error, 1)
	nc := connect(t, d, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	_, box := subscribe(t, nc, "events", "")
	publish(t, nc, "events", "forged")
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("nats.go reports %v, want nats.ErrPermissionViolation", err)
		}
	case <-time.After(patience):
		t.Fatal("gave up waiting: nats.go reports an error")
	}

	r.Push("events", "genuine")
	wantItems(t, box.wait(t, 1), "genuine")
	if nc.Stats().Reconnects != 0 {
		t.Error("the client had to reconnect")
	}
}

func TestDrainingASubscriptionEndsItAndLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 20_000
	r := redistest.Start(t)
	d := startEdged(t, r)
	nc := connect(t, d)
	r.Push("events", numbers(0, n)...)
	sub, first := subscribe(t, nc, "events", "")
	drained := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(drained) })
	first.wait(t, 1)
	if err := sub.Drain(); err != nil {
		t.Fatal(err)
	}

	<-drained
	if n := d.subscriptions(); n != 0 {
		t.Errorf("the daemon still has %d subscriptions", n)
	}

	_, second := subscribe(t, nc, "events", "")
	got := second.last(t, strconv.Itoa(n-1))
	if twice := wantAll(t, n, first.all(), got); twice > window {
		t.Errorf("%d items came twice, want at most %d", twice, window)
	}
	waitEmpty(t, r, "events")
}

func TestDrainingAConnectionClosesItAndLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 20_000
	r := redistest.Start(t)
	d := startEdged(t, r)
	r.Push("events", numbers(0, n)...)
	closed := make(chan struct{})
	nc := connect(t, d, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	_, first := subscribe(t, nc, "events", "")
	first.wait(t, 1)
	if err := nc.Drain(); err != nil {
		t.Fatal(err)
	}

	<-closed
	_, second := subscribe(t, connect(t, d), "events", "")
	got := second.last(t, strconv.Itoa(n-1))
	if twice := wantAll(t, n, first.all(), got); twice > window {
		t.Errorf("%d items came twice, want at most %d", twice, window)
	}

	waitEmpty(t, r, "events")
}

func TestClientsReconnectToARestartedDaemonWithTheirSubscriptions(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, `drain.timeout = "0s"`)
	back := make(chan struct{}, 1)
	nc := connect(t, d, nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	_, events := subscribe(t, nc, "events", "")
	_, news := subscribe(t, nc, "news.*", "")
	_, jobs := subscribe(t, nc, "jobs", "workers")

	d.Signal(syscall.SIGTERM)
	d.close()
	d.Start()
	<-back
	flush(t, nc)
	r.Push("events", "0")
	publish(t, nc, "news.today", "1")
	publish(t, nc, "jobs", "2")
	wantItems(t, events.wait(t, 1), "0")
	wantItems(t, news.wait(t, 1), "1")
	wantItems(t, jobs.wait(t, 1), "2")
}

func TestAnyBytesArriveUnchanged(t *testing.T) {
	t.Parallel()
	mebibyte := make([]byte, 1<<20)
	rand.Read(mebibyte)
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}

	payloads := map[string][]byte{
		"empty":         {},
		"NUL":           {0},
		"CRLF":          []byte("\r\n"),
		"a command":     []byte("MSG events 1 5\r\nhello\r\nPING\r\n"),
		"every byte":    everyByte,
		"random 1 MiB":  mebibyte,
		"1 MiB of CRLF": bytes.Repeat([]byte("\r\n"), 1<<19),
	}

	r := redistest.Start(t)
	d := startEdged(t, r)
	nc, giver := connect(t, d), connect(t, d)
	_, items := subscribe(t, nc, "events", "")
	_, messages := subscribe(t, nc, "messages", "")
	count := 0
	for name, payload := range payloads {
		r.Push("events", payload)
		publish(t, giver, "messages", string(payload))
		count++
		if items.wait(t, count)[count-1] != string(payload) {
			t.Errorf("%s: the item was changed", name)
		}
		if messages.wait(t, count)[count-1] != string(payload) {
			t.Errorf("%s: the message was changed", name)
		}
	}

	waitEmpty(t, r, "events")
}
