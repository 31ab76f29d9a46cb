// Package e2e tests the whole: the real binary between a real redis-server and
// the official NATS clients. What a client gets is collected in an inbox; what
// the daemon says is read from its log and its control socket.
//
// The binary is built with the race detector; a race ends it with exit code 66,
// which every test would notice.
package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen: never in a test that
// passes, on a machine however slow.
const patience = time.Minute

var binary string // edged, built once for all tests

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "edged")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "edged")
	build := exec.Command("go", "build", "-race", "-o", binary, "./cmd/edged")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build edged: %v\n%s", err, out)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// command is edged with arguments.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else the race detector ends each process a second late
	return cmd
}

// daemon is edged as a process; restart starts it again at the same address.
type daemon struct {
	t        *testing.T
	redis    *redistest.Server
	folder   string // of the configuration and the control socket
	settings []string
	tcp      string // where NATS clients connect
	history  []byte // the log of all its lives; owned by the reader of the present one

	*process
}

// process is one life of a daemon.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone, and all of its log read
	code  int           // valid when ended is closed

	mu   sync.Mutex
	log  []logLine     // guarded by mu
	more chan struct{} // closed when log grows; guarded by mu
}

// logLine is a line of the log, decoded.
type logLine map[string]any

// startEdged starts a daemon for a Redis, on a port of its own, and waits until
// it serves. Settings are lines of its configuration, such as
// `drain.timeout = "1s"`; its lists are the default ones, events and readings,
// unless the last setting brings others. It ends with the test, with code 0.
func startEdged(t *testing.T, redis *redistest.Server, settings ...string) *daemon {
	t.Helper()
	folder, err := os.MkdirTemp("", "e") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, redis: redis, folder: folder, settings: settings, tcp: "127.0.0.1:0"}
	t.Cleanup(func() {
		defer os.RemoveAll(folder)
		if d.process == nil {
			return
		}
		select {
		case <-d.ended:
		default:
			d.signal(syscall.SIGTERM)
			if code := d.wait(); code != 0 {
				t.Errorf("edged ended with code %d", code)
			}
		}
		if t.Failed() {
			t.Logf("the log of edged:\n%s", d.history)
		}
	})
	d.restart()
	return d
}

// restart starts the daemon, again if it has ended, and waits until it serves.
func (d *daemon) restart() {
	d.t.Helper()
	config := filepath.Join(d.folder, "edged.toml")
	text := fmt.Sprintf("instance = \"e2e\"\nredis.address = %q\ntcp.listen = %q\ncontrol.socket = %q\ncontrol.status_socket = \"\"\nlog.format = \"json\"\n%s\n",
		d.redis.Address(), d.tcp, d.socket(), strings.Join(d.settings, "\n"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	p := &process{cmd: command("-config", config), ended: make(chan struct{}), more: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		d.t.Fatalf("start edged: %v", err)
	}
	d.process = p
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var line logLine
			json.Unmarshal(lines.Bytes(), &line) // what is no JSON, such as a panic, is for the history only
			p.mu.Lock()
			d.history = append(append(d.history, lines.Bytes()...), '\n')
			p.log = append(p.log, line)
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
		p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
	}()
	d.tcp = d.waitLog("serving")["tcp"].(string)
}

func (d *daemon) socket() string { return filepath.Join(d.folder, "control.sock") }

// waitLog waits until this life of the daemon has logged msg, and returns the
// line. Where it has done so several times, it is the first one.
func (d *daemon) waitLog(msg string) logLine {
	d.t.Helper()
	deadline := time.After(patience)
	for seen, ended := 0, false; ; {
		d.mu.Lock()
		lines, more := d.log, d.more
		d.mu.Unlock()
		for ; seen < len(lines); seen++ {
			if lines[seen]["msg"] == msg {
				return lines[seen]
			}
		}
		if ended {
			d.t.Fatalf("edged ended with code %d and has not logged %q", d.code, msg)
		}
		select {
		case <-more:
		case <-d.ended:
			ended = true
		case <-deadline:
			d.t.Fatalf("gave up waiting: edged logs %q", msg)
		}
	}
}

func (d *daemon) signal(sig syscall.Signal) { d.cmd.Process.Signal(sig) }

// kill ends the daemon with SIGKILL.
func (d *daemon) kill() {
	d.signal(syscall.SIGKILL)
	<-d.ended
}

// wait waits until the daemon has ended and returns its exit code.
func (d *daemon) wait() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.kill()
		d.t.Fatal("gave up waiting: edged ends")
	}
	return d.code
}

