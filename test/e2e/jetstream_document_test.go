package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/edgedtest"
	"edged/internal/redistest"
)

// These tests verify lines of docs/JETSTREAM.md that no other test verifies.

// streams connects, and returns the context of nats.go.
func streams(t *testing.T, d *daemon) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connect(t, d), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// take fetches n items.
func take(t *testing.T, c jetstream.Consumer, n int) (all []jetstream.Msg) {
	t.Helper()
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		all = append(all, m)
	}
	if len(all) != n || batch.Error() != nil {
		t.Fatalf("got %d items of %d: %v", len(all), n, batch.Error())
	}
	return all
}

// ack returns when Redis has the acknowledgements.
func ack(t *testing.T, all ...jetstream.Msg) {
	t.Helper()
	for _, m := range all {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatalf("acknowledge %q: %v", m.Data(), err)
		}
	}
}

func TestStreamsAreMadeInTheConfiguration(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t))
	js, ctx := streams(t, d), t.Context()
	worker(t, connect(t, d), jetstream.ConsumerConfig{})
	_, create := js.CreateStream(ctx, jetstream.StreamConfig{Name: "new", Subjects: []string{"new"}})
	_, mirror := js.CreateStream(ctx, jetstream.StreamConfig{Name: "copy", Mirror: &jetstream.StreamSource{Name: "events"}})
	_, source := js.CreateStream(ctx, jetstream.StreamConfig{Name: "sum", Sources: []*jetstream.StreamSource{{Name: "events"}}})
	_, update := js.UpdateStream(ctx, jetstream.StreamConfig{Name: "events", Subjects: []string{"events", "more"}})
	_, keyValue := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "things"})
	_, objects := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "things"})
	_, pause := js.PauseConsumer(ctx, "events", "worker", time.Now().Add(time.Hour))
	_, group := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"a"}, PinnedTTL: time.Minute,
	})
	_, replicas := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, Replicas: 3})

	const list = "[[list]]"
	for name, c := range map[string]struct {
		err    error
		advice string
	}{
		"CreateStream": {create, list}, "a mirror": {mirror, list}, "a source": {source, list}, "UpdateStream": {update, list},
		"DeleteStream": {js.DeleteStream(ctx, "events"), list}, "a key-value store": {keyValue, list}, "an object store": {objects, list},
		"PauseConsumer": {pause, "control socket"}, "a priority group": {group, "use a consumer for each group"},
		"replicas": {replicas, "what is remembered is in Redis"},
	} {
		var refused *jetstream.APIError
		if !errors.As(c.err, &refused) || refused.Code != 400 || !strings.Contains(refused.Description, c.advice) {
			t.Errorf("%s: %v, want a refusal that says %q", name, c.err, c.advice)
		}
	}
	if _, err := js.KeyValue(ctx, "things"); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("a bucket that is none: %v", err)
	}
}

func TestServicesAnswerOnlyIfTheyAreTurnedOn(t *testing.T) {
	t.Parallel()
	nc := connect(t, startEdged(t, redistest.Start(t)))
	for _, subject := range []string{"$SRV.PING", "$SRV.INFO", "$SRV.STATS.edged"} {
		if m, err := nc.Request(subject, nil, patience); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s is answered %v, %v", subject, m, err)
		}
	}
}

