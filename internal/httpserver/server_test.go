package httpserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves o at an address until the test ends.
func serve(t *testing.T, o Options) (address string) {
	t.Helper()
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.MaxClients == 0 {
		o.MaxClients = 10
	}
	if o.Gate == nil {
		o.Gate = auth.New(auth.Options{})
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, ended := New(o), make(chan error)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.End()
	})

	return l.Addr().String()
}

// ask sends one request with these header lines, and returns the answer's status and body.
func ask(t *testing.T, address, request string, lines ...string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nConnection: close\r\n%s\r\n\r\n", request, strings.Join(lines, "\r\n"))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()

	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

func TestANameThatIsNotTheBoxsIsRefused(t *testing.T) {
	at := serve(t, Options{Hosts: []string{"box-7"}, Routes: []Route{{Pattern: "/", Handler: hello}}})
	for host, want := range map[string]int{
		"box-7": 200, "BOX-7.:8222": 200, "localhost:8222": 200, "127.0.0.1:8222": 200, "[::1]:8222": 200, "10.1.2.3": 200,
		"evil.example": 421, "box-7.evil.example": 421, "": 421,
	} {
		if status, _ := ask(t, at, "GET /", "Host: "+host); status != want {
			t.Errorf("Host %q: %d, want %d", host, status, want)
		}
	}
}

func TestEverythingOnlyReads(t *testing.T) {
	at := serve(t, Options{Routes: []Route{{Pattern: "/", Handler: hello}}})
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405, "OPTIONS": 405} {
		if method == "HEAD" {
			continue // its answer has no body, which ask would wait for
		}
		if status, _ := ask(t, at, method+" /", "Host: localhost"); status != want {
			t.Errorf("%s: %d, want %d", method, status, want)
		}
	}
}

func TestCredentialsDecide(t *testing.T) {
	gate := auth.New(auth.Options{Security: auth.Security{Token: "token", Users: []auth.User{
		{Name: "ann", Password: "secret", Publish: auth.Rules{Allow: []string{"edged.status"}}},
		{Name: "bob", Password: "secret", Publish: auth.Rules{Deny: []string{"edged.>"}}},
	}}})

	at := serve(t, Options{
		Gate:   gate,
		Routes: []Route{{Pattern: "/", Subject: "edged.status", Handler: hello}, {Pattern: "/livez", Open: true, Handler: hello}},
	})
	for _, c := range []struct {
		path, user, password string
		bearer               string
		want                 int
	}{
		{path: "/", user: "ann", password: "secret", want: 200},
		{path: "/", user: "ann", password: "wrong", want: 401},
		{path: "/", want: 401},
		{path: "/livez", want: 200},
		{path: "/", user: "bob", password: "secret", want: 403},
		{path: "/", bearer: "token", want: 200},
		{path: "/", bearer: "wrong", want: 401},
		{path: "/", password: "token", want: 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+at+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" || c.password != "" {
			r.SetBasicAuth(c.user, c.password)
		} else if c.bearer != "" {
			r.Header.Set("Authorization", "Bearer "+c.bearer)
		}
		transport := &http.Transport{DisableKeepAlives: true}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != c.want {
			t.Errorf("%+v: %s", c, answer.Status)
		}
		if asks := answer.Header.Get("WWW-Authenticate") != ""; asks != (c.want == 401) {
			t.Errorf("%+v: asks for credentials: %v", c, asks)
		}
	}
}

func TestAHandlerThatPanicsCostsItsOwnAnswer(t *testing.T) {
	core, logged := observer.New(zap.ErrorLevel)
	at := serve(t, Options{Log: zap.New(core), Routes: []Route{
		{Pattern: "/bad", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no") })},
		{Pattern: "/", Handler: hello},
	}})
	if status, _ := ask(t, at, "GET /bad", "Host: localhost"); status != 500 {
		t.Errorf("the answer is %d", status)
	}
	if status, _ := ask(t, at, "GET /", "Host: localhost"); status != 200 {
		t.Errorf("the next answer is %d", status)
	}
	if n := logged.FilterMessage("a handler panicked").Len(); n != 1 {
		t.Errorf("the log has %d lines of it", n)
	}
}

func TestSilentConnectionsMakeRoom(t *testing.T) {
	at := serve(t, Options{MaxClients: 3, Routes: []Route{{Pattern: "/", Handler: hello}}})
	first, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()

	for range 3 {
		if status, _ := ask(t, at, "GET /", "Host: localhost"); status != 200 {
			t.Errorf("a client beside silent ones got %d", status)
		}
		silent, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}

	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the oldest silent connection: %v, want EOF", err)
	}
}

func TestAHeaderThatIsTooLongIsRefused(t *testing.T) {
	at := serve(t, Options{Routes: []Route{{Pattern: "/", Handler: hello}}})
	if status, _ := ask(t, at, "GET /", "Host: localhost", "X: "+strings.Repeat("x", maxHeader)); status != 431 {
		t.Errorf("the answer is %d", status)
	}
}

// TestAConnectionThatWasAcceptedBeforeTheEndHasAnAnswer sends its request after the server has
// begun to end.
func TestAConnectionThatWasAcceptedBeforeTheEndHasAnAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Log: zap.NewNop(), MaxClients: 10, Gate: auth.New(auth.Options{})})
	served, ended := make(chan error), make(chan struct{})
	go func() { served <- s.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for accepted := 0; accepted == 0; {
		s.conns.mu.Lock()
		accepted = len(s.conns.idle)
		s.conns.mu.Unlock()
	}

	l.Close()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		s.End()
	}()
	<-s.ending.Done()
	fmt.Fprint(conn, "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	<-ended
	if answer.StatusCode != http.StatusNotFound || !answer.Close {
		t.Errorf("the answer is %s, and keeps the connection: %v", answer.Status, !answer.Close)
	}
}
