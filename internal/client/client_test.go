package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer is the server's end of successive connections.
type fakeServer struct {
	t        *testing.T
	listener net.Listener
	conn     net.Conn
	in       *bufio.Reader
}

func listen(t *testing.T) *fakeServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{t: t, listener: ln}
	t.Cleanup(func() {
		ln.Close()
		if f.conn != nil {
			f.conn.Close()
		}
	})
	return f
}

func (f *fakeServer) server() Server {
	return Server{Address: f.listener.Addr().String(), Name: "test"}
}

func (f *fakeServer) send(text string) {
	f.t.Helper()
	if _, err := io.WriteString(f.conn, text); err != nil {
		f.t.Fatalf("send %.40q: %v", text, err)
	}
}

// expect returns the lines up to the one that begins with want.
func (f *fakeServer) expect(want string) (before []string) {
	f.t.Helper()
	f.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		line, err := f.in.ReadString('\n')
		if err != nil {
			f.t.Fatalf("the client sent %q, then %v, want %s", before, err, want)
		}
		if strings.HasPrefix(line, want) {
			return before
		}
		before = append(before, strings.TrimSpace(line))
	}
}

// accept takes the next connection and returns when the client has subscribed once.
func (f *fakeServer) accept() {
	f.t.Helper()
	conn, err := f.listener.Accept()
	if err != nil {
		f.t.Fatal(err)
	}
	f.conn, f.in = conn, bufio.NewReader(conn)
	f.send(`INFO {"server_id":"x","version":"2.10.0","max_payload":1024,"headers":true}` + "\r\n")
	f.expect("PING")
	f.send("PONG\r\n")
}

// run runs a subscription until the test ends.
func run(t *testing.T, s Subscription) (ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		c <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return c
}

// heldPipe is an output that blocks until its reader takes the bytes.
func heldPipe(t *testing.T) (*bufio.Reader, io.Writer) {
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	return bufio.NewReader(r), w
}

func wantLine(t *testing.T, out *bufio.Reader, want string) {
	t.Helper()
	if line, err := out.ReadString('\n'); line != want+"\n" {
		t.Fatalf("printed %q, %v, want %q", line, err, want)
	}
}

func TestNothingIsConfirmedBeforeItIsPrinted(t *testing.T) {
	f := listen(t)
	out, w := heldPipe(t)
	run(t, Subscription{Server: f.server(), Subjects: []string{"a"}, Ack: true, Out: w})
	f.accept()
	f.expect("SUB a")
	f.send("MSG a 1 ack.1 3\r\none\r\nPING\r\n")

	// The output is blocked: the client must not answer.
	f.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if text, err := f.in.ReadString('\n'); err == nil {
		t.Fatalf("the client sent %q before the item was printed", text)
	}
	wantLine(t, out, "a one")
	lines := append(f.expect("PONG"), f.expect("PUB ack.1")...)
	if len(lines) > 0 {
		t.Errorf("the client also sent %q", lines)
	}
}

func TestItConnectsAgainAndTakesTheRest(t *testing.T) {
	f := listen(t)
	out, w := heldPipe(t)
	ended := run(t, Subscription{Server: f.server(), Subjects: []string{"a"}, Queue: "q", Count: 3, Reconnect: true, Out: w})
	f.accept()
	f.expect("UNSUB 1 3")
	f.send("MSG a 1 3\r\none\r\n")
	wantLine(t, out, "a one")
	f.conn.Close()

	f.accept()
	f.expect("SUB a q 1")
	f.expect("UNSUB 1 2")
	f.send("MSG a 1 3\r\ntwo\r\nMSG a 1 5\r\nthree\r\nMSG a 1 4\r\nmore\r\nPING\r\n")
	wantLine(t, out, "a two")
	wantLine(t, out, "a three")
	f.expect("PONG")
	for range 2 { // the farewell
		f.expect("PING")
		f.send("PONG\r\n")
	}
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestTheTimeoutIncludesConnecting(t *testing.T) {
	f := listen(t) // and never answers
	err := <-run(t, Subscription{Server: f.server(), Subjects: []string{"a"}, Timeout: time.Millisecond, Out: io.Discard})
	if want := fmt.Sprintf("%s gave no answer for 1ms", f.listener.Addr()); !errors.Is(err, ErrTimeout) || err.Error() != want {
		t.Errorf("it ended with %v, want %s", err, want)
	}
}

func TestAnOutputThatFailsIsAnError(t *testing.T) {
	f := listen(t)
	r, w := io.Pipe()
	r.Close()
	ended := run(t, Subscription{Server: f.server(), Subjects: []string{"a"}, Reconnect: true, Out: w})
	f.accept()
	f.expect("SUB a")
	f.send("MSG a 1 3\r\none\r\nPING\r\n")
	if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it ended with %v", err)
	}
	f.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if text, err := io.ReadAll(f.in); strings.Contains(string(text), "PONG") {
		t.Errorf("the client sent %q, %v: it confirmed an item that it did not print", text, err)
	}
}

func TestFormats(t *testing.T) {
	for format, want := range map[Format][]string{
		Text: {`a "Unit: mm" tü`, `a "\x00\xff"`},
		Raw:  {"tü", "\x00\xff"},
		JSON: {`{"subject":"a","headers":{"Unit":["mm"]},"data":"tü"}`, `{"subject":"a","reply":"r","base64":"AP8="}`},
	} {
		t.Run(want[0], func(t *testing.T) {
			f := listen(t)
			out, w := heldPipe(t)
			run(t, Subscription{Server: f.server(), Subjects: []string{"a"}, Format: format, Out: w})
			f.accept()
			f.expect("SUB a")
			f.send("HMSG a 1 22 25\r\nNATS/1.0\r\nUnit: mm\r\n\r\ntü\r\nMSG a 1 r 2\r\n\x00\xff\r\n")
			wantLine(t, out, want[0])
			wantLine(t, out, want[1])
		})
	}
}

func TestAPublicationStopsAtTheFirstLineThatIsNotConfirmed(t *testing.T) {
	f := listen(t)
	var sent, confirmed int
	ended := make(chan error, 1)
	go func() {
		p := Publication{Server: f.server(), Subject: "a", Lines: strings.NewReader("1\n2\n\n4"), Timeout: time.Minute}
		var err error
		sent, confirmed, err = p.Run(t.Context())
		ended <- err
	}()

	f.accept()
	f.expect("SUB _INBOX")
	var replies []string
	for _, want := range []string{"1", "2", "", "4"} {
		line, err := f.in.ReadString('\n')
		fields := strings.Fields(line)
		if err != nil || len(fields) != 4 || fields[0]+fields[1] != "PUBa" {
			t.Fatalf("the client sent %q, %v, want a PUB", line, err)
		}
		if before := f.expect(want + "\r\n"); len(before) > 0 {
			t.Fatalf("the client sent %q, want %q", before, want)
		}
		replies = append(replies, fields[2])
	}

	for i, answer := range []string{`{"stream":"a","seq":1}`, `{"error":{"code":503,"err_code":10077,"description":"it is full"}}`} {
		f.send(fmt.Sprintf("MSG %s 1 %d\r\n%s\r\n", replies[i], len(answer), answer))
	}

	if err := <-ended; err == nil || err.Error() != "line 2: it is full" {
		t.Errorf("it ended with %v", err)
	}
	if sent != 4 || confirmed != 1 {
		t.Errorf("%d of %d are confirmed, want 1 of 4", confirmed, sent)
	}
}
