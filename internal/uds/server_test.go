package uds

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is an answer made of lines.
type lines struct {
	Lines []string `json:"lines"`
}

func (l lines) Text(w io.Writer) {
	for _, line := range l.Lines {
		fmt.Fprintln(w, line)
	}
}

// unended is an answer that lacks the last newline and is not an object.
type unended []string

func (u unended) Text(w io.Writer) { fmt.Fprint(w, strings.Join(u, "\n")) }

// unmarshallable is an answer that has no JSON form.
type unmarshallable struct{ F func() }

func (unmarshallable) Text(io.Writer) {}

// commands is a table to test with.
func commands() []Command {
	answer := func(a Answer, err error) func(context.Context, []string) (Answer, error) {
		return func(context.Context, []string) (Answer, error) { return a, err }
	}
	return []Command{
		{Name: "status", Summary: "say how it is", Run: answer(lines{[]string{"serving", "<2 lists>"}}, nil)},
		{Name: "echo", Args: "WORD...", MinArgs: 1, MaxArgs: 3, Summary: "say the words", Example: "echo a b",
			Run: func(_ context.Context, args []string) (Answer, error) { return lines{args}, nil }},
		{Name: "pause", Args: "LIST", MinArgs: 1, MaxArgs: 1, Run: answer(nil, nil)},
		{Name: "missing", Run: answer(nil, fmt.Errorf("look it up: %w", Errorf(NotFound, "no list %q", "a\nb")))},
		{Name: "check", Run: answer(lines{[]string{"one is bad"}}, Errorf("Bad", "it is not as it should be"))},
		{Name: "broken", Run: answer(nil, errors.New("line one\nOK\x1b[2J"))},
		{Name: "unended", Run: answer(unended{"a", "b"}, nil)},
		{Name: "unmarshallable", Run: answer(unmarshallable{}, nil)},
	}
}

// server is a running Server and the path of its socket.
type server struct {
	*Server
	path string
}

func start(t *testing.T, o Options) *server {
	t.Helper()
	o.Path = "/run/x.sock"
	path := socketPath(t)
	ln, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	if o.Commands == nil {
		o.Commands = commands()
	}

	s := &server{New(o), path}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, Admin) }()
	t.Cleanup(func() {
		s.Shutdown()
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})

	return s
}

// client is a connection with a deadline for the whole test.
type client struct {
	*net.UnixConn
	t *testing.T
	r *bufio.Reader
}

