package tcpserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"edged/internal/auth"
	"edged/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for an event that must happen.
const patience = 20 * time.Second

func testOptions() Options {
	return Options{
		Name:           "test",
		Version:        "1.2.3",
		MaxPayload:     1 << 20,
		MaxControlLine: 4096,
		Limits: Limits{
			MaxConnections:   100,
			MaxSubscriptions: 100,
			MaxPending:       16 << 20,
			ConnectTimeout:   patience,
			PingInterval:     time.Hour,
			ReceiptTimeout:   time.Hour,
		},
	}
}

// gated returns a Gate with this Security.
func gated(sec auth.Security) *auth.Gate { return auth.New(auth.Options{Security: sec}) }

// reload replaces the Security, as the daemon does.
func reload(s *Server, sec auth.Security) (disconnected int) {
	s.opts.Gate.Set(sec)
	return s.Reload()
}

// serve starts a server and returns it with its address. It is closed with the test. It sends no
// PING except those that follow items.
func serve(t testing.TB, opts Options) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(opts)
	s.first = opts.PingInterval
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error("Serve:", err)
		}
	})

	return s, ln.Addr().String()
}

// conn is a client that speaks raw lines.
type conn struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

// dialRaw connects, reads INFO and sends nothing.
func dialRaw(t testing.TB, addr string) *conn {
	t.Helper()
	return dialBy(t, &net.Dialer{}, addr)
}

func dialBy(t testing.TB, d *net.Dialer, addr string) *conn {
	t.Helper()
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetReadDeadline(time.Now().Add(patience))
	c := &conn{t: t, Conn: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	if line := c.line(); !strings.HasPrefix(line, "INFO {") {
		t.Fatalf("the first line is %q, want INFO", line)
	}
	return c
}

// dialNarrow connects as a client whose host buffers next to nothing.
func dialNarrow(t testing.TB, addr string) *conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
		return err
	}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &conn{t: t, Conn: nc, r: bufio.NewReader(nc)}
}

// dial connects and completes the handshake.
func dial(t testing.TB, addr string) *conn {
	t.Helper()
	return dialWith(t, addr, `{"headers":true,"no_responders":true,"protocol":1}`)
}

func dialWith(t testing.TB, addr, options string) *conn {
	t.Helper()
	c := dialRaw(t, addr)
	c.send("CONNECT " + options + "\r\n")
	if strings.Contains(options, `"verbose":true`) {
		c.expect("+OK")
	}
	c.sync()
	return c
}

func (c *conn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// line reads a line without its end.
func (c *conn) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading a line: %v, after %q", err, line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (c *conn) expect(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		if got := c.line(); got != want {
			c.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// sync is a barrier: all commands that were sent have been executed, and nothing else arrived.
func (c *conn) sync() {
	c.t.Helper()
	c.send("PING\r\n")
	c.expect("PONG")
}

// answerPings answers each PING until the connection is closed.
func (c *conn) answerPings() {
	for {
		switch line, err := c.r.ReadString('\n'); {
		case err != nil:
			return
		case line == "PING\r\n":
			c.Write([]byte("PONG\r\n"))
		}
	}
}

// expectEnd waits for the end of the connection; nothing may arrive before it.
func (c *conn) expectEnd() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err == nil {
		rest, _ := c.r.Peek(c.r.Buffered())
		c.t.Fatalf("got %q, want the end of the connection", string(b)+string(rest))
	} else if errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatal("the connection was not closed")
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatal("the connection was not closed")
	}
}

// pipes is a listener whose connections are net.Pipes.
type pipes struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// servePipes is serve with connections that hand over bytes piece by piece, and that a synctest
// bubble understands. It sends no PINGs: on a machine that is busy for two seconds one would arrive
// between the answers.
func servePipes(t testing.TB, opts Options) (*Server, *pipes) {
	t.Helper()
	s, ln := New(opts), newPipes()
	s.first = opts.PingInterval
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error("Serve:", err)
		}
	})
	return s, ln
}

