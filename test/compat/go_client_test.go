package compat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// goScenarios are scenarios with the official Go client. A scenario fails if something is wrong
// with any server, and returns the observations that may differ.
var goScenarios = []struct {
	name     string
	run      func(t *testing.T, s *server) (saw string)
	settings settings
	differs  *difference
}{
	{name: "the INFO of the server", run: introduction,
		settings: settings{natsServer: `jetstream: {store_dir: "FILES/introduction"}`}},
	{name: "plain subscriptions", run: plain},
	{name: "wildcards", run: wildcards},
	{name: "queue groups", run: queueGroups},
	{name: "one group under several subjects", run: groupOfPatterns},
	{name: "auto-unsubscribe", run: autoUnsubscribe},
	{name: "draining a subscription", run: drainSubscription},
	{name: "draining a connection", run: drainConnection},
	{name: "flush is a barrier", run: flushBarrier},
	{name: "requests", run: requests},
	{name: "one request, many answers", run: requestMany},
	{name: "headers", run: headers},
	{name: "no responders", run: noResponders},
	{name: "no echo", run: noEcho},
	{name: "verbose and pedantic", run: verbosePedantic},
	{name: "reconnect after a restart", run: reconnect},
	{name: "forced reconnect", run: forcedReconnect},
	{name: "lame duck", run: lameDuck},
	{name: "max payload", run: maxPayload,
		settings: settings{`tcp.max_payload = "64KiB"`, `max_payload: 65536`}},
	{name: "too many subscriptions", run: tooManySubscriptions,
		settings: settings{`tcp.max_subscriptions = 3`, `max_subscriptions: 3`}},
	{name: "too many connections", run: tooManyConnections,
		settings: settings{`tcp.max_connections = 2`, `max_connections: 2`}},
	{name: "a slow consumer", run: slowConsumer,
		settings: settings{`tcp.max_pending = "1MiB"`, `max_pending: 1048576`}},
	{name: "large fan-out", run: fanOut},
	{name: "services", run: services},
	{name: "a token", run: tokens, settings: withToken},
	{name: "users", run: users, settings: withUser},
	{name: "permissions", run: permissions, settings: withUser},
	{name: "giving up with a wrong token", run: givingUp, settings: withToken},
	{name: "TLS", run: overTLS, settings: withTLS},
	{name: "client certificates", run: clientCertificates, settings: withClientCertificates},
	{name: "TLS handshake first", run: handshakeFirst, settings: withHandshakeFirst},
	{name: "JetStream", run: jetStream,
		settings: settings{natsServer: `jetstream: {store_dir: "FILES/JetStream"}`}},
	{name: "no JetStream", run: jetStream, settings: settings{edged: `tcp.jetstream = false`, natsServer: "jetstream: disabled"}},
	{name: "a subject of 65 tokens", run: longPattern, differs: &difference{
		saw: `subscribe to "a.….a.>": permissions violation; to "a.….a": received`,
		because: "each token of a pattern is memory of the router, so edged takes at most 64 in a subject with wildcards; " +
			"the connection goes on",
	}},
	{name: "the server's own services", run: ownServices, differs: &difference{
		saw:     "edged.echo: hello; $SYS.REQ.USER.INFO: nats: no responders available for request",
		because: "edged has one account and no system account, and answers edged.echo",
	}},
	{name: "publishing to the subject of a list", run: publishToList, differs: &difference{
		saw:     "nats: permissions violation; received []",
		because: "the items of a list come from Redis alone; the connection goes on",
	}},
}

func TestTheGoClientSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	for _, sc := range goScenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			saw := make(map[kind]string)
			for _, k := range []kind{edged, natsServer} {
				t.Run(string(k), func(t *testing.T) { saw[k] = sc.run(t, start(t, k, sc.settings)) })
			}
			compare(t, saw, sc.differs)
		})
	}
}

