package compat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// scenario is a program that consumes a stream. It fails if something is wrong with any server, and
// returns the observations that may differ.
type scenario struct {
	name     string
	run      func(t *testing.T, s *stream) (saw string)
	settings settings
	interest bool // nats-server's stream removes items that all consumers have acknowledged
	differs  *difference
}

// jetStreamScenarios use the package jetstream of nats.go.
var jetStreamScenarios = []scenario{
	{name: "looking up streams", run: lookUpStreams},
	{name: "making, changing and deleting consumers", run: administerConsumers},
	{name: "wrong consumers", run: wrongConsumers},
	{name: "a consumer of a foreign subject", run: foreignSubject, differs: &difference{
		saw:     "400/10093",
		because: "edged refuses it as NATS 2.10 does; later ones make a consumer that gets nothing",
	}},
	{name: "the info of a consumer", run: consumerInfo},

	{name: "Fetch", run: fetching},
	{name: "Fetch with a limit of bytes", run: fetchBytes},
	{name: "FetchNoWait", run: fetchNoWait},
	{name: "Next", run: nextItem},
	{name: "Consume", run: consuming},
	{name: "Consume with a limit of bytes", run: consumeBytes},
	{name: "Messages", run: messages},
	{name: "two programs with one consumer", run: sharing},
	{name: "two consumers", run: twoConsumers},

	{name: "a double acknowledgement", run: doubleAcknowledgement},
	{name: "an acknowledgement by hand", run: rawAcknowledgements},
	{name: "a refusal", run: refusal},
	{name: "a refusal with a delay", run: refusalWithDelay},
	{name: "giving up with a reason", run: givingUpWithReason},
	{name: "in progress", run: inProgress},
	{name: "redelivery after ack_wait", run: redelivery},
	{name: "redelivery by backoff", run: backoff},
	{name: "max_deliver", run: maxDeliver},
	{name: "max_ack_pending", run: maxAckPending},
	{name: "acknowledging all", run: acknowledgeAll},
	{name: "acknowledging nothing", run: acknowledgeNothing},

	{name: "deliver policies", run: deliverPolicies},
	{name: "a start before the first item", run: startBeforeFirst, interest: true},
	{name: "headers only", run: headersOnly},
	{name: "an ephemeral consumer goes", run: ephemeral},
	{name: "too many waiting pulls", run: tooManyPulls},
	{name: "too large a pull", run: tooLargePull},
	{name: "pulls by hand", run: rawPulls},
	{name: "heartbeats are missed", run: missedHeartbeats},
	{name: "Consume of a consumer that is deleted", run: deletedWhileConsuming},
	{name: "Messages of a consumer that is deleted", run: deletedWhileIterating},

	{name: "an ordered consumer", run: ordered},
	{name: "looking takes nothing", run: looking},
	{name: "getting single items", run: getMsg},
	{name: "an acknowledged item is gone", run: emptied, interest: true},
	{name: "publishing an item twice", run: publishTwice, settings: settings{edged: "[[inbound]]\nsubject = \"orders\"\nlist = \"orders\""}},
	{name: "a push consumer", run: pushConsumer},
	{name: "a push consumer of a group", run: pushGroup},
}

func TestCodeForJetStreamSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	compareStreams(t, jetStreamScenarios)
}

func compareStreams(t *testing.T, scenarios []scenario) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			saw := make(map[kind]string)
			for _, k := range []kind{edged, natsServer} {
				t.Run(string(k), func(t *testing.T) { saw[k] = sc.run(t, startStream(t, k, sc.settings, sc.interest)) })
			}
			compare(t, saw, sc.differs)
		})
	}
}

