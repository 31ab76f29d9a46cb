package compat

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// stream is a server with two streams, events and readings, which are Redis lists in edged.
// Scenarios consume events.
type stream struct {
	*server
	producer jetstream.JetStream // nil for edged
}

// startStream starts a server with both streams. nats-server keeps consumed items unless interest
// is set.
func startStream(t *testing.T, k kind, set settings, interest bool) *stream {
	t.Helper()
	if k == edged {
		return &stream{server: start(t, k, set, "--appendonly", "yes", "--appendfsync", "always")}
	}

	set.natsServer += "\n" + withJetStream(t)
	s := &stream{server: start(t, k, set)}
	js := s.produce()
	for _, name := range []string{"events", "readings"} {
		config := jetstream.StreamConfig{Name: name, Subjects: []string{name}, AllowDirect: true}
		if interest {
			config.Retention = jetstream.InterestPolicy
		}
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// produce connects the producer to nats-server.
func (s *stream) produce() jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(connect(s.t, s.server))
	if err != nil {
		s.t.Fatal(err)
	}
	s.producer = js
	return js
}

// restart is server.restart with a new connection of the producer. When the status of a connection
// changes, nats.go fails all publishes without an answer, and it may notice a reconnect only after
// push has begun.
func (s *stream) restart() {
	s.t.Helper()
	s.server.restart()
	if s.kind == natsServer {
		s.produce()
	}
}

// withJetStream turns JetStream on in nats-server.
func withJetStream(t *testing.T) string {
	return fmt.Sprintf("jetstream: {store_dir: %q}", t.TempDir())
}

// push appends items to events, and returns when the server or its Redis has them.
func (s *stream) push(items ...string) {
	s.t.Helper()
	if s.kind == edged {
		all := make([]any, len(items))
		for i, item := range items {
			all[i] = item
		}
		s.redis.Push("events", all...)
		return
	}

	var answers []jetstream.PubAckFuture
	for _, item := range items {
		answer, err := s.producer.PublishAsync("events", []byte(item))
		if err != nil {
			s.t.Fatal(err)
		}
		answers = append(answers, answer)
	}
	last := uint64(0)
	for _, answer := range answers {
		select {
		case ack := <-answer.Ok():
			last = ack.Sequence
		case err := <-answer.Err():
			s.t.Fatalf("publish to events: %v", err)
		}
	}
	redistest.Eventually(s.t, "the consumers of nats-server have counted the items", func() bool { return s.counted(last) })
}

// counted reports whether the consumers of nats-server have counted an item. They do so some time
// after it is acknowledged, and num_pending is wrong until then.
func (s *stream) counted(last uint64) bool {
	events, err := s.producer.Stream(context.Background(), "events")
	if err != nil {
		return false
	}
	all := events.ListConsumers(context.Background())
	counted := true
	for info := range all.Info() {
		counted = counted && info.Delivered.Stream+info.NumPending >= last
	}
	return counted && all.Err() == nil
}

// left returns the number of items that the server or its Redis holds.
func (s *stream) left() uint64 {
	s.t.Helper()
	if s.kind == edged {
		return uint64(s.redis.Len("events"))
	}
	events, err := s.producer.Stream(context.Background(), "events")
	if err != nil {
		s.t.Fatal(err)
	}
	return events.CachedInfo().State.Msgs
}

// restartStore ends edged's Redis with SIGKILL and starts it again. With nats-server it does
// nothing.
func (s *stream) restartStore() {
	s.t.Helper()
	if s.kind == edged {
		s.redis.Kill()
		s.redis.Restart()
	}
}

// jetStreamOf connects as connect does.
func jetStreamOf(t *testing.T, s *stream, opts ...nats.Option) (jetstream.JetStream, *nats.Conn) {
	t.Helper()
	nc := connect(t, s.server, opts...)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	return js, nc
}

// consume connects, and makes a pull consumer of events.
func consume(t *testing.T, s *stream, config jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	js, _ := jetStreamOf(t, s)
	return newConsumer(t, js, config)
}

func newConsumer(t *testing.T, js jetstream.JetStream, config jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	c, err := js.CreateConsumer(t.Context(), "events", config)
	if err != nil {
		t.Fatalf("create a consumer: %v", err)
	}
	return c
}

// explicitConsumer makes a durable pull consumer with explicit acknowledgement.
func explicitConsumer(t *testing.T, js jetstream.JetStream, name string) jetstream.Consumer {
	t.Helper()
	return newConsumer(t, js, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy})
}