func introduction(t *testing.T, s *server) string {
	nc := connect(t, s)
	jetStream, _ := nc.ConnectedServerJetStream()
	id, err := nc.GetClientID()
	if err != nil || id == 0 {
		t.Errorf("the client's ID is %d, %v", id, err)
	}

	ip, err := nc.GetClientIP()
	if err != nil {
		t.Error(err)
	}
	if nc.ConnectedServerId() == "" || nc.ConnectedServerName() == "" || nc.ConnectedServerVersion() == "" {
		t.Error("the server has no ID, name or version")
	}

	if _, err := nc.RTT(); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("headers %v, authentication %v, TLS %v, JetStream %v, max payload %d, other servers %v, client at %v",
		nc.HeadersSupported(), nc.AuthRequired(), nc.TLSRequired(), jetStream, nc.MaxPayload(), nc.DiscoveredServers(), ip)
}

func plain(t *testing.T, s *server) string {
	a, b := connect(t, s), connect(t, s)
	first, second, other := subscribe(t, a, "news", ""), subscribe(t, a, "news", ""), subscribe(t, b, "news", "")
	publish(t, b, "news", "one", "", "three")
	publish(t, b, "news.today", "no")
	return fmt.Sprintf("%q %q %q", received(t, a, first), received(t, a, second), received(t, b, other))
}

func wildcards(t *testing.T, s *server) string {
	nc := connect(t, s)
	var saw []string
	var subs []*nats.Subscription
	patterns := []string{"a.*", "a.>", "*.b", ">", "a.*.c", "*.*.*", "a.b", "a*", "a.b>"}
	for _, p := range patterns {
		subs = append(subs, subscribe(t, nc, p, ""))
	}

	for _, subject := range []string{"a", "a.b", "a.b.c", "x.b", "A.b", "a.*x", "a*", "a.b>"} {
		publish(t, nc, subject, subject)
	}
	for i, sub := range subs {
		got := received(t, nc, sub)
		got = slices.DeleteFunc(got, func(p string) bool { return strings.HasPrefix(p, "{") }) // nats-server's own events
		saw = append(saw, fmt.Sprintf("%s: %q", patterns[i], got))
	}
	return strings.Join(saw, "; ")
}

func queueGroups(t *testing.T, s *server) string {
	a, b := connect(t, s), connect(t, s)
	members := []*nats.Subscription{subscribe(t, a, "jobs", "workers"), subscribe(t, b, "jobs", "workers")}
	others := subscribe(t, b, "jobs", "auditors")
	all := subscribe(t, a, "jobs", "")
	publish(t, connect(t, s), "jobs", numbered(200)...)
	first, second := received(t, a, members[0]), received(t, b, members[1])
	if len(first) == 0 || len(second) == 0 {
		t.Errorf("the members got %d and %d of 200 jobs, want some each", len(first), len(second))
	}

	done := append(first, second...)
	slices.Sort(done)
	want := numbered(200)
	slices.Sort(want)
	if !slices.Equal(done, want) {
		t.Errorf("the group got %q", done)
	}
	return fmt.Sprintf("%d, %q, %q", len(done), received(t, b, others), received(t, a, all))
}

func groupOfPatterns(t *testing.T, s *server) string {
	nc := connect(t, s)
	subs := []*nats.Subscription{subscribe(t, nc, "jobs.new", "q"), subscribe(t, nc, "jobs.*", "q"), subscribe(t, nc, "jobs.>", "q")}
	publish(t, nc, "jobs.new", numbered(99)...)
	total := 0
	for _, sub := range subs {
		total += len(received(t, nc, sub))
	}
	return fmt.Sprintf("of 99 messages %d came", total)
}

func autoUnsubscribe(t *testing.T, s *server) string {
	nc := connect(t, s)
	before, after := subscribe(t, nc, "news", ""), subscribe(t, nc, "news", "")
	if err := before.AutoUnsubscribe(2); err != nil {
		t.Fatal(err)
	}

	publish(t, nc, "news", "1", "2", "3")
	if err := after.AutoUnsubscribe(1); err != nil { // it has already received more
		t.Fatal(err)
	}
	publish(t, nc, "news", "4")
	var saw []string
	for range 2 {
		m, err := before.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, string(m.Data))
	}

	_, err := before.NextMsg(patience)
	return fmt.Sprintf("%q, then %v; subscriptions %d", saw, err, nc.NumSubscriptions())
}

