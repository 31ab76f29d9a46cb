package subscriber

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hello = `INFO {"server_id":"x","max_payload":1024}` + "\r\n"

// fakeServer is the server's end of the one connection of a test.
type fakeServer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (f *fakeServer) send(text string) {
	f.t.Helper()
	if _, err := io.WriteString(f.conn, text); err != nil {
		f.t.Errorf("send %.40q: %v", text, err)
	}
}

// expect wants these lines next, in this order.
func (f *fakeServer) expect(lines ...string) {
	f.t.Helper()
	for _, want := range lines {
		got, err := f.in.ReadString('\n')
		if got != want+"\r\n" {
			f.t.Errorf("client sent %q, %v, want %q", got, err, want)
		}
	}
}

// expectEnd wants the client to close without another word.
func (f *fakeServer) expectEnd() {
	f.t.Helper()
	if rest, err := io.ReadAll(f.in); len(rest) > 0 {
		f.t.Errorf("client sent %q, %v, want the end", rest, err)
	}
}

// greet is the usual beginning. It returns the lines the client subscribes with.
func (f *fakeServer) greet() (connect string, subscribe []string) {
	f.t.Helper()
	f.send(hello)
	for {
		line, err := f.in.ReadString('\n')
		if err != nil {
			f.t.Errorf("the client's greeting: %v", err)
			return connect, subscribe
		}
		switch line = strings.TrimSuffix(line, "\r\n"); {
		case line == "PING":
			f.send("PONG\r\n")
			return connect, subscribe
		case strings.HasPrefix(line, "CONNECT "):
			connect = strings.TrimPrefix(line, "CONNECT ")
		default:
			subscribe = append(subscribe, line)
		}
	}
}

// output is a concurrent buffer that wakes who waits for its content.
type output struct {
	mu   sync.Mutex
	cond *sync.Cond
	text strings.Builder // guarded by mu
}

func newOutput() *output {
	o := &output{}
	o.cond = sync.NewCond(&o.mu)
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.cond.Broadcast()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await returns when want has been written.
func (o *output) await(want string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !strings.Contains(o.text.String(), want) {
		o.cond.Wait()
	}
}

// run runs a subscriber against a server that follows script. The server's end
// closes when the script ends.
func run(t *testing.T, ctx context.Context, opts Options, script func(*fakeServer)) (received int, err error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		script(&fakeServer{t, conn, bufio.NewReader(conn)})
	}()
	opts.Server = ln.Addr().String()
	if opts.Subject == "" {
		opts.Subject = "a.>"
	}
	if opts.Out == nil {
		opts.Out = io.Discard
	}
	received, err = Run(ctx, opts)
	<-ended
	return received, err
}

func TestSubscribesAsAModernClient(t *testing.T) {
	opts := Options{Subject: "events", Queue: "workers", Count: 3, Name: `the "box"`}
	_, err := run(t, t.Context(), opts, func(f *fakeServer) {
		connect, subscribe := f.greet()
		var got struct {
			Verbose, Pedantic, Headers bool
			NoResponders               bool `json:"no_responders"`
			Protocol                   int
			Name, Lang                 string
		}
		if err := json.Unmarshal([]byte(connect), &got); err != nil {
			t.Error(err)
		}
		if got.Verbose || got.Pedantic || !got.Headers || !got.NoResponders || got.Protocol != 1 || got.Name != opts.Name {
			t.Errorf("CONNECT %s", connect)
		}
		if got := strings.Join(subscribe, "; "); got != "SUB events workers 1; UNSUB 1 3" {
			t.Errorf("subscribed with %s", got)
		}
	})
	if err == nil {
		t.Error("no error for a server that closed before the third item")
	}
}

func TestAnItemIsPrintedBeforeThePingBehindItIsAnswered(t *testing.T) {
	out := newOutput()
	ctx, cancel := context.WithCancel(t.Context())
	received, err := run(t, ctx, Options{Out: out}, func(f *fakeServer) {
		f.greet()
		for i := range 3 {
			f.send(fmt.Sprintf("MSG a.b 1 2\r\ni%d\r\nPING\r\n", i))
			f.expect("PONG")
			if want := fmt.Sprintf("a.b i%d\n", i); !strings.HasSuffix(out.String(), want) {
				t.Errorf("printed %q when %q was confirmed", out, want)
			}
		}
		cancel()
		f.expect("UNSUB 1")
		f.expectEnd()
	})
	if received != 3 || err != nil {
		t.Errorf("got %d, %v", received, err)
	}
}