func (s *server) dial(t *testing.T) *client {
	t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{c.(*net.UnixConn), t, bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads exactly text.
func (c *client) expect(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.r, got)
	if string(got[:n]) != text {
		c.t.Fatalf("got %q, %v, want %q", got[:n], err, text)
	}
}

// rest reads until the server closes.
func (c *client) rest() string {
	c.t.Helper()
	got, err := io.ReadAll(c.r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // reset: it had sent more
		c.t.Fatal(err)
	}
	return string(got)
}

// ask sends input, closes its side and returns the whole answer.
func (s *server) ask(t *testing.T, input string) string {
	t.Helper()
	c := s.dial(t)
	c.send(input)
	_ = c.CloseWrite()
	return c.rest()
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})

	const status = "serving\n<2 lists>\nOK\n"
	for _, test := range []struct{ name, input, want string }{
		{"text", "status\n", status},
		{"CRLF", "status\r\n", status},
		{"no newline", "status", status},
		{"CR and no newline", "status\r", status},
		{"any case", "STATUS\n", status},
		{"several lines in order", "status\necho a\nstatus\n", status + "a\nOK\n" + status},
		{"several commands on a line", "echo a;echo b ; echo c", "a\nOK\nb\nOK\nc\nOK\n"},
		{"blank commands are nothing", "\n\r\n ;; \t\nstatus\n\n", status},
		{"nothing", "", ""},
		{"an answer of nothing is OK", "pause jobs\n", "OK\n"},
		{"JSON", "status json\n", `{"lines":["serving","<2 lists>"]}` + "\n"},
		{"JSON of nothing", "pause jobs json\n", `{"ok":true}` + "\n"},
		{"JSON is asked for by one command, not by the line", "echo a json; echo b", `{"lines":["a"]}` + "\nb\nOK\n"},
		{"an error goes on one line", "missing\nstatus\n", `ERR NotFound no list "a\nb"` + "\n" + status},
		{"an error in JSON", "missing json\n", `{"error":{"code":"NotFound","message":"no list \"a\\nb\""}}` + "\n"},
		{"an error of unknown kind is escaped", "broken\n", `ERR Internal line one\nOK\x1b[2J` + "\n"},
		{"an error of unknown kind in JSON", "broken json\n", `{"error":{"code":"Internal","message":"line one\\nOK\\x1b[2J"}}` + "\n"},
		{"a last line without a newline gets one", "unended\n", "a\nb\nOK\n"},
		{"JSON that is no object is an error", "unended json\n", `{"error":{"code":"Internal","message":"the answer has no JSON form: it is not an object"}}` + "\n"},
		{"JSON that cannot be made is an error", "unmarshallable json\n",
			`{"error":{"code":"Internal","message":"the answer has no JSON form: json: unsupported type: func()"}}` + "\n"},
		{"too few arguments", "echo\n", "ERR BadArgument echo takes 1 to 3 arguments, not 0; usage: echo WORD...\n"},
		{"too many arguments", "PAUSE a b\n", "ERR BadArgument pause takes 1 argument, not 2; usage: pause LIST\n"},
		{"arguments where none belong", "status now\n", "ERR BadArgument status takes no arguments, not 1; usage: status\n"},
		{"unknown with a suggestion", "stauts\n", `ERR UnknownCommand there is no command "stauts"; did you mean "status"? "help" lists the commands` + "\n"},
		{"unknown without a suggestion", "GET / HTTP/1.1\n", `ERR UnknownCommand there is no command "GET"; "help" lists the commands` + "\n"},
		{"unknown in JSON", "stop json\n", `{"error":{"code":"UnknownCommand","message":"there is no command \"stop\"; \"help\" lists the commands"}}` + "\n"},
		{"a long word is not echoed whole", strings.Repeat("é", 2000) + "\n",
			`ERR UnknownCommand there is no command "` + strings.Repeat("é", 40) + `"; "help" lists the commands` + "\n"},
		{"NUL", "status\x00\nstatus\n", `ERR BadInput byte 7 of the line is '\x00'; commands are printable text` + "\n" + status},
		{"no UTF-8, in JSON", "a\xff json\n", `{"error":{"code":"BadInput","message":"byte 2 of the line, \"\\xff\", is not UTF-8"}}` + "\n"},
		{"a command after garbage on its line is not executed", "\x1b[A;status", `ERR BadInput byte 1 of the line is '\x1b'; commands are printable text` + "\n"},
		{"the longest line", strings.Repeat(" ", maxLine-len("status")) + "status\r\nstatus\n", status + status},
		{"an answer that is an error too", "check\ncheck json\n", "one is bad\nERR Bad it is not as it should be\n" + `{"lines":["one is bad"]}` + "\n"},
		{"help on one command", "help ECHO\n", "usage:   echo WORD... [json]\n         say the words\nlevel:   user\nexample:\n  echo 'echo a b' | socat - UNIX-CONNECT:/run/x.sock\nOK\n"},
		{"help on one command in JSON", "help echo json\n", `{"name":"echo","usage":"echo WORD...","summary":"say the words","level":"user","example":"echo 'echo a b' | socat - UNIX-CONNECT:/run/x.sock"}` + "\n"},
		{"help on an unknown command", "help ech\n", `ERR UnknownCommand there is no command "ech"; did you mean "echo"? "help" lists the commands` + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := s.ask(t, test.input); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestHelpListsTheCommandsAligned(t *testing.T) {
	t.Parallel()
	stop := Command{Name: "stop", Args: "LIST", Summary: "stop a list, or go on with it", Stream: func(context.Context, []string, func(Answer) error) error { return nil }}
	resume := Command{Name: "go", Args: "LIST", Summary: stop.Summary}
	s := start(t, Options{Commands: append(commands()[:2], stop, resume)})

	const want = `status        say how it is
echo WORD...  say the words
stop|go LIST  stop a list, or go on with it
"help COMMAND" shows an example; "COMMAND json" is JSON; ";" separates commands
OK
`
	if got := s.ask(t, "help"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var list commandList
	if err := json.Unmarshal([]byte(s.ask(t, "help json")), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range list.Commands {
		names = append(names, c.Name)
	}

	if got := s.ask(t, "help stop"); !strings.Contains(got, "usage:   stop LIST [json]\n") || !strings.Contains(got, "echo 'stop' | socat -t99 - UNIX-CONNECT:") {
		t.Errorf("a command that answers over time is explained as\n%s", got)
	}

	if want := []string{"help", "status", "echo", "stop", "go"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestTwoCommandsOfOneNameAreAMistakeInTheProgram(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("New did not panic")
		}
	}()
	New(Options{Commands: []Command{{Name: "help"}}})
}

func TestTheConnectionStaysOpenAndCommandsMayComeInPieces(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	slow, quick := s.dial(t), s.dial(t)
	for _, b := range "echo a\n" {
		slow.send(string(b))
		quick.send("echo q\n")
		quick.expect("q\nOK\n")
	}
	slow.expect("a\nOK\n")
	slow.send("echo b\n")
	slow.expect("b\nOK\n")
}

func TestTenMegabytesWithoutANewlineAreCutOffInBoundedMemory(t *testing.T) {
	s := start(t, Options{})
	other := s.dial(t)
	other.send("echo a\n")
	other.expect("a\nOK\n")
	c := s.dial(t)
	chunk := bytes.Repeat([]byte("x"), 64<<10)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 10 << 20 / len(chunk) {
			if _, err := c.Write(chunk); err != nil {
				return // the server has cut the client off
			}
		}
		_ = c.CloseWrite()
	})
	got := c.rest()
	writer.Wait()
	runtime.ReadMemStats(&after)
	if want := "ERR LineTooLong a line has at most 4096 bytes\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
		t.Errorf("it took %d bytes of memory", n)
	}
	other.send("echo b\n")
	other.expect("b\nOK\n")
}

func TestALineThatIsALittleTooLongIsCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	for _, end := range []string{"\n", "\r\n", ""} {
		got := s.ask(t, "echo a\n"+strings.Repeat("x", maxLine+1)+end)
		if want := "a\nOK\nERR LineTooLong a line has at most 4096 bytes\n"; got != want {
			t.Errorf("ending in %q: got %q, want %q", end, got, want)
		}
	}
}