func drainSubscription(t *testing.T, s *server) string {
	nc, other := connect(t, s), connect(t, s)
	closed := make(chan string, 1)
	var mu sync.Mutex
	got := 0
	sub, err := nc.Subscribe("news", func(*nats.Msg) { mu.Lock(); got++; mu.Unlock() })
	if err != nil {
		t.Fatal(err)
	}

	sub.SetClosedHandler(func(subject string) { closed <- subject })
	flush(t, nc)
	publish(t, other, "news", numbered(1000)...)
	if err := sub.Drain(); err != nil {
		t.Fatal(err)
	}

	subject := await(t, "the subscription is drained", closed)
	publish(t, other, "news", "too late")
	flush(t, nc)
	mu.Lock()
	defer mu.Unlock()
	return fmt.Sprintf("%s: %d, connected %v", subject, got, nc.IsConnected())
}

func drainConnection(t *testing.T, s *server) string {
	closed := make(chan error, 1)
	nc := connect(t, s, nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))
	other := connect(t, s)
	answers := subscribe(t, other, "answers", "")
	if _, err := nc.Subscribe("questions", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}

	flush(t, nc)
	for i := range 1000 {
		if err := other.PublishRequest("questions", "answers", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}

	flush(t, other)
	if err := nc.Drain(); err != nil {
		t.Fatal(err)
	}
	err := await(t, "the connection is drained", closed)
	return fmt.Sprintf("%d answers, last error %v", len(received(t, other, answers)), err)
}

func flushBarrier(t *testing.T, s *server) string {
	a, b := connect(t, s), connect(t, s)
	sub := subscribe(t, b, "ticks", "")
	var saw []int
	for range 20 {
		publish(t, a, "ticks", numbered(50)...)
		saw = append(saw, len(received(t, b, sub)))
	}
	return fmt.Sprint(saw)
}

func requests(t *testing.T, s *server) string {
	server := connect(t, s)
	if _, err := server.Subscribe("double", func(m *nats.Msg) { m.Respond(append(m.Data, m.Data...)) }); err != nil {
		t.Fatal(err)
	}
	flush(t, server)
	var saw []string
	for _, opts := range [][]nats.Option{nil, {nats.UseOldRequestStyle()}, {nats.CustomInboxPrefix("_MY.INBOX")}} {
		nc := connect(t, s, opts...)
		for _, payload := range []string{"ab", "", "é"} {
			m, err := nc.Request("double", []byte(payload), patience)
			if err != nil {
				t.Fatalf("request: %v", err)
			}
			saw = append(saw, string(m.Data))
		}
	}

	return fmt.Sprintf("%q", saw)
}

func requestMany(t *testing.T, s *server) string {
	nc := connect(t, s)
	for _, name := range []string{"a", "b", "c"} {
		responder := connect(t, s)
		if _, err := responder.Subscribe("roll.call", func(m *nats.Msg) {
			m.Respond([]byte(name + "1"))
			m.Respond([]byte(name + "2"))
		}); err != nil {
			t.Fatal(err)
		}
		flush(t, responder)
	}

	inbox := nc.NewInbox()
	answers := subscribe(t, nc, inbox, "")
	var saw []string
	if err := nc.PublishRequest("roll.call", inbox, nil); err != nil {
		t.Fatal(err)
	}

	for range 6 {
		m, err := answers.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, string(m.Data))
	}
	slices.Sort(saw)
	return fmt.Sprintf("%q", saw)
}