func lookUpStreams(t *testing.T, s *stream) string {
	s.push("a", "b", "c")
	js, _ := jetStreamOf(t, s)
	ctx := t.Context()
	account, err := js.AccountInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}

	var names, listed []string
	all := js.StreamNames(ctx)
	for name := range all.Name() {
		names = append(names, name)
	}
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		listed = append(listed, info.Config.Name)
	}
	if err := errors.Join(all.Err(), list.Err()); err != nil {
		t.Error(err)
	}
	slices.Sort(names)
	slices.Sort(listed)

	events, err := js.Stream(ctx, "events")
	if err != nil {
		t.Fatal(err)
	}
	info, err := events.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	of, err := js.StreamNameBySubject(ctx, "readings")
	if err != nil {
		t.Error(err)
	}
	_, unknown := js.Stream(ctx, "others")
	_, unknownSubject := js.StreamNameBySubject(ctx, "others")
	return fmt.Sprintf("%d streams, names %q, list %q, readings are in %s; events has subjects %q, direct %v, %d items from %d to %d, %d consumers; others: %v, %v",
		account.Streams, names, listed, of, info.Config.Subjects, info.Config.AllowDirect, info.State.Msgs,
		info.State.FirstSeq, info.State.LastSeq, info.State.Consumers, unknown, unknownSubject)
}

func administerConsumers(t *testing.T, s *stream) string {
	js, _ := jetStreamOf(t, s)
	ctx := t.Context()
	config := jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 7, Description: "first"}
	var saw []string
	note := func(what string, err error) { saw = append(saw, what+": "+fault(err)) }

	_, err := js.Consumer(ctx, "events", "worker")
	note("unknown", err)
	_, err = js.UpdateConsumer(ctx, "events", config)
	note("change it", err)
	_, err = js.CreateConsumer(ctx, "events", config)
	note("make it", err)
	_, err = js.CreateConsumer(ctx, "events", config)
	note("make it again", err)

	config.MaxAckPending = 8
	_, err = js.CreateConsumer(ctx, "events", config)
	note("make another of its name", err)
	c, err := js.CreateOrUpdateConsumer(ctx, "events", config)
	note("change it", err)
	if err == nil {
		note(fmt.Sprintf("max_ack_pending %d", c.CachedInfo().Config.MaxAckPending), nil)
	}
	config.AckPolicy = jetstream.AckAllPolicy
	_, err = js.UpdateConsumer(ctx, "events", config)
	note("change its ack policy", err)
	_, err = js.CreateConsumer(ctx, "others", config)
	note("in another stream", err)

	events, err := js.Stream(ctx, "events")
	if err != nil {
		t.Fatal(err)
	}
	names := events.ConsumerNames(ctx)
	for name := range names.Name() {
		note("has "+name, names.Err())
	}
	list := events.ListConsumers(ctx)
	for info := range list.Info() {
		note(fmt.Sprintf("has %s, %q", info.Name, info.Config.Description), list.Err())
	}
	note("delete it", js.DeleteConsumer(ctx, "events", "worker"))
	note("delete it again", js.DeleteConsumer(ctx, "events", "worker"))
	_, err = c.Info(ctx)
	note("ask for it", err)
	return strings.Join(saw, "; ")
}

// wrongConsumers asks for consumers with contradictory configurations.
func wrongConsumers(t *testing.T, s *stream) string {
	js, _ := jetStreamOf(t, s)
	start := time.Now()
	explicit := jetstream.AckExplicitPolicy
	var saw []string
	for _, c := range []struct {
		what   string
		config jetstream.ConsumerConfig
	}{
		{"a start sequence without its policy", jetstream.ConsumerConfig{AckPolicy: explicit, OptStartSeq: 3}},
		{"a policy without its start sequence", jetstream.ConsumerConfig{AckPolicy: explicit, DeliverPolicy: jetstream.DeliverByStartSequencePolicy}},
		{"a policy without its start time", jetstream.ConsumerConfig{AckPolicy: explicit, DeliverPolicy: jetstream.DeliverByStartTimePolicy}},
		{"a start time and a start sequence", jetstream.ConsumerConfig{AckPolicy: explicit, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start, OptStartSeq: 3}},
		{"a backoff longer than max_deliver", jetstream.ConsumerConfig{AckPolicy: explicit, MaxDeliver: 1, BackOff: []time.Duration{time.Second, time.Minute}}},
		{"max_waiting below 0", jetstream.ConsumerConfig{AckPolicy: explicit, MaxWaiting: -1}},
		{"both kinds of filters", jetstream.ConsumerConfig{AckPolicy: explicit, FilterSubject: "events", FilterSubjects: []string{"events"}}},
		{"two filters that overlap", jetstream.ConsumerConfig{AckPolicy: explicit, FilterSubjects: []string{"events", "events"}}},
	} {
		_, err := js.CreateConsumer(t.Context(), "events", c.config)
		saw = append(saw, c.what+": "+fault(err))
	}

	return strings.Join(saw, "; ")
}

