// Package uplink tests edged's uplinks with real parts: edged, Redis and nats-server are processes,
// with an unreliable proxy between edged and nats-server.
package uplink

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

var folder string // of nats-server

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "uplink"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(folder)
		edgedtest.Exit(code)
	}))
}

// buildHub builds nats-server, once.
var buildHub = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", filepath.Join(folder, "nats-server"), "github.com/nats-io/nats-server/v2")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build nats-server: %v\n%s", err, out)
	}
	return nil
})

// hub is a nats-server at an address that it keeps.
type hub struct {
	t       testing.TB
	address string
	config  string
	process *edgedtest.Process
}

// newHub prepares a server with more lines of its configuration.
func newHub(t testing.TB, more string) *hub {
	t.Helper()
	if err := buildHub(); err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, address: edgedtest.Address(t), config: filepath.Join(t.TempDir(), "config")}
	text := fmt.Sprintf("listen: %q\njetstream: {store_dir: %q}\n%s\n", h.address, t.TempDir(), more)
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		if h.process != nil {
			h.process.Kill()
			if t.Failed() {
				t.Logf("the log of nats-server:\n%.20000s", h.process.Output())
			}
		}
	})

	return h
}

// startHub starts a separate server.
func startHub(t testing.TB, more string) *hub {
	t.Helper()
	h := newHub(t, more)
	h.start()
	return h
}

func (h *hub) start() {
	h.t.Helper()
	process, err := edgedtest.Start(exec.Command(filepath.Join(folder, "nats-server"), "-config", h.config))
	if err != nil {
		h.t.Fatal(err)
	}
	h.process = process
	if _, err := process.AwaitLine(func(line string) bool { return strings.Contains(line, "Listening for client connections") }); err != nil {
		h.t.Fatalf("nats-server does not listen: %v\n%s", err, process.Output())
	}
}

// connect returns a connection of the test to the hub.
func (h *hub) connect(options ...nats.Option) jetstream.JetStream {
	h.t.Helper()
	options = append(options, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	nc, err := nats.Connect("nats://"+h.address, options...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		h.t.Fatal(err)
	}
	return js
}

// newStream makes the stream of a box.
func newStream(t testing.TB, js jetstream.JetStream, change func(*jetstream.StreamConfig)) jetstream.Stream {
	t.Helper()
	config := jetstream.StreamConfig{Name: "BOX", Subjects: []string{"edge.box.>"}, Duplicates: time.Second}
	if change != nil {
		change(&config)
	}
	ctx, cancel := context.WithTimeout(t.Context(), edgedtest.Patience)
	defer cancel()
	s, err := js.CreateStream(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// settings returns those of a box that sends the list events, and no other list, to a hub.
func settings(address string, more ...string) []string {
	return []string{`instance = "box"`, `drain.timeout = "1s"`, "[[list]]\nkey = \"events\"", uplink(address, more...)}
}

func uplink(address string, more ...string) string {
	return fmt.Sprintf("[[uplink]]\nname = \"hub\"\nurl = [%q]\nlists = [\"events\"]\n%s\n", "nats://"+address, strings.Join(more, "\n"))
}

// startRedis starts a Redis that loses nothing.
func startRedis(t testing.TB) *redistest.Server {
	return redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
}

// startDirect starts a hub with the stream of a box, Redis, and edged with an uplink to the hub.
func startDirect(t testing.TB) (h *hub, stream jetstream.Stream, r *redistest.Server, s *edgedtest.Server) {
	t.Helper()
	h = startHub(t, "")
	stream = newStream(t, h.connect(), nil)
	r = startRedis(t)
	s = edgedtest.Run(t, r.Address(), settings(h.address)...)
	return h, stream, r, s
}

// startProxied is startDirect with a proxy between edged and the hub.
func startProxied(t testing.TB, rate int, delay time.Duration) (p *proxy, stream jetstream.Stream, r *redistest.Server, s *edgedtest.Server) {
	t.Helper()
	h := startHub(t, "")
	stream = newStream(t, h.connect(), nil)
	p = startProxy(t, h.address, rate, delay)
	r = startRedis(t)
	s = edgedtest.Run(t, r.Address(), settings(p.address())...)
	return p, stream, r, s
}

// texts returns n items from number from on.
func texts(from, n int) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = fmt.Sprintf("item-%07d", from+i)
	}
	return all
}

// stored returns the items in the stream.
func stored(t testing.TB, s jetstream.Stream) (items []string) {
	t.Helper()
	var info *jetstream.StreamInfo
	var c jetstream.Consumer
	redistest.Eventually(t, "the stream can be read", func() bool { // it may have no leader
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		if info, err = s.Info(ctx); err == nil {
			c, err = s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		}
		return err == nil
	})

	for left := int(info.State.Msgs); left > 0; {
		batch, err := c.Fetch(left, jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			items = append(items, string(m.Data()))
			left--
		}
	}
	return items
}

// reaches waits until a stream has n messages.
func reaches(t *testing.T, stream jetstream.Stream, n int) {
	t.Helper()
	redistest.Eventually(t, fmt.Sprintf("the stream has %d messages", n), func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs >= uint64(n)
	})
}