// dial connects and reads INFO.
func (p *pipes) dial(t testing.TB) *conn {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	p.conns <- server
	c := &conn{t: t, Conn: client, r: bufio.NewReaderSize(client, 64<<10)}
	if line := c.line(); !strings.HasPrefix(line, "INFO {") {
		t.Fatalf("the first line is %q, want INFO", line)
	}
	return c
}

// eventually waits until cond is true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never happened: ", what)
		}
	}
}

// fakeList is a Joiner. It delivers with its lock held, as the relay does.
type fakeList struct {
	mu      sync.Mutex
	joined  []*fakeMembership // guarded by mu
	greet   *batch.Batch      // delivered while Join runs; may be nil
	next    uint64            // guarded by mu
	subject string
}

type fakeMembership struct {
	list       *fakeList
	group, key string
	takes      batch.Member

	// Guarded by list.mu.
	receipts []*fakeReceipt
	left     int
	finished []int
}

type fakeReceipt struct {
	list      *fakeList
	items     int
	confirmed int // guarded by list.mu
}

func (l *fakeList) Join(group, key string, m batch.Member) batch.Membership {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := &fakeMembership{list: l, group: group, key: key, takes: m}
	l.joined = append(l.joined, j)
	if l.greet != nil {
		j.deliver(l.greet)
	}
	return j
}

// deliver is called with the list's lock held.
func (m *fakeMembership) deliver(b *batch.Batch) int {
	r := &fakeReceipt{list: m.list}
	r.items = m.takes.Deliver(b, 0, b.Len(), r)
	if r.items > 0 {
		m.receipts = append(m.receipts, r)
	}
	return r.items
}

// Owed returns the number of items not confirmed, according to the receipts.
func (m *fakeMembership) Owed() (n int) {
	m.list.mu.Lock()
	defer m.list.mu.Unlock()
	if m.left > 0 {
		return 0
	}
	for _, r := range m.receipts {
		if r.confirmed == 0 {
			n += r.items
		}
	}
	return n
}

func (m *fakeMembership) Leave() {
	m.list.mu.Lock()
	m.left++
	m.list.mu.Unlock()
}

func (m *fakeMembership) Finish(keep int) {
	m.list.mu.Lock()
	m.finished = append(m.finished, keep)
	m.list.mu.Unlock()
}

func (r *fakeReceipt) Confirm() {
	r.list.mu.Lock()
	r.confirmed++
	r.list.mu.Unlock()
}

// members returns the number of members that have joined.
func (l *fakeList) members() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.joined)
}

// member waits for the i-th member, counted from 0.
func (l *fakeList) member(t testing.TB, i int) *fakeMembership {
	t.Helper()
	var m *fakeMembership
	eventually(t, "a subscription joined the list", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if i < len(l.joined) {
			m = l.joined[i]
		}
		return m != nil
	})
	return m
}

// offer delivers items to one member and returns the number taken.
func (m *fakeMembership) offer(items ...string) int {
	l := m.list
	l.mu.Lock()
	defer l.mu.Unlock()
	return m.deliver(l.batch(items...))
}

// batch is called with the lock held.
func (l *fakeList) batch(items ...string) *batch.Batch {
	raw := make([][]byte, len(items))
	for i, item := range items {
		raw[i] = []byte(item)
	}
	b := batch.Of(l.subject, l.next, raw...)
	l.next += uint64(len(items))
	return b
}

// confirmed returns how often each delivery was confirmed.
func (m *fakeMembership) confirmed() []int {
	m.list.mu.Lock()
	defer m.list.mu.Unlock()
	var all []int
	for _, r := range m.receipts {
		all = append(all, r.confirmed)
	}
	return all
}

func (m *fakeMembership) state() (left int, finished []int) {
	m.list.mu.Lock()
	defer m.list.mu.Unlock()
	return m.left, append([]int(nil), m.finished...)
}

// withList serves one list under the subject "items".
func withList(t testing.TB, opts Options, confirm Confirmation) (*Server, string, *fakeList) {
	t.Helper()
	l := &fakeList{subject: "items"}
	opts.Lists = []List{{Subject: "items", Confirm: confirm, Joiner: l}}
	s, addr := serve(t, opts)
	return s, addr, l
}
