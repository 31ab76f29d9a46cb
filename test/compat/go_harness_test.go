package compat

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// connect connects and closes with the test. An error that the library reports by itself fails the
// test, unless the options handle it.
func connect(t testing.TB, s *server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := tryConnect(t, s, opts...)
	if err != nil {
		t.Fatalf("connect to %s: %v", s.kind, err)
	}
	return nc
}

func tryConnect(t testing.TB, s *server, opts ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("nats://"+s.tcp, append([]nats.Option{
		nats.Name(t.Name()), nats.Timeout(patience), nats.DrainTimeout(patience),
		nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("nats.go reports: %v", err) }),
	}, opts...)...)
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

// subscribe returns when the server has the subscription. An empty queue is none.
func subscribe(t *testing.T, nc *nats.Conn, subject, queue string) *nats.Subscription {
	t.Helper()
	sub, err := nc.QueueSubscribeSync(subject, queue)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		t.Fatalf("subscribe to %s: %v", subject, err)
	}
	flush(t, nc)
	return sub
}

// flush returns when the server has handled everything that nc sent, and nc has everything that the
// server had for it then.
func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

// publish returns when the server has passed the messages on.
func publish(t *testing.T, nc *nats.Conn, subject string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := nc.Publish(subject, []byte(p)); err != nil {
			t.Fatalf("publish to %s: %v", subject, err)
		}
	}
	flush(t, nc)
}

// received returns the payloads that a subscription has received so far.
func received(t *testing.T, nc *nats.Conn, sub *nats.Subscription) (payloads []string) {
	t.Helper()
	flush(t, nc)
	for {
		switch n, _, err := sub.Pending(); {
		case err != nil && !errors.Is(err, nats.ErrBadSubscription):
			t.Fatal(err)
		case n == 0 || err != nil:
			return payloads
		}
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, string(m.Data))
	}
}

// await waits for a value from a handler of the library.
func await[T any](t *testing.T, what string, said <-chan T) T {
	t.Helper()
	select {
	case v := <-said:
		return v
	case <-time.After(patience):
		t.Fatalf("gave up waiting: %s", what)
		panic("unreachable")
	}
}

func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}