func headers(t *testing.T, s *server) string {
	a, b := connect(t, s), connect(t, s)
	sub := subscribe(t, b, "with.headers", "")
	msg := nats.NewMsg("with.headers")
	msg.Header["Unit"] = []string{"°C", "", "°F"}
	msg.Header.Add("Empty", "")
	msg.Header["lower"] = []string{"a:b"}
	msg.Reply = "answers"
	msg.Data = []byte("21\r\n")
	for range 2 {
		if err := a.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
		msg.Data = nil
	}

	flush(t, a)
	var saw []string
	for range 2 {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		fields, err := json.Marshal(m.Header)
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, fmt.Sprintf("%s %q to %s", fields, m.Data, m.Reply))
	}

	return strings.Join(saw, "; ")
}

func noResponders(t *testing.T, s *server) string {
	nc := connect(t, s)
	_, modern := nc.Request("nobody", []byte("hello"), patience)
	_, old := connect(t, s, nats.UseOldRequestStyle()).Request("nobody", nil, patience)
	sub := subscribe(t, nc, "answers", "")
	if err := nc.PublishRequest("nobody", "answers", nil); err != nil {
		t.Fatal(err)
	}

	m, err := sub.NextMsg(patience)
	if err != nil && !errors.Is(err, nats.ErrNoResponders) {
		t.Fatal(err)
	}
	status := "none"
	if m != nil {
		status = fmt.Sprintf("%q %q", m.Header, m.Data)
	}
	return fmt.Sprintf("%v; %v; %v, %s", modern, old, err, status)
}

func noEcho(t *testing.T, s *server) string {
	deaf, other := connect(t, s, nats.NoEcho()), connect(t, s)
	plain, member := subscribe(t, deaf, "news", ""), subscribe(t, deaf, "news", "q")
	far := subscribe(t, other, "news", "q")
	publish(t, deaf, "news", "mine")
	publish(t, other, "news", "theirs")
	saw := fmt.Sprintf("%q", received(t, deaf, plain))
	group := append(received(t, deaf, member), received(t, other, far)...)
	slices.Sort(group)
	return fmt.Sprintf("%s, the group %q", saw, group)
}

func verbosePedantic(t *testing.T, s *server) string {
	refused := make(chan error, 10)
	nc := connect(t, s, verbose, pedantic,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }),
		nats.NoReconnect(), nats.ClosedHandler(func(nc *nats.Conn) { refused <- fmt.Errorf("closed: %w", nc.LastError()) }))
	sub := subscribe(t, nc, "news", "")
	publish(t, nc, "news", "a", "b")
	saw := fmt.Sprintf("%q", received(t, nc, sub))
	if err := nc.Publish("news.*", []byte("to a wildcard")); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s; %v", saw, await(t, "the server refuses a bad subject", refused))
}

func verbose(o *nats.Options) error { o.Verbose = true; return nil }

func pedantic(o *nats.Options) error { o.Pedantic = true; return nil }

func reconnect(t *testing.T, s *server) string {
	gone, back := make(chan error, 1), make(chan struct{}, 1)
	nc := connect(t, s,
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { gone <- err }),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	plain, group, limited := subscribe(t, nc, "news.*", ""), subscribe(t, nc, "jobs", "workers"), subscribe(t, nc, "few", "")
	left := subscribe(t, nc, "left", "")
	if err := limited.AutoUnsubscribe(3); err != nil {
		t.Fatal(err)
	}

	publish(t, nc, "few", "1")
	if err := left.Unsubscribe(); err != nil {
		t.Fatal(err)
	}

	s.restart()
	err := await(t, "the client is disconnected", gone)
	await(t, "the client is back", back)
	other := connect(t, s)
	publish(t, other, "news.today", "a")
	publish(t, other, "jobs", "b")
	publish(t, other, "few", "2", "3", "4")
	publish(t, other, "left", "c")
	saw := received(t, nc, plain)
	saw = append(saw, received(t, nc, group)...)
	for range 3 {
		m, err := limited.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, string(m.Data))
	}

	if err != nil && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
		t.Errorf("disconnected: %v", err)
	}
	return fmt.Sprintf("%q, subscriptions %d", saw, nc.NumSubscriptions())
}