func TestAnItemIsPrintedWithoutWaitingForMore(t *testing.T) {
	out := newOutput()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := run(t, ctx, Options{Out: out}, func(f *fakeServer) {
		f.greet()
		f.send("MSG a.b 1 5\r\nfirst\r\n")
		out.await("a.b first\n")
		f.send("MSG a.b 1 6\r\nsecond\r\nMSG a.b 1 3\r\nth")
		out.await("a.b second\n")
		cancel()
		f.expect("UNSUB 1")
	})
	if want := "a.b first\na.b second\n"; out.String() != want || err != nil {
		t.Errorf("printed %q, %v, want %q", out, err, want)
	}
}

func TestWithACountItReturnsWhenTheServerHasTheConfirmation(t *testing.T) {
	out := newOutput()
	received, err := run(t, t.Context(), Options{Count: 2, Out: out}, func(f *fakeServer) {
		f.greet()
		f.send("MSG a 1 1\r\n1\r\nMSG a 1 1\r\n2\r\n")
		f.expect("PING")
		// The server's own PING is late, and the third item crossed UNSUB.
		f.send("MSG a 1 1\r\n3\r\nPING\r\nPONG\r\n")
		f.expect("PONG", "PING")
		f.send("PONG\r\n")
		f.expectEnd()
	})
	if want := "a 1\na 2\n"; received != 2 || err != nil || out.String() != want {
		t.Errorf("got %d, %v, %q, want %q", received, err, out, want)
	}
}

func TestItemsMayComeBeforeTheGreetingIsAnswered(t *testing.T) {
	received, err := run(t, t.Context(), Options{Count: 1, Timeout: time.Hour}, func(f *fakeServer) {
		f.send(hello + "MSG a 1 1\r\n1\r\nPING\r\n")
		for line := ""; line != "PING\r\n"; {
			line, _ = f.in.ReadString('\n')
		}
		f.expect("PING", "PONG")
		f.send("PONG\r\nPONG\r\n")
		f.expect("PING")
		f.send("PONG\r\n")
		f.expectEnd()
	})
	if received != 1 || err != nil {
		t.Errorf("got %d, %v", received, err)
	}
}

// everyKind holds each kind of line, and what is printed of it.
const (
	everyKind = "+OK\r\n" +
		"MSG a 1 0\r\n\r\n" +
		"MSG a.b 1 reply.to 14\r\nplain text, ü\r\n" +
		"MSG a 1 4\r\na\r\nb\r\n" +
		"MSG a 1 2\r\n\xff\x00\r\n" +
		"INFO {\"max_payload\":1048576}\r\n" +
		"HMSG a 1 21 23\r\nNATS/1.0\r\nKey: va\r\n\r\nhi\r\n" +
		"HMSG a 1 reply 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" +
		"INFO {\"max_payload\":1048576}\r\n" +
		"MSG a 1 7\r\n{\"n\":1}\r\n"
	everyKindPrinted = "a \n" +
		"a.b plain text, ü\n" +
		`a "a\r\nb"` + "\n" +
		`a "\xff\x00"` + "\n" +
		`a "NATS/1.0\r\nKey: va\r\n\r\n" hi` + "\n" +
		`a "NATS/1.0 503\r\n\r\n" ` + "\n" +
		`a {"n":1}` + "\n"
)

func TestPayloadsAndHeadersArePrintedOnOneLine(t *testing.T) {
	out, remarks := newOutput(), newOutput()
	received, err := run(t, t.Context(), Options{Out: out, Err: remarks}, func(f *fakeServer) {
		f.greet()
		f.send(everyKind + "PING\r\n")
		f.expect("PONG")
	})
	if received != 7 || err == nil || !strings.Contains(err.Error(), "closed the connection") {
		t.Errorf("got %d, %v", received, err)
	}
	if out.String() != everyKindPrinted {
		t.Errorf("printed\n%s\nwant\n%s", out, everyKindPrinted)
	}
	if remarks.String() != "" {
		t.Errorf("remarked %q", remarks)
	}
}

func TestAServerThatIsGoingEndsItWhenWhatIsOnItsWayIsConfirmed(t *testing.T) {
	for _, count := range []int{0, 5} {
		out, remarks := newOutput(), newOutput()
		received, err := run(t, t.Context(), Options{Out: out, Err: remarks, Count: count}, func(f *fakeServer) {
			f.greet()
			f.send("INFO {\"ldm\":true}\r\nMSG a 1 1\r\nx\r\nINFO {\"ldm\":true}\r\nPING\r\n")
			f.expect("PING")
			f.expect("PONG")
			for range 2 { // the item came behind the first PING: two more
				f.send("PONG\r\n")
				f.expect("PING")
			}
			f.send("PONG\r\n")
			f.expectEnd()
		})
		if received != 1 || out.String() != "a x\n" || (err != nil) != (count > 0) {
			t.Errorf("count %d: got %d, %v, printed %q", count, received, err, out)
		}
		if want := "server is going (lame duck)\n"; remarks.String() != want {
			t.Errorf("remarked %q, want %q", remarks, want)
		}
	}
}