func TestMoreConnectionsThanAllowedAreRefusedWithAReason(t *testing.T) {
	t.Parallel()
	s := start(t, Options{MaxConnections: 2})
	const refusal = "ERR TooManyConnections 2 connections are open, which is the limit; close one and try again\n"
	var open []*client
	for range 2 {
		c := s.dial(t)
		c.send("echo a\n")
		c.expect("a\nOK\n")
		open = append(open, c)
	}
	if got := s.ask(t, "status\n"); got != refusal {
		t.Errorf("got %q, want %q", got, refusal)
	}
	var flood []*client
	for range 10 {
		flood = append(flood, s.dial(t))
	}
	for _, c := range flood {
		c.expect(refusal)
	}
	open[1].send("echo b\n")
	open[1].expect("b\nOK\n")

	_ = open[0].Close()
	deadline := time.Now().Add(20 * time.Second)
	for s.ask(t, "echo c\n") != "c\nOK\n" {
		if time.Now().After(deadline) {
			t.Fatal("the place of a connection that ended was not given to another")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestConnectionsDoNotWaitForCommandsOfOtherConnections(t *testing.T) {
	t.Parallel()
	running, release := make(chan struct{}), make(chan struct{})
	s := start(t, Options{Commands: append(commands(), Command{Name: "wait", Run: func(context.Context, []string) (Answer, error) {
		close(running)
		<-release
		return nil, nil
	}})})
	first, second := s.dial(t), s.dial(t)
	first.send("wait; echo a\n")
	<-running
	second.send("echo b\n")
	second.expect("b\nOK\n")
	close(release)
	first.expect("OK\na\nOK\n")
}

func TestAClientThatHasGoneDisturbsNoOtherClient(t *testing.T) {
	t.Parallel()
	running, release := make(chan struct{}), make(chan struct{})
	s := start(t, Options{MaxConnections: 1, Commands: append(commands(), Command{Name: "wait", Run: func(context.Context, []string) (Answer, error) {
		close(running)
		<-release
		return lines{make([]string, 1<<20)}, nil
	}})})

	c := s.dial(t)
	c.send("wait\n")
	<-running
	_ = c.Close()
	close(release)
	deadline := time.Now().Add(20 * time.Second)
	for s.ask(t, "echo a\n") != "a\nOK\n" {
		if time.Now().After(deadline) {
			t.Fatal("the connection of a client that has gone was not given up")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestShutdownLetsARunningCommandFinishAndRefusesTheNext(t *testing.T) {
	t.Parallel()
	running, release := make(chan struct{}), make(chan struct{})
	s := start(t, Options{Commands: append(commands(), Command{Name: "wait", Run: func(context.Context, []string) (Answer, error) {
		close(running)
		<-release
		return lines{[]string{"done"}}, nil
	}})})
	busy, idle := s.dial(t), s.dial(t)
	idle.send("echo a\n")
	idle.expect("a\nOK\n")
	busy.send("wait; status json\n")
	<-running
	ended := make(chan struct{})
	go func() {
		s.Shutdown()
		close(ended)
	}()

	if got := idle.rest(); got != "" {
		t.Errorf("the idle connection got %q", got)
	}

	if _, err := net.Dial("unix", s.path); err == nil {
		t.Error("the socket still takes connections")
	}

	close(release)
	want := "done\nOK\n" + `{"error":{"code":"ShuttingDown","message":"the daemon is ending"}}` + "\n"
	if got := busy.rest(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	<-ended
	s.Shutdown() // again
}

// pipeListener is a listener whose connections are pipes, for tests in a
// synctest bubble.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// bubble runs a server on a pipeListener in a synctest bubble.
func bubble(t *testing.T, o Options, f func(t *testing.T, s *Server, ln *pipeListener)) {
	synctest.Test(t, func(t *testing.T) {
		o.Commands = append(o.Commands, commands()...)
		s, ln := New(o), newPipeListener()
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(ln, Admin); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})
		f(t, s, ln)
		s.Shutdown()
		serving.Wait()
	})
}

// ended reports whether the other end of a pipe is closed.
func ended(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := c.Read(make([]byte, 1))
	return err == io.EOF
}

func TestAConnectionThatCompletesNoLineIsClosedWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	bubble(t, Options{}, func(t *testing.T, _ *Server, ln *pipeListener) {
		c := ln.dial()
		time.Sleep(4 * time.Minute)
		go func() { _, _ = io.WriteString(c, "echo a\n") }()
		if _, err := io.ReadFull(c, make([]byte, len("a\nOK\n"))); err != nil {
			t.Fatal(err)
		}

		// A whole command restarts the time, half a command does not.
		for range 4 {
			time.Sleep(time.Minute)
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
		}

		time.Sleep(time.Minute - 2*time.Nanosecond)
		if ended(c) {
			t.Error("it was closed too early")
		}
		time.Sleep(2 * time.Nanosecond)
		if !ended(c) {
			t.Error("it is still open")
		}
	})
}

func TestAClientThatNeverReadsIsCutOff(t *testing.T) {
	t.Parallel()
	bubble(t, Options{}, func(t *testing.T, _ *Server, ln *pipeListener) {
		c := ln.dial()
		if _, err := io.WriteString(c, "status\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeTimeout)
		synctest.Wait()
		if !ended(c) {
			t.Error("it is still open")
		}
	})
}

func TestShutdownWaitsForACommandForASecondAndThenCancelsIt(t *testing.T) {
	t.Parallel()
	running := make(chan struct{})

	stubborn := Command{Name: "stubborn", Run: func(ctx context.Context, _ []string) (Answer, error) {
		close(running)
		<-ctx.Done()
		return nil, ctx.Err()
	}}

	bubble(t, Options{Commands: []Command{stubborn}}, func(t *testing.T, s *Server, ln *pipeListener) {
		c := ln.dial()
		if _, err := io.WriteString(c, "stubborn\n"); err != nil {
			t.Fatal(err)
		}
		<-running
		begin := time.Now()
		s.Shutdown()
		if d := time.Since(begin); d != shutdownGrace { // exact, by the bubble's clock
			t.Errorf("Shutdown took %v, want %v", d, shutdownGrace)
		}
		if !ended(c) {
			t.Error("the connection is still open")
		}
	})
}

func TestServeAfterShutdownClosesTheListener(t *testing.T) {
	t.Parallel()
	s, ln := New(Options{}), newPipeListener()
	s.Shutdown()
	if err := s.Serve(ln, Admin); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	<-ln.closed
}

func TestServeFailsIfAnotherGoroutineClosesTheListener(t *testing.T) {
	t.Parallel()
	s, ln := New(Options{}), newPipeListener()
	_ = ln.Close()
	if err := s.Serve(ln, Admin); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v, want net.ErrClosed", err)
	}
	s.Shutdown()
}

// exhausted is a listener that runs out of file descriptors a few times.
type exhausted struct {
	*pipeListener
	failures int // owned by the caller of Accept
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.pipeListener.Accept()
}

func TestServeOutlivesALackOfFileDescriptors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, pipes := New(Options{Commands: commands()}), newPipeListener()
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(&exhausted{pipes, 20}, Admin); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})
		c := pipes.dial()
		if _, err := io.WriteString(c, "pause jobs\n"); err != nil {
			t.Fatal(err)
		}

		if _, err := io.ReadFull(c, make([]byte, len("OK\n"))); err != nil {
			t.Error(err)
		}
		s.Shutdown()
		serving.Wait()
	})
}