func foreignSubject(t *testing.T, s *stream) string {
	_, err := js(t, s).CreateConsumer(t.Context(), "events", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "others"})
	return fault(err)
}

func consumerInfo(t *testing.T, s *stream) string {
	c := consume(t, s, jetstream.ConsumerConfig{
		Durable: "worker", Description: "it works", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
		MaxDeliver: 5, MaxAckPending: 10, MaxWaiting: 3, MaxRequestBatch: 100, MaxRequestExpires: time.Hour,
		FilterSubject: "events", Metadata: map[string]string{"team": "night"},
	})
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(info.Created); age < -patience || age > 10*patience {
		t.Errorf("it is of %v", info.Created)
	}
	g := info.Config
	saw := []string{fmt.Sprintf("%s/%s %q, filter %q, ack %v within %v, deliver %v, at most %d times, %d owed, %d waiting, %d a pull for %v, of the team %q",
		info.Stream, info.Name, g.Description, g.FilterSubject, g.AckPolicy, g.AckWait, g.DeliverPolicy, g.MaxDeliver, g.MaxAckPending,
		g.MaxWaiting, g.MaxRequestBatch, g.MaxRequestExpires, g.Metadata["team"])}

	// Omitted fields get their defaults.
	info = newConsumer(t, js(t, s), jetstream.ConsumerConfig{Durable: "other"}).CachedInfo()
	g = info.Config
	saw = append(saw, fmt.Sprintf("ack %v within %v, deliver %v, at most %d times, %d owed, %d waiting, inactive for %v, replay %v",
		g.AckPolicy, g.AckWait, g.DeliverPolicy, g.MaxDeliver, g.MaxAckPending, g.MaxWaiting, g.InactiveThreshold, g.ReplayPolicy))

	s.push("a", "b", "c", "d")
	saw = append(saw, standing(t, c))
	msgs := fetch(t, c, 3)
	saw = append(saw, standing(t, c))
	acknowledge(t, msgs[1])
	saw = append(saw, standing(t, c))
	acknowledge(t, msgs[0])
	saw = append(saw, standing(t, c))
	return strings.Join(saw, "; ")
}

func js(t *testing.T, s *stream) jetstream.JetStream {
	js, _ := jetStreamOf(t, s)
	return js
}

var explicitWorker = jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 10 * patience}

// short sets an ack_wait for which a test can wait.
func short(config jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	config.AckWait = 100 * time.Millisecond
	return config
}

func deliverPolicies(t *testing.T, s *stream) string {
	s.push(numbered(5)...)
	js := js(t, s)
	long := time.Now().Add(-time.Hour)
	var saw []string
	for _, config := range []jetstream.ConsumerConfig{
		{DeliverPolicy: jetstream.DeliverAllPolicy},
		{DeliverPolicy: jetstream.DeliverLastPolicy},
		{DeliverPolicy: jetstream.DeliverNewPolicy},
		{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 3},
		{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 100},
		{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &long},
	} {
		config.AckPolicy = jetstream.AckExplicitPolicy
		c := newConsumer(t, js, config)
		saw = append(saw, fmt.Sprintf("%v: %s", config.DeliverPolicy, describe(t, rest(t, c)...)))
	}

	c := newConsumer(t, js, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy})
	s.push("new")
	saw = append(saw, describe(t, next(t, c)))
	return strings.Join(saw, "; ")
}

