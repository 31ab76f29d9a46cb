package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// file writes a file that only this test knows, and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused expects that connecting fails, and returns the error.
func refused(t *testing.T, d *daemon, opts ...nats.Option) error {
	t.Helper()
	nc, err := nats.Connect("nats://"+d.Address, append(opts, nats.Timeout(patience))...)
	if err == nil {
		nc.Close()
		t.Error("a client was let in")
	}
	return err
}

func TestOnlyTheTokenLetsNatsGoIn(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t), fmt.Sprintf("tcp.auth.token_file = %q", file(t, "token", "s3cret\n")))
	flush(t, connect(t, d, nats.Token("s3cret")))
	for _, opts := range [][]nats.Option{nil, {nats.Token("other")}, {nats.UserInfo("s3cret", "s3cret")}} {
		if err := refused(t, d, opts...); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("nats.go reports %v, want nats.ErrAuthorization", err)
		}
	}
}

func TestUsersOfNatsGoHaveTheirRights(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, fmt.Sprintf(`tcp.user = [
		{ name = "reader", password_file = %[1]q, publish = { allow = ["edged.>"] }, subscribe = { allow = ["events", "_INBOX.>"] } },
		{ name = "all", password_file = %[1]q },
	]`, file(t, "password", "s3cret")), explicit)
	violations := make(chan error, 10)
	reader := connect(t, d, nats.UserInfo("reader", "s3cret"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	all := connect(t, d, nats.UserInfo("all", "s3cret"))

	// Items, their acknowledgements, and requests need no more rights than the rules give.
	items := messages(t, reader, "events")
	r.Push("events", "one")
	if err := next(t, items, "one").AckSync(); err != nil {
		t.Fatal(err)
	}
	if reply, err := reader.Request("edged.echo", []byte("hi"), patience); err != nil || string(reply.Data) != "hi" {
		t.Fatalf("a request is answered %v, %v", reply, err)
	}

	violation := func(what string) {
		t.Helper()
		select {
		case err := <-violations:
			if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), what) {
				t.Errorf("nats.go reports %v, want a permission violation with %s", err, what)
			}
		case <-time.After(patience):
			t.Fatal("gave up waiting: nats.go reports an error")
		}
	}
	_, heard := subscribe(t, all, "news", "")
	if err := reader.Publish("news", []byte("forged")); err != nil {
		t.Fatal(err)
	}
	flush(t, reader)
	violation(`Publish to "news"`)
	publish(t, all, "news", "genuine")
	wantItems(t, heard.wait(t, 1), "genuine")

	if _, err := reader.Subscribe(">", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	flush(t, reader)
	violation(`Subscription to ">"`)
	if reader.Stats().Reconnects != 0 {
		t.Error("the client had to reconnect")
	}
	if err := refused(t, d, nats.UserInfo("reader", "wrong")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("nats.go reports %v, want nats.ErrAuthorization", err)
	}
}

// certificate makes a self-signed certificate, for servers on loopback and for clients, and returns
// its path and that of its key.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}

	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return file(t, name+".pem", encode("CERTIFICATE", public)), file(t, name+".key", encode("PRIVATE KEY", secret))
}

// withTLS returns settings, and the option of a client that trusts them.
func withTLS(t *testing.T) (settings string, trust nats.Option, cert, key string) {
	t.Helper()
	cert, key = certificate(t, "server")
	return fmt.Sprintf("tcp.tls.cert_file = %q\ntcp.tls.key_file = %q", cert, key), nats.RootCAs(cert), cert, key
}