func TestShutdownInterruptsTheWaitBetweenAttemptsToAccept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := s.Serve(&exhausted{newPipeListener(), 1 << 30}, Admin); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})

		synctest.Wait()
		begin := time.Now()
		s.Shutdown()
		serving.Wait()
		if d := time.Since(begin); d != 0 { // exact, by the bubble's clock
			t.Errorf("Shutdown took %v", d)
		}
	})
}

// also serves a further socket.
func (s *server) also(t *testing.T, ceiling Level) *server {
	t.Helper()
	path := socketPath(t)
	ln, err := Listen(path, 0o666, "")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, ceiling) }()
	t.Cleanup(func() {
		s.Shutdown()
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	return &server{s.Server, path}
}

func TestEachListenerHasItsOwnNumberOfConnections(t *testing.T) {
	t.Parallel()
	s := start(t, Options{MaxConnections: 1})
	monitors := s.also(t, User)
	c := monitors.dial(t)
	c.send("echo a\n")
	c.expect("a\nOK\n")
	if got := monitors.ask(t, "echo b\n"); !strings.HasPrefix(got, "ERR TooManyConnections ") {
		t.Errorf("got %q, want a refusal", got)
	}
	if got := s.ask(t, "echo c\n"); got != "c\nOK\n" {
		t.Errorf("monitors locked the operator out: %q", got)
	}
}

func TestSilentConnectionsLockNoClientOutForGood(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	var silent []*client
	for range 16 {
		silent = append(silent, s.dial(t))
	}

	if got := s.ask(t, "status\n"); !strings.HasPrefix(got, "ERR TooManyConnections ") {
		t.Errorf("got %q, want a refusal", got)
	}
	silent[7].send("echo a\n")
	silent[7].expect("a\nOK\n")
	_ = silent[7].CloseWrite()
	if got := silent[7].rest(); got != "" {
		t.Errorf("got %q", got)
	}

	if got := s.ask(t, "echo b\n"); got != "b\nOK\n" {
		t.Errorf("the place of one that has gone was not given to another: %q", got)
	}
}

// userConn is a connection in memory that belongs to a user.
type userConn struct {
	net.Conn
	uid int
}

func (c userConn) Credentials() (pid, uid int) { return 1, c.uid }

// dialAs connects as a user.
func (l *pipeListener) dialAs(uid int) net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- userConn{theirs, uid}
	return ours
}