// startBeforeFirst begins with an item that is gone.
func startBeforeFirst(t *testing.T, s *stream) string {
	js := js(t, s)
	keeper := explicitConsumer(t, js, "keeper")
	s.push(numbered(5)...)
	acknowledge(t, fetch(t, keeper, 2)...)
	redistest.Eventually(t, "two are removed", func() bool { return s.left() == 3 })

	long := time.Now().Add(-time.Hour)
	var saw []string
	for _, config := range []jetstream.ConsumerConfig{
		{DeliverPolicy: jetstream.DeliverAllPolicy},
		{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 1},
		{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &long},
	} {
		for _, policy := range []jetstream.AckPolicy{jetstream.AckExplicitPolicy, jetstream.AckNonePolicy} {
			config.AckPolicy = policy
			c := newConsumer(t, js, config)
			saw = append(saw, fmt.Sprintf("%v, ack %v: %s", config.DeliverPolicy, policy, describe(t, fetch(t, c, 3)...)))
		}
	}
	return strings.Join(saw, "; ")
}

func headersOnly(t *testing.T, s *stream) string {
	c := consume(t, s, jetstream.ConsumerConfig{HeadersOnly: true, AckPolicy: jetstream.AckExplicitPolicy})
	s.push("five5", "")
	var saw []string
	for _, m := range fetch(t, c, 2) {
		saw = append(saw, fmt.Sprintf("%q %v", m.Data(), m.Headers()))
	}
	return strings.Join(saw, "; ")
}

func ephemeral(t *testing.T, s *stream) string {
	js := js(t, s)
	c := newConsumer(t, js, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, InactiveThreshold: 100 * time.Millisecond})
	var err error
	redistest.Eventually(t, "it is gone", func() bool {
		_, err = js.Consumer(t.Context(), "events", c.CachedInfo().Name)
		return err != nil
	})
	return fmt.Sprintf("has a name: %v; %s", c.CachedInfo().Name != "", fault(err))
}

