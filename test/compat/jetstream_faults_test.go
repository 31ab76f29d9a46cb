package compat

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ways are the ways in which a program consumes. It begins in start, passes each item to came,
// acknowledges it if owes is set, and ends with the test.
var ways = []struct {
	name  string
	start func(t *testing.T, s *stream, came func(item string))
	owes  bool // it acknowledges
}{
	{"Consume", startConsume, true},
	{"Messages", startMessages, true},
	{"Fetch", startFetch, true},
	{"Next", startNext, true},
	{"a push consumer", startPush, true},
	{"a push consumer of a group", startPushGroup, true},
	{"the older PullSubscribe", startOlderPull, true},
	{"the older Subscribe", startOlderPush, true},
	{"the older QueueSubscribe", startOlderQueue, true},
	{"the older ChanSubscribe", startOlderChan, true},
	{"an ordered consumer", startOrdered, false},
	{"the older ordered consumer", startOlderOrdered, false},
}

func TestConsumingGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		for _, f := range []struct {
			name    string
			restart func(s *stream)
		}{
			{"the server", func(s *stream) { s.restart() }},
			{"Redis", (*stream).restartStore},
		} {
			t.Run(way.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				saw := make(map[kind]string)
				for _, k := range []kind{edged, natsServer} {
					t.Run(string(k), func(t *testing.T) {
						s := startStream(t, k, settings{}, way.owes)
						saw[k] = acrossRestart(t, s, way.start, way.owes, func() { f.restart(s) })
					})
				}

				compare(t, saw, nil)
			})
		}
	}
}

// acrossRestart expects each item at least once. A program that owes nothing gets each item once,
// in order.
func acrossRestart(t *testing.T, s *stream, start func(*testing.T, *stream, func(string)), owes bool, restart func()) string {
	const n = 600
	want := numbered(n)
	var mu sync.Mutex
	var first, again []string
	seen := make(map[string]bool)
	begun, done := make(chan bool), make(chan bool)
	start(t, s, func(item string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[item] {
			again = append(again, item)
			return
		}
		seen[item] = true
		switch first = append(first, item); len(first) {
		case n / 6:
			close(begun)
		case n:
			close(done)
		}
	})
	s.push(want[:n/3]...)
	await(t, "the first items come", begun)
	restart()
	s.push(want[n/3:]...)
	await(t, "all items come", done)
	if owes {
		redistest.Eventually(t, "nothing is left", func() bool { return s.left() == 0 })
	}

	mu.Lock()
	defer mu.Unlock()
	if !owes && (len(again) > 0 || !slices.Equal(first, want)) {
		t.Errorf("in order: %v; again come %q", slices.Equal(first, want), again)
	}
	return fmt.Sprintf("all; %d are left", s.left())
}

// lasting connects, and logs the errors that a restart causes.
func lasting(t *testing.T, s *stream) *nats.Conn {
	return connect(t, s.server, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Logf("nats.go reports: %v", err) }))
}