func TestInputMayBeSplitAnywhere(t *testing.T) {
	for i := range everyKind {
		client, server := net.Pipe()
		out := newOutput()
		s := newSession(Options{Out: out, Subject: "a"}, "fake", client)
		ended := make(chan error, 1)
		go func() { ended <- s.run(t.Context()) }()
		f := &fakeServer{t, server, bufio.NewReader(server)}
		f.greet()
		f.send(everyKind[:i])
		f.send(everyKind[i:])
		server.Close()
		<-ended
		if out.String() != everyKindPrinted {
			t.Fatalf("split at %d: printed\n%s", i, out)
		}
		client.Close()
	}
}

func TestServersThatCannotBeServedAreNamedWithTheReason(t *testing.T) {
	greeted := func(text string) func(*fakeServer) {
		return func(f *fakeServer) {
			f.greet()
			f.send(text)
			io.Copy(io.Discard, f.in)
		}
	}
	first := func(text string) func(*fakeServer) {
		return func(f *fakeServer) {
			f.send(text)
			io.Copy(io.Discard, f.in)
		}
	}
	for _, c := range []struct {
		name   string
		script func(*fakeServer)
		want   string
	}{
		{"closes at once", func(*fakeServer) {}, "closed the connection"},
		{"other protocol", first("SSH-2.0-OpenSSH_9.7\r\n"), "is no NATS server"},
		{"INFO without JSON", first("INFO yes\r\n"), "is no NATS server"},
		{"full", first("-ERR 'maximum connections exceeded'\r\n"), "refuses: maximum connections exceeded"},
		{"TLS", first(`INFO {"tls_required":true}` + "\r\n"), "wants TLS"},
		{"login", first(`INFO {"auth_required":true}` + "\r\n"), "wants a user"},
		{"permissions", greeted(`-ERR 'Permissions Violation for Subscription to "x"'` + "\r\n"), `refuses: Permissions Violation for Subscription to "x"`},
		{"long line", greeted("INFO " + strings.Repeat("x", maxLine)), "a line of more than 65536 bytes"},
		{"large message", greeted("MSG a 1 1025\r\n"), "a message of 1025 bytes"},
		{"cut off in a message", func(f *fakeServer) { f.greet(); f.send("MSG a 1 10\r\nab") }, "closed the connection"},
		{"unknown verb", greeted("HELLO\r\n"), "cannot be read"},
		{"bad INFO", greeted("INFO {\r\n"), "INFO that cannot be read"},
		{"too few words", greeted("MSG a 1\r\n"), "MSG that cannot be read"},
		{"too many words", greeted("MSG a 1 b c 1\r\n"), "MSG that cannot be read"},
		{"no size", greeted("MSG a 1 x\r\n"), "MSG that cannot be read"},
		{"negative size", greeted("MSG a 1 -1\r\n"), "MSG that cannot be read"},
		{"huge size", greeted("MSG a 1 99999999999999999999\r\n"), "MSG that cannot be read"},
		{"headers beyond the message", greeted("HMSG a 1 5 4\r\n"), "HMSG that cannot be read"},
		{"payload longer than said", greeted("MSG a 1 1\r\nabc\r\n"), "MSG that cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			received, err := run(t, t.Context(), Options{}, c.script)
			if received != 0 || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %d, %v, want %q", received, err, c.want)
			}
		})
	}
}

type brokenWriter struct{}

var errDiskFull = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errDiskFull }

func TestAnItemThatCannotBePrintedIsNotConfirmed(t *testing.T) {
	for _, behind := range []string{"", "PING\r\n"} {
		_, err := run(t, t.Context(), Options{Out: brokenWriter{}}, func(f *fakeServer) {
			f.greet()
			f.send("MSG a 1 1\r\n1\r\n" + behind)
			f.expectEnd()
		})
		if !errors.Is(err, errDiskFull) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCancellingIsNoErrorAtAnyTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := run(t, ctx, Options{}, func(f *fakeServer) {
		cancel() // before INFO
		io.Copy(io.Discard, f.in)
	})
	if err != nil {
		t.Errorf("before INFO: %v", err)
	}
	// The context has ended: nothing is dialled.
	if _, err := Run(ctx, Options{Server: "127.0.0.1:1", Subject: "a", Out: io.Discard}); err != nil {
		t.Errorf("before connecting: %v", err)
	}
}

// inBubble runs a session over a pipe, with a fake clock.
func inBubble(t *testing.T, opts Options, script func(*fakeServer)) (took time.Duration, err error) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		opts.Out, opts.Subject = io.Discard, "a"
		go func() {
			defer server.Close()
			f := &fakeServer{t, server, bufio.NewReader(server)}
			script(f)
			io.Copy(io.Discard, f.in)
		}()
		begin := time.Now()
		err = newSession(opts, "fake", client).run(t.Context())
		took = time.Since(begin)
	})
	return took, err
}

