package compat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
)

// olderScenarios use the JetStream context of the package nats itself, which most programs use.
var olderScenarios = []scenario{
	{name: "PullSubscribe", run: olderPull},
	{name: "PullSubscribe to a consumer that is there", run: olderBind},
	{name: "FetchBatch", run: olderFetchBatch},
	{name: "Subscribe", run: olderSubscribe},
	{name: "Subscribe, acknowledged by the library", run: olderAutoAck},
	{name: "SubscribeSync", run: olderSubscribeSync},
	{name: "a durable subscription goes on", run: olderDurable},
	{name: "QueueSubscribe", run: olderQueue},
	{name: "ChanSubscribe", run: olderChan},
	{name: "an ordered subscription", run: olderOrdered},
	{name: "flow control and heartbeats", run: olderFlowControl},
	{name: "options of a subscription", run: olderOptions},
	{name: "a rate limit", run: olderRateLimit, differs: &difference{
		saw:     "nats: not offered by edged: rate_limit_bps: use a pull consumer, and ask for items at that rate",
		because: "edged refuses settings that it can't honour",
	}},
	{name: "consumers and items by hand", run: olderManager},
	{name: "wrong subscriptions", run: olderErrors},
}

func TestOlderCodeForJetStreamSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	compareStreams(t, olderScenarios)
}

func olderJetStream(t *testing.T, nc *nats.Conn) nats.JetStreamContext {
	t.Helper()
	js, err := nc.JetStream(nats.MaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// older connects.
func older(t *testing.T, s *stream) nats.JetStreamContext {
	t.Helper()
	return olderJetStream(t, connect(t, s.server))
}

// subscribed fails the test if a call of the library has not subscribed.
func subscribed(t *testing.T) func(*nats.Subscription, error) *nats.Subscription {
	return func(sub *nats.Subscription, err error) *nats.Subscription {
		t.Helper()
		if err != nil {
			t.Fatalf("subscribe: %v", err)
		}
		return sub
	}
}

// olderDescribe is describe.
func olderDescribe(t *testing.T, msgs ...*nats.Msg) string {
	t.Helper()
	var texts []string
	for _, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatalf("metadata of %q: %v", m.Data, err)
		}
		texts = append(texts, fmt.Sprintf("%s:%d/%d×%d+%d of %s/%s", m.Data, meta.Sequence.Stream, meta.Sequence.Consumer,
			meta.NumDelivered, meta.NumPending, meta.Stream, meta.Consumer))
	}
	return strings.Join(texts, " ")
}

// olderStanding is standing.
func olderStanding(t *testing.T, js nats.JetStreamContext, name string) string {
	t.Helper()
	info, err := js.ConsumerInfo("events", name)
	if err != nil {
		t.Fatalf("info: %v", err)
	}
	return fmt.Sprintf("delivered %d/%d, acknowledged up to %d/%d, %d owed, %d to come",
		info.Delivered.Stream, info.Delivered.Consumer, info.AckFloor.Stream, info.AckFloor.Consumer, info.NumAckPending, info.NumPending)
}

func olderSettled(t *testing.T, js nats.JetStreamContext, name string) {
	t.Helper()
	redistest.Eventually(t, "the consumer owes nothing", func() bool {
		info, err := js.ConsumerInfo("events", name)
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	})
}

func olderAcknowledge(t *testing.T, msgs ...*nats.Msg) {
	t.Helper()
	for _, m := range msgs {
		if err := m.AckSync(); err != nil {
			t.Fatalf("acknowledge %q: %v", m.Data, err)
		}
	}
}