// fetcher is the common method of ordinary and ordered consumers.
type fetcher interface {
	Fetch(batch int, opts ...jetstream.FetchOpt) (jetstream.MessageBatch, error)
}

// fetch waits for n items.
func fetch(t *testing.T, c fetcher, n int) []jetstream.Msg {
	t.Helper()
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(patience))
	msgs, err := all(batch, err)
	if err != nil || len(msgs) != n {
		t.Fatalf("fetch %d items: %q, %v", n, items(msgs), err)
	}
	return msgs
}

// all reads a batch to its end.
func all(batch jetstream.MessageBatch, err error) ([]jetstream.Msg, error) {
	if err != nil {
		return nil, err
	}
	var msgs []jetstream.Msg
	for m := range batch.Messages() {
		msgs = append(msgs, m)
	}
	return msgs, batch.Error()
}

// rest returns the items that a consumer can deliver now.
func rest(t *testing.T, c jetstream.Consumer) []jetstream.Msg {
	t.Helper()
	msgs, err := all(c.FetchNoWait(100))
	if err != nil {
		t.Fatal(err)
	}
	return msgs
}

// next waits for an item.
func next(t *testing.T, c jetstream.Consumer) jetstream.Msg {
	t.Helper()
	m, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return m
}

// acknowledge returns when the server has the acknowledgements.
func acknowledge(t *testing.T, msgs ...jetstream.Msg) {
	t.Helper()
	for _, m := range msgs {
		if err := doubleAck(t, m); err != nil {
			t.Fatalf("acknowledge %q: %v", m.Data(), err)
		}
	}
}

func doubleAck(t *testing.T, m jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return m.DoubleAck(ctx)
}

func items(msgs []jetstream.Msg) []string {
	texts := make([]string, len(msgs))
	for i, m := range msgs {
		texts[i] = string(m.Data())
	}
	return texts
}

// describe describes items with their numbers: of the stream, of the consumer, of this delivery,
// and how many items follow.
func describe(t *testing.T, msgs ...jetstream.Msg) string {
	t.Helper()
	var texts []string
	for _, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatalf("metadata of %q: %v", m.Data(), err)
		}
		if age := time.Since(meta.Timestamp); age < -patience || age > 10*patience {
			t.Errorf("%q is of %v", m.Data(), meta.Timestamp)
		}
		texts = append(texts, fmt.Sprintf("%s:%d/%d×%d+%d", m.Data(), meta.Sequence.Stream, meta.Sequence.Consumer, meta.NumDelivered, meta.NumPending))
	}
	return strings.Join(texts, " ")
}

// informer is the common method of pull and push consumers.
type informer interface {
	Info(context.Context) (*jetstream.ConsumerInfo, error)
}

// standing describes the state of a consumer.
func standing(t *testing.T, c informer) string {
	t.Helper()
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatalf("info: %v", err)
	}
	return fmt.Sprintf("delivered %d/%d, acknowledged up to %d/%d, %d owed, %d redelivered, %d to come",
		info.Delivered.Stream, info.Delivered.Consumer, info.AckFloor.Stream, info.AckFloor.Consumer,
		info.NumAckPending, info.NumRedelivered, info.NumPending)
}

// settled waits until a consumer owes nothing and has nothing left to deliver.
func settled(t *testing.T, c informer) {
	t.Helper()
	redistest.Eventually(t, "the consumer owes nothing", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	})
}

// fault describes an error by JetStream's number.
func fault(err error) string {
	var api jetstream.JetStreamError
	switch {
	case err == nil:
		return "no error"
	case errors.As(err, &api) && api.APIError() != nil:
		return fmt.Sprintf("%d/%d", api.APIError().Code, api.APIError().ErrorCode)
	default:
		return err.Error()
	}
}