func lastingJetStream(t *testing.T, s *stream) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(lasting(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// durable outlives its clients, and redelivers soon if an acknowledgement is lost.
var durable = jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * time.Second}

func logErrors(t *testing.T) jetstream.ConsumeErrHandler {
	return func(_ jetstream.ConsumeContext, err error) { t.Logf("Consume reports: %v", err) }
}

// acknowledgingIfConnected passes each item to came, and acknowledges it. Without a connection that
// fails, and the item comes again.
func acknowledgingIfConnected(came func(string)) jetstream.MessageHandler {
	return func(m jetstream.Msg) {
		came(string(m.Data()))
		m.Ack()
	}
}

func startConsume(t *testing.T, s *stream, came func(string)) {
	c := newConsumer(t, lastingJetStream(t, s), durable)
	running, err := c.Consume(acknowledgingIfConnected(came), jetstream.PullMaxMessages(50), logErrors(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Stop)
}

func startMessages(t *testing.T, s *stream, came func(string)) {
	c := newConsumer(t, lastingJetStream(t, s), durable)
	iterator, err := c.Messages(jetstream.PullMaxMessages(50), jetstream.WithMessagesErrOnMissingHeartbeat(false))
	if err != nil {
		t.Fatal(err)
	}
	inBackground(t, iterator.Stop, func() bool {
		m, err := iterator.Next()
		if err != nil {
			return false
		}
		came(string(m.Data()))
		m.Ack()
		return true
	})
}

func startFetch(t *testing.T, s *stream, came func(string)) {
	c := newConsumer(t, lastingJetStream(t, s), durable)
	ctx, cancel := context.WithCancel(context.Background())
	inBackground(t, cancel, func() bool {
		batch, err := c.Fetch(50, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(500*time.Millisecond))
		msgs, _ := all(batch, err) // an error ends this batch; the next one goes on
		for _, m := range msgs {
			came(string(m.Data()))
			m.Ack()
		}
		return ctx.Err() == nil
	})
}

func startNext(t *testing.T, s *stream, came func(string)) {
	c := newConsumer(t, lastingJetStream(t, s), durable)
	ctx, cancel := context.WithCancel(context.Background())
	inBackground(t, cancel, func() bool {
		m, err := c.Next(jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(500*time.Millisecond))
		if err == nil { // otherwise the next one goes on
			came(string(m.Data()))
			m.Ack()
		}
		return ctx.Err() == nil
	})
}

// inBackground repeats step until it returns false. At the end of the test it calls stop.
func inBackground(t *testing.T, stop func(), step func() bool) {
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for step() {
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
}

func startPush(t *testing.T, s *stream, came func(string)) {
	config := durable
	config.DeliverSubject, config.IdleHeartbeat = nats.NewInbox(), time.Second
	c, err := lastingJetStream(t, s).CreatePushConsumer(t.Context(), "events", config)
	if err != nil {
		t.Fatal(err)
	}
	running, err := c.Consume(acknowledgingIfConnected(came), logErrors(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Stop)
}

// startPushGroup starts two members of a group.
func startPushGroup(t *testing.T, s *stream, came func(string)) {
	config := durable
	config.DeliverSubject, config.DeliverGroup, config.IdleHeartbeat = nats.NewInbox(), "workers", time.Second
	if _, err := lastingJetStream(t, s).CreatePushConsumer(t.Context(), "events", config); err != nil {
		t.Fatal(err)
	}

	for range 2 {
		c, err := lastingJetStream(t, s).PushConsumer(t.Context(), "events", "worker")
		if err != nil {
			t.Fatal(err)
		}
		running, err := c.Consume(acknowledgingIfConnected(came), logErrors(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(running.Stop)
	}
}

func startOlderPull(t *testing.T, s *stream, came func(string)) {
	sub, err := olderJetStream(t, lasting(t, s)).PullSubscribe("events", "worker", nats.AckWait(durable.AckWait))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	inBackground(t, cancel, func() bool {
		msgs, _ := sub.Fetch(50, nats.MaxWait(time.Second)) // an error ends this batch; the next one goes on
		for _, m := range msgs {
			came(string(m.Data))
			m.Ack()
		}
		return ctx.Err() == nil
	})
}

func startOlderPush(t *testing.T, s *stream, came func(string)) {
	nc := lasting(t, s)
	_, err := olderJetStream(t, nc).Subscribe("events", func(m *nats.Msg) {
		came(string(m.Data))
		m.Ack()
	}, nats.Durable("worker"), nats.ManualAck(), nats.AckWait(durable.AckWait))
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
}

// startOlderQueue starts two members of a group.
func startOlderQueue(t *testing.T, s *stream, came func(string)) {
	for range 2 {
		nc := lasting(t, s)
		_, err := olderJetStream(t, nc).QueueSubscribe("events", "workers", func(m *nats.Msg) {
			came(string(m.Data))
			m.Ack()
		}, nats.Durable("worker"), nats.ManualAck(), nats.AckWait(durable.AckWait))
		if err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
	}
}

func startOlderChan(t *testing.T, s *stream, came func(string)) {
	nc := lasting(t, s)
	items := make(chan *nats.Msg, 1000)
	if _, err := olderJetStream(t, nc).ChanSubscribe("events", items, nats.Durable("worker"), nats.ManualAck(), nats.AckWait(durable.AckWait)); err != nil {
		t.Fatal(err)
	}

	flush(t, nc)
	ctx, cancel := context.WithCancel(context.Background())
	inBackground(t, cancel, func() bool {
		select {
		case m := <-items:
			came(string(m.Data))
			m.Ack()
			return true
		case <-ctx.Done():
			return false
		}
	})
}

func startOrdered(t *testing.T, s *stream, came func(string)) {
	c, err := lastingJetStream(t, s).OrderedConsumer(t.Context(), "events", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	running, err := c.Consume(func(m jetstream.Msg) { came(string(m.Data())) }, jetstream.PullHeartbeat(500*time.Millisecond), logErrors(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Stop)
}

func startOlderOrdered(t *testing.T, s *stream, came func(string)) {
	_, err := olderJetStream(t, lasting(t, s)).Subscribe("events", func(m *nats.Msg) { came(string(m.Data)) },
		nats.OrderedConsumer(), nats.IdleHeartbeat(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
}

// faultScenarios acknowledge, after a fault, items that came before it.
var faultScenarios = []scenario{
	{name: "an acknowledgement after a reconnect", run: acknowledgeAfter(reconnecting)},
	{name: "an acknowledgement after a restart of the server", run: acknowledgeAfter(restarting), differs: &difference{
		saw:     `<nil>; then "b" again: false; then []`,
		because: "edged keeps acknowledgements across its end, but counts deliveries anew",
	}},
	{name: "an acknowledgement after a restart of Redis", run: acknowledgeAfter(func(_ *testing.T, s *stream, _ *nats.Conn, _ <-chan bool) { s.restartStore() })},
	{name: "an acknowledgement by another connection", run: acknowledgeElsewhere},
	{name: "a consumer survives a restart", run: survives},
}

func TestAcknowledgementsOutliveFaults(t *testing.T) {
	t.Parallel()
	compareStreams(t, faultScenarios)
}

func reconnecting(t *testing.T, _ *stream, nc *nats.Conn, back <-chan bool) {
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	await(t, "it is connected again", back)
}

func restarting(t *testing.T, s *stream, _ *nats.Conn, back <-chan bool) {
	s.restart()
	await(t, "it is connected again", back)
}

// acknowledgeAfter acknowledges one of two items after a fault. The other item comes again.
func acknowledgeAfter(fault func(t *testing.T, s *stream, nc *nats.Conn, back <-chan bool)) func(*testing.T, *stream) string {
	return func(t *testing.T, s *stream) string {
		back := make(chan bool, 10)
		js, nc := jetStreamOf(t, s, nats.ReconnectHandler(func(*nats.Conn) { back <- true }),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Logf("nats.go reports: %v", err) }))
		c := newConsumer(t, js, durable)
		s.push("a", "b")
		msgs := fetch(t, c, 2)
		fault(t, s, nc, back)

		err := doubleAck(t, msgs[0])
		again := next(t, c)
		meta, metaErr := again.Metadata()
		if metaErr != nil {
			t.Fatal(metaErr)
		}
		acknowledge(t, again)
		return fmt.Sprintf("%v; then %q again: %v; then %q", err, again.Data(), meta.NumDelivered > 1, items(rest(t, c)))
	}
}

func acknowledgeElsewhere(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	s.push("a", "b")
	msgs := fetch(t, c, 2)
	other := connect(t, s.server)
	if _, err := other.Request(msgs[1].Reply(), []byte("+ACK"), patience); err != nil {
		t.Fatal(err)
	}
	return standing(t, c)
}

// survives acknowledges two of four items, above and below an owed one, before a restart. The rest
// come again.
func survives(t *testing.T, s *stream) string {
	c := consume(t, s, durable)
	s.push(numbered(10)...)
	msgs := fetch(t, c, 4)
	acknowledge(t, msgs[0], msgs[2])
	s.restart()
	found, err := js(t, s).Consumer(t.Context(), "events", "worker")
	if err != nil {
		t.Fatal(err)
	}

	info := found.CachedInfo()
	config := info.Config
	before := fmt.Sprintf("acknowledged up to %d, %d owed or to come", info.AckFloor.Stream, info.NumAckPending+int(info.NumPending))
	msgs = fetch(t, found, 8)
	acknowledge(t, msgs...)
	got := items(msgs)
	slices.Sort(got)
	settled(t, found)
	return fmt.Sprintf("ack %v within %v, %s; then come %q", config.AckPolicy, config.AckWait, before, got)
}
