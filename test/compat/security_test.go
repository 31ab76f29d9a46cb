package compat

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// FILES in settings is a folder with a token, a password, certificates and their keys: see
// writeFiles.
var (
	withToken = settings{
		edged:      `tcp.auth.token_file = "FILES/token"`,
		natsServer: `authorization { token: "open sesame" }`,
	}
	withUser = settings{
		edged: `[[tcp.user]]
			name = "reader"
			password_file = "FILES/password"
			publish = { allow = ["answers.>", "_INBOX.>"], deny = ["answers.not"] }
			subscribe = { allow = ["news.>", "_INBOX.>"], deny = ["news.secret"] }`,
		natsServer: `authorization { users: [ { user: reader, password: "open barley", permissions: {
			publish: { allow: ["answers.>", "_INBOX.>"], deny: ["answers.not"] }
			subscribe: { allow: ["news.>", "_INBOX.>"], deny: ["news.secret"] } } } ] }`,
	}
	withTLS = settings{
		edged: `tcp.tls = { cert_file = "FILES/server.pem", key_file = "FILES/server.key" }
			tcp.auth.token_file = "FILES/token"`,
		natsServer: `tls { cert_file: "FILES/server.pem", key_file: "FILES/server.key" }
			authorization { token: "open sesame" }`,
	}
	withClientCertificates = settings{
		edged:      `tcp.tls = { cert_file = "FILES/server.pem", key_file = "FILES/server.key", ca_file = "FILES/ca.pem" }`,
		natsServer: `tls { cert_file: "FILES/server.pem", key_file: "FILES/server.key", ca_file: "FILES/ca.pem", verify: true }`,
	}
	withHandshakeFirst = settings{
		edged:      `tcp.tls = { cert_file = "FILES/server.pem", key_file = "FILES/server.key", first = true }`,
		natsServer: `tls { cert_file: "FILES/server.pem", key_file: "FILES/server.key", handshake_first: true }`,
	}
)

func tokens(t *testing.T, s *server) string {
	return strings.Join([]string{
		attempt(t, s, "right", nats.Token("open sesame")),
		attempt(t, s, "wrong", nats.Token("open sesam")),
		attempt(t, s, "none"),
		attempt(t, s, "a user", nats.UserInfo("open sesame", "")),
	}, "; ")
}

func users(t *testing.T, s *server) string {
	return strings.Join([]string{
		attempt(t, s, "right", nats.UserInfo("reader", "open barley")),
		attempt(t, s, "wrong", nats.UserInfo("reader", "open wheat")),
		attempt(t, s, "unknown", nats.UserInfo("writer", "open barley")),
		attempt(t, s, "none"),
	}, "; ")
}

// attempt describes the outcome of connecting.
func attempt(t *testing.T, s *server, what string, opts ...nats.Option) string {
	nc, err := tryConnect(t, s, append(opts, nats.NoReconnect())...)
	if err != nil {
		return fmt.Sprintf("%s: %v", what, err)
	}
	flush(t, nc)
	return what + ": connected"
}

func permissions(t *testing.T, s *server) string {
	var saw []string
	nc := connect(t, s, nats.UserInfo("reader", "open barley"),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	var last error // handlers are called at any time; this one has been when flush returns

	refusal := func(what string) {
		t.Helper()
		flush(t, nc)
		if err := nc.LastError(); err != last {
			saw = append(saw, fmt.Sprintf("%s: %v", what, err))
			last = err
			return
		}
		saw = append(saw, what+": allowed")
	}
	for _, subject := range []string{"news.today", "news.>", "news.secret", "news.*", "*", "other", ">", "_INBOX.x"} {
		subscribe(t, nc, subject, "")
		refusal("subscribe " + subject)
		subscribe(t, nc, subject, "q")
		refusal("subscribe in a group " + subject)
	}

	for _, subject := range []string{"answers.a", "answers.not", "news.today", "_INBOX.x"} {
		publish(t, nc, subject, "x")
		refusal("publish " + subject)
	}
	return strings.Join(saw, "; ")
}

// givingUp describes a client with a wrong token: refused twice, it stays away.
func givingUp(t *testing.T, s *server) string {
	closed := make(chan error, 1)
	connect(t, s, nats.Token("wrong"), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
		nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))
	return fmt.Sprint(await(t, "the client gives up", closed))
}

func overTLS(t *testing.T, s *server) string {
	back := make(chan struct{}, 1)
	secure := []nats.Option{nats.Token("open sesame"), nats.RootCAs(filepath.Join(binaries, "ca.pem")),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} })}
	nc := connect(t, s, secure...)
	sub := subscribe(t, nc, "news", "")
	large := strings.Repeat("x", 1<<20)
	publish(t, nc, "news", "a", large)
	if got := received(t, nc, sub); !slices.Equal(got, []string{"a", large}) {
		t.Errorf("got %d messages, want 2 unchanged", len(got))
	}

	s.restart()
	await(t, "the client is back", back)
	publish(t, nc, "news", "b")
	_, err := nc.TLSConnectionState()
	return fmt.Sprintf("required %v, %v, then %q; %s", nc.TLSRequired(), err, received(t, nc, sub),
		attempt(t, s, "an unknown authority", nats.Token("open sesame"), nats.Secure()))
}

func clientCertificates(t *testing.T, s *server) string {
	ca := nats.RootCAs(filepath.Join(binaries, "ca.pem"))
	certificate := func(name string) nats.Option {
		return nats.ClientCert(filepath.Join(binaries, name+".pem"), filepath.Join(binaries, name+".key"))
	}
	refused := func(what string, opts ...nats.Option) string {
		_, err := tryConnect(t, s, append(opts, nats.NoReconnect())...)
		return fmt.Sprintf("%s: refused %v", what, err != nil)
	}
	return strings.Join([]string{
		attempt(t, s, "a certificate", ca, certificate("client")),
		refused("none", ca), // in words of the TLS library, if they arrive in time
		refused("of another authority", ca, certificate("stranger")),
	}, "; ")
}

func handshakeFirst(t *testing.T, s *server) string {
	return attempt(t, s, "handshake first", nats.RootCAs(filepath.Join(binaries, "ca.pem")), nats.TLSHandshakeFirst())
}

// writeFiles writes the files in FILES, once.
var writeFiles = sync.OnceValue(func() error {
	write := func(name string, data []byte) error {
		return os.WriteFile(filepath.Join(binaries, name), data, 0o600)
	}
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	others, err := newAuthority()
	if err != nil {
		return err
	}
	return errors.Join(
		write("token", []byte("open sesame\n")),
		write("password", []byte("open barley\n")),
		write("ca.pem", ca.pem),
		ca.issue("server", write),
		ca.issue("client", write),
		others.issue("stranger", write),
	)
})

// authority issues certificates that are valid for a day, for 127.0.0.1.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template("authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key, encodePEM("CERTIFICATE", der)}, err
}

func (a *authority) issue(name string, write func(name string, data []byte) error) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template(name), a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(write(name+".pem", encodePEM("CERTIFICATE", der)), write(name+".key", encodePEM("PRIVATE KEY", private)))
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