// answered reports whether the server answers on a connection.
func answered(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "echo a\n") // fails if the server has closed it
	line, _ := bufio.NewReader(c).ReadString('\n')
	return line == "a\n"
}

func TestUsersShareTheConnectionsOfASocket(t *testing.T) {
	t.Parallel()
	bubble(t, Options{MaxConnections: 4}, func(t *testing.T, _ *Server, ln *pipeListener) {
		const greedy, modest = 1000, 1001
		var first, second []net.Conn
		for range 4 {
			first = append(first, ln.dialAs(greedy))
		}
		synctest.Wait()
		for range 3 {
			second = append(second, ln.dialAs(modest))
			synctest.Wait()
		}

		why, _ := bufio.NewReader(first[0]).ReadString('\n')
		if want := "ERR TooManyConnections 4 connections are open, which is the limit, and your user has the most; this one ends for another user's\n"; why != want {
			t.Errorf("the oldest connection reads %q, want %q", why, want)
		}
		for i, want := range []bool{false, false, true, true} {
			if got := answered(t, first[i]); got != want {
				t.Errorf("connection %d of the user that had all is answered: %v, want %v", i, got, want)
			}
		}
		for i, want := range []bool{true, true, false} {
			if got := answered(t, second[i]); got != want {
				t.Errorf("connection %d of the other user is answered: %v, want %v", i, got, want)
			}
		}
		for _, c := range append(first, second...) {
			_ = c.Close()
		}
	})
}

