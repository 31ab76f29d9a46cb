package redisconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
)

// serverOf returns the one server in use at address, and a channel that announces the close of its
// connection.
func serverOf(t *testing.T, o Options) (s *Server, closed <-chan struct{}) {
	t.Helper()
	o.Timeout = 5 * time.Second
	told := make(chan struct{}, 1)
	servers := NewServers(o, Callbacks{Changed: func(string) {}, Closed: func() { told <- struct{}{} }})
	t.Cleanup(servers.Close)
	return servers.Route().Server, told
}

func TestAConnectionThatIsClosedAtRestIsNoticedAtOnce(t *testing.T) {
	redis := redistest.Start(t)
	s, closed := serverOf(t, Options{Address: redis.Address()})
	if _, err := s.Do(t.Context(), "PING"); err != nil {
		t.Fatal(err)
	}
	if s.Heed(t.Context()) {
		t.Fatal("the connection has broken by itself")
	}
	redis.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	<-closed
	if !s.Heed(t.Context()) || s.Breaks() != 1 {
		t.Errorf("it is not told, %d breaks", s.Breaks())
	}

	if v, err := s.Do(t.Context(), "PING"); v != "PONG" || err != nil {
		t.Errorf("on the next connection: %v, %v", v, err)
	}
}

func TestRedisOwnWordsExplainARefusedConnection(t *testing.T) {
	full := redistest.Start(t, "--maxclients", "1")
	full.Client().Ping(t.Context()) // takes the only place
	locked := redistest.Start(t)
	locked.Client().ConfigSet(t.Context(), "requirepass", "right")

	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Address: full.Address()}, "ERR max number of clients reached"},
		{Options{Address: locked.Address(), Password: "wrong"}, "WRONGPASS"},
		{Options{Address: locked.Address()}, "NOAUTH"},
		{Options{Address: locked.Address(), Password: "right", DB: 1000}, "ERR DB index is out of range"},
	} {
		s, _ := serverOf(t, c.o)
		if _, err := s.Do(t.Context(), "PING"); !IsReply(err) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestAServerWithoutHelloIsLoggedInto(t *testing.T) {
	s, _ := serverOf(t, Options{Address: answering(t, ":3\r\n")})
	if v, err := s.Do(t.Context(), "LLEN", "key"); v != int64(3) || err != nil {
		t.Errorf("%v, %v", v, err)
	}
}

func TestAScriptIsLoadedWhenRedisDoesNotKnowIt(t *testing.T) {
	redis := redistest.Start(t)
	s, _ := serverOf(t, Options{Address: redis.Address()})
	script := NewScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
	for want := range int64(3) {
		redis.Client().ScriptFlush(t.Context())
		if v, err := s.Run(t.Context(), script, []string{"n"}, 1); v != 2*want+1 || err != nil {
			t.Errorf("%v, %v", v, err)
		}
		redis.Client().ScriptFlush(t.Context())
		if v, err := script.RunBy(t.Context(), s.Client(), []string{"n"}, 1); v != 2*want+2 || err != nil {
			t.Errorf("by go-redis: %v, %v", v, err)
		}
	}
}

func TestRenewedSecretsCountFromTheNextConnectionOn(t *testing.T) {
	redis := redistest.Start(t, "--user", "edged", "on", ">old", "~*", "&*", "+@all")
	secrets := new(Secrets)
	o := Options{Address: redis.Address(), Username: "edged", Password: "old", Secrets: secrets}
	s, closed := serverOf(t, o)
	ping := func() error {
		_, err := s.Do(t.Context(), "PING")
		return errors.Join(err, s.Client().Ping(t.Context()).Err())
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}

	o.Password = "new"
	secrets.Renew(o)
	admin := redis.Client()
	admin.Do(t.Context(), "ACL", "SETUSER", "edged", "resetpass", ">new")
	if err := ping(); err != nil {
		t.Errorf("on the connections that stand: %v", err)
	}
	admin.Do(t.Context(), "CLIENT", "KILL", "USER", "edged")
	<-closed
	s.Heed(t.Context())
	s.Client().Ping(t.Context()) // finds its connection closed
	if err := ping(); err != nil {
		t.Errorf("on new connections: %v", err)
	}
}

func TestRenewedCertificatesCountFromTheNextConnectionOn(t *testing.T) {
	_, server := redistest.StartTLS(t)
	read := func(certFile, keyFile string) *tls.Config {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		pem, err := os.ReadFile(server.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		c := &tls.Config{ServerName: server.ServerName, RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
		c.RootCAs.AppendCertsFromPEM(pem)
		return c
	}

	_, other := redistest.StartTLS(t)
	secrets := new(Secrets)
	o := Options{Address: server.Address, TLS: read(other.CertFile, other.KeyFile), Secrets: secrets}
	s, _ := serverOf(t, o)
	if _, err := s.Do(t.Context(), "PING"); err == nil {
		t.Fatal("a certificate of another authority is let in")
	}

	o.TLS = read(server.CertFile, server.KeyFile)
	secrets.Renew(o)
	if _, err := s.Do(t.Context(), "PING"); err != nil {
		t.Error(err)
	}

	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Errorf("by go-redis: %v", err)
	}
}

func TestConnectionsThatRedisClosesAtRestAreSaidUntilOneRestsLonger(t *testing.T) {
	redis := redistest.Start(t)
	s, _ := serverOf(t, Options{Address: redis.Address()})
	if _, err := s.Do(t.Context(), "PING"); err != nil {
		t.Fatal(err)
	}
	says := func() string { _, closes := s.Notices(); return closes }
	for range fewCloses {
		if got := says(); got != "" {
			t.Errorf("too early: %s", got)
		}
		s.noteClose(3 * time.Second)
	}

	if got := says(); !strings.HasSuffix(got, "closes connections that rest for 3s; set its timeout to 0") {
		t.Errorf("%q", got)
	}
	s.conn.deadline = time.Now().Add(s.conn.timeout - 7*time.Second) // idle for 7 s
	if got := says(); got != "" {
		t.Errorf("too late: %s", got)
	}

	for _, rested := range []time.Duration{time.Minute, time.Second, time.Hour, time.Millisecond} {
		s.noteClose(rested) // by an operator, at any time
	}
	if got := says(); got != "" {
		t.Errorf("of single closes: %s", got)
	}
}

func TestAServerThatClosesInPlaceOfAnAnswerIsNamed(t *testing.T) {
	for reply, want := range map[string]string{
		"":                            "closed the connection at the first command (HELLO); does it want TLS, or is it a proxy?",
		"-DENIED Redis is protected":  "is in protected mode; give it a password",
		"-ERR max number of clients":  "has no place for another client; raise its maxclients",
		"-NOAUTH Authentication":      "refuses the credentials",
		"-ERR unknown command HELLOX": "lacks a command that edged needs; is it a proxy",
	} {
		s, _ := serverOf(t, Options{Address: closing(t, reply)})
		_, err := s.Do(t.Context(), "EVALSHA")
		if err == nil || !strings.Contains(Explain(err, "x"), want) {
			t.Errorf("%q: %v, want %s", reply, err, want)
		}
	}
}

// closing is a server that sends a line, unless it is empty, and closes the connection.
func closing(t *testing.T, line string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if line != "" {
				io.WriteString(conn, line+"\r\n")
			}
			conn.Read(make([]byte, 1<<10))
			conn.Close()
		}
	}()

	return l.Addr().String()
}