func tooManyPulls(t *testing.T, s *stream) string {
	config := explicitWorker
	config.MaxWaiting = 1
	c := consume(t, s, config)
	first, err := c.Fetch(1, jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	awaitPull(t, c, 1)
	// A pull with heartbeats, which a time of 10 s or more has, is not refused: its library misses
	// them.
	second, err := all(c.Fetch(1, jetstream.FetchMaxWait(9*time.Second)))
	s.push("a")
	msgs, firstErr := all(first, nil)
	return fmt.Sprintf("the second gets %q, %v; the first %q, %v", items(second), err, items(msgs), firstErr)
}

func tooLargePull(t *testing.T, s *stream) string {
	js, nc := jetStreamOf(t, s)
	config := explicitWorker
	config.MaxRequestBatch, config.MaxRequestExpires, config.MaxRequestMaxBytes = 5, time.Minute, 1000
	newConsumer(t, js, config)
	s.push("a")
	var saw []string
	for _, request := range []string{
		`{"batch": 6, "expires": 1000000000}`,
		`{"batch": 1, "expires": 120000000000}`,
		`{"batch": 1, "expires": 1000000000, "max_bytes": 2000}`,
		`{"batch": 1, "expires": 1000000000, "idle_heartbeat": 900000000}`,
		`{"batch": -1}`,
		`{"batch": nonsense`,
	} {
		answer, err := nc.Request("$JS.API.CONSUMER.MSG.NEXT.events.worker", []byte(request), patience)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		saw = append(saw, fmt.Sprintf("%s: %s %s", request, answer.Header.Get("Status"), answer.Header.Get("Description")))
	}

	return strings.Join(saw, "; ")
}

// rawPulls sends the requests of libraries, and further ones, and records the items and the status
// that ends each. nats.py requests items that are available now, and waits for the first one if
// there is none.
func rawPulls(t *testing.T, s *stream) string {
	js, nc := jetStreamOf(t, s)
	c := newConsumer(t, js, explicitWorker)
	inbox := nc.NewInbox()
	sub := subscribe(t, nc, inbox, "")
	var saw []string
	for _, pull := range []struct {
		there   int // items
		request string
		gets    int // items that end it; 0: a status ends it
	}{
		{2, "", 1}, {0, "1", 1}, {3, "3", 3}, {1, "{}", 1}, {1, `{"batch":0}`, 1},
		{0, `{"batch":3,"no_wait":true}`, 0},
		{3, `{"batch":3,"no_wait":true}`, 3},
		{2, `{"batch":3,"no_wait":true}`, 0},
		{0, `{"batch":3,"no_wait":true,"expires":300000000}`, 0},
		{2, `{"batch":3,"no_wait":true,"expires":300000000}`, 0},
		{0, `{"batch":3,"expires":300000000}`, 0},
		{2, `{"batch":3,"expires":300000000,"max_bytes":10000}`, 0},
	} {
		s.push(numbered(pull.there)...)
		if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.events.worker", inbox, []byte(pull.request)); err != nil {
			t.Fatal(err)
		}
		got := 0
		status := ""
		for status == "" && (pull.gets == 0 || got < pull.gets) {
			m, err := sub.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s: %v", pull.request, err)
			}
			if status = m.Header.Get("Status"); status == "" {
				got++
				continue
			}
			status += " " + m.Header.Get("Description") + ", unfilled " + m.Header.Get("Nats-Pending-Messages")
		}
		saw = append(saw, fmt.Sprintf("%q: %d %s", pull.request, got, status))
	}

	// A pull that would wait for the first item ends with it.
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.events.worker", inbox, fmt.Appendf(nil, `{"batch":3,"no_wait":true,"expires":%d}`, patience)); err != nil {
		t.Fatal(err)
	}
	awaitPull(t, c, 1)
	s.push("late")
	for range 2 {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, fmt.Sprintf("%s %s", m.Data, m.Header.Get("Status")))
	}
	return strings.Join(append(saw, standing(t, c)), "; ")
}