func TestNatsGoGetsItemsOverTLS(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for name, c := range map[string]struct {
		setting string
		opts    []nats.Option
	}{
		"after INFO":   {"", nil},
		"before INFO":  {"tcp.tls.first = true", []nats.Option{nats.TLSHandshakeFirst()}},
		"with a token": {fmt.Sprintf("tcp.auth.token_file = %q", file(t, "token", "t")), []nats.Option{nats.Token("t")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings, trust, _, _ := withTLS(t)
			r := redistest.Start(t)
			d := startEdged(t, r, settings, c.setting)
			nc := connect(t, d, append(c.opts, trust)...)
			_, box := subscribe(t, nc, "events", "")
			r.Push("events", numbers(0, n)...)
			wantRun(t, box.wait(t, n), 0, n)
			waitEmpty(t, r, "events")

			if _, err := nc.TLSConnectionState(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNatsGoHasToTrustAndToUseTLS(t *testing.T) {
	t.Parallel()
	settings, _, _, _ := withTLS(t)
	_, other, _, _ := withTLS(t)
	d := startEdged(t, redistest.Start(t), settings)
	if err := refused(t, d, other); !strings.Contains(err.Error(), "x509") {
		t.Errorf("a client that does not trust the certificate reports %v", err)
	}
}

func TestClientsOfNatsGoNeedACertificateOfTheAuthority(t *testing.T) {
	t.Parallel()
	settings, trust, _, _ := withTLS(t)
	cert, key := certificate(t, "client")
	strangerCert, strangerKey := certificate(t, "stranger")
	d := startEdged(t, redistest.Start(t), settings, fmt.Sprintf("tcp.tls.ca_file = %q", cert))
	flush(t, connect(t, d, trust, nats.ClientCert(cert, key)))
	refused(t, d, trust)
	refused(t, d, trust, nats.ClientCert(strangerCert, strangerKey))
}

func TestRenewedCertificatesDropNoConnection(t *testing.T) {
	t.Parallel()
	settings, trust, cert, key := withTLS(t)
	r := redistest.Start(t)
	d := startEdged(t, r, settings)
	nc := connect(t, d, trust)
	_, box := subscribe(t, nc, "events", "")

	_, _, newCert, newKey := withTLS(t)
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if answer := d.Control("reload"); !strings.HasSuffix(answer, "OK\n") {
		t.Fatalf("reload is answered %q", answer)
	}
	r.Push("events", numbers(0, 1000)...)
	wantRun(t, box.wait(t, 1000), 0, 1000)
	if nc.Stats().Reconnects != 0 {
		t.Error("the client had to reconnect")
	}
	flush(t, connect(t, d, nats.RootCAs(cert))) // it reads the renewed certificate
}

func TestNatsGoComesBackWhenThereIsRoomAgain(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t), "tcp.max_connections = 1")
	first := connect(t, d)
	back := make(chan struct{}, 1)
	second := connect(t, d, nats.RetryOnFailedConnect(true), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
		nats.ConnectHandler(func(*nats.Conn) { back <- struct{}{} }), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if second.IsConnected() || second.IsClosed() {
		t.Fatalf("the second client is %v", second.Status())
	}
	first.Close()
	<-back
	flush(t, second)
}

func TestMicroFindsServicesOfTheDaemonAndOfClients(t *testing.T) {
	t.Parallel()
	d := startEdged(t, redistest.Start(t), "tcp.services = true")
	nc := connect(t, d)
	theirs := connect(t, d)
	other, err := micro.AddService(theirs, micro.Config{Name: "doubler", Version: "1.0.0", Endpoint: &micro.EndpointConfig{
		Subject: "double", Handler: micro.HandlerFunc(func(r micro.Request) { r.Respond(append(r.Data(), r.Data()...)) }),
	}})
	if err != nil {
		t.Fatal(err)
	}
	flush(t, theirs) // the daemon has the service's subscriptions
	if _, err := nc.Request("double", []byte("a"), patience); err != nil {
		t.Fatal(err)
	}

	if ids := services(t, nc, 2); ids["doubler"] != other.Info().ID || ids["edged"] == "" {
		t.Fatalf("the services are %v", ids)
	}
}

// services returns the IDs of n services by their names, as they answer a PING.
func services(t *testing.T, nc *nats.Conn, n int) map[string]string {
	t.Helper()
	answers := make(chan *nats.Msg, 10)
	inbox := nats.NewInbox()
	if _, err := nc.ChanSubscribe(inbox, answers); err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("$SRV.PING", inbox, nil); err != nil {
		t.Fatal(err)
	}

	ids := map[string]string{}
	for range n {
		select {
		case m := <-answers:
			var p micro.Ping
			if err := json.Unmarshal(m.Data, &p); err != nil || p.Type != micro.PingResponseType {
				t.Fatalf("PING is answered %q, %v", m.Data, err)
			}
			ids[p.Name] = p.ID
		case <-time.After(patience):
			t.Fatalf("gave up waiting: %d services answer; %v did", n, ids)
		}
	}
	return ids
}

// ask decodes the answer to a request.
func ask(t *testing.T, nc *nats.Conn, subject string, answer any) {
	t.Helper()
	m, err := nc.Request(subject, nil, patience)
	if err == nil {
		err = json.Unmarshal(m.Data, answer)
	}
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
}

func TestTheServiceOfTheDaemonDescribesAndCountsItself(t *testing.T) {
	t.Parallel()
	nc := connect(t, startEdged(t, redistest.Start(t), "tcp.services = true"))
	id := services(t, nc, 1)["edged"]
	askService := func(verb micro.Verb, answer any) {
		t.Helper()
		subject, err := micro.ControlSubject(verb, "edged", id)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, nc, subject, answer)
	}

	var info micro.Info
	askService(micro.InfoVerb, &info)
	for _, e := range info.Endpoints {
		if _, err := nc.Request(e.Subject, nil, patience); err != nil {
			t.Errorf("%s does not answer: %v", e.Subject, err)
		}
	}
	var stats micro.Stats
	askService(micro.StatsVerb, &stats)
	if info.Type != micro.InfoResponseType || stats.Type != micro.StatsResponseType || len(info.Endpoints) != 3 || len(stats.Endpoints) != 3 || stats.Started.IsZero() {
		t.Fatalf("got %+v and %+v", info, stats)
	}
	for _, e := range stats.Endpoints {
		if e.NumRequests != 1 {
			t.Errorf("%s has counted %d requests, want 1", e.Subject, e.NumRequests)
		}
	}

	var status, lists map[string]any
	ask(t, nc, "edged.status", &status)
	ask(t, nc, "edged.lists", &lists)
	if status["state"] != "serving" || len(lists["lists"].([]any)) != 2 {
		t.Errorf("the status is %v, the lists are %v", status, lists)
	}
}
