package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// window is the number of messages in flight at a time.
const window = 256

// Publication says which messages to publish, and to which subject.
type Publication struct {
	Server
	Subject string
	Lines   io.Reader     // a message a line
	Whole   bool          // all of Lines is one message
	Timeout time.Duration // for connecting, and for the confirmation of each message
}

// unconfirmed is the reason why a message was not confirmed.
type unconfirmed struct {
	line int
	err  error
}

func (u unconfirmed) Error() string { return fmt.Sprintf("line %d: %v", u.line, u.err) }
func (u unconfirmed) Unwrap() error { return u.err }

// Run publishes the messages in order and returns the number sent and the number confirmed. A
// confirmed message is in the list. Run stops at the first message that is not confirmed; later
// ones that were sent may be in the list or missing.
func (p Publication) Run(ctx context.Context) (sent, confirmed int, err error) {
	if !isName(p.Subject) {
		return 0, 0, fmt.Errorf("%q is not a valid subject: it must not be empty, nor have spaces or control characters in it", p.Subject)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lines := p.read(ctx) // before connecting: a terminal may take long
	late := time.AfterFunc(p.Timeout, func() { cancel(ErrTimeout) })
	nc, err := p.connect(ctx, func(c net.Conn) net.Conn { return c }, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			cancel(fmt.Errorf("%s refuses it: %s", p.Server, said(err)))
		}
	}), nats.ClosedHandler(func(nc *nats.Conn) {
		cancel(fmt.Errorf("%s closed the connection", p.Server))
	}))
	late.Stop()
	if err != nil {
		if context.Cause(ctx) == ErrTimeout {
			err = timeout("%s gave no answer for %v", p.Server, p.Timeout)
		}
		return 0, 0, err
	}
	defer nc.Close()

	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window+1))
	if err != nil {
		return 0, 0, err
	}
	return p.publish(ctx, js, lines)
}

// message is a line of the input, or the error at its end.
type message struct {
	data []byte
	err  error
}

// read returns the lines as they arrive.
func (p Publication) read(ctx context.Context) <-chan message {
	lines := make(chan message, 1)
	if p.Whole {
		data, err := io.ReadAll(p.Lines)
		lines <- message{data, err}
		close(lines)
		return lines
	}

	go func() {
		defer close(lines)
		in := bufio.NewReader(p.Lines)
		for {
			data, err := in.ReadBytes('\n')
			m := message{bytes.TrimSuffix(data, []byte("\n")), err}
			if err == io.EOF {
				m.err = nil
			}
			if err == io.EOF && len(data) == 0 {
				return
			}
			select {
			case lines <- m:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()

	return lines
}

// flight is a message in flight.
type flight struct {
	jetstream.PubAckFuture
	since time.Time
}

// publish publishes the lines and awaits the confirmations in order.
func (p Publication) publish(ctx context.Context, js jetstream.JetStream, lines <-chan message) (sent, confirmed int, err error) {
	var flights []flight
	late := time.NewTimer(p.Timeout)
	defer late.Stop()
	for lines != nil || len(flights) > 0 {
		var ok <-chan *jetstream.PubAck
		var failed <-chan error
		if len(flights) > 0 {
			ok, failed = flights[0].Ok(), flights[0].Err()
			late.Reset(time.Until(flights[0].since.Add(p.Timeout)))
		} else {
			late.Stop()
		}
		more := lines
		if len(flights) == window {
			more = nil
		}

		select {
		case m, open := <-more:
			if !open {
				lines = nil
				continue
			}
			f, err := p.send(js, m)
			if err != nil {
				return sent, confirmed, unconfirmed{sent + 1, err}
			}
			flights = append(flights, f)
			sent++
		case <-ok:
			flights = flights[1:]
			confirmed++
		case err := <-failed:
			return sent, confirmed, unconfirmed{confirmed + 1, p.explain(err)}
		case <-late.C:
			return sent, confirmed, unconfirmed{confirmed + 1, timeout("no confirmation for %v", p.Timeout)}
		case <-ctx.Done():
			return sent, confirmed, unconfirmed{confirmed + 1, p.interrupted(ctx)}
		}
	}
	return sent, confirmed, nil
}

// interrupted explains why ctx has ended.
func (p Publication) interrupted(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return errors.New("interrupted")
}

// send sends a message.
func (p Publication) send(js jetstream.JetStream, m message) (flight, error) {
	if m.err != nil {
		return flight{}, fmt.Errorf("read standard input: %w", m.err)
	}
	future, err := js.PublishAsync(p.Subject, m.data, jetstream.WithRetryAttempts(0))
	if err != nil {
		return flight{}, p.explain(err)
	}
	return flight{future, time.Now()}, nil
}

// explain explains why a message was not published.
func (p Publication) explain(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return errTold{fmt.Sprintf("no list takes messages to %s: it is not the subject of an [[inbound]]", p.Subject), err}
	case errors.Is(err, nats.ErrMaxPayload):
		return errTold{fmt.Sprintf("it is larger than %s takes (max_payload)", p.Server), err}
	case errors.As(err, &api):
		return errTold{api.Description, err}
	}
	return errors.New(said(err))
}