func olderPull(t *testing.T, s *stream) string {
	js := older(t, s)
	sub := subscribed(t)(js.PullSubscribe("events", "worker"))
	s.push(numbered(6)...)
	var saw []string
	for _, n := range []int{1, 3} {
		msgs, err := sub.Fetch(n, nats.MaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, olderDescribe(t, msgs...))
		olderAcknowledge(t, msgs...)
	}
	few, err := sub.Fetch(10, nats.MaxWait(300*time.Millisecond))
	saw = append(saw, olderDescribe(t, few...), fmt.Sprint(err))
	olderAcknowledge(t, few...)
	_, err = sub.Fetch(10, nats.MaxWait(50*time.Millisecond))
	saw = append(saw, fmt.Sprint(err))
	_, err = sub.Fetch(1, nats.MaxWait(50*time.Millisecond))
	saw = append(saw, fmt.Sprint(err), olderStanding(t, js, "worker"))

	// The subscription made the consumer, and deletes it.
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
	_, err = js.ConsumerInfo("events", "worker")
	return strings.Join(append(saw, fmt.Sprint(err)), "; ")
}

func olderBind(t *testing.T, s *stream) string {
	js := older(t, s)
	made, err := js.AddConsumer("events", &nats.ConsumerConfig{Durable: "worker", AckPolicy: nats.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}

	s.push("a", "b")
	sub := subscribed(t)(js.PullSubscribe("events", "worker", nats.Bind("events", "worker")))
	msgs, err := sub.Fetch(2, nats.MaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}

	olderAcknowledge(t, msgs[0])
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
	again := subscribed(t)(js.PullSubscribe("", "worker", nats.BindStream("events")))
	if err := msgs[1].Nak(); err != nil {
		t.Error(err)
	}
	redelivered, err := again.Fetch(1, nats.MaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s; %s; %s", made.Name, olderDescribe(t, msgs...), olderDescribe(t, redelivered...))
}

func olderFetchBatch(t *testing.T, s *stream) string {
	sub := subscribed(t)(older(t, s).PullSubscribe("events", "worker"))
	s.push(numbered(4)...)
	batch, err := sub.FetchBatch(4, nats.MaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	var msgs []*nats.Msg
	for m := range batch.Messages() {
		olderAcknowledge(t, m)
		msgs = append(msgs, m)
	}
	return fmt.Sprintf("%s; %v", olderDescribe(t, msgs...), batch.Error())
}

func olderSubscribe(t *testing.T, s *stream) string {
	const n = 1000
	nc := connect(t, s.server)
	js := olderJetStream(t, nc)
	want := numbered(n)
	s.push(want[:n/2]...)
	var got []string
	done := make(chan bool)
	sub := subscribed(t)(js.Subscribe("events", func(m *nats.Msg) {
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
		if got = append(got, string(m.Data)); len(got) == n {
			close(done)
		}
	}, nats.Durable("worker"), nats.ManualAck(), nats.AckExplicit()))

	s.push(want[n/2:]...)
	await(t, "all items come", done)
	olderSettled(t, js, "worker")
	saw := fmt.Sprintf("in order %v; %s", slices.Equal(got, want), olderStanding(t, js, "worker"))
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}

	_, err := js.ConsumerInfo("events", "worker")
	return fmt.Sprintf("%s; %v", saw, err)
}

func olderAutoAck(t *testing.T, s *stream) string {
	js := older(t, s)
	came := make(chan string, 10)
	sub := subscribed(t)(js.Subscribe("events", func(m *nats.Msg) { came <- string(m.Data) }))
	s.push("a", "b")
	saw := []string{await(t, "an item comes", came), await(t, "an item comes", came)}
	info, err := sub.ConsumerInfo()
	if err != nil {
		t.Fatal(err)
	}
	olderSettled(t, js, info.Name)
	return fmt.Sprintf("%q; %s; durable %q", saw, olderStanding(t, js, info.Name), info.Config.Durable)
}

func olderSubscribeSync(t *testing.T, s *stream) string {
	js := older(t, s)
	s.push("a", "b", "c")
	sub := subscribed(t)(js.SubscribeSync("events", nats.AckWait(10*patience), nats.ConsumerName("named")))
	var msgs []*nats.Msg
	for range 3 {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, m)
	}
	olderAcknowledge(t, msgs[0], msgs[1])
	if err := msgs[2].NakWithDelay(50 * time.Millisecond); err != nil {
		t.Error(err)
	}

	again, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}

	err = errors.Join(again.InProgress(), again.Term())
	return fmt.Sprintf("%s; again %s; %v; %v", olderDescribe(t, msgs...), olderDescribe(t, again), err, again.Ack())
}