// await waits until Redis is empty: the hub has confirmed all items.
func await(t testing.TB, r *redistest.Server, s *edgedtest.Server) {
	t.Helper()
	deadline := time.Now().Add(2 * edgedtest.Patience)
	for r.Len("events") > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d items are left\n%s", r.Len("events"), s.Control("uplinks json"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// once checks that the stream has n items, each once and in order.
func once(t testing.TB, s jetstream.Stream, n int) {
	t.Helper()
	got, want := stored(t, s), texts(0, n)
	for i := range min(len(got), n) {
		if got[i] != want[i] {
			t.Fatalf("message %d is %s, want %s (%d messages)\n%s", i+1, got[i], want[i], len(got), headers(t, s, i-2, i+3))
		}
	}
	if len(got) != n {
		t.Fatalf("the stream has %d messages, want %d", len(got), n)
	}
}

// headers returns the headers of the messages from sequence from to sequence to.
func headers(t testing.TB, s jetstream.Stream, from, to int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), edgedtest.Patience)
	defer cancel()
	var text strings.Builder
	for n := max(from, 1); n <= to; n++ {
		m, err := s.GetMsg(ctx, uint64(n))
		if err != nil {
			fmt.Fprintf(&text, "%d: %v\n", n, err)
			continue
		}
		fmt.Fprintf(&text, "%d: %s %s %v\n", n, m.Time.Format(time.StampMicro), m.Data, m.Header)
	}
	return text.String()
}

// reason waits until an uplink reports a reason with some words.
func reason(t testing.TB, s *edgedtest.Server, words string) {
	t.Helper()
	redistest.Eventually(t, "the uplink says: "+words, func() bool { return strings.Contains(s.Control("uplinks json"), words) })
}

// proxy is a proxy between edged and the hub.
type proxy struct {
	t        testing.TB
	listener net.Listener
	target   atomic.Pointer[string]

	swallow atomic.Bool // answers of the hub
	hold    atomic.Bool // everything, without end
	refuse  atomic.Bool // new connections
	rate    int         // bytes a second, in each direction; 0: no bound
	delay   time.Duration

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu
	wait  sync.WaitGroup
}

func startProxy(t testing.TB, target string, rate int, delay time.Duration) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, conns: make(map[net.Conn]bool), rate: rate, delay: delay}
	p.target.Store(&target)
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.refuse.Store(true)
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", *p.target.Load())
		if err != nil || p.refuse.Load() {
			in.Close()
			if err == nil {
				out.Close()
			}
			continue
		}

		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()

		if p.rate > 0 {
			in.(*net.TCPConn).SetReadBuffer(4096)
		}
		p.wait.Go(func() { p.copy(out, in, false) })
		p.wait.Go(func() { p.copy(in, out, true) })
	}
}

// copy moves bytes to the other side, each after the delay.
func (p *proxy) copy(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()

	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 4096)
	done := make(chan struct{})
	defer func() { close(pieces); <-done }()

	go func() {
		defer close(done)
		for one := range pieces {
			time.Sleep(time.Until(one.at))
			if _, err := to.Write(one.data); err != nil {
				from.Close()
			}
		}
	}()

	buffer := make([]byte, 1024)
	for {
		n, err := from.Read(buffer)
		if p.rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(p.rate))
		}
		if n > 0 && !p.hold.Load() && !(answers && p.swallow.Load()) {
			pieces <- piece{time.Now().Add(p.delay), append([]byte(nil), buffer[:n]...)}
		}
		if err != nil {
			if err != io.EOF {
				to.Close()
			}
			return
		}
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}
