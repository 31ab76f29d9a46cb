package tcpserver

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edged/internal/auth"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	})
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}

	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue makes a certificate for 127.0.0.1, and for clients.
func (a *authority) issue(name string) tls.Certificate {
	cert, key := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// secured returns a server's Security with TLS.
func (a *authority) secured() auth.Security {
	return auth.Security{TLS: &tls.Config{Certificates: []tls.Certificate{a.issue("server")}, MinVersion: tls.VersionTLS12}}
}

// dialTLS connects and reads INFO, before or after the handshake.
func (a *authority) dialTLS(addr string, first bool, config *tls.Config) (*conn, error) {
	a.t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { nc.Close() })
	nc.SetReadDeadline(time.Now().Add(patience))

	info := func(c net.Conn) { // byte by byte: TLS follows
		var line strings.Builder
		for b := make([]byte, 1); b[0] != '\n'; line.Write(b) {
			if _, err := c.Read(b); err != nil {
				a.t.Fatal(err)
			}
		}
		if !strings.HasPrefix(line.String(), "INFO {") || !strings.Contains(line.String(), `"tls_required":true`) {
			a.t.Fatalf("the first line is %q, want INFO with tls_required", &line)
		}
	}
	if !first {
		info(nc)
	}
	if config == nil {
		config = &tls.Config{}
	}

	config.RootCAs, config.ServerName = a.pool(), "127.0.0.1"
	secure := tls.Client(nc, config)
	if err := secure.Handshake(); err != nil {
		return nil, err
	}
	if first {
		info(secure)
	}
	return &conn{t: a.t, Conn: secure, r: bufio.NewReaderSize(secure, 64<<10)}, nil
}

func (a *authority) mustDialTLS(addr string, first bool, config *tls.Config) *conn {
	a.t.Helper()
	c, err := a.dialTLS(addr, first, config)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func TestTLSComesAfterInfoOrBeforeIt(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for _, first := range []bool{false, true} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("first %v, %s", first, tls.VersionName(version)), func(t *testing.T) {
				l := &fakeList{subject: "items"}
				opts := testOptions()
				opts.Lists = []List{{Subject: "items", Joiner: l}}
				sec := a.secured()
				sec.TLSFirst = first
				opts.Gate = gated(sec)
				_, addr := serve(t, opts)
				c := a.mustDialTLS(addr, first, &tls.Config{MaxVersion: version})
				c.send("CONNECT {\"headers\":true}\r\nSUB items 1\r\nSUB foo 2\r\nPUB foo 2\r\nhi\r\n")
				c.expect("MSG foo 2 2", "hi")
				l.member(t, 0).offer("one", "two")
				c.expect("MSG items 1 3", "one", "MSG items 1 3", "two", "PING")
				c.send("PONG\r\n")
				eventually(t, "the items are confirmed", func() bool { return l.member(t, 0).confirmed()[0] == 1 })
				big := strings.Repeat("x", 1<<20)
				go c.Write([]byte("PUB foo 1048576\r\n" + big + "\r\n"))
				c.expect("MSG foo 2 1048576", big)
				c.send("FOO\r\n")
				c.expect("-ERR 'Unknown Protocol Operation'")
				c.expectEnd() // with TLS's close_notify: anything else is an error
			})
		}
	}
}

func TestClientsWithoutTLSOrWithAnOldOneAreNotLetIn(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for _, first := range []bool{false, true} {
		opts := testOptions()
		sec := a.secured()
		sec.TLSFirst = first
		opts.Gate = gated(sec)
		s, addr := serve(t, opts)
		plain, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		io.WriteString(plain, "CONNECT {}\r\nPING\r\n")
		if got, _ := io.ReadAll(plain); strings.Contains(string(got), "PONG") || first && strings.Contains(string(got), "INFO") {
			t.Errorf("first %v: a client without TLS is answered %q", first, got)
		}

		if _, err := a.dialTLS(addr, first, &tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}); err == nil {
			t.Errorf("first %v: a client with TLS 1.1 was let in", first)
		}

		eventually(t, "both are counted and gone", func() bool { return s.Stats().TLSFailures == 2 && s.Stats().Clients == 0 })
	}
}

func TestHandshakeHasToComeInTime(t *testing.T) {
	opts := testOptions()
	opts.Gate = gated(newAuthority(t).secured())
	opts.ConnectTimeout = time.Millisecond
	s, addr := serve(t, opts)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	eventually(t, "the connection is given up", func() bool { return s.Stats().TLSFailures == 1 && s.Stats().Clients == 0 })
}

func TestClientCertificatesAreChecked(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t), newAuthority(t)
	opts := testOptions()
	sec := a.secured()
	sec.TLS.ClientAuth, sec.TLS.ClientCAs = tls.RequireAndVerifyClientCert, a.pool()
	opts.Gate = gated(sec)
	s, addr := serve(t, opts)
	c := a.mustDialTLS(addr, false, &tls.Config{Certificates: []tls.Certificate{a.issue("client")}})
	c.send("CONNECT {}\r\n")
	c.sync()
	for _, certs := range [][]tls.Certificate{nil, {stranger.issue("client")}} {
		c, err := a.dialTLS(addr, false, &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certs == nil {
				return new(tls.Certificate), nil
			}
			return &certs[0], nil
		}})
		if err == nil { // with TLS 1.3 the client learns of it when it reads
			_, err = c.r.ReadByte()
		}
		if err == nil {
			t.Error("a client without a good certificate was let in")
		}
	}

	eventually(t, "both are counted", func() bool { return s.Stats().TLSFailures == 2 })
}