// olderDurable leaves while items wait, and comes back.
func olderDurable(t *testing.T, s *stream) string {
	js := older(t, s)
	if _, err := js.AddConsumer("events", &nats.ConsumerConfig{
		Durable: "worker", DeliverSubject: "work.todo", AckPolicy: nats.AckExplicitPolicy, AckWait: time.Second,
	}); err != nil {
		t.Fatal(err)
	}

	s.push(numbered(4)...)
	var saw []string
	for range 2 {
		redistest.Eventually(t, "the consumer is bound to no subscription", func() bool {
			info, err := js.ConsumerInfo("events", "worker")
			return err == nil && !info.PushBound
		})
		sub := subscribed(t)(js.SubscribeSync("events", nats.Bind("events", "worker")))
		for range 2 {
			m, err := sub.NextMsg(patience)
			if err != nil {
				t.Fatal(err)
			}
			olderAcknowledge(t, m)
			saw = append(saw, string(m.Data))
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}

	olderSettled(t, js, "worker")
	slices.Sort(saw)
	return fmt.Sprintf("%q", saw)
}

func olderQueue(t *testing.T, s *stream) string {
	const n = 200
	came := make(chan [2]string, n)
	var js nats.JetStreamContext
	for _, name := range []string{"a", "b"} {
		nc := connect(t, s.server)
		js = olderJetStream(t, nc)
		subscribed(t)(js.QueueSubscribe("events", "workers", func(m *nats.Msg) {
			if err := m.Ack(); err != nil {
				t.Error(err)
			}
			came <- [2]string{name, string(m.Data)}
		}, nats.Durable("worker"), nats.ManualAck()))
		flush(t, nc)
	}

	s.push(numbered(n)...)
	shares := countShares(t, came, n)

	olderSettled(t, js, "worker")
	info, err := js.ConsumerInfo("events", "worker")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s; group %q; %s", shares, info.Config.DeliverGroup, olderStanding(t, js, "worker"))
}

func olderChan(t *testing.T, s *stream) string {
	js := older(t, s)
	came := make(chan *nats.Msg, 10)
	subscribed(t)(js.ChanSubscribe("events", came, nats.Durable("worker"), nats.ManualAck()))
	var msgs []*nats.Msg
	for _, item := range []string{"a", "b"} { // nats-server counts an item that is published meanwhile, or not
		s.push(item)
		msgs = append(msgs, await(t, "an item comes", came))
	}
	olderAcknowledge(t, msgs...)
	return olderDescribe(t, msgs...) + "; " + olderStanding(t, js, "worker")
}

func olderOrdered(t *testing.T, s *stream) string {
	const n = 2000
	js := older(t, s)
	want := numbered(n)
	s.push(want[:n/2]...)
	var got []string
	done := make(chan bool)
	subscribed(t)(js.Subscribe("events", func(m *nats.Msg) {
		if got = append(got, string(m.Data)); len(got) == n {
			close(done)
		}
	}, nats.OrderedConsumer()))
	s.push(want[n/2:]...)
	await(t, "all items come", done)
	return fmt.Sprintf("in order %v; %d are left", slices.Equal(got, want), s.left())
}

func olderFlowControl(t *testing.T, s *stream) string {
	const n = 3000
	js := older(t, s)
	item := strings.Repeat("x", 1000)
	s.push(slices.Repeat([]string{item}, n)...)
	left := n
	done := make(chan bool)
	sub := subscribed(t)(js.Subscribe("events", func(*nats.Msg) {
		if left--; left == 0 {
			close(done)
		}
	}, nats.EnableFlowControl(), nats.IdleHeartbeat(100*time.Millisecond), nats.AckNone()))

	await(t, "all items come", done)
	info, err := sub.ConsumerInfo()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("flow control %v, heartbeat %v; %d to come", info.Config.FlowControl, info.Config.Heartbeat, info.NumPending)
}

func olderOptions(t *testing.T, s *stream) string {
	js := older(t, s)
	s.push(numbered(5)...)
	var saw []string
	for _, c := range []struct {
		what    string
		options []nats.SubOpt
	}{
		{"all", []nats.SubOpt{nats.DeliverAll()}},
		{"last", []nats.SubOpt{nats.DeliverLast()}},
		{"from 3", []nats.SubOpt{nats.StartSequence(3)}},
		{"since an hour", []nats.SubOpt{nats.StartTime(time.Now().Add(-time.Hour))}},
		{"headers only", []nats.SubOpt{nats.HeadersOnly()}},
		{"none acknowledged", []nats.SubOpt{nats.AckNone()}},
		{"three times, two at once", []nats.SubOpt{nats.MaxDeliver(3), nats.MaxAckPending(2), nats.AckExplicit()}},
	} {
		sub := subscribed(t)(js.SubscribeSync("events", c.options...))
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, fmt.Sprintf("%s: %q %d %v", c.what, m.Data, meta.Sequence.Stream, m.Header))
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}

	return strings.Join(saw, "; ")
}