// control sends a line to the control socket and returns the answer.
func (d *daemon) control(line string) string {
	d.t.Helper()
	conn, err := net.Dial("unix", d.socket())
	if err != nil {
		d.t.Fatalf("control %q: %v", line, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(conn, line)
	conn.(*net.UnixConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil {
		d.t.Fatalf("control %q: %v", line, err)
	}
	return string(answer)
}

// status is what tests look at in the answer to the command status.
type status struct {
	State string `json:"state"`
	Why   string `json:"why"`
	TCP   struct {
		Clients        int `json:"clients"`
		Stuck          int `json:"stuck"`
		ProtocolErrors int `json:"protocol_errors"`
	} `json:"tcp"`
}

func (d *daemon) status() status {
	d.t.Helper()
	var s status
	if answer := d.control("status json"); json.Unmarshal([]byte(answer), &s) != nil {
		d.t.Fatalf("status json answers %q", answer)
	}
	return s
}

// client is what tests look at in the answer to the command clients.
type client struct {
	Name          string `json:"name"`
	Subscriptions int    `json:"subscriptions"`
	Owed          int    `json:"owed"`
}

func (d *daemon) clients() []client {
	d.t.Helper()
	var a struct{ Clients []client }
	if answer := d.control("clients json"); json.Unmarshal([]byte(answer), &a) != nil {
		d.t.Fatalf("clients json answers %q", answer)
	}
	return a.Clients
}

// subscriptions is how many subscriptions the daemon's clients have.
func (d *daemon) subscriptions() (n int) {
	d.t.Helper()
	for _, c := range d.clients() {
		n += c.Subscriptions
	}
	return n
}

// owed is how many items the clients of this name have not confirmed.
func (d *daemon) owed(name string) (n int) {
	d.t.Helper()
	for _, c := range d.clients() {
		if c.Name == name {
			n += c.Owed
		}
	}
	return n
}

// books are the daemon's closing line.
type books struct{ taken, confirmed, returned, dead, gone int }

// close waits until the daemon has ended by itself, checks that it did so in
// good order, and returns its books.
func (d *daemon) close() books {
	d.t.Helper()
	if code := d.wait(); code != 0 {
		d.t.Fatalf("edged ended with code %d, want 0", code)
	}
	for _, line := range d.log {
		if line["level"] == "error" {
			d.t.Errorf("edged has logged an error: %v", line)
		}
	}
	line := d.waitLog("drained")
	number := func(key string) int { return int(line[key].(float64)) }
	b := books{number("taken"), number("confirmed"), number("returned"), number("dead"), number("gone")}
	if b.taken != b.confirmed+b.returned+b.dead+b.gone {
		d.t.Errorf("the books don't close: %+v", b)
	}
	return b
}

// inbox collects payloads in the order in which they came.
type inbox struct {
	mu    sync.Mutex
	items []string      // guarded by mu
	more  chan struct{} // closed when items grow; guarded by mu
}

func newInbox() *inbox { return &inbox{more: make(chan struct{})} }

func (b *inbox) add(item string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items = append(b.items, item)
	close(b.more)
	b.more = make(chan struct{})
}

func (b *inbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.items[:len(b.items):len(b.items)]
}

// until waits until what has come is as is wants it, and returns it.
func (b *inbox) until(t *testing.T, what string, is func(items []string) bool) []string {
	t.Helper()
	deadline := time.After(patience)
	for {
		b.mu.Lock()
		items, more := b.items[:len(b.items):len(b.items)], b.more
		b.mu.Unlock()
		if is(items) {
			return items
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("gave up waiting: %s; %d items have come", what, len(items))
		}
	}
}

// wait waits for n items in all, and returns them.
func (b *inbox) wait(t *testing.T, n int) []string {
	t.Helper()
	return b.until(t, fmt.Sprintf("%d items come", n), func(items []string) bool { return len(items) >= n })
}

// last waits until the newest item is this one, and returns all.
func (b *inbox) last(t *testing.T, item string) []string {
	t.Helper()
	return b.until(t, "the last item comes", func(items []string) bool {
		return len(items) > 0 && items[len(items)-1] == item
	})
}

// connect connects nats.go to the daemon. The client reconnects at once and for
// ever, and is closed with the test. An error that it reports fails the test
// unless the options handle errors themselves.
func connect(t *testing.T, d *daemon, opts ...nats.Option) *nats.Conn {
	t.Helper()
	opts = append([]nats.Option{
		nats.Name(t.Name()), nats.Timeout(patience), nats.DrainTimeout(patience),
		nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("nats.go reports: %v", err) }),
	}, opts...)
	nc, err := nats.Connect("nats://"+d.tcp, opts...)
	if err != nil {
		t.Fatalf("connect to %s: %v", d.tcp, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// subscribe subscribes and returns when the subscription stands. queue is empty
// for a plain one.
func subscribe(t *testing.T, nc *nats.Conn, subject, queue string) (*nats.Subscription, *inbox) {
	t.Helper()
	b := newInbox()
	sub, err := nc.QueueSubscribe(subject, queue, func(m *nats.Msg) { b.add(string(m.Data)) })
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		t.Fatalf("subscribe to %s: %v", subject, err)
	}
	flush(t, nc)
	return sub, b
}

// flush returns when the daemon has handled everything that nc sent, and nc has
// everything that the daemon had for it then.
func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

// printer is an `edged sub` process: it prints an item before it confirms it.
type printer struct {
	*inbox
	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone and its output read
}

// startSub starts `edged sub` with its arguments.
func startSub(t *testing.T, d *daemon, args ...string) *printer {
	t.Helper()
	p := &printer{
		inbox: newInbox(),
		cmd:   command(append([]string{"sub", "-server", d.tcp}, args...)...),
		ended: make(chan struct{}),
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start edged sub: %v", err)
	}
	go func() {
		defer close(p.ended)
		out := bufio.NewReader(stdout)
		for {
			line, err := out.ReadString('\n')
			if err != nil {
				break // a line that has no end was cut off by a signal: not printed
			}
			_, item, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			p.add(item)
		}
		p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the process with SIGKILL and waits for the last of its output.
func (p *printer) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// exit waits until the process has ended by itself, and returns its exit code.
func (p *printer) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatal("gave up waiting: edged sub ends")
	}
	return p.cmd.ProcessState.ExitCode()
}

// freeze stops a process, and returns when none of its threads runs any more,
// which on a busy machine is a while after the signal. thaw lets it go on.
func freeze(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Process.Signal(syscall.SIGSTOP)
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WSTOPPED, nil); err != nil {
		t.Fatalf("stop process %d: %v", cmd.Process.Pid, err)
	}
}

func thaw(cmd *exec.Cmd) { cmd.Process.Signal(syscall.SIGCONT) }

// numbers are the items from to to-1, as most tests push them.
func numbers(from, to int) []any {
	items := make([]any, 0, to-from)
	for i := from; i < to; i++ {
		items = append(items, strconv.Itoa(i))
	}
	return items
}

// inRedis is what a list holds, head first.
func inRedis(t *testing.T, r *redistest.Server, list string) []string {
	t.Helper()
	items, err := r.Client().LRange(context.Background(), list, 0, -1).Result()
	if err != nil {
		t.Fatalf("LRANGE %s: %v", list, err)
	}
	return items
}

// waitEmpty waits until all that was confirmed is removed from a list, and
// nothing else was in it.
func waitEmpty(t *testing.T, r *redistest.Server, lists ...string) {
	t.Helper()
	for _, list := range lists {
		redistest.Eventually(t, list+" is empty", func() bool { return r.Len(list) == 0 })
	}
}

// wantAll checks that each of the numbers below n came to somebody, and returns
// how many came once too often.
func wantAll(t *testing.T, n int, seen ...[]string) (duplicates int) {
	t.Helper()
	times := make([]int, n)
	for _, items := range seen {
		for _, item := range items {
			i, err := strconv.Atoi(item)
			if err != nil || i < 0 || i >= n {
				t.Fatalf("an item that nobody pushed came: %.40q", item)
			}
			times[i]++
		}
	}
	lost := 0
	for i, count := range times {
		if count == 0 {
			if lost++; lost <= 3 {
				t.Errorf("item %d is lost", i)
			}
		}
		duplicates += max(0, count-1)
	}
	if lost > 0 {
		t.Fatalf("%d of %d items are lost", lost, n)
	}
	return duplicates
}

// wantRun checks that items are the numbers from to to-1, in this order.
func wantRun(t *testing.T, items []string, from, to int) {
	t.Helper()
	for i, item := range items {
		if item != strconv.Itoa(from+i) {
			t.Fatalf("at place %d stands item %.40q, want %d", i, item, from+i)
		}
	}
	if len(items) != to-from {
		t.Fatalf("%d items, want %d", len(items), to-from)
	}
}
