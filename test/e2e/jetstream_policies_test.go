package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/redistest"
)

func TestAckAllAcknowledgesTheItemsBefore(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	js := streams(t, startEdged(t, r, shortGrace))
	pushNumbers(r, 0, 100)
	all, err := js.CreateConsumer(t.Context(), "events", jetstream.ConsumerConfig{Durable: "all", AckPolicy: jetstream.AckAllPolicy})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := all.Fetch(10)
	if err != nil {
		t.Fatal(err)
	}

	var last jetstream.Msg
	for m := range batch.Messages() {
		last = m
	}
	if err := last.DoubleAck(t.Context()); err != nil || r.Len("events") != 90 {
		t.Errorf("%d items are left after the tenth was acknowledged with all before it: %v", r.Len("events"), err)
	}
}

func TestANameBelongsToOneConfiguration(t *testing.T) {
	t.Parallel()
	js := streams(t, startEdged(t, redistest.Start(t), shortGrace))
	ctx, cfg := t.Context(), jetstream.ConsumerConfig{Durable: "all", AckPolicy: jetstream.AckAllPolicy}
	if _, err := js.CreateConsumer(ctx, "events", cfg); err != nil {
		t.Fatal(err)
	}

	if _, err := js.CreateConsumer(ctx, "events", cfg); err != nil {
		t.Errorf("the same consumer again: %v", err)
	}
	cfg.MaxDeliver = 3
	if _, err := js.CreateConsumer(ctx, "events", cfg); !errors.Is(err, jetstream.ErrConsumerExists) {
		t.Errorf("another one of this name: %v", err)
	}
	cfg.Durable, cfg.MaxDeliver = "none", 0
	if _, err := js.UpdateConsumer(ctx, "events", cfg); !errors.Is(err, jetstream.ErrConsumerDoesNotExist) {
		t.Errorf("an update of none: %v", err)
	}
}

func TestMaxAckPendingBoundsAFetchOfHeaders(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	js := streams(t, startEdged(t, r, shortGrace))
	pushNumbers(r, 10, 100)
	few, err := js.CreateConsumer(t.Context(), "events", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 3, HeadersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := few.Fetch(10, jetstream.FetchMaxWait(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}

	n := 0
	for m := range batch.Messages() {
		if n++; len(m.Data()) != 0 || m.Headers().Get("Nats-Msg-Size") != "2" {
			t.Errorf("got %q with %v", m.Data(), m.Headers())
		}
	}
	if info, err := few.Info(t.Context()); err != nil || n != 3 || info.NumAckPending != 3 || info.NumPending != 87 {
		t.Errorf("%d items were delivered; %+v, %v", n, info, err)
	}
}

func TestAConsumerBeginsAsItsPolicySays(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, shortGrace)
	js, ctx := streams(t, d), t.Context()
	pushNumbers(r, 0, 100)
	ack(t, take(t, worker(t, connect(t, d), jetstream.ConsumerConfig{}), 10)...)

	for item, policy := range map[string]jetstream.ConsumerConfig{
		"99": {DeliverPolicy: jetstream.DeliverLastPolicy},
		"50": {DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 51},
		"10": {DeliverPolicy: jetstream.DeliverAllPolicy},
	} {
		policy.AckPolicy = jetstream.AckExplicitPolicy
		c, err := js.CreateConsumer(ctx, "events", policy)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := c.Next(jetstream.FetchMaxWait(patience)); err != nil || string(m.Data()) != item {
			t.Errorf("%+v begins with %v, %v", policy, m, err)
		}
	}
	newest, err := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		t.Fatal(err)
	}
	pushNumbers(r, 100, 101)
	if m, err := newest.Next(jetstream.FetchMaxWait(patience)); err != nil || string(m.Data()) != "100" {
		t.Errorf("deliver new begins with %v, %v", m, err)
	}

	redistest.Eventually(t, "the ephemeral consumers go", func() bool {
		st, err := js.Stream(ctx, "events")
		return err == nil && st.CachedInfo().State.Consumers == 1
	})
}

func TestFetchBytesTakesNoMoreThanTheBytes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c := worker(t, connect(t, startEdged(t, r, shortGrace)), jetstream.ConsumerConfig{})
	bytes, err := c.FetchBytes(400)
	if err != nil {
		t.Fatal(err)
	}

	pushNumbers(r, 101, 120)
	n := 0
	for range bytes.Messages() {
		n++
	}
	if n < 1 || n > 8 || bytes.Error() != nil {
		t.Errorf("400 bytes are %d items: %v", n, bytes.Error())
	}
}

func TestAnOperatorForgetsAConsumer(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t), shortGrace)
	js, ctx := streams(t, d), t.Context()
	if _, err := js.CreateConsumer(ctx, "events", jetstream.ConsumerConfig{Durable: "few", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}

	if answer := d.Control("forget events few"); !strings.Contains(answer, "OK") {
		t.Errorf("forget answers %q", answer)
	}
	if _, err := js.Consumer(ctx, "events", "few"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a consumer that was forgotten: %v", err)
	}
	if _, err := js.Consumer(ctx, "nothing", "few"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a stream that is none: %v", err)
	}
}
