package compat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go/jetstream"
)

func doubleAcknowledgement(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	s.push("a", "b")
	m := next(t, c)
	var saw []string
	for range 2 {
		saw = append(saw, fmt.Sprint(doubleAck(t, m)))
	}
	return strings.Join(append(saw, fmt.Sprint(m.Nak()), standing(t, c)), "; ")
}

// rawAcknowledgements sends the payloads of libraries, and further ones.
func rawAcknowledgements(t *testing.T, s *stream) string {
	js, nc := jetStreamOf(t, s)
	c := newConsumer(t, js, explicitWorker)
	s.push("a", "b", "c", "d")
	saw := []string{}
	for _, body := range []string{"", "+ACK", "+TERM", "+OK"} {
		m := next(t, c)
		answer, err := nc.Request(m.Reply(), []byte(body), patience)
		if err != nil {
			t.Fatalf("%q of %s: %v", body, m.Data(), err)
		}
		saw = append(saw, fmt.Sprintf("%q: %q %v", body, answer.Data, answer.Header))
	}
	return strings.Join(append(saw, standing(t, c)), "; ")
}

func refusal(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	s.push("a", "b", "c")
	msgs := fetch(t, c, 3)
	acknowledge(t, msgs[1])
	if err := errors.Join(msgs[0].Nak(), msgs[2].Nak()); err != nil {
		t.Error(err)
	}
	again := []jetstream.Msg{next(t, c), next(t, c)}
	slices.SortFunc(again, func(a, b jetstream.Msg) int { return strings.Compare(string(a.Data()), string(b.Data())) })
	saw := describe(t, again...) + "; " + standing(t, c)
	acknowledge(t, again...)
	return saw + "; " + standing(t, c)
}

func refusalWithDelay(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	s.push("a", "b")
	msgs := fetch(t, c, 2)
	if err := msgs[0].NakWithDelay(10 * patience); err != nil {
		t.Error(err)
	}
	if err := msgs[1].NakWithDelay(100 * time.Millisecond); err != nil {
		t.Error(err)
	}
	again := next(t, c)
	acknowledge(t, again)
	return fmt.Sprintf("%s; then %q; %s", describe(t, again), items(rest(t, c)), standing(t, c))
}

func givingUpWithReason(t *testing.T, s *stream) string {
	js, nc := jetStreamOf(t, s)
	c := newConsumer(t, js, explicitWorker)
	s.push("a", "b", "c")
	msgs := fetch(t, c, 2)
	if err := msgs[0].TermWithReason("it is broken"); err != nil {
		t.Error(err)
	}

	if err := msgs[1].Term(); err != nil {
		t.Error(err)
	}
	flush(t, nc)
	redistest.Eventually(t, "both are given up", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumAckPending == 0
	})
	return fmt.Sprintf("%s; then %q", standing(t, c), items(rest(t, c)))
}

// inProgress holds an item while another of the same age is redelivered.
func inProgress(t *testing.T, s *stream) string {
	config := explicitWorker
	config.AckWait = 2 * time.Second
	c := consume(t, s, config)
	s.push("held", "let go")
	msgs := fetch(t, c, 2)
	came := nextLater(t, c)

	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case again := <-came:
			acknowledge(t, msgs[0], again)
			return describe(t, again) + "; " + standing(t, c)
		case <-tick.C:
			if err := msgs[0].InProgress(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func redelivery(t *testing.T, s *stream) string {
	c := consume(t, s, short(explicitWorker))
	s.push("a", "b")
	var saw []string
	for range 3 {
		saw = append(saw, describe(t, fetch(t, c, 2)...))
	}
	return strings.Join(saw, "; ")
}

func backoff(t *testing.T, s *stream) string {
	config := explicitWorker
	config.BackOff = []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 10 * patience}
	config.MaxDeliver = 5
	c := consume(t, s, config)
	s.push("a")
	var saw []string
	for range 3 {
		saw = append(saw, describe(t, next(t, c)))
	}
	return strings.Join(append(saw, fmt.Sprint(c.CachedInfo().Config.AckWait)), "; ")
}

func maxDeliver(t *testing.T, s *stream) string {
	config := explicitWorker
	config.MaxDeliver = 2
	c := consume(t, s, config)
	s.push("a")
	var saw []string
	for range 2 {
		m := next(t, c)
		saw = append(saw, describe(t, m))
		if err := m.Nak(); err != nil {
			t.Error(err)
		}
	}
	s.push("b")
	return fmt.Sprintf("%s; then %s; then %q", strings.Join(saw, "; "), describe(t, next(t, c)), items(rest(t, c)))
}

func maxAckPending(t *testing.T, s *stream) string {
	config := explicitWorker
	config.MaxAckPending = 2
	c := consume(t, s, config)
	s.push("a", "b", "c")
	few, err := all(c.Fetch(3, jetstream.FetchMaxWait(300*time.Millisecond)))
	if err != nil || len(few) != 2 {
		t.Fatalf("%q, %v", items(few), err)
	}
	saw := []string{fmt.Sprintf("%q", items(few)), standing(t, c)}

	// A waiting pull goes on when an item is acknowledged.
	came := nextLater(t, c)
	awaitPull(t, c, 1)
	acknowledge(t, few[1])
	saw = append(saw, describe(t, await(t, "the third comes", came)), standing(t, c))
	return strings.Join(saw, "; ")
}

func acknowledgeAll(t *testing.T, s *stream) string {
	c := consume(t, s, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckAllPolicy, AckWait: 10 * patience})
	s.push(numbered(5)...)
	msgs := fetch(t, c, 4)
	acknowledge(t, msgs[2])
	saw := standing(t, c)
	acknowledge(t, msgs[0], msgs[3])
	return saw + "; " + standing(t, c)
}

func acknowledgeNothing(t *testing.T, s *stream) string {
	c := consume(t, s, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Hour})
	s.push(numbered(3)...)
	saw := describe(t, fetch(t, c, 3)...)
	return fmt.Sprintf("%s; %s; %d are left", saw, standing(t, c), s.left())
}