func TestItemsThatAConsumerGivesUpAreDeadLetters(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	js, ctx := streams(t, d), t.Context()
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{MaxDeliver: 2})
	other, err := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{Durable: "other", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	pushNumbers(r, 0, 3)
	for _, m := range take(t, c, 3) {
		switch string(m.Data()) {
		case "0":
			err = m.TermWithReason("no picture")
		case "1":
			err = m.Nak()
		case "2":
			ack(t, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	again := take(t, c, 1)[0]
	if err := again.Nak(); err != nil || string(again.Data()) != "1" {
		t.Fatalf("%s comes again: %v", again.Data(), err)
	}

	redistest.Eventually(t, "two are dead letters", func() bool { return r.Len("{events}:dead") == 2 })
	if dead := d.Control("dead events"); !strings.Contains(dead, "given up by a client: no picture") {
		t.Errorf("the dead letters are %s", dead)
	}
	redistest.Eventually(t, "the consumer has settled all", func() bool {
		info, err := c.Info(ctx)
		return err == nil && info.AckFloor.Stream == 3 && info.NumAckPending == 0
	})
	if info, err := other.Info(ctx); err != nil || info.NumPending != 3 || r.Len("events") != 3 {
		t.Errorf("%d items are left; the other consumer is %+v, %v", r.Len("events"), info, err)
	}
	ack(t, take(t, other, 3)...)
	redistest.Eventually(t, "all are removed", func() bool { return r.Len("events") == 0 })
}

func TestARestartCountsDeliveriesAnewAndForgetsViewers(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	js, ctx := streams(t, d), t.Context()
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	viewer := jetstream.ConsumerConfig{Name: "viewer", AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Hour}
	if _, err := js.CreateConsumer(ctx, "events", viewer); err != nil {
		t.Fatal(err)
	}
	pushNumbers(r, 0, 3)
	take(t, c, 3)
	d.Kill()
	d.Start()

	redistest.Eventually(t, "the consumer is there", func() bool {
		_, err := js.Consumer(ctx, "events", "worker")
		return err == nil
	})
	if _, err := js.Consumer(ctx, "events", "viewer"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a viewer of before the restart: %v", err)
	}
	for i, m := range take(t, c, 3) {
		meta, err := m.Metadata()
		if err != nil || meta.NumDelivered != 1 || meta.Sequence.Consumer != uint64(i+1) || meta.Sequence.Stream != uint64(i+1) {
			t.Errorf("item %d is delivered with %+v, %v", i, meta, err)
		}
	}
}

func TestAStartIsMovedIntoTheList(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	js, ctx := streams(t, d), t.Context()
	first := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 5)
	ack(t, take(t, first, 2)...)
	redistest.Eventually(t, "two are removed", func() bool { return r.Len("events") == 3 })

	long := time.Now().Add(-time.Hour)
	for i, config := range []jetstream.ConsumerConfig{
		{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 1},
		{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &long},
		{DeliverPolicy: jetstream.DeliverAllPolicy},
	} {
		config.AckPolicy = jetstream.AckExplicitPolicy
		c, err := js.CreateConsumer(ctx, "events", config)
		if err != nil {
			t.Fatal(err)
		}
		if m := take(t, c, 1)[0]; string(m.Data()) != "2" {
			t.Errorf("consumer %d begins with %s, want the head", i, m.Data())
		}
	}
	beyond, err := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	pushNumbers(r, 5, 6)
	if m := take(t, beyond, 1)[0]; string(m.Data()) != "5" {
		t.Errorf("the one beyond the end begins with %s, want the next item", m.Data())
	}
}

func TestKeptItemsAreReplayedWithTheirTimes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, "[[list]]\nkey = \"events\"\nkeep = 100\n")
	js, ctx := streams(t, d), t.Context()
	first := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 3)
	ack(t, take(t, first, 3)...)
	st, err := js.Stream(ctx, "events")
	if err != nil {
		t.Fatal(err)
	}
	before, err := st.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	d.Kill()
	d.Start()

	var after *jetstream.RawStreamMsg
	redistest.Eventually(t, "the item is there", func() bool {
		after, err = st.GetMsg(ctx, 1)
		return err == nil
	})
	if gap := after.Time.Sub(before.Time); string(after.Data) != "0" || gap.Abs() > time.Second {
		t.Errorf("item %q differs by %v from before", after.Data, gap)
	}
	c, err := js.OrderedConsumer(ctx, "events", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2"} {
		if m, err := c.Next(jetstream.FetchMaxWait(patience)); err != nil || string(m.Data()) != want {
			t.Fatalf("the replay has %v, %v, want %s", m, err, want)
		}
	}
	last, err := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{Durable: "last", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverLastPolicy})
	if err != nil {
		t.Fatal(err)
	}
	if m := take(t, last, 1)[0]; string(m.Data()) != "2" {
		t.Errorf("deliver last begins with %s, want the finished item 2", m.Data())
	}
}