func TestAConnectionInTheMiddleOfAnAnswerLosesItsPlaceToo(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 2)
	bubble(t, Options{MaxConnections: 2, Commands: []Command{counting(0, func(err error) { gone <- err })}}, func(t *testing.T, _ *Server, ln *pipeListener) {
		for range 2 {
			c := ln.dialAs(1000) // reads nothing
			defer c.Close()
			_, _ = io.WriteString(c, "count\n")
		}
		synctest.Wait()

		c := ln.dialAs(1001)
		defer c.Close()
		if !answered(t, c) {
			t.Error("a user without a connection is not answered")
		}
		synctest.Wait()
		if n := len(gone); n != 1 {
			t.Errorf("%d streams have ended, want 1", n)
		}
	})
}

func levelled() []Command {
	ok := func(context.Context, []string) (Answer, error) { return nil, nil }
	return []Command{
		{Name: "look", Run: ok},
		{Name: "pause", Args: "LIST", MinArgs: 1, MaxArgs: 1, Level: Operator, Run: ok},
		{Name: "end", Level: Admin, Run: ok},
	}
}

func TestNoClientIsAboveTheCeilingOfTheSocket(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Commands: levelled()}) // we are the daemon's own user
	for ceiling, want := range map[Level]string{
		Admin:    "OK\nOK\nOK\n",
		Operator: "OK\nOK\nERR Forbidden end needs the level admin, and you have the level operator here\n",
		User: "OK\nERR Forbidden pause needs the level operator, and you have the level user here\n" +
			"ERR Forbidden end needs the level admin, and you have the level user here\n",
	} {
		if got := s.also(t, ceiling).ask(t, "look; pause a; end"); got != want {
			t.Errorf("%v: got %q, want %q", ceiling, got, want)
		}
	}
}

