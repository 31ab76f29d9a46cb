package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLS is the TLS address of a server, with the files and the name that a client needs.
type TLS struct {
	Address    string // host:port
	ServerName string // in the server's certificate, which does not name the host
	CAFile     string // of the private authority that signed both certificates
	CertFile   string // the client's
	KeyFile    string
}

// StartTLS starts a server that also speaks TLS and requires a client's certificate.
func StartTLS(tb testing.TB, args ...string) (*Server, TLS) {
	tb.Helper()
	dir := tb.TempDir()
	port := FreePort(tb)
	caCert, caKey := certificate(tb, dir, "ca", nil, nil)
	certificate(tb, dir, "server", caCert, caKey)
	certificate(tb, dir, "client", caCert, caKey)
	file := func(name string) string { return filepath.Join(dir, name) }
	s := Start(tb, append([]string{
		"--tls-port", fmt.Sprint(port), "--bind", "127.0.0.1", "--tls-auth-clients", "yes",
		"--tls-cert-file", file("server.crt"), "--tls-key-file", file("server.key"), "--tls-ca-cert-file", file("ca.crt"),
	}, args...)...)
	return s, TLS{
		Address: fmt.Sprintf("127.0.0.1:%d", port), ServerName: "server.test",
		CAFile: file("ca.crt"), CertFile: file("client.crt"), KeyFile: file("client.key"),
	}
}

// certificate writes NAME.crt and NAME.key for NAME.test, signed by the given authority; without
// one it is an authority itself.
func certificate(tb testing.TB, dir, name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(err)

	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ca == nil {
		cert.IsCA, cert.BasicConstraintsValid, cert.KeyUsage, cert.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		ca, caKey = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	for ext, block := range map[string]*pem.Block{
		".crt": {Type: "CERTIFICATE", Bytes: der},
		".key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		must(os.WriteFile(filepath.Join(dir, name+ext), pem.EncodeToMemory(block), 0o600))
	}

	return cert, key
}

// FreePort returns a free TCP port of 127.0.0.1.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
