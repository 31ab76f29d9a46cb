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

// ask sends input, closes its side and returns the whole answer. A connection that is refused may be
// closed before the input is sent.
func (s *server) ask(t *testing.T, input string) string {
	t.Helper()
	c := s.dial(t)
	if _, err := io.WriteString(c, input); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
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
