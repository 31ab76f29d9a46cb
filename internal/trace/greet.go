package trace

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// greet reads the server's greeting and starts TLS, if the protocol has them. It reports whether
// the caller's steps may follow.
func (t *tracer) greet(ctx context.Context, conn net.Conn) bool {
	secure := t.TLS != nil
	if t.Protocol != Silent {
		var info natsInfo
		f := t.step(ctx, "nats", "", func(ctx context.Context) (f finding) {
			info, f = greeting(ctx, conn, t.Protocol)
			return f
		})
		if t.because(f); t.cause != "" {
			return false
		}
		if secure && !info.TLSRequired && !info.TLSAvailable {
			t.because(fail("remove tls:// and the section tls, or give the hub a certificate", "the hub offers no TLS, and the configuration wants it"))
			return false
		}
		secure = secure || info.TLSRequired
		t.good = append(t.good, f.text)
	}
	if !secure {
		return true
	}

	config := t.TLS
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	f := t.step(ctx, "tls", "", func(ctx context.Context) finding {
		f := handshake(ctx, conn, config, t.host, time.Now())
		if t.Protocol == Unknown && f.result == Fail {
			f.result = Warn // the configuration does not say which authority is right
		}
		return f
	})
	if f.result == Warn {
		t.notes = append(t.notes, printable(f.words()))
	}
	t.because(f)
	return t.cause == ""
}

// natsInfo is the part of a NATS server's INFO that a trace shows.
type natsInfo struct {
	Name         string `json:"server_name"`
	Version      string `json:"version"`
	Edged        string `json:"edged"`
	TLSRequired  bool   `json:"tls_required"`
	TLSAvailable bool   `json:"tls_available"`
	Auth         bool   `json:"auth_required"`
	JetStream    bool   `json:"jetstream"`
	MaxPayload   int64  `json:"max_payload"`
	LameDuck     bool   `json:"ldm"`
}

// greeting reads INFO, which a NATS server sends first.
func greeting(ctx context.Context, conn net.Conn, protocol Protocol) (info natsInfo, _ finding) {
	defer deadline(ctx, conn, greetTimeout)()
	const longest = 64 << 10
	r := bufio.NewReaderSize(io.LimitReader(conn, longest), longest)
	line, err := r.ReadString('\n')
	body, isInfo := strings.CutPrefix(line, "INFO ")
	switch {
	case isInfo && json.Unmarshal([]byte(body), &info) == nil:
		return info, ok("%s", info.words())
	case protocol == Unknown && line == "" && timedOut(err):
		return info, ok("the server says nothing by itself, so it is no NATS server")
	case line != "" && protocol == Unknown:
		return info, ok("no NATS server: it begins with %.40q", line)
	case line != "":
		return info, fail("is that the client port of the hub?", "no NATS server: it begins with %.40q", line)
	case timedOut(err):
		return info, fail("is that the client port of the hub? TLS before INFO (handshake_first) is not possible",
			"connected, but the server says nothing for %s", greetTimeout)
	}

	return info, fail("is that the client port of the hub, and does it let this address in?", "the server closed the connection without a word")
}

// words puts the greeting into words for people.
func (i natsInfo) words() string {
	text := "nats-server " + i.Version
	if i.Edged != "" {
		text = "edged " + i.Edged
	}
	if i.Name != "" {
		text += fmt.Sprintf(" (%.60s)", i.Name)
	}

	for _, part := range []struct {
		is    bool
		words string
	}{{i.JetStream, "with JetStream"}, {i.TLSRequired, "TLS required"}, {i.Auth, "login required"}, {i.LameDuck, "shutting down (lame duck)"}} {
		if part.is {
			text += ", " + part.words
		}
	}
	return text
}

