// Package client is a small NATS client for boxes without another. It prints the messages of
// subjects, and publishes to lists that clients write to. It is nats.go with two changes: an item
// is printed before its receipt is confirmed, and the package reconnects itself.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
)

// answerTimeout is for connecting, for the server's answers to PINGs, and for the farewell.
const answerTimeout = 10 * time.Second

// ErrTimeout means that nothing arrived within the allowed time.
var ErrTimeout = errors.New("timeout")

// errTold is an error with a text of its own in place of its cause's.
type errTold struct {
	text  string
	cause error
}

func (e errTold) Error() string { return e.text }
func (e errTold) Unwrap() error { return e.cause }

func timeout(format string, args ...any) error {
	return errTold{fmt.Sprintf(format, args...), ErrTimeout}
}

// Server says how to connect. Files are PEM and are read at each connect.
type Server struct {
	Address    string // host:port or a nats:// or tls:// URL, several with commas between; the default port is 4222
	Name       string // of this client, for the server; may be empty
	User       string
	Password   string
	Token      string
	CredsFile  string // as made by NATS's nsc
	CAFile     string // empty: the system's certificate authorities
	CertFile   string // of this client; set with KeyFile or not at all
	KeyFile    string
	ServerName string // in the server's certificate; empty: the host of the address
	TLSFirst   bool   // the handshake comes before INFO
}

// String returns the address, without a password.
func (s Server) String() string {
	urls, err := s.urls()
	if err != nil {
		return "the server"
	}
	var all []string
	for _, u := range urls {
		all = append(all, u.Host)
	}
	return strings.Join(all, ", ")
}

// urls returns the addresses as URLs.
func (s Server) urls() (all []*url.URL, err error) {
	for address := range strings.SplitSeq(s.Address, ",") {
		if !strings.Contains(address, "://") {
			address = "nats://" + address
		}
		u, err := url.Parse(strings.TrimSpace(address))
		if err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls" || strings.Trim(u.Path, "/") != "" {
			return nil, errors.New("the address of the server is not valid: write host:port, nats://host:port or tls://host:port")
		}
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "4222")
		}
		all = append(all, u)
	}
	return all, nil
}

// dialer makes the library's connections. They end with ctx, even in the middle of a handshake.
type dialer struct {
	ctx  context.Context
	wrap func(net.Conn) net.Conn
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: answerTimeout}).DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(d.ctx, func() { conn.Close() })
	return d.wrap(conn), nil
}

// connect connects once and does not reconnect. The connection ends with ctx.
func (s Server) connect(ctx context.Context, wrap func(net.Conn) net.Conn, more ...nats.Option) (*nats.Conn, error) {
	urls, err := s.urls()
	if err != nil {
		return nil, err
	}
	options := []nats.Option{
		nats.Name(s.Name), nats.NoReconnect(), nats.Timeout(answerTimeout), nats.SetCustomDialer(dialer{ctx, wrap}),
		nats.PingInterval(24 * time.Hour), // a slow reader of the output is not a dead server; TCP detects a dead one
	}
	if s.User != "" {
		options = append(options, nats.UserInfo(s.User, s.Password))
	}
	if s.Token != "" {
		options = append(options, nats.Token(s.Token))
	}
	if s.CredsFile != "" {
		options = append(options, nats.UserCredentials(s.CredsFile))
	}
	secure, err := s.tls(urls)
	if err != nil {
		return nil, err
	}
	options = append(append(options, secure...), more...)

	var all []string
	for _, u := range urls {
		all = append(all, u.String())
	}
	nc, err := nats.Connect(strings.Join(all, ","), options...)
	if err != nil {
		return nil, s.failed(err)
	}
	return nc, nil
}

// tls returns the options for TLS. Without any, the library uses TLS if the server asks for it.
func (s Server) tls(urls []*url.URL) (options []nats.Option, err error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		text, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates of authorities: %w", err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificates of authorities: there is no certificate in %s", s.CAFile)
		}
	}
	if s.CertFile != "" || s.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate of this client: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	asked := s.CAFile != "" || s.CertFile != "" || s.ServerName != "" || s.TLSFirst
	for _, u := range urls {
		asked = asked || u.Scheme == "tls"
	}

	if asked { // a server without TLS is refused then
		options = append(options, nats.Secure(config))
	}
	if s.TLSFirst {
		options = append(options, nats.TLSHandshakeFirst())
	}
	return options, nil
}

// failed explains why connecting failed.
func (s Server) failed(err error) error {
	var authority x509.UnknownAuthorityError
	var timedOut net.Error
	switch {
	case errors.Is(err, nats.ErrAuthorization) && s.User == "" && s.Token == "" && s.CredsFile == "":
		return errTold{fmt.Sprintf("%s wants a user or a token: see -user, -token-file and -creds", s), err}
	case errors.Is(err, nats.ErrAuthorization):
		return errTold{fmt.Sprintf("%s refuses the user, password, token or credentials", s), err}
	case errors.Is(err, nats.ErrSecureConnWanted):
		return errTold{fmt.Sprintf("%s has no TLS", s), err}
	case errors.As(err, &authority):
		return errTold{fmt.Sprintf("connect to %s: %v (see -ca-file)", s, err), err}
	case errors.As(err, &timedOut) && timedOut.Timeout(), errors.Is(err, nats.ErrTimeout):
		return timeout("%s gave no answer for %v", s, answerTimeout)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("connect to %s: connection refused (is the server running, and listening there?)", s)
	default:
		return fmt.Errorf("connect to %s: %s", s, said(err))
	}
}

// said returns the text of an error without the library's name.
func said(err error) string { return strings.TrimPrefix(err.Error(), "nats: ") }

// isName reports whether s can be one word in a line of the protocol.
func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
}