func TestASilentServerIsGivenUp(t *testing.T) {
	for name, script := range map[string]func(*fakeServer){
		"before INFO": func(*fakeServer) {},
		"before PONG": func(f *fakeServer) { f.send(hello) },
		"at the end":  func(f *fakeServer) { f.greet(); f.send("MSG a 1 1\r\n1\r\n") },
	} {
		took, err := inBubble(t, Options{Count: 1, Timeout: time.Hour}, script)
		if err == nil || !strings.Contains(err.Error(), "fake gave no answer for 10s") || took != answerTimeout {
			t.Errorf("%s: got %v after %v", name, err, took)
		}
	}
}

func TestTimeoutIsTheLongestWaitForAnItem(t *testing.T) {
	took, err := inBubble(t, Options{Timeout: time.Minute}, func(f *fakeServer) {
		f.greet()
		for range 3 {
			time.Sleep(40 * time.Second)
			f.send("MSG a 1 1\r\n1\r\n")
		}
		time.Sleep(40 * time.Second)
		f.send("PING\r\n") // is no item
		f.expect("PONG")
	})
	if err == nil || err.Error() != "nothing arrived on a for 1m0s" || took != 3*time.Minute {
		t.Errorf("got %v after %v", err, took)
	}
}

func TestWithoutTimeoutItWaitsForever(t *testing.T) {
	took, err := inBubble(t, Options{Count: 1}, func(f *fakeServer) {
		f.greet()
		time.Sleep(1000 * time.Hour)
		f.send("MSG a 1 1\r\n1\r\n")
		f.expect("PING")
		f.send("PONG\r\n")
		f.expect("PING")
		f.send("PONG\r\n")
	})
	if err != nil || took != 1000*time.Hour {
		t.Errorf("got %v after %v", err, took)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, c := range []struct {
		opts Options
		want string
	}{
		{Options{Server: "", Subject: "a"}, "is no server"},
		{Options{Server: "nats://user:secret@h", Subject: "a"}, "is no server"},
		{Options{Server: "tls://h:1", Subject: "a"}, "is no server"},
		{Options{Server: "h", Subject: ""}, "is no subject"},
		{Options{Server: "h", Subject: "a b"}, "is no subject"},
		{Options{Server: "h", Subject: "a\r\nPUB x 0"}, "is no subject"},
		{Options{Server: "h", Subject: "a", Queue: "b c"}, "is no queue group"},
	} {
		_, err := Run(t.Context(), c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v, want %q", c.opts, err, c.want)
		}
	}
}

func TestServerNamesMayLeaveOutThePort(t *testing.T) {
	for server, want := range map[string]string{
		"127.0.0.1:4223":   "127.0.0.1:4223",
		"box":              "box:4222",
		"nats://box":       "box:4222",
		"nats://box:1234/": "box:1234",
		"[::1]:4223":       "[::1]:4223",
		"::1":              "[::1]:4222",
		"[::1]":            "[::1]:4222",
	} {
		if got, err := parseServer(server); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", server, got, err, want)
		}
	}
}

func TestAServerThatIsNotThereIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	_, err = Run(t.Context(), Options{Server: address, Subject: "a", Out: io.Discard})
	if err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("got %v", err)
	}
}

func FuzzSession(f *testing.F) {
	f.Add([]byte(everyKind))
	f.Add([]byte("PING\r\nPONG\r\n-ERR 'Stale Connection'\r\nMSG a 1 x\r\nHMSG a 1 2 1\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		client, server := net.Pipe()
		defer client.Close()
		var out bytes.Buffer
		s := newSession(Options{Out: &out, Subject: "a"}, "fake", client)
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			io.Copy(io.Discard, server)
		}()
		go func() {
			io.WriteString(server, hello)
			server.Write(input)
			server.Close()
		}()
		if err := s.run(t.Context()); err == nil {
			t.Error("no error, though the server closed")
		}
		client.Close()
		<-drained
		if n := bytes.Count(out.Bytes(), []byte("\n")); n != s.received {
			t.Errorf("%d items on %d lines", s.received, n)
		}
	})
}