func missedHeartbeats(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	missed, came := make(chan error, 1), make(chan string, 10)
	running, err := c.Consume(func(m jetstream.Msg) {
		came <- string(m.Data())
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
	}, jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(30*time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			select {
			case missed <- err:
			default: // once is enough
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Stop()
	awaitPull(t, c, 1)

	s.process.Signal(syscall.SIGSTOP)
	err = await(t, "the library misses heartbeats", missed)
	s.process.Signal(syscall.SIGCONT)
	s.push("a")
	return fmt.Sprintf("%v; then %q", err, await(t, "it goes on", came))
}

func deletedWhileConsuming(t *testing.T, s *stream) string {
	js := js(t, s)
	c := newConsumer(t, js, explicitWorker)
	reported := make(chan error, 10)
	running, err := c.Consume(func(m jetstream.Msg) { t.Errorf("%q comes", m.Data()) },
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { reported <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Stop()
	awaitPull(t, c, 1)
	if err := js.DeleteConsumer(t.Context(), "events", "worker"); err != nil {
		t.Fatal(err)
	}

	err = await(t, "the library reports it", reported)
	await(t, "it ends", running.Closed())
	return fmt.Sprint(err)
}

func deletedWhileIterating(t *testing.T, s *stream) string {
	js := js(t, s)
	c := newConsumer(t, js, explicitWorker)
	iterator, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer iterator.Stop()

	failed := make(chan error, 1)
	go func() {
		_, err := iterator.Next()
		failed <- err
	}()

	awaitPull(t, c, 1)
	if err := js.DeleteConsumer(t.Context(), "events", "worker"); err != nil {
		t.Fatal(err)
	}
	err = await(t, "Next ends", failed)
	_, again := iterator.Next()
	_, gone := c.Next(jetstream.FetchMaxWait(patience))
	return fmt.Sprintf("%v; %v; %v", err, again, gone)
}

// publishTwice writes to a list of edged, and to a stream of nats-server.
func publishTwice(t *testing.T, s *stream) string {
	js, nc := jetStreamOf(t, s)
	if s.producer != nil {
		if _, err := s.producer.CreateStream(t.Context(), jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders"}}); err != nil {
			t.Fatal(err)
		}
	}

	var saw []string
	for _, id := range []string{"1", "1", "2", "1"} {
		ack, err := js.Publish(t.Context(), "orders", []byte(id), jetstream.WithMsgID(id))
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, fmt.Sprintf("%s in %s, duplicate %v", id, ack.Stream, ack.Duplicate))
	}

	old, err := olderJetStream(t, nc).Publish("orders", []byte("2"), nats.MsgId("2"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s; by the older one: duplicate %v", strings.Join(saw, "; "), old.Duplicate)
}

func emptied(t *testing.T, s *stream) string {
	js := js(t, s)
	first := explicitConsumer(t, js, "first")
	second := explicitConsumer(t, js, "second")
	s.push(numbered(100)...)
	acknowledge(t, fetch(t, first, 100)...)
	saw := fmt.Sprintf("%d are left", s.left())
	acknowledge(t, fetch(t, second, 60)...)
	redistest.Eventually(t, "only 40 are left", func() bool { return s.left() == 40 })
	if err := js.DeleteConsumer(t.Context(), "events", "second"); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, "nothing is left", func() bool { return s.left() == 0 })

	// A consumer that is made later gets later items only.
	third := explicitConsumer(t, js, "third")
	s.push("new")
	return saw + "; " + describe(t, next(t, third))
}

func pushConsumer(t *testing.T, s *stream) string {
	const n = 2000
	js, nc := jetStreamOf(t, s)
	config := jetstream.ConsumerConfig{
		Durable: "pushed", DeliverSubject: nats.NewInbox(), AckPolicy: jetstream.AckExplicitPolicy,
		MaxAckPending: 100, IdleHeartbeat: time.Second, FlowControl: true,
	}
	c, err := js.CreatePushConsumer(t.Context(), "events", config)
	if err != nil {
		t.Fatal(err)
	}

	inOrder, running := consumeNumbers(t, s, n, func(handle jetstream.MessageHandler) (jetstream.ConsumeContext, error) {
		return c.Consume(handle, reportTo(t))
	})
	settled(t, c)
	bound, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	running.Stop()
	flush(t, nc)
	_, pull := js.Consumer(t.Context(), "events", "pushed")
	return fmt.Sprintf("in order %v, bound %v; %s; as a pull consumer: %v", inOrder, bound.PushBound, standing(t, c), pull)
}

func pushGroup(t *testing.T, s *stream) string {
	const n = 200
	js := js(t, s)

	config := jetstream.ConsumerConfig{
		Durable: "pushed", DeliverSubject: nats.NewInbox(), DeliverGroup: "workers", AckPolicy: jetstream.AckExplicitPolicy,
	}
	if _, err := js.CreatePushConsumer(t.Context(), "events", config); err != nil {
		t.Fatal(err)
	}

	came := make(chan [2]string, n)
	for _, name := range []string{"a", "b"} {
		mine, nc := jetStreamOf(t, s)
		c, err := mine.PushConsumer(t.Context(), "events", "pushed")
		if err != nil {
			t.Fatal(err)
		}
		running, err := c.Consume(acknowledging(t, func(item string) { came <- [2]string{name, item} }), reportTo(t))
		if err != nil {
			t.Fatal(err)
		}
		defer running.Stop()
		flush(t, nc)
	}

	s.push(numbered(n)...)
	shares := countShares(t, came, n)

	c, err := js.PushConsumer(context.Background(), "events", "pushed")
	if err != nil {
		t.Fatal(err)
	}
	settled(t, c)
	return fmt.Sprintf("%s; %s", shares, standing(t, c))
}
