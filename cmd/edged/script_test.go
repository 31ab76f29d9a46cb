package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"edged/internal/redistest"
)

// The scripts and tests of this package run edged as a separate process: this test binary under the
// name edged, which is in their PATH.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"edged": main})
}

// leakChecked fails a run that leaks goroutines.
type leakChecked struct{ *testing.M }

func (l leakChecked) Run() int {
	code := l.M.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs testdata/script/*.txtar. In addition to testscript's commands a script has:
//
//	$REDIS    address of its own redis-server
//	$CONTROL  path for the control socket, short enough for a socket
//	$STATUS   the same for the status socket
//	$TCP      address of the last daemon for clients
//
//	edged.toml is made from these unless the script has its own. In all of a
//	script's .toml files $REDIS, $CONTROL, $STATUS and $WORK are
//	filled in.
//
//	start NAME PROGRAM ARG...  in the background, output to NAME.out and NAME.err
//	serve NAME ARG...          start edged and wait until it serves
//	send NAME LINE...          to its standard input, with CR LF
//	eof NAME                   close its standard input
//	signal NAME SIGNAL
//	storm NAME SIGNAL          the signal over and over, until it has ended
//	ended NAME CODE            wait for its end; CODE may be a signal
//	exits CODE PROGRAM ARG...  exec, for one exit code
//	control LINE...            the lines to the control socket by socat; stdout is its answer
//	redis COMMAND ARG...       stdout is its reply; "ARG" may have Go's escapes
//	redis-server stop|start
//	await REGEXP SOURCE        until it matches the output of SOURCE: a control or redis
//	                           command, exec PROGRAM ARG..., or cat FILE
//	json [KEY VALUE]...        stdout is one JSON object on one line, with these values
//	json-lines FILE            each line is a JSON object
//	free ADDRESS               no process listens there
//	certificate NAME           make NAME.pem and NAME.key; it is self-signed
//	shown                      stdout is the name of the certificate that $TCP shows
func TestScripts(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("socat"); err != nil {
		t.Fatal("these tests need socat: run `make tools`, or install the package socat")
	}

	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start":        plain(start),
			"serve":        plain(startServing),
			"send":         plain(send),
			"eof":          plain(eof),
			"signal":       plain(sendSignal),
			"storm":        plain(sendSignals),
			"ended":        plain(ended),
			"exits":        plain(exits),
			"control":      plain(printed("control")),
			"redis":        plain(printed("redis")),
			"redis-server": plain(redisServer),
			"await":        plain(await),
			"json":         plain(checkJSON),
			"json-lines":   plain(checkJSONLines),
			"free":         plain(free),
			"certificate":  plain(makeCertificate),
			"shown":        plain(showCertificate),
		},
	})
}

// world is the environment of a script.
type world struct {
	redis     *redistest.Server
	processes map[string]*process // by name, without those that were waited for
}

// process runs in the background.
type process struct {
	*exec.Cmd
	stdin *os.File
	out   string // path of the file with its standard output
	err   string
	done  chan struct{} // closed when it has ended
}

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

const defaultToml = `
instance = "box"
[redis]
address = "$REDIS"
poll_interval = "100ms"
[tcp]
listen = "127.0.0.1:0"
[control]
socket = "$CONTROL"
status_socket = "$STATUS"
`

func setup(env *testscript.Env) error {
	tb := env.T().(testing.TB)
	folder := shortFolder(tb)
	w := &world{redis: redistest.Start(tb), processes: map[string]*process{}}
	env.Values["world"] = w
	env.Setenv("CONTROL", filepath.Join(folder, "control.sock"))
	env.Setenv("STATUS", filepath.Join(folder, "status.sock"))
	env.Setenv("REDIS", w.redis.Address())
	env.Setenv("GORACE", "atexit_sleep_ms=0") // otherwise each process takes a second under -race

	if path := filepath.Join(env.WorkDir, "edged.toml"); !exists(path) {
		if err := os.WriteFile(path, []byte(defaultToml), 0o600); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.toml"))
	if err != nil {
		return err
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(os.Expand(string(data), env.Getenv)), 0o600); err != nil {
			return err
		}
	}
	env.Defer(func() {
		for _, p := range w.processes {
			syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	})
	return nil
}

// shortFolder returns a temporary folder whose path leaves room for a socket's.
func shortFolder(tb testing.TB) string {
	folder, err := os.MkdirTemp("", "e")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// of returns the script's world.
func of(ts *testscript.TestScript) *world { return ts.Value("world").(*world) }

// plain makes a command of a function that cannot be negated.
func plain(run func(ts *testscript.TestScript, args []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command has no negation")
		}
		run(ts, args)
	}
}

func need(ts *testscript.TestScript, args []string, least int) {
	if len(args) < least {
		ts.Fatalf("%d arguments are too few; see TestScripts", len(args))
	}
}

func start(ts *testscript.TestScript, args []string) {
	need(ts, args, 2)
	startProcess(ts, args[0], args[1], args[2:]...)
}

func startProcess(ts *testscript.TestScript, name, program string, args ...string) *process {
	w := of(ts)
	if _, taken := w.processes[name]; taken {
		ts.Fatalf("the name %s is taken", name)
	}

	path, err := exec.LookPath(program)
	ts.Check(err)
	p := &process{
		Cmd: exec.Command(path, args...), done: make(chan struct{}),
		out: ts.MkAbs(name + ".out"), err: ts.MkAbs(name + ".err"),
	}
	p.Args[0] = program
	for _, key := range []string{"PATH", "HOME", "GORACE"} {
		p.Env = append(p.Env, key+"="+ts.Getenv(key))
	}

	p.Dir = ts.MkAbs(".")
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Files rather than pipes: the process goes on without a reader.
	stdout, err := os.Create(p.out)
	ts.Check(err)
	defer stdout.Close()
	stderr, err := os.Create(p.err)
	ts.Check(err)
	defer stderr.Close()
	stdin, keep, err := os.Pipe()
	ts.Check(err)
	defer stdin.Close()
	p.Stdin, p.Stdout, p.Stderr, p.stdin = stdin, stdout, stderr, keep
	if err := p.Start(); err != nil {
		keep.Close()
		ts.Fatalf("start %s: %v", program, err)
	}

	w.processes[name] = p
	go func() {
		p.Wait()
		keep.Close()
		close(p.done)
	}()

	return p
}

var servingAt = regexp.MustCompile(`"msg":"serving".*"tcp":"([^"]+)"`)

func startServing(ts *testscript.TestScript, args []string) {
	need(ts, args, 1)
	p := startProcess(ts, args[0], "edged", args[1:]...)
	poll(ts, func() (ok bool, seen string) {
		log := ts.ReadFile(p.err)
		if m := servingAt.FindStringSubmatch(log); m != nil {
			ts.Setenv("TCP", m[1])
			return true, ""
		}
		if p.hasEnded() {
			ts.Fatalf("edged ended before it served (%v):\n%s", p.ProcessState, log)
		}
		return false, log
	})
}

// named returns a process that was started and has not been waited for.
func named(ts *testscript.TestScript, name string) *process {
	p := of(ts).processes[name]
	if p == nil {
		ts.Fatalf("no process is named %s", name)
	}
	return p
}

func send(ts *testscript.TestScript, args []string) {
	need(ts, args, 2)
	for _, line := range args[1:] {
		_, err := named(ts, args[0]).stdin.WriteString(line + "\r\n")
		ts.Check(err)
	}
}

func eof(ts *testscript.TestScript, args []string) {
	need(ts, args, 1)
	ts.Check(named(ts, args[0]).stdin.Close())
}

func sendSignal(ts *testscript.TestScript, args []string) {
	need(ts, args, 2)
	number := unix.SignalNum(args[1])
	if number == 0 {
		ts.Fatalf("there is no signal %s", args[1])
	}
	ts.Check(named(ts, args[0]).Process.Signal(number))
}

func sendSignals(ts *testscript.TestScript, args []string) {
	need(ts, args, 2)
	number, p := unix.SignalNum(args[1]), named(ts, args[0])
	for deadline := time.Now().Add(30 * time.Second); p.Process.Signal(number) == nil; {
		if time.Now().After(deadline) {
			ts.Fatalf("gave up waiting: %s ends; it said:\n%s", args[0], ts.ReadFile(p.err))
		}
	}
}

func ended(ts *testscript.TestScript, args []string) {
	need(ts, args, 2)
	p := named(ts, args[0])
	poll(ts, func() (ok bool, seen string) { return p.hasEnded(), ts.ReadFile(p.err) })
	got := strconv.Itoa(p.ProcessState.ExitCode())
	if s := p.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		got = unix.SignalName(s.Signal())
	}
	if got != args[1] {
		ts.Fatalf("%s ended with %s, want %s; it said:\n%s%s", args[0], got, args[1], ts.ReadFile(p.out), ts.ReadFile(p.err))
	}
	delete(of(ts).processes, args[0])
}

func exits(ts *testscript.TestScript, args []string) {
	need(ts, args, 2)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func redisServer(ts *testscript.TestScript, args []string) {
	need(ts, args, 1)
	switch args[0] {
	case "stop":
		of(ts).redis.Kill()
	case "start":
		of(ts).redis.Restart()
	default:
		ts.Fatalf("redis-server stop or start, not %s", args[0])
	}
}

// sources are the commands whose output await can wait for.
var sources = map[string]func(ts *testscript.TestScript, args []string) string{
	"control": control,
	"redis":   redisReply,
	"exec": func(ts *testscript.TestScript, args []string) string {
		ts.Check(ts.Exec(args[0], args[1:]...))
		return ts.ReadFile("stdout")
	},
	"cat": func(ts *testscript.TestScript, args []string) string { return ts.ReadFile(args[0]) },
}

func printed(source string) func(ts *testscript.TestScript, args []string) {
	return func(ts *testscript.TestScript, args []string) {
		need(ts, args, 1)
		io.WriteString(ts.Stdout(), sources[source](ts, args))
	}
}

func control(ts *testscript.TestScript, args []string) string {
	cmd := exec.Command("socat", "-t5", "-", "UNIX-CONNECT:"+ts.Getenv("CONTROL"))
	cmd.Stdin = strings.NewReader(strings.Join(args, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("socat: %v\n%s", err, out)
	}
	return string(out)
}

func redisReply(ts *testscript.TestScript, args []string) string {
	var command []any
	for _, arg := range args {
		if strings.HasPrefix(arg, `"`) {
			var err error
			arg, err = strconv.Unquote(arg)
			ts.Check(err)
		}
		command = append(command, arg)
	}
	reply, err := of(ts).redis.Client().Do(context.Background(), command...).Result()
	if err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	return fmt.Sprintln(reply)
}

func await(ts *testscript.TestScript, args []string) {
	need(ts, args, 3)
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	source := sources[args[1]]
	if source == nil {
		ts.Fatalf("%s is no source", args[1])
	}
	poll(ts, func() (ok bool, seen string) {
		seen = source(ts, args[2:])
		return want.MatchString(seen), seen
	})
}

// poll waits until is reports true, for at most half a minute.
func poll(ts *testscript.TestScript, is func() (ok bool, seen string)) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ok, seen := is()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("gave up waiting; the last that was seen:\n%s", seen)
		}
	}
}

func checkJSON(ts *testscript.TestScript, args []string) {
	line, more, _ := strings.Cut(ts.ReadFile("stdout"), "\n")
	if more != "" {
		ts.Fatalf("more than a line:\n%s", more)
	}

	var object map[string]any
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		ts.Fatalf("no JSON object: %v:\n%s", err, line)
	}

	for ; len(args) > 1; args = args[2:] {
		var value any = object
		for key := range strings.SplitSeq(args[0], ".") {
			switch v := value.(type) {
			case map[string]any:
				value = v[key]
			case []any:
				i, err := strconv.Atoi(key)
				if err != nil || i >= len(v) {
					ts.Fatalf("%s: there is no element %s of %d in:\n%s", args[0], key, len(v), line)
				}
				value = v[i]
			}
		}
		if got := fmt.Sprint(value); got != args[1] {
			ts.Fatalf("%s is %s, want %s, in:\n%s", args[0], got, args[1], line)
		}
	}
}

func checkJSONLines(ts *testscript.TestScript, args []string) {
	need(ts, args, 1)
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("no JSON object: %v: %s", err, line)
		}
	}
}

func makeCertificate(ts *testscript.TestScript, args []string) {
	need(ts, args, 1)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)

	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[0]}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{
		".pem": {Type: "CERTIFICATE", Bytes: cert}, ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+name), pem.EncodeToMemory(block), 0o600))
	}
}

func showCertificate(ts *testscript.TestScript, _ []string) {
	conn, err := net.Dial("tcp", ts.Getenv("TCP"))
	ts.Check(err)
	defer conn.Close()
	for b := make([]byte, 1); b[0] != '\n'; { // INFO, without a further byte
		_, err := conn.Read(b)
		ts.Check(err)
	}
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // only its name is shown
	ts.Check(client.Handshake())
	fmt.Fprintln(ts.Stdout(), client.ConnectionState().PeerCertificates[0].Subject.CommonName)
}

func free(ts *testscript.TestScript, args []string) {
	need(ts, args, 1)
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		ts.Fatalf("this test needs %s to be free; stop the process that listens there: %v", args[0], err)
	}
	ln.Close()
}