func forcedReconnect(t *testing.T, s *server) string {
	back := make(chan struct{}, 1)
	nc := connect(t, s, nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	sub := subscribe(t, nc, "news", "")
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	await(t, "the client is back", back)
	publish(t, nc, "news", "a")
	return fmt.Sprintf("%q", received(t, nc, sub))
}

func lameDuck(t *testing.T, s *server) string {
	told := make(chan struct{}, 2)
	nc := connect(t, s, nats.LameDuckModeHandler(func(*nats.Conn) { told <- struct{}{} }))
	other := connect(t, s, nats.LameDuckModeHandler(func(*nats.Conn) { told <- struct{}{} }))
	sub := subscribe(t, nc, "news", "")
	s.lameDuck()
	await(t, "a client is told", told)
	await(t, "the other client is told", told)
	publish(t, other, "news", "still here")
	saw := fmt.Sprintf("%q", received(t, nc, sub))
	_, err := net.Dial("tcp", s.tcp)
	return fmt.Sprintf("%s, new connections refused %v", saw, err != nil)
}

func maxPayload(t *testing.T, s *server) string {
	nc := connect(t, s)
	sub := subscribe(t, nc, "news", "")
	largest := strings.Repeat("x", int(nc.MaxPayload()))
	publish(t, nc, "news", largest)
	got := received(t, nc, sub)
	err := nc.Publish("news", []byte(largest+"x"))
	return fmt.Sprintf("%d allowed, %d arrived, one more: %v, connected %v", nc.MaxPayload(), len(got[0]), err, nc.IsConnected())
}

func tooManySubscriptions(t *testing.T, s *server) string {
	refused := make(chan error, 10)
	nc := connect(t, s, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	sub := subscribe(t, nc, "a", "")
	for range 3 {
		subscribe(t, nc, "a", "")
	}
	err := await(t, "a subscription is refused", refused)
	publish(t, nc, "a", "x")
	return fmt.Sprintf("%v; then %q", err, received(t, nc, sub))
}

func tooManyConnections(t *testing.T, s *server) string {
	connect(t, s)
	connect(t, s)
	_, err := tryConnect(t, s)
	broken := &net.OpError{} // -ERR arrived while the client was still writing
	switch {
	case err == nil:
		return "accepted"
	case strings.Contains(err.Error(), "maximum connections exceeded"), errors.As(err, &broken), errors.Is(err, io.EOF):
		return "refused"
	}
	return err.Error()
}

// valve is a connection whose reads can be blocked.
type valve struct {
	net.Conn
	open chan struct{}
}

func (v *valve) Read(b []byte) (int, error) {
	<-v.open
	return v.Conn.Read(b)
}

func (v *valve) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if v.Conn != nil || err != nil {
		return conn, err // the connection is back
	}
	v.Conn = conn
	return v, nil
}

func slowConsumer(t *testing.T, s *server) string {
	const rounds, size = 512, 64 << 10
	back := make(chan struct{}, 1)
	v := &valve{open: make(chan struct{}, 1<<20)}
	for range 100 {
		v.open <- struct{}{} // enough to connect and subscribe
	}

	slow := connect(t, s, nats.SetCustomDialer(v), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	subscribe(t, slow, "flood", "")
	for len(v.open) > 0 {
		<-v.open
	}

	quick, giver := connect(t, s), connect(t, s)
	sub := subscribe(t, quick, "flood", "")
	for range rounds {
		publish(t, giver, "flood", strings.Repeat("x", size))
		flush(t, quick)
	}
	close(v.open)
	await(t, "the slow client was cut off and is back", back)
	return fmt.Sprintf("the quick client got %d of %d", len(received(t, quick, sub)), rounds)
}

func fanOut(t *testing.T, s *server) string {
	const clients, each, messages = 20, 10, 500
	var conns []*nats.Conn
	var subs []*nats.Subscription
	for range clients {
		nc := connect(t, s)
		conns = append(conns, nc)
		for range each {
			subs = append(subs, subscribe(t, nc, "news", ""))
		}
	}

	want := numbered(messages)
	publish(t, connect(t, s), "news", want...)
	for i, sub := range subs {
		if got := received(t, conns[i/each], sub); !slices.Equal(got, want) {
			t.Fatalf("subscription %d got %d messages, want %d in order", i, len(got), messages)
		}
	}

	return fmt.Sprintf("%d × %d in order", len(subs), messages)
}

func services(t *testing.T, s *server) string {
	nc := connect(t, s)
	for range 2 {
		theirs := connect(t, s)
		svc, err := micro.AddService(theirs, micro.Config{
			Name: "adder", Version: "1.0.0",
			Endpoint: &micro.EndpointConfig{Subject: "add.one", Handler: micro.HandlerFunc(func(r micro.Request) {
				if len(r.Data()) == 0 {
					r.Error("400", "nothing to add to", nil)
					return
				}
				r.Respond(append(r.Data(), '1'))
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { svc.Stop() })
		flush(t, theirs) // the server has its subscriptions
	}

	var saw []string
	for _, payload := range []string{"1", ""} {
		m, err := nc.Request("add.one", []byte(payload), patience)
		if err != nil {
			t.Fatal(err)
		}
		saw = append(saw, fmt.Sprintf("%q %q", m.Data, m.Header))
	}

	inbox := nc.NewInbox()
	pongs := subscribe(t, nc, inbox, "")
	if err := nc.PublishRequest("$SRV.PING.adder", inbox, nil); err != nil {
		t.Fatal(err)
	}

	for range 2 {
		m, err := pongs.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		var pong micro.Ping
		if err := json.Unmarshal(m.Data, &pong); err != nil {
			t.Fatal(err)
		}
		saw = append(saw, pong.Name)
	}

	return strings.Join(saw, "; ")
}

func jetStream(t *testing.T, s *server) string {
	js, err := connect(t, s).JetStream(nats.MaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	_, account := js.AccountInfo()
	_, published := js.Publish("orders", []byte("1"))
	return fmt.Sprintf("%v; %v", account, published)
}

func longPattern(t *testing.T, s *server) string {
	refused := make(chan error, 10)
	nc := connect(t, s, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	tokens := strings.Repeat("a.", 64)
	pattern, literal := subscribe(t, nc, tokens+">", ""), subscribe(t, nc, tokens+"a", "")
	publish(t, nc, tokens+"a", "x")
	saw := "received"
	if len(received(t, nc, literal)) != 1 {
		t.Error("the literal subject got nothing")
	}

	if len(received(t, nc, pattern)) == 0 {
		if err := await(t, "the pattern is refused", refused); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
		saw = "permissions violation"
	}
	return fmt.Sprintf(`subscribe to "a.….a.>": %s; to "a.….a": received`, saw)
}

func ownServices(t *testing.T, s *server) string {
	nc := connect(t, s)
	var saw []string
	for _, subject := range []string{"edged.echo", "$SYS.REQ.USER.INFO"} {
		m, err := nc.Request(subject, []byte("hello"), patience)
		switch {
		case err != nil:
			saw = append(saw, subject+": "+err.Error())
		case strings.HasPrefix(string(m.Data), "{"):
			saw = append(saw, subject+": {…}")
		default:
			saw = append(saw, subject+": "+string(m.Data))
		}
	}
	return strings.Join(saw, "; ")
}

func publishToList(t *testing.T, s *server) string {
	refused := make(chan error, 10)
	nc := connect(t, s, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	sub := subscribe(t, nc, "events", "")
	publish(t, nc, "events", "forged")
	got := received(t, nc, sub)
	var err error
	if len(got) == 0 {
		if err = await(t, "publishing is refused", refused); errors.Is(err, nats.ErrPermissionViolation) {
			err = nats.ErrPermissionViolation
		}
	}
	return fmt.Sprintf("%v; received %q", err, got)
}