func TestReloadedCertificatesAreForNewConnections(t *testing.T) {
	t.Parallel()
	old, renewed := newAuthority(t), newAuthority(t)
	opts := testOptions()
	opts.Gate = gated(old.secured())
	s, addr := serve(t, opts)
	c := old.mustDialTLS(addr, false, nil)
	c.send("CONNECT {}\r\n")
	c.sync()
	if n := reload(s, renewed.secured()); n != 0 {
		t.Errorf("%d were disconnected, want 0", n)
	}

	c.sync()
	renewed.mustDialTLS(addr, false, nil)
	if _, err := old.dialTLS(addr, false, nil); err == nil {
		t.Error("the old certificate is still shown")
	}
}

func TestTLSClientThatReadsNothingIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		l := &fakeList{subject: "items"}
		opts := testOptions()
		opts.Lists = []List{{Subject: "items", Joiner: l}}
		opts.Gate = gated(a.secured())
		opts.ReceiptTimeout = 10 * time.Second
		s, ln := servePipes(t, opts)
		c := a.secure(ln.dial(t).Conn)
		c.send("CONNECT {}\r\nSUB items 1\r\n")
		c.sync()
		m := l.member(t, 0)
		m.offer(strings.Repeat("x", 1<<20))
		time.Sleep(opts.ReceiptTimeout + 5*time.Second)
		synctest.Wait()
		if st := s.Stats(); st.Stuck != 1 || st.Clients != 0 {
			t.Errorf("stats are %+v, want 1 stuck and no client", st)
		}

		if left, _ := m.state(); left != 1 {
			t.Errorf("it left %d times, want once", left)
		}
	})
}

// slow is a connection that returns few bytes, and late, once it is slow.
type slow struct {
	net.Conn
	pause time.Duration
}

func (s *slow) Read(p []byte) (int, error) {
	if s.pause == 0 {
		return s.Conn.Read(p)
	}
	time.Sleep(s.pause)
	return s.Conn.Read(p[:min(len(p), 1000)])
}

// TestTLSClientThatReadsSlowlyGetsEverything checks that a write goes on after a deadline interrupted it.
func TestTLSClientThatReadsSlowlyGetsEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		l := &fakeList{subject: "items"}
		opts := testOptions()
		opts.Lists = []List{{Subject: "items", Joiner: l}}
		opts.Gate = gated(a.secured())
		opts.ReceiptTimeout = 10 * time.Second
		s, ln := servePipes(t, opts)
		plain := ln.dial(t)
		below := &slow{Conn: plain.Conn}
		c := a.secure(below)
		c.send("CONNECT {}\r\nSUB items 1\r\n")
		c.sync()
		item := strings.Repeat("x", 50_000)
		l.member(t, 0).offer(item, "end")
		below.pause = 900 * time.Millisecond
		c.expect("MSG items 1 50000", item, "MSG items 1 3", "end", "PING")
		below.pause = 0
		c.sync()

		if st := s.Stats(); st.Stuck != 0 {
			t.Error("it counts as stuck")
		}
	})
}

// counting counts the bytes of each write.
type counting struct {
	net.Conn
	writes atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A batch is many records, since one holds 16 KiB, but still one system call.
func TestBatchOverTLSIsWrittenAtOnce(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	l := &fakeList{subject: "items"}
	opts := testOptions()
	opts.Lists = []List{{Subject: "items", Joiner: l}}
	sec := a.secured()
	sec.TLSFirst = true
	opts.Gate = gated(sec)
	_, ln := servePipes(t, opts)
	client, server := net.Pipe()
	defer client.Close()
	counted := &counting{Conn: server}
	ln.conns <- counted
	c := a.secure(client)
	c.line() // INFO
	c.send("CONNECT {}\r\nSUB items 1\r\n")
	c.sync()
	m, before := l.member(t, 0), counted.writes.Load()
	items := slices.Repeat([]string{strings.Repeat("x", 1000)}, 100)
	m.offer(items...)
	for range items {
		c.expect("MSG items 1 1000", items[0])
	}

	c.expect("PING")
	if n := counted.writes.Load() - before; n != 1 {
		t.Errorf("it took %d writes, want 1", n)
	}
}

// secure does the handshake of a client that has read INFO.
func (a *authority) secure(nc net.Conn) *conn {
	a.t.Helper()
	secure := tls.Client(nc, &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"})
	if err := secure.Handshake(); err != nil {
		a.t.Fatal(err)
	}
	return &conn{t: a.t, Conn: secure, r: bufio.NewReader(secure)}
}

// TestHandshakeIsPartOfTheTimeForCredentials checks that a client that stops after the handshake
// gets a readable error.
func TestHandshakeIsPartOfTheTimeForCredentials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		opts := testOptions()
		opts.Gate = gated(a.secured())
		opts.ConnectTimeout = 3 * time.Second
		_, ln := servePipes(t, opts)
		passed := sinceStart()
		plain := ln.dial(t)
		time.Sleep(2 * time.Second)
		c := a.secure(plain.Conn)
		c.expect("-ERR 'Authentication Timeout'")
		if got := passed(); got != opts.ConnectTimeout {
			t.Errorf("it came after %v, want %v", got, opts.ConnectTimeout)
		}

		c.expectEnd()
	})
}

func TestKickAndDrainDoNotWaitForAHandshake(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(newAuthority(t).secured())
	s, addr := serve(t, opts)
	c := dialRaw(t, addr)
	if err := s.Kick(1); err != nil {
		t.Fatal(err)
	}
	c.expectEnd()
	dialRaw(t, addr)
	s.Drain(t.Context(), 0)
}
