package compat

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go/jetstream"
)

func fetching(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	s.push(numbered(5)...)
	msgs := fetch(t, c, 3)
	saw := describe(t, msgs...)
	if got := []string{msgs[0].Subject(), fmt.Sprint(len(msgs[0].Headers()))}; !slices.Equal(got, []string{"events", "0"}) {
		t.Errorf("subject and headers are %q", got)
	}
	acknowledge(t, msgs...)

	// Fewer items than requested: it waits for the rest, and ends when its time is over.
	batch, err := c.Fetch(10, jetstream.FetchMaxWait(300*time.Millisecond))
	few, err := all(batch, err)
	saw += fmt.Sprintf("; %s, %v", describe(t, few...), err)
	acknowledge(t, few...)
	return saw + "; " + standing(t, c)
}

func fetchBytes(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	large := strings.Repeat("x", 1000)
	s.push(large, large, large, large)
	batch, err := c.FetchBytes(2500, jetstream.FetchMaxWait(patience))
	msgs, err := all(batch, err)
	saw := fmt.Sprintf("%d of %d, %v", len(msgs), 4, err)
	batch, err = c.FetchBytes(500, jetstream.FetchMaxWait(patience))
	msgs, err = all(batch, err)
	return saw + fmt.Sprintf("; %d, %v; %s", len(msgs), err, standing(t, c))
}

func fetchNoWait(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	saw := fmt.Sprintf("%q", items(rest(t, c)))
	s.push(numbered(5)...)
	batch, err := c.FetchNoWait(3)
	msgs, err := all(batch, err)
	saw += fmt.Sprintf(" %s %v", describe(t, msgs...), err)
	return saw + fmt.Sprintf(" %s %q", describe(t, rest(t, c)...), items(rest(t, c)))
}

func nextItem(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	_, err := c.Next(jetstream.FetchMaxWait(50 * time.Millisecond))
	saw := fmt.Sprint(err)

	// A waiting pull gets an item that arrives later.
	came := nextLater(t, c)
	awaitPull(t, c, 1)
	s.push("a")
	m := await(t, "an item comes", came)
	acknowledge(t, m)
	return saw + "; " + describe(t, m) + "; " + standing(t, c)
}

// nextLater waits for an item in the background.
func nextLater(t *testing.T, c jetstream.Consumer) <-chan jetstream.Msg {
	came := make(chan jetstream.Msg, 1)
	go func() {
		m, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Error(err)
		}
		came <- m
	}()
	return came
}

// awaitPull waits until n pulls wait at the server.
func awaitPull(t *testing.T, c jetstream.Consumer, n int) {
	t.Helper()
	redistest.Eventually(t, "a pull waits", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumWaiting == n
	})
}

// consuming takes more items than a pull requests, some of which arrive while it runs.
func consuming(t *testing.T, s *stream) string {
	const n = 3000
	c := consume(t, s, explicitWorker)
	inOrder, running := consumeNumbers(t, s, n, func(handle jetstream.MessageHandler) (jetstream.ConsumeContext, error) {
		return c.Consume(handle, reportTo(t))
	})
	settled(t, c)
	running.Drain()
	await(t, "it ends", running.Closed())
	return fmt.Sprintf("in order %v; %s", inOrder, standing(t, c))
}

// reportTo fails the test when Consume reports an error.
func reportTo(t *testing.T) jetstream.ConsumeErrHandler {
	return func(_ jetstream.ConsumeContext, err error) { t.Errorf("Consume reports: %v", err) }
}

// acknowledging acknowledges each item, and passes it to came.
func acknowledging(t *testing.T, came func(item string)) jetstream.MessageHandler {
	return func(m jetstream.Msg) {
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
		came(string(m.Data()))
	}
}

// consumeNumbers waits until a consumer has acknowledged n items, half of which are pushed after it
// has started, and reports whether they came in order.
func consumeNumbers(t *testing.T, s *stream, n int, start func(jetstream.MessageHandler) (jetstream.ConsumeContext, error)) (inOrder bool, running jetstream.ConsumeContext) {
	t.Helper()
	want := numbered(n)
	s.push(want[:n/2]...)
	var got []string
	done := make(chan bool)

	running, err := start(acknowledging(t, func(item string) {
		if got = append(got, item); len(got) == n {
			close(done)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}

	s.push(want[n/2:]...)
	await(t, "all items come", done)
	return slices.Equal(got, want), running
}

func consumeBytes(t *testing.T, s *stream) string {
	const n = 200
	c := consume(t, s, explicitWorker)
	item := strings.Repeat("x", 500)
	s.push(slices.Repeat([]string{item}, n)...)
	left := n
	done := make(chan bool)

	running, err := c.Consume(acknowledging(t, func(string) {
		if left--; left == 0 {
			close(done)
		}
	}), jetstream.PullMaxBytes(5000), reportTo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Stop()
	await(t, "all items come", done)
	settled(t, c)
	return standing(t, c)
}

func messages(t *testing.T, s *stream) string {
	c := consume(t, s, explicitWorker)
	s.push(numbered(20)...)
	iterator, err := c.Messages(jetstream.PullMaxMessages(4))
	if err != nil {
		t.Fatal(err)
	}
	var got []jetstream.Msg
	for range 20 {
		m, err := iterator.Next()
		if err != nil {
			t.Fatal(err)
		}
		acknowledge(t, m)
		got = append(got, m)
	}

	_, err = iterator.Next(jetstream.NextMaxWait(50 * time.Millisecond))
	saw := []string{describe(t, got...), fmt.Sprint(err)}
	iterator.Drain()
	_, err = iterator.Next()
	saw = append(saw, fmt.Sprint(err), standing(t, c))
	return strings.Join(saw, "; ")
}

// sharing uses one durable consumer in two programs.
func sharing(t *testing.T, s *stream) string {
	const n = 400
	a := consume(t, s, explicitWorker)
	b, err := js(t, s).Consumer(t.Context(), "events", "worker")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan [2]string, n)
	for name, c := range map[string]jetstream.Consumer{"a": a, "b": b} {
		running, err := c.Consume(acknowledging(t, func(item string) { came <- [2]string{name, item} }), jetstream.PullMaxMessages(10), reportTo(t))
		if err != nil {
			t.Fatal(err)
		}
		defer running.Stop()
	}
	awaitPull(t, a, 2)

	s.push(numbered(n)...)
	shares := countShares(t, came, n)
	settled(t, a)
	return fmt.Sprintf("%s; %s", shares, standing(t, a))
}

// countShares waits for n deliveries, each with the program a or b and the item, and describes them.
func countShares(t *testing.T, came <-chan [2]string, n int) string {
	t.Helper()
	times, by := map[string]int{}, map[string]int{}
	for range n {
		came := await(t, "all items come", came)
		by[came[0]]++
		times[came[1]]++
	}
	return fmt.Sprintf("%d different items, both have some: %v", len(times), by["a"] > 0 && by["b"] > 0)
}

func twoConsumers(t *testing.T, s *stream) string {
	js := js(t, s)
	first := explicitConsumer(t, js, "first")
	second := explicitConsumer(t, js, "second")
	s.push(numbered(3)...)
	acknowledge(t, fetch(t, first, 3)...)
	msgs := fetch(t, second, 2)
	acknowledge(t, msgs[0])
	return fmt.Sprintf("%s; %s; %s", describe(t, msgs...), standing(t, first), standing(t, second))
}