func olderRateLimit(t *testing.T, s *stream) string {
	_, err := older(t, s).SubscribeSync("events", nats.RateLimit(1<<20))
	return fmt.Sprint(err)
}

func olderManager(t *testing.T, s *stream) string {
	js := older(t, s)
	s.push("a", "b")
	events, err := js.StreamInfo("events")
	if err != nil {
		t.Fatal(err)
	}

	saw := []string{fmt.Sprintf("%s, %d items", events.Config.Name, events.State.Msgs)}
	config := &nats.ConsumerConfig{Durable: "worker", AckPolicy: nats.AckExplicitPolicy, MaxAckPending: 5}
	if _, err := js.AddConsumer("events", config); err != nil {
		t.Fatal(err)
	}

	config.MaxAckPending = 6
	changed, err := js.UpdateConsumer("events", config)
	if err != nil {
		t.Fatal(err)
	}
	saw = append(saw, fmt.Sprint(changed.Config.MaxAckPending))
	for info := range js.Consumers("events") {
		saw = append(saw, info.Name)
	}

	for name := range js.ConsumerNames("events") {
		saw = append(saw, name)
	}

	for name := range js.StreamNames() {
		saw = append(saw, name)
	}
	m, err := js.GetMsg("events", 2)
	if err != nil {
		t.Fatal(err)
	}
	direct, err := js.GetLastMsg("events", "events", nats.DirectGet())
	if err != nil {
		t.Fatal(err)
	}
	saw = append(saw, string(m.Data), string(direct.Data))
	_, err = js.GetMsg("events", 3)
	saw = append(saw, fmt.Sprint(err), fmt.Sprint(js.DeleteConsumer("events", "worker")), fmt.Sprint(js.DeleteConsumer("events", "worker")))
	return strings.Join(saw, "; ")
}

func olderErrors(t *testing.T, s *stream) string {
	js := older(t, s)
	if _, err := js.AddConsumer("events", &nats.ConsumerConfig{Durable: "pull", AckPolicy: nats.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}

	var saw []string
	for _, subscribe := range []func() (*nats.Subscription, error){
		func() (*nats.Subscription, error) { return js.SubscribeSync("others") },
		func() (*nats.Subscription, error) { return js.PullSubscribe("others", "worker") },
		func() (*nats.Subscription, error) {
			return js.SubscribeSync("events", nats.Bind("events", "nobody"))
		},
		func() (*nats.Subscription, error) { return js.SubscribeSync("events", nats.Bind("events", "pull")) },
		func() (*nats.Subscription, error) { return js.SubscribeSync("events", nats.Durable("pull")) },
	} {
		_, err := subscribe()
		saw = append(saw, fmt.Sprint(err))
	}

	return strings.Join(saw, "; ")
}