func TestADurableConsumerThatIsAwayIsNamedAndMissesItems(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, `delivery.max_away = "2s"`, "delivery.max_away_items = 10")
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 1)
	ack(t, take(t, c, 1)...)
	pushNumbers(r, 1, 101)

	redistest.Eventually(t, "status names it", func() bool {
		named := fmt.Sprint(d.status().Lagging)
		return strings.Contains(named, "[events, worker: away for ") && strings.Contains(named, ", 100 items]")
	})

	// It holds the items until another client has taken them.
	_, box := subscribe(t, connect(t, d), "events", "")
	box.wait(t, 100)
	line := d.AwaitLog("a consumer is away for too long and misses items")
	if line["list"] != "events" || line["consumer"] != "worker" || line["missed"] != 90.0 {
		t.Errorf("the log says %v", line)
	}
	var answer struct {
		Consumers []struct {
			Consumer string  `json:"consumer"`
			Kind     string  `json:"kind"`
			Missed   int     `json:"missed"`
			Away     float64 `json:"away_seconds"`
		} `json:"consumers"`
	}
	d.ControlJSON("consumers events", &answer)
	if c := answer.Consumers[0]; c.Consumer != "worker" || c.Kind != "durable" || c.Missed != 90 || c.Away == 0 {
		t.Errorf("the consumers are %+v", answer.Consumers)
	}
	m, err := connect(t, d).Request("$JS.API.CONSUMER.INFO.events.worker", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Missed int `json:"edged_missed"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Missed != 90 {
		t.Errorf("INFO is %s", m.Data)
	}

	all := take(t, c, 10)
	ack(t, all...)
	if string(all[0].Data()) != "91" {
		t.Errorf("it goes on with %s, want the newest ten", all[0].Data())
	}
	redistest.Eventually(t, "all are removed", func() bool { return r.Len("events") == 0 })
	if named := d.status().Lagging; len(named) > 0 {
		t.Errorf("status still names %q", named)
	}
}

// consumer is the part of the answer to the command consumers that tests check.
type consumer struct {
	Name string  `json:"consumer"`
	Kind string  `json:"kind"`
	Next uint64  `json:"next"`
	Lag  uint64  `json:"lag_items"`
	Away float64 `json:"away_seconds"`
}

func (d *daemon) consumers() []consumer {
	d.t.Helper()
	var answer struct{ Consumers []consumer }
	d.ControlJSON("consumers events", &answer)
	return answer.Consumers
}

func TestADurableConsumerThatHasNotComeBackSinceAStartIsNamed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--appendonly", "yes")
	d := startEdged(t, r, shortGrace, `delivery.max_away = "2s"`, `redis.poll_interval = "500ms"`, `redis.timeout = "1s"`, `redis.lease = "3s"`)
	nc := connect(t, d)
	c := worker(t, nc, jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 10)
	ack(t, take(t, c, 4)...)
	nc.Close()

	d.Kill()
	d.Start()
	named := func() bool {
		return strings.HasPrefix(fmt.Sprint(d.status().Lagging), "[events, worker: away for ")
	}
	redistest.Eventually(t, "status names it", named)
	if all := d.consumers(); len(all) != 1 || all[0].Name != "worker" || all[0].Kind != "durable" || all[0].Next != 4 || all[0].Away == 0 {
		t.Errorf("the consumers are %+v", all)
	}
	pushNumbers(r, 10, 20)
	redistest.Eventually(t, "status counts the items that wait", func() bool {
		return strings.HasSuffix(fmt.Sprint(d.status().Lagging), ", 16 items]")
	})

	c = worker(t, connect(t, d), jetstream.ConsumerConfig{})
	ack(t, take(t, c, 16)...)
	if all := d.consumers(); len(all) != 1 || all[0].Next != 20 {
		t.Errorf("after it has come back the consumers are %+v", all)
	}
}

func TestAnInstanceNamesNoConsumerOfAListThatAnotherOneServes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	often := []string{shortGrace, `redis.poll_interval = "500ms"`, `delivery.max_away = "1s"`}
	first := &daemon{edgedtest.Run(t, r.Address(), append(often, `instance = "first"`)...), t}
	second := &daemon{edgedtest.Run(t, r.Address(), append(often, `instance = "second"`)...), t}
	nc := connect(t, first)
	c := worker(t, nc, jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 10)
	ack(t, take(t, c, 1)...)
	nc.Close()
	named := func(d *daemon) func() bool { return func() bool { return len(d.status().Lagging) > 0 } }
	redistest.Eventually(t, "both name the consumer that is away", func() bool { return named(first)() && named(second)() })

	_, box := subscribe(t, connect(t, second), "events", "")
	box.wait(t, 9)
	redistest.Eventually(t, "the instance that serves the list names it alone", func() bool {
		return named(second)() && !named(first)() && len(first.consumers()) == 0
	})
}

// attemptsAt returns requests and acknowledgements, with their payloads, that need a right to the
// consumer worker. reply is the reply subject of one of its items.
func attemptsAt(reply string) [][2]string {
	const change = `{"stream_name":"events","config":{"durable_name":"worker","ack_policy":"explicit","max_deliver":3}}`
	return [][2]string{
		{"$JS.API.CONSUMER.INFO.events.worker", ""},
		{"$JS.API.CONSUMER.NAMES.events", ""},
		{"$JS.API.CONSUMER.MSG.NEXT.events.worker", "1"},
		{"$JS.API.CONSUMER.DELETE.events.worker", ""},
		{"$JS.API.CONSUMER.CREATE.events.worker", change},
		{"$JS.API.CONSUMER.CREATE.events", change},
		{"$JS.API.CONSUMER.CREATE.events.mine", change},
		{"$JS.API.CONSUMER.CREATE.events.mine", strings.Replace(change, "durable_name", "name", 1)},
		{"$JS.API.STREAM.MSG.GET.events", `{"seq":1}`},
		{"$JS.API.DIRECT.GET.events", `{"seq":1}`},
		{"$JS.API.DIRECT.GET.events.events", ""},
		{reply, "+ACK"},
		{reply, "+TERM"},
		{reply, "-NAK"},
		{reply, "+NXT 1"},
		{strings.Replace(reply, ".worker.", ".mine.", 1), "+ACK"},
	}
}

// rulesForMine are the rules in docs/JETSTREAM.md, "Rights", for the consumer mine.
const rulesForMine = `durables = true
publish = { allow = ["$JS.API.STREAM.INFO.events", "$JS.API.CONSUMER.*.events.mine", "$JS.API.CONSUMER.MSG.NEXT.events.mine", "$JS.ACK.events.mine.>"] }
subscribe = { allow = ["events", "_INBOX.>"] }
`

func TestAUserReachesNoConsumerButItsOwn(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, fmt.Sprintf("[[tcp.user]]\nname = \"root\"\npassword_file = %q\n[[tcp.user]]\nname = \"ann\"\npassword_file = %q\n%s",
		file(t, "root", "r\n"), file(t, "ann", "a\n"), rulesForMine))
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	root, ann := connect(t, d, nats.UserInfo("root", "r"), quiet), connect(t, d, nats.UserInfo("ann", "a"), quiet)
	theirs := worker(t, root, jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 4)
	held := take(t, theirs, 2)
	standing := func() string {
		info, err := theirs.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%+v, %d owed, %d to come, delivered %d, acknowledged %d, %d wait", info.Config, info.NumAckPending, info.NumPending,
			info.Delivered.Consumer, info.AckFloor.Stream, info.NumWaiting)
	}
	before := standing()

	inbox := ann.NewInbox()
	answers := messages(t, ann, inbox)
	for _, attempt := range attemptsAt(held[0].Reply()) {
		if err := ann.PublishRequest(attempt[0], inbox, []byte(attempt[1])); err != nil {
			t.Fatal(err)
		}
	}

	mine, err := jetstream.New(ann, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	c, err := mine.CreateConsumer(t.Context(), "events", jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err) // its answer comes after those of the attempts
	}
	for len(answers) > 0 {
		if m := <-answers; !strings.Contains(string(m.Data), `"error"`) && !strings.HasPrefix(m.Header.Get("Status"), "503") {
			t.Errorf("an attempt is answered %q %v", m.Data, m.Header)
		}
	}
	if after := standing(); after != before {
		t.Errorf("the other consumer was\n%s, and is\n%s", before, after)
	}
	ack(t, take(t, c, 4)...)
	ack(t, held...)
}

func TestAPushConsumerSendsOnlyToSubjectsThatItsMakerMaySubscribeTo(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, fmt.Sprintf("[[tcp.user]]\nname = \"ann\"\npassword_file = %q\n%s", file(t, "ann", "a\n"), rulesForMine))
	js, err := jetstream.New(connect(t, d, nats.UserInfo("ann", "a")), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	for to, allowed := range map[string]bool{"secret": false, "readings": false, "events": false, "_INBOX.mine": true} {
		_, err := js.CreateOrUpdatePushConsumer(context.Background(), "events", jetstream.ConsumerConfig{
			Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy, DeliverSubject: to,
		})
		if (err == nil) != allowed {
			t.Errorf("to %s: %v", to, err)
		}
	}
}

func TestAnEphemeralConsumerThatLagsIsDeletedAndADurableOneIsNot(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace, "[[list]]\nkey = \"events\"\nmax_lag = \"1s\"\n")
	js, ctx := streams(t, d), t.Context()
	fast := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	for name, config := range map[string]jetstream.ConsumerConfig{
		"durable": {Durable: "durable"}, "ephemeral": {Name: "ephemeral", InactiveThreshold: time.Hour},
	} {
		config.AckPolicy = jetstream.AckExplicitPolicy
		if _, err := js.CreateConsumer(ctx, "events", config); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	pushNumbers(r, 0, 10)
	ack(t, take(t, fast, 10)...)

	line := d.AwaitLog("a consumer lags too much and is cut off")
	if line["consumer"] != "ephemeral" {
		t.Errorf("cut off is %v", line)
	}
	redistest.Eventually(t, "the ephemeral consumer is deleted", func() bool {
		_, err := js.Consumer(ctx, "events", "ephemeral")
		return errors.Is(err, jetstream.ErrConsumerNotFound)
	})
	slow, err := js.Consumer(ctx, "events", "durable")
	if err != nil {
		t.Fatal(err)
	}
	ack(t, take(t, slow, 10)...)
	redistest.Eventually(t, "all are removed", func() bool { return r.Len("events") == 0 })
}

func TestForgetEndsAConsumerForItsClients(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{})
	pushNumbers(r, 0, 5)
	take(t, c, 5)
	ended := make(chan error, 10)
	running, err := c.Consume(func(jetstream.Msg) {}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { ended <- err }))
	if err != nil {
		t.Fatal(err)
	}

	redistest.Eventually(t, "the request waits", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumWaiting > 0
	})

	if answer := d.Control("forget events nobody"); !strings.HasPrefix(answer, "ERR NotFound") {
		t.Errorf("forget of a consumer that is none answers %q", answer)
	}

	if answer := d.Control("forget nothing worker"); !strings.HasPrefix(answer, "ERR NotFound") {
		t.Errorf("forget of a list that is none answers %q", answer)
	}
	if answer := d.Control("forget events worker"); !strings.Contains(answer, "OK") {
		t.Errorf("forget answers %q", answer)
	}
	if err := <-ended; !errors.Is(err, jetstream.ErrConsumerDeleted) {
		t.Errorf("Consume reports %v", err)
	}
	<-running.Closed()
	if answer := d.Control("consumers events"); strings.Contains(answer, "worker") {
		t.Errorf("it is still there: %s", answer)
	}
}

func TestAStandbyAnswersFromRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	first := &daemon{edgedtest.Run(t, r.Address(), `instance = "first"`), t}
	second := &daemon{edgedtest.Run(t, r.Address(), `instance = "second"`), t}
	c := worker(t, connect(t, first), jetstream.ConsumerConfig{MaxDeliver: 7})
	pushNumbers(r, 0, 5)
	ack(t, take(t, c, 2)...)

	js, ctx := streams(t, second), t.Context()
	st, err := js.Stream(ctx, "events")
	if err != nil || st.CachedInfo().State.Msgs != 3 || st.CachedInfo().State.FirstSeq != 3 {
		t.Fatalf("the stream is %+v, %v", st, err)
	}
	if m, err := st.GetMsg(ctx, 4); err != nil || string(m.Data) != "3" {
		t.Errorf("item 4 is %v, %v", m, err)
	}
	there, err := js.Consumer(ctx, "events", "worker")
	if err != nil {
		t.Fatal(err)
	}
	if info := there.CachedInfo(); info.Config.MaxDeliver != 7 || info.AckFloor.Stream != 2 || info.NumPending != 3 {
		t.Errorf("the consumer is %+v", info)
	}
	_, update := js.UpdateConsumer(ctx, "events", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 8})
	_, create := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	for what, err := range map[string]error{"update": update, "create": create, "delete": js.DeleteConsumer(ctx, "events", "worker")} {
		if err == nil || !strings.Contains(err.Error(), "first") {
			t.Errorf("%s: %v, want an error that names the instance that serves the list", what, err)
		}
	}
}

func TestAnAcknowledgementFromBeforeARollbackIsRefused(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	c := worker(t, connect(t, d), jetstream.ConsumerConfig{AckWait: time.Hour})
	pushNumbers(r, 0, 3)
	old := take(t, c, 3)
	r.Kill()
	r.Restart() // it has lost all data
	pushNumbers(r, 10, 13)

	held := take(t, c, 3)
	for _, m := range old {
		if err := m.DoubleAck(t.Context()); err == nil {
			t.Errorf("the acknowledgement of %s counts", m.Data())
		}
	}
	if info, err := c.Info(t.Context()); err != nil || info.NumAckPending != 3 || r.Len("events") != 3 {
		t.Errorf("the consumer is %+v, %v; %d items are left", info, err, r.Len("events"))
	}
	ack(t, held...)
	redistest.Eventually(t, "all are removed", func() bool { return r.Len("events") == 0 })
}