func TestLevelsOfUsers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		uid, own int
		want     Level
	}{
		{0, 990, Admin}, {990, 990, Admin}, {1000, 990, Operator}, {65534, 990, Operator}, {1000, 0, Operator},
	} {
		if got := levelOf(test.uid, test.own); got != test.want {
			t.Errorf("user %d has the level %v to the daemon of user %d, want %v", test.uid, got, test.own, test.want)
		}
	}
}

func TestAClientThatTheKernelDoesNotKnowIsAUser(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if got := peerOf(ours, Admin); got != (peer{-1, -1, User}) {
		t.Errorf("got %+v", got)
	}
}

func TestCommandsAboveTheLevelUserAreLoggedWithUserAndOutcome(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.InfoLevel)
	failing := Command{Name: "requeue", Level: Operator, Run: func(context.Context, []string) (Answer, error) {
		return nil, Errorf(NotFound, "no such list")
	}}
	watch := counting(2, func(error) {})
	watch.Name, watch.Level = "watch", Operator
	s := start(t, Options{Commands: append(levelled(), failing, watch), Log: zap.New(core)})
	s.ask(t, "look; PAUSE a; requeue; watch")
	s.also(t, User).ask(t, "end; look")

	var got []string
	for _, e := range logged.All() {
		f := e.ContextMap()
		if f["pid"] != int64(os.Getpid()) || f["uid"] != int64(os.Geteuid()) || f["user"] != userName(os.Geteuid()) {
			t.Errorf("%s: %v, want our numbers and name", e.Message, f)
		}
		got = append(got, fmt.Sprint(e.Message, ": ", f["command"], ", ", f["outcome"], ", ", f["error"]))
	}
	want := []string{
		"a command on the control socket: pause a, done, <nil>",
		"a command on the control socket: requeue, failed, NotFound: no such list",
		"a command on the control socket begins: watch, <nil>, <nil>",
		"a command on the control socket: watch, done, <nil>",
		"a command was refused: end, <nil>, Forbidden: end needs the level admin, and you have the level user here",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("logged %q\nwant   %q", got, want)
	}
}

func TestUsersHaveTheirNameInTheLogIfThereIsOne(t *testing.T) {
	t.Parallel()
	for uid, want := range map[int]string{0: "root", -1: "-1", 4_000_000_000: "4000000000"} {
		if got := userName(uid); got != want {
			t.Errorf("user %d is named %q, want %q", uid, got, want)
		}
	}
}

// counting streams n numbers as fast as the client takes them; if n is 0, it goes on until sending
// fails.
func counting(n int, ended func(error)) Command {
	return Command{Name: "count", Stream: func(_ context.Context, _ []string, send func(Answer) error) error {
		for i := 1; n == 0 || i <= n; i++ {
			if err := send(lines{[]string{fmt.Sprint(i)}}); err != nil {
				ended(err)
				return err
			}
		}
		return nil
	}}
}

func TestAStreamIsPartsAndThenOKAndInJSONALineAPart(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Commands: append(commands(), counting(3, nil))})
	if got, want := s.ask(t, "count; echo a"), "1\n2\n3\nOK\na\nOK\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := s.ask(t, "count json"), `{"lines":["1"]}`+"\n"+`{"lines":["2"]}`+"\n"+`{"lines":["3"]}`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAStreamEndsWhenItsClientGoes(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	s := start(t, Options{Commands: append(commands(), counting(0, func(err error) { ended <- err }))})
	c := s.dial(t)
	c.send("count\n")
	c.expect("1\n2\n")
	_ = c.Close()
	<-ended
}

