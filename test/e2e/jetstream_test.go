package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/edgedtest"
	"edged/internal/redistest"
)

// worker makes the durable consumer "worker" of the stream events.
func worker(t *testing.T, nc *nats.Conn, cfg jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Durable, cfg.AckPolicy = "worker", jetstream.AckExplicitPolicy
	c, err := js.CreateOrUpdateConsumer(t.Context(), "events", cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// push pushes the numbers from from to to to the list events.
func pushNumbers(r *redistest.Server, from, to int) {
	for n := from; n < to; n += 1000 {
		var items []any
		for i := n; i < min(to, n+1000); i++ {
			items = append(items, strconv.Itoa(i))
		}
		r.Client().RPush(context.Background(), "events", items...)
	}
}

func TestAJetStreamWorkerConsumesAList(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	const all = 5000
	pushNumbers(r, 0, all)

	got := make(chan string, all)
	cc, err := c.Consume(func(m jetstream.Msg) {
		got <- string(m.Data())
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range all {
		select {
		case item := <-got:
			if item != strconv.Itoa(n) {
				t.Fatalf("got %s, want %d", item, n)
			}
		case <-time.After(patience):
			t.Fatalf("waited in vain for %d", n)
		}
	}
	redistest.Eventually(t, "all items are removed", func() bool { return r.Len("events") == 0 })
	cc.Stop()
	info, err := c.Info(t.Context())
	if err != nil || info.NumPending != 0 || info.NumAckPending != 0 || info.Delivered.Stream != all || info.AckFloor.Stream != all {
		t.Errorf("in the end the consumer is %+v, %v", info, err)
	}
}

// wantFetched acknowledges the items of a batch, and checks that they are these numbers.
func wantFetched(t *testing.T, batch jetstream.MessageBatch, err error, want ...int) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for m := range batch.Messages() {
		n, _ := strconv.Atoi(string(m.Data()))
		got = append(got, n)
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := batch.Error(); err != nil {
		t.Error(err)
	}
}

func TestFetchGetsTheRequestedItems(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 10)

	batch, err := c.Fetch(3)
	wantFetched(t, batch, err, 0, 1, 2)
	if r.Len("events") != 7 {
		t.Errorf("%d items are left, want 7", r.Len("events"))
	}
	batch, err = c.FetchNoWait(4)
	wantFetched(t, batch, err, 3, 4, 5, 6)
	batch, err = c.FetchNoWait(10)
	wantFetched(t, batch, err, 7, 8, 9)
	batch, err = c.FetchNoWait(10)
	wantFetched(t, batch, err)
	batch, err = c.Fetch(10, jetstream.FetchMaxWait(200*time.Millisecond))
	wantFetched(t, batch, err)

	pushNumbers(r, 10, 11)
	m, err := c.Next()
	if err != nil || string(m.Data()) != "10" {
		t.Fatalf("got %v, %v", m, err)
	}
	if meta, err := m.Metadata(); err != nil || meta.Stream != "events" || meta.Consumer != "worker" || meta.Sequence.Stream != 11 || meta.Sequence.Consumer != 11 || meta.NumDelivered != 1 {
		t.Errorf("metadata %+v, %v", meta, err)
	}
	if err := m.NakWithDelay(50 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	m, err = c.Next()
	if err != nil || string(m.Data()) != "10" {
		t.Fatalf("got %v, %v", m, err)
	}
	if meta, err := m.Metadata(); err != nil || meta.NumDelivered != 2 || meta.Sequence.Consumer != 12 {
		t.Errorf("metadata %+v, %v", meta, err)
	}
	if err := m.TermWithReason("broken"); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, "the item is a dead letter", func() bool { return r.Len("{events}:dead") == 1 && r.Len("events") == 0 })
}

func TestADurableConsumerResumesAfterAKill(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	nc := connect(t, d)
	c := worker(t, nc, jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 10)
	batch, err := c.Fetch(4)
	if err != nil {
		t.Fatal(err)
	}
	var late jetstream.Msg
	for m := range batch.Messages() {
		if string(m.Data()) == "2" {
			late = m
			continue
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.Kill()
	d.Start()

	redistest.Eventually(t, "the client is back", nc.IsConnected)
	if err := late.DoubleAck(t.Context()); err != nil {
		t.Errorf("an item from before the restart can't be acknowledged: %v", err)
	}
	redistest.Eventually(t, "acknowledged items are removed", func() bool { return r.Len("events") == 6 })
	batch, err = c.Fetch(6)
	if err != nil {
		t.Fatal(err)
	}
	want := 4
	for m := range batch.Messages() {
		if string(m.Data()) != strconv.Itoa(want) {
			t.Errorf("got %s, want %d", m.Data(), want)
		}
		want++
		_ = m.Ack()
	}
	if want != 10 || batch.Error() != nil {
		t.Errorf("the items ended before %d: %v", want, batch.Error())
	}
}

func TestAnOrderedConsumerTakesNothing(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	pushNumbers(r, 0, 3000)
	js, err := jetstream.New(connect(t, d))
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	c, err := st.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{OptStartSeq: 11, DeliverPolicy: jetstream.DeliverByStartSequencePolicy})
	if err != nil {
		t.Fatal(err)
	}
	it, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer it.Stop()

	for n := 10; n < 3000; n++ {
		m, err := it.Next()
		if err != nil || string(m.Data()) != strconv.Itoa(n) {
			t.Fatalf("got %v, %v, want %d", m, err, n)
		}
	}

	if m, err := st.GetMsg(t.Context(), 7); err != nil || string(m.Data) != "6" {
		t.Errorf("message 7 is %v, %v", m, err)
	}

	if m, err := st.GetLastMsgForSubject(t.Context(), "events"); err != nil || string(m.Data) != "2999" {
		t.Errorf("the last message is %v, %v", m, err)
	}

	if _, err := st.GetMsg(t.Context(), 4000); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("message 4000: %v", err)
	}
	if r.Len("events") != 3000 {
		t.Errorf("%d items are left, want all", r.Len("events"))
	}
}

func TestTheLegacyContextWorks(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	nc := connect(t, d)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	pushNumbers(r, 0, 20)
	sub, err := js.PullSubscribe("events", "puller")
	if err != nil {
		t.Fatal(err)
	}
	for from := 0; from < 20; from += 5 {
		msgs, err := sub.Fetch(5)
		if err != nil || len(msgs) != 5 || string(msgs[0].Data) != strconv.Itoa(from) {
			t.Fatalf("got %d messages, %v", len(msgs), err)
		}
		for _, m := range msgs {
			if err := m.AckSync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
	if r.Len("events") != 0 {
		t.Errorf("%d items are left", r.Len("events"))
	}

	for name, subscribe := range map[string]func(nats.MsgHandler) (*nats.Subscription, error){
		"push": func(h nats.MsgHandler) (*nats.Subscription, error) {
			return js.Subscribe("events", h, nats.Durable("pushed"), nats.ManualAck())
		},
		"queue": func(h nats.MsgHandler) (*nats.Subscription, error) { return js.QueueSubscribe("events", "crew", h) },
		"ordered": func(h nats.MsgHandler) (*nats.Subscription, error) {
			return js.Subscribe("events", h, nats.OrderedConsumer())
		},
	} {
		got := make(chan *nats.Msg, 1000)
		sub, err := subscribe(func(m *nats.Msg) { got <- m })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r.Client().Del(t.Context(), "events")
		pushNumbers(r, 0, 100)
		for n := range 100 {
			m := next(t, got, strconv.Itoa(n))
			if name == "push" {
				_ = m.Ack()
			}
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}
}

// collect consumes and acknowledges until it has received each of the numbers below all at least
// once.
func collect(t *testing.T, c jetstream.Consumer) (await func(all int)) {
	t.Helper()
	var mu sync.Mutex
	got := map[string]bool{}

	cc, err := c.Consume(func(m jetstream.Msg) {
		mu.Lock()
		got[string(m.Data())] = true
		mu.Unlock()
		_ = m.Ack()
	}, jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(time.Second), jetstream.ConsumeErrHandler(func(jetstream.ConsumeContext, error) {}))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(cc.Stop)
	return func(all int) {
		t.Helper()
		redistest.Eventually(t, fmt.Sprintf("%d items have come", all), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) == all
		})
	}
}

func TestConsumeGoesOnOverRestartsOfEdgedAndOfRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	nc := connect(t, d, nats.ErrorHandler(nil))
	await := collect(t, worker(t, nc, jetstream.ConsumerConfig{AckWait: 2 * time.Second}))
	pushNumbers(r, 0, 1000)
	await(1000)

	d.Kill()
	pushNumbers(r, 1000, 2000)
	d.Start()
	await(2000)

	redistest.Eventually(t, "all are removed", func() bool { return r.Len("events") == 0 })
	r.Kill()
	r.Restart() // it has lost all data, including the consumer's registration
	pushNumbers(r, 2000, 3000)
	await(3000)
}

func TestAStandbyKnowsTheConsumersOfTheOneBefore(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	lease := []string{`redis.lease = "3s"`, `redis.timeout = "500ms"`, `redis.poll_interval = "500ms"`}
	first := &daemon{edgedtest.Run(t, r.Address(), append(lease, `instance = "first"`)...), t}
	second := &daemon{edgedtest.Run(t, r.Address(), append(lease, `instance = "second"`)...), t}
	c := worker(t, connect(t, first), jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 10)
	m, err := c.Next()
	if err != nil || string(m.Data()) != "0" {
		t.Fatalf("got %v, %v", m, err)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}

	other := connect(t, second)
	js, err := jetstream.New(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateConsumer(t.Context(), "events", jetstream.ConsumerConfig{Durable: "more", AckPolicy: jetstream.AckExplicitPolicy}); err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("a consumer was made at the standby: %v", err)
	}
	taken, err := js.Consumer(t.Context(), "events", "worker")
	if err != nil {
		t.Fatal(err)
	}
	first.Kill()
	batch, err := taken.Fetch(9, jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	for want := 1; want < 10; want++ {
		m, ok := <-batch.Messages()
		if !ok || string(m.Data()) != strconv.Itoa(want) {
			t.Fatalf("got %v, want %d: %v", m, want, batch.Error())
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAConsumerThatIsDeletedEndsConsume(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	nc := connect(t, d)
	c := worker(t, nc, jetstream.ConsumerConfig{})
	ended := make(chan error, 10)
	cc, err := c.Consume(func(jetstream.Msg) {}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { ended <- err }))
	if err != nil {
		t.Fatal(err)
	}

	redistest.Eventually(t, "the request waits", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumWaiting > 0
	})
	js, _ := jetstream.New(nc)
	if err := js.DeleteConsumer(t.Context(), "events", "worker"); err != nil {
		t.Fatal(err)
	}

	select {
	case err := <-ended:
		if !errors.Is(err, jetstream.ErrConsumerDeleted) {
			t.Errorf("the error is %v", err)
		}
	case <-time.After(patience):
		t.Error("nothing told Consume")
	}

	<-cc.Closed()
}

func TestAUserNeedsRightsToConsume(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, fmt.Sprintf(`
[[tcp.user]]
name = "ann"
password_file = %q
durables = true
publish = { allow = ["$JS.API.CONSUMER.*.events.worker", "$JS.API.CONSUMER.MSG.NEXT.events.worker", "$JS.API.CONSUMER.CREATE.*.>", "$JS.ACK.events.worker.>"] }
subscribe = { allow = ["_INBOX.>", "events"] }
[[tcp.user]]
name = "bob"
password_file = %q
publish = { allow = ["$JS.>"] }
subscribe = { allow = ["_INBOX.>", "readings"] }
`, file(t, "ann", "a\n"), file(t, "bob", "b\n")))
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	ann, bob := connect(t, d, nats.UserInfo("ann", "a"), quiet), connect(t, d, nats.UserInfo("bob", "b"), quiet)
	pushNumbers(r, 0, 3)

	m, err := worker(t, ann, jetstream.ConsumerConfig{}).Next()
	if err != nil {
		t.Fatal(err)
	}
	js, _ := jetstream.New(bob)
	if _, err := js.Stream(t.Context(), "events"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a user without a right to the list: %v", err)
	}
	if _, err := js.CreateConsumer(t.Context(), "events", jetstream.ConsumerConfig{}); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a user without a right to the list: %v", err)
	}
	if _, err := js.CreateConsumer(t.Context(), "readings", jetstream.ConsumerConfig{Durable: "x", AckPolicy: jetstream.AckExplicitPolicy}); err == nil || !strings.Contains(err.Error(), "durables") {
		t.Errorf("a user without the grant made a durable consumer: %v", err)
	}
	ack := m.Reply()
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Error(err)
	}
	if r.Len("events") != 2 {
		t.Errorf("%d items are left, want 2", r.Len("events"))
	}
	m, err = worker(t, ann, jetstream.ConsumerConfig{}).Next()
	if err != nil {
		t.Fatal(err)
	}
	carl := connect(t, d, nats.UserInfo("bob", "b"), quiet)
	if _, err := carl.Request(m.Reply(), []byte("+ACK"), time.Second); err == nil || ack == m.Reply() {
		t.Error("a user acknowledged an item of a list that the user has no right to")
	}
}

func TestPushConsumersHaveFlowControlAndGroups(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	nc := connect(t, d)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	const all = 20_000
	pushNumbers(r, 0, all)
	got := make(chan *nats.Msg, all)
	sub, err := js.Subscribe("events", func(m *nats.Msg) {
		_ = m.Ack()
		got <- m
	}, nats.Durable("flow"), nats.ManualAck(), nats.EnableFlowControl(), nats.IdleHeartbeat(200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	for n := range all {
		next(t, got, strconv.Itoa(n))
	}
	redistest.Eventually(t, "all are removed", func() bool { return r.Len("events") == 0 })
	info, err := sub.ConsumerInfo()
	if err != nil {
		t.Fatal(err)
	}
	beats, err := connect(t, d).SubscribeSync(info.Config.DeliverSubject)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // nats.go reports it if two are missing
		if _, err := beats.NextMsg(patience); err != nil {
			t.Fatal("a heartbeat does not come: ", err)
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}

	taken := make([]chan *nats.Msg, 2)
	for i := range taken {
		taken[i] = make(chan *nats.Msg, all)
		if _, err := js.QueueSubscribe("events", "crew", func(m *nats.Msg) { taken[i] <- m }); err != nil {
			t.Fatal(err)
		}
	}
	pushNumbers(r, 0, 1000)
	redistest.Eventually(t, "the group has acknowledged all", func() bool { return r.Len("events") == 0 })
	if len(taken[0])+len(taken[1]) != 1000 || len(taken[0]) == 0 || len(taken[1]) == 0 {
		t.Errorf("the members got %d and %d items", len(taken[0]), len(taken[1]))
	}
}

func TestAPushConsumerGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	nc := connect(t, d, nats.ErrorHandler(nil))
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}

	got := make(chan *nats.Msg, 1000)
	if _, err := js.Subscribe("events", func(m *nats.Msg) {
		_ = m.AckSync()
		got <- m
	}, nats.Durable("pushed"), nats.ManualAck()); err != nil {
		t.Fatal(err)
	}

	pushNumbers(r, 0, 10)
	for n := range 10 {
		next(t, got, strconv.Itoa(n))
	}
	d.Kill()
	pushNumbers(r, 10, 20)
	d.Start()
	for n := 10; n < 20; n++ {
		next(t, got, strconv.Itoa(n))
	}
}

func TestHeartbeatsComeWhileNothingElseDoes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	batch, err := c.Fetch(1, jetstream.FetchMaxWait(time.Second), jetstream.FetchHeartbeat(200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}

	for m := range batch.Messages() {
		t.Errorf("got %s", m.Data())
	}

	if err := batch.Error(); err != nil {
		t.Errorf("the request ended with %v", err)
	}
	it, err := c.Messages(jetstream.PullExpiry(time.Second), jetstream.PullHeartbeat(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*time.Second, func() { pushNumbers(r, 0, 1) })
	if m, err := it.Next(); err != nil || string(m.Data()) != "0" {
		t.Errorf("got %v, %v", m, err)
	}
	it.Stop()
}
