// Package e2e tests the whole: the real binary between a real redis-server and the official NATS
// clients. A client's items are collected in an inbox; the state of the daemon is read from its log
// and its control socket.
//
// The binary is built with the race detector; a race ends it with exit code 66, which every test
// would notice.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits before it gives up.
const patience = edgedtest.Patience

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(edgedtest.Exit)) }

// daemon is edged as a process; Start starts it again at the same address.
type daemon struct {
	*edgedtest.Server
	t *testing.T
}

// startEdged starts a daemon for a Redis, on its own port, and waits until it serves. Its lists are
// the default ones, events and readings, unless the last setting sets different ones. It ends with the
// test, with code 0.
func startEdged(t *testing.T, redis *redistest.Server, settings ...string) *daemon {
	t.Helper()
	return &daemon{edgedtest.Run(t, redis.Address(), slices.Concat(instance, settings)...), t}
}

// instance is the setting that names the daemon; it is part of keys in Redis.
var instance = []string{`instance = "e2e"`}

// status is the part of the answer to the command status that tests check.
type status struct {
	State string `json:"state"`
	Why   string `json:"why"`

	Lagging []string `json:"lagging"`
	TCP     struct {
		Clients        int `json:"clients"`
		Stuck          int `json:"stuck"`
		Lagged         int `json:"lagged"`
		ProtocolErrors int `json:"protocol_errors"`
	} `json:"tcp"`
}

func (d *daemon) status() (s status) {
	d.t.Helper()
	d.ControlJSON("status", &s)
	return s
}

// client is the part of the answer to the command clients that tests check.
type client struct {
	Name          string `json:"name"`
	Subscriptions int    `json:"subscriptions"`
	Owed          int    `json:"owed"`
}

func (d *daemon) clients() []client {
	d.t.Helper()
	var answer struct{ Clients []client }
	d.ControlJSON("clients", &answer)
	return answer.Clients
}

// subscriptions returns the number of the clients' subscriptions.
func (d *daemon) subscriptions() (n int) {
	d.t.Helper()
	for _, c := range d.clients() {
		n += c.Subscriptions
	}
	return n
}

// owed returns how many items the clients with this name have not confirmed.
func (d *daemon) owed(name string) (n int) {
	d.t.Helper()
	for _, c := range d.clients() {
		if c.Name == name {
			n += c.Owed
		}
	}
	return n
}

// books are the numbers in the daemon's last log line.
type books struct{ taken, confirmed, returned, dead, gone int }

// close waits until the daemon has ended by itself, checks that it ended as it should, and returns
// its books.
func (d *daemon) close() books {
	d.t.Helper()
	if code := d.Wait(); code != 0 {
		d.t.Fatalf("edged ended with code %d, want 0", code)
	}

	for _, line := range d.Log() {
		if line["level"] == "error" {
			d.t.Errorf("edged has logged an error: %v", line)
		}
	}
	line := d.AwaitLog("drained")
	number := func(key string) int { return int(line[key].(float64)) }
	b := books{number("taken"), number("confirmed"), number("returned"), number("dead"), number("gone")}
	if b.taken != b.confirmed+b.returned+b.dead+b.gone {
		d.t.Errorf("the books don't close: %+v", b)
	}
	return b
}

// inbox collects payloads in order of arrival.
type inbox struct {
	mu    sync.Mutex
	items []string      // guarded by mu
	more  chan struct{} // closed when items grow; guarded by mu
	line  []byte        // beginning of the next one; owned by Write
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

// until waits until is accepts the items so far, and returns them.
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

// wait waits for n items in total, and returns them.
func (b *inbox) wait(t *testing.T, n int) []string {
	t.Helper()
	return b.until(t, fmt.Sprintf("%d items come", n), func(items []string) bool { return len(items) >= n })
}

// last waits until the newest item is this one, and returns all items.
func (b *inbox) last(t *testing.T, item string) []string {
	t.Helper()
	return b.until(t, "the last item comes", func(items []string) bool {
		return len(items) > 0 && items[len(items)-1] == item
	})
}

// connect connects nats.go to the daemon. The client reconnects at once and for ever, and is closed
// with the test. An error that it reports fails the test unless the options handle errors.
func connect(t *testing.T, d *daemon, opts ...nats.Option) *nats.Conn {
	t.Helper()
	opts = append([]nats.Option{
		nats.Name(t.Name()), nats.Timeout(patience), nats.DrainTimeout(patience),
		nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("nats.go reports: %v", err) }),
	}, opts...)
	nc, err := nats.Connect("nats://"+d.Address, opts...)
	if err != nil {
		t.Fatalf("connect to %s: %v", d.Address, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// subscribe returns when the daemon has the subscription. queue is empty for a plain one.
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

// Write takes the output of `edged sub`: a line is a subject and an item. A line without an end was
// cut off by a signal and does not count as printed.
func (b *inbox) Write(text []byte) (int, error) {
	b.line = append(b.line, text...)
	for {
		line, rest, whole := bytes.Cut(b.line, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		_, item, _ := strings.Cut(string(line), " ")
		b.add(item)
		b.line = rest
	}
}

// printer is an `edged sub` process: it prints an item before it confirms it.
type printer struct {
	*inbox
	*edgedtest.Process
}

// startSub starts `edged sub` with its arguments. It ends with its connection.
func startSub(t *testing.T, d *daemon, args ...string) *printer {
	t.Helper()
	cmd := exec.Command(d.Binary, slices.Concat([]string{"sub", "-reconnect=false", "-server", d.Address}, args)...)
	box := newInbox()
	cmd.Stdout = box
	process, err := edgedtest.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	return &printer{box, process}
}

// exit waits until the process has ended by itself, and returns its exit code.
func (p *printer) exit(t *testing.T) int {
	t.Helper()
	code, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// freeze stops a process, and returns when all of its threads have stopped, which on a busy machine
// is a while after the signal. thaw lets it go on.
func freeze(t *testing.T, p *edgedtest.Process) {
	t.Helper()
	p.Signal(syscall.SIGSTOP)
	if err := unix.Waitid(unix.P_PID, p.Pid(), nil, unix.WSTOPPED, nil); err != nil {
		t.Fatalf("stop process %d: %v", p.Pid(), err)
	}
}

func thaw(p *edgedtest.Process) { p.Signal(syscall.SIGCONT) }

// numbers returns the items from to to-1, as most tests push them.
func numbers(from, to int) []any {
	items := make([]any, 0, to-from)
	for i := from; i < to; i++ {
		items = append(items, strconv.Itoa(i))
	}
	return items
}

// inRedis returns the items of a list, head first.
func inRedis(t *testing.T, r *redistest.Server, list string) []string {
	t.Helper()
	items, err := r.Client().LRange(context.Background(), list, 0, -1).Result()
	if err != nil {
		t.Fatalf("LRANGE %s: %v", list, err)
	}
	return items
}

// waitEmpty waits until all confirmed items are removed from lists, and no items are left.
func waitEmpty(t *testing.T, r *redistest.Server, lists ...string) {
	t.Helper()
	for _, list := range lists {
		redistest.Eventually(t, list+" is empty", func() bool { return r.Len(list) == 0 })
	}
}

// wantAll checks that each of the numbers below n reached a client, and returns the number of
// duplicates.
func wantAll(t *testing.T, n int, seen ...[]string) (duplicates int) {
	t.Helper()
	times := make([]int, n)
	for _, items := range seen {
		for _, item := range items {
			i, err := strconv.Atoi(item)
			if err != nil || i < 0 || i >= n {
				t.Fatalf("an item that was not pushed came: %.40q", item)
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