// handshake makes a TLS connection and judges the server's certificate.
func handshake(ctx context.Context, conn net.Conn, config *tls.Config, host string, now time.Time) finding {
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.InsecureSkipVerify = true // judge checks it, and explains
	asked := false
	certificates := config.Certificates
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		if len(certificates) > 0 {
			return &certificates[0], nil
		}
		return new(tls.Certificate), nil
	}
	defer deadline(ctx, conn, tlsTimeout)()
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return refused(err, asked && len(certificates) == 0)
	}

	state := secured.ConnectionState()
	if f := judgeCertificate(state.PeerCertificates, config, now); f.result != OK {
		return f
	}
	leaf := state.PeerCertificates[0]
	expires := leaf.NotAfter.UTC().Format(time.DateOnly)
	const soon = 7 * 24 * time.Hour
	switch {
	case leaf.NotAfter.Sub(now) < soon:
		return finding{Warn, "the certificate expires on " + expires, "renew it on the server"}
	case asked && len(certificates) == 0:
		return finding{Warn, "the server asks for a client certificate", "if it insists, set tls.cert_file and tls.key_file"}
	}
	return ok("%s, the certificate is for %s, by %q, until %s", tls.VersionName(state.Version), names(leaf), leaf.Issuer.CommonName, expires)
}

// judgeCertificate explains why a server's certificate is not valid.
func judgeCertificate(chain []*x509.Certificate, config *tls.Config, now time.Time) finding {
	leaf := chain[0]
	options := x509.VerifyOptions{Roots: config.RootCAs, CurrentTime: now, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(options)

	const stamp = "2006-01-02 15:04 MST"
	clock := now.UTC().Format(stamp)
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case now.Before(leaf.NotBefore):
		return fail("set the clock of this box if it is wrong", "the certificate is not valid before %s, and the clock says %s", leaf.NotBefore.UTC().Format(stamp), clock)
	case now.After(leaf.NotAfter):
		return fail("renew it on the server, or set the clock of this box", "the certificate expired on %s, and the clock says %s", leaf.NotAfter.UTC().Format(stamp), clock)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fail("renew it, or set the clock of this box", "a certificate of the authority is not valid at %s: %s", clock, invalid.Detail)
	case errors.As(err, &unknown):
		return fail("tls.ca_file has to name it", "the certificate is by %q, an authority that this box does not know", leaf.Issuer.CommonName)
	case err != nil:
		return fail("", "the certificate is not accepted: %v", err)
	}
	if leaf.VerifyHostname(config.ServerName) != nil {
		return fail("use a name of the certificate, or set tls.server_name to one", "the certificate is for %s, not for %s", names(leaf), config.ServerName)
	}
	return ok("")
}

// names returns the names that a certificate is valid for.
func names(leaf *x509.Certificate) string {
	all := append([]string{}, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		all = append(all, ip.String())
	}
	const most = 4
	switch {
	case len(all) == 0:
		return "no name"
	case len(all) > most:
		return strings.Join(all[:most], ", ") + " and others"
	}
	return strings.Join(all, ", ")
}

// refused explains why there is no TLS connection.
func refused(err error, withoutCertificate bool) finding {
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &header):
		return fail("is the port right?", "the server does not speak TLS there")
	case timedOut(err), errors.Is(err, context.DeadlineExceeded):
		return fail("if a router drops large packets silently (see mtu), lower the MTU of the interface", "no answer to the TLS handshake for %s", tlsTimeout)
	case strings.Contains(err.Error(), "remote error") && withoutCertificate:
		return fail("set tls.cert_file and tls.key_file", "the server wants a client certificate (%v)", err)
	case strings.Contains(err.Error(), "remote error"):
		return fail("check tls.cert_file, and the authorities of the server", "the server refuses the TLS connection (%v)", err)
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return fail("does the server speak TLS there?", "the server closed the connection during the TLS handshake")
	}
	return fail("", "%v", err)
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// deadline bounds the use of a connection by a time, and by ctx.
func deadline(ctx context.Context, conn net.Conn, timeout time.Duration) (done func()) {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
