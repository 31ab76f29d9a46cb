package compat

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func ordered(t *testing.T, s *stream) string {
	s.push(numbered(1000)...)
	js := js(t, s)
	var saw []string
	c, err := js.OrderedConsumer(t.Context(), "events", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	saw = append(saw, describe(t, fetch(t, c, 2)...), describe(t, fetch(t, c, 2)...))
	m, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	saw = append(saw, describe(t, m))

	from, err := js.OrderedConsumer(t.Context(), "events", jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 201,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	done := make(chan bool)
	running, err := from.Consume(func(m jetstream.Msg) {
		if got = append(got, string(m.Data())); len(got) == 801 {
			close(done)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Stop()
	s.push("last")
	await(t, "all items come", done)
	saw = append(saw, fmt.Sprint(slices.Equal(got, append(numbered(1000)[200:], "last"))))
	return strings.Join(saw, "; ")
}

// looking reads a list in all ways that confirm nothing.
func looking(t *testing.T, s *stream) string {
	s.push(numbered(50)...)
	js := js(t, s)
	c, err := js.OrderedConsumer(t.Context(), "events", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}

	fetch(t, c, 50)
	viewer := newConsumer(t, js, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	fetch(t, viewer, 50)
	events, err := js.Stream(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}

	m, err := events.GetMsg(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	again := newConsumer(t, js, explicitWorker)
	return fmt.Sprintf("%d are left, the seventh is %s; %s", s.left(), m.Data, standing(t, again))
}

func getMsg(t *testing.T, s *stream) string {
	s.push("a", "b", "c")
	js, nc := jetStreamOf(t, s)
	events, err := js.Stream(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	var saw []string
	note := func(m *jetstream.RawStreamMsg, err error) {
		if err != nil {
			saw = append(saw, fault(err))
			return
		}
		if age := time.Since(m.Time); age < -patience || age > 10*patience {
			t.Errorf("%q is of %v", m.Data, m.Time)
		}
		saw = append(saw, fmt.Sprintf("%s %d %q", m.Subject, m.Sequence, m.Data))
	}
	for _, seq := range []uint64{1, 3, 4} {
		note(events.GetMsg(t.Context(), seq))
	}
	note(events.GetMsg(t.Context(), 1, jetstream.WithGetMsgSubject("events")))
	note(events.GetLastMsgForSubject(t.Context(), "events"))
	note(events.GetLastMsgForSubject(t.Context(), "others"))

	// The library uses direct gets if the stream allows them. Older versions use this request.
	for _, request := range []string{`{"seq": 2}`, `{"last_by_subj": "events"}`, `{"seq": 9}`, `{}`} {
		answer, err := nc.Request("$JS.API.STREAM.MSG.GET.events", []byte(request), patience)
		if err != nil {
			t.Fatal(err)
		}
		text := string(answer.Data)
		_, text, _ = strings.Cut(text, `,`)
		text, _, _ = strings.Cut(text, `"time"`)
		saw = append(saw, text)
	}
	return strings.Join(saw, "; ")
}
