package daemon

import (
	"context"
	"math"
	"time"

	"edged/internal/batch"
	"edged/internal/config"
	"edged/internal/jetstream"
	"edged/internal/poller"
	"edged/internal/relay"
	"edged/internal/tcpserver"
)

// The adapters here tie the JetStream API to the relay, to the loop's Redis and to the TCP
// server.

// buildJetStream returns nil if JetStream is turned off.
func (d *daemon) buildJetStream(cfg *config.Config) *jetstream.API {
	if !cfg.TCP.JetStream {
		return nil
	}
	return jetstream.New(jetstream.Options{
		Store:   &jsStore{d.loop.NewStore(), d},
		Outlet:  func(to jetstream.Target) jetstream.Outlet { return d.tcp.Outlet(outletOptions(to)) },
		Owned:   func(subject string) bool { return d.tcp.Owned(subject) },
		Refused: func() { d.tcp.AckRefused() },
		Log:     d.log.Named("jetstream"),
	})
}

// answer runs the JetStream API, if there is one.
func (d *daemon) answer(ctx context.Context) error {
	if d.js == nil {
		return nil
	}
	return d.js.Run(ctx)
}

// api is the TCP server's view of the JetStream API; nil if there is none.
func (d *daemon) api() tcpserver.API {
	if d.js == nil {
		return nil
	}
	return jsAPI{d.js}
}

// addStream lets a list be a stream.
func (d *daemon) addStream(l relayed) {
	if log, ok := l.window.(*relay.Log); ok && d.js != nil {
		d.js.Add(jetstream.Stream{Name: l.Stream, Subject: l.Subject, Key: l.Key, Log: jsLog{log}})
	}
}

func outletOptions(to jetstream.Target) tcpserver.OutletOptions {
	o := tcpserver.OutletOptions{Subject: to.Subject, Consumer: to.Consumer, Incarnation: to.Incarnation, Confirm: tcpserver.Acknowledged, HeadersOnly: to.HeadersOnly}
	if to.Viewer {
		o.Confirm = tcpserver.OnPong
	}
	return o
}

// jsAPI is a jetstream.API for the TCP server.
type jsAPI struct{ *jetstream.API }

func (a jsAPI) Request(r tcpserver.Request) {
	a.API.Request(r.Subject, r.Payload, r.Reply, jsClient{r.From})
}

// jsClient is a client for the JetStream API.
type jsClient struct{ tcpserver.Requester }

func (c jsClient) Outlet(to jetstream.Target) jetstream.Outlet {
	return c.Requester.Outlet(outletOptions(to))
}

// jsKey is the encoding key of all consumers of the JetStream API: each makes its encodings
// for itself, so they count as one.
const jsKey = "$JS"

// jsLog is a relay.Log for the JetStream API.
type jsLog struct{ *relay.Log }

func (l jsLog) Set(name string, t jetstream.Terms, start jetstream.Start) error {
	return l.SetDurable(name, relay.Durable{
		Terms: relay.Terms{Explicit: true, AckWait: t.AckWait, Backoff: t.Backoff, MaxDeliver: t.MaxDeliver, MaxAckPending: t.MaxAckPending},
		From:  start.From, Epoch: start.Epoch, Passes: t.Ephemeral,
	})
}

func (l jsLog) Start(name string, s jetstream.Start) { l.StartDurable(name, s.From, s.Epoch) }

func (l jsLog) Remove(name string) bool { return l.RemoveDurable(name) }

func (l jsLog) Join(name string, m batch.Metered) batch.Consumption {
	return l.JoinDurable(name, jsKey, m)
}

func (l jsLog) View(from uint64, m batch.Metered) batch.Consumption {
	return l.Log.View(from, jsKey, m)
}

func (l jsLog) Durable(name string, below uint64) (jetstream.State, bool) {
	s, known := l.Log.Durable(name, below)
	return jetstream.State(s), known
}

func (l jsLog) Since(t time.Time) uint64 { return l.Log.Since(t) }

// jsStore is a poller.Store for the JetStream API.
type jsStore struct {
	*poller.Store
	daemon *daemon
}

func (s *jsStore) Part(ctx context.Context, key string, from uint64, n int) (jetstream.Part, error) {
	h, err := s.Store.Part(ctx, key, s.daemon.served.fromRight(key), poller.From{Number: from}, n, math.MaxInt32)
	if err != nil {
		return jetstream.Part{}, err
	}
	p := jetstream.Part{Epoch: h.Epoch, First: h.First, Length: h.Length}
	for _, item := range h.Items {
		p.Items = append(p.Items, jetstream.Item{Number: item.Number, Seen: item.Seen, Data: item.Head})
	}
	return p, nil
}

func (s *jsStore) Standing(ctx context.Context, key, name string, p jetstream.Part) (st jetstream.State, known bool, err error) {
	acked, known, err := s.Confirmed(ctx, key, name)
	if err != nil || !known {
		return st, false, err
	}
	acked.Raise(p.First)
	st.Floor, st.Next = acked.Floor(), acked.Top()
	for from, to := acked.Gap(p.First); from < p.End(); from, to = acked.Gap(to) {
		st.Pending += min(to, p.End()) - from
	}
	return st, true, nil
}