func TestAStreamEndsWhenItsClientReadsNothing(t *testing.T) {
	t.Parallel()
	var failed error
	ended := func(err error) { failed = err }
	bubble(t, Options{Commands: []Command{counting(0, ended)}}, func(t *testing.T, _ *Server, ln *pipeListener) {
		c := ln.dial()
		if _, err := io.WriteString(c, "count\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeTimeout)
		synctest.Wait()
		if !errors.Is(failed, os.ErrDeadlineExceeded) {
			t.Errorf("it ended with %v", failed)
		}
	})
}

func TestASocketFileThatIsDeletedIsPutBack(t *testing.T) {
	t.Parallel()
	s := start(t, Options{FileCheck: time.Millisecond})
	old := s.dial(t)
	old.send("echo a\n")
	old.expect("a\nOK\n")
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}

	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if c, err := net.Dial("unix", s.path); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the file did not come back")
		}
	}

	if info, err := os.Lstat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file that was put back is %v, %v", info, err)
	}

	if got := s.ask(t, "echo b\n"); got != "b\nOK\n" {
		t.Errorf("got %q", got)
	}
	old.send("echo c\n")
	old.expect("c\nOK\n")
	s.Shutdown()
	if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the restored file is left over: %v", err)
	}
}

func TestAPlaceThatSomethingElseHasTakenIsLeftAloneAndSaidOnce(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.InfoLevel)
	s := start(t, Options{FileCheck: time.Millisecond, Log: zap.New(core)})
	lost := func() int { return logged.FilterMessageSnippet("the control socket cannot be reached").Len() }
	back := func() int { return logged.FilterMessageSnippet("it is back").Len() }
	await := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}

	other := filepath.Join(filepath.Dir(s.path), "other")
	if err := os.WriteFile(other, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}

	if err := os.Rename(other, s.path); err != nil {
		t.Fatal(err)
	}
	await("it was not said", func() bool { return lost() > 0 })
	if data, err := os.ReadFile(s.path); err != nil || string(data) != "theirs" {
		t.Fatalf("the other file is %q, %v", data, err)
	}

	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	await("it did not come back", func() bool { return back() > 0 })
	if lost() != 1 || back() != 1 {
		t.Errorf("said %d and %d times", lost(), back())
	}
}

// socat runs a shell command line in which $S is socat's address of the server.
func (s *server) socat(t *testing.T, commandLine string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", commandLine)
	cmd.Env = append(cmd.Environ(), "S=UNIX-CONNECT:"+s.path)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", commandLine, err)
	}
	return string(out)
}

func TestSocat(t *testing.T) {
	t.Parallel()
	s := start(t, Options{MaxConnections: 1})

	const status = "serving\n<2 lists>\nOK\n"
	for commandLine, want := range map[string]string{
		"echo status | socat - $S":                             status,
		"printf status | socat - $S":                           status,
		"printf 'status\\r\\n' | socat - $S":                   status,
		"echo 'echo a; pause b; echo c json' | socat - $S":     "a\nOK\nOK\n" + `{"lines":["c"]}` + "\n",
		"printf 'echo a\\necho b\\n' | socat - $S":             "a\nOK\nb\nOK\n",
		"head -c 10000000 /dev/zero | tr '\\0' x | socat - $S": "ERR LineTooLong a line has at most 4096 bytes\n",
		"head -c 100 /dev/zero | socat - $S":                   `ERR BadInput byte 1 of the line is '\x00'; commands are printable text` + "\n",
		"socat - $S </dev/null":                                "",
	} {
		if got := s.socat(t, commandLine); got != want {
			t.Errorf("%s:\ngot  %q\nwant %q", commandLine, got, want)
		}
	}
}

func TestSocatPrintsWhyItIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, Options{MaxConnections: 1})
	c := s.dial(t)
	c.send("echo a\n")
	c.expect("a\nOK\n")
	if got := s.socat(t, "echo status | socat - $S"); !strings.HasPrefix(got, "ERR TooManyConnections ") {
		t.Errorf("got %q, want a refusal", got)
	}
}
