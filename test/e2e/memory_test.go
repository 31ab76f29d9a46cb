//go:build !race

// A thousand clients do not fit into a small machine's memory together with the race detector:
// `make test` runs these tests without it.

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
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
)

// attackers is the number of clients that attack at a time: as many as a daemon admits, except for
// some that monitor it.
const attackers = 1000

// target is a daemon under attack.
type target struct {
	*daemon
	redis  *redistest.Server
	secure bool // its clients use TLS
	atOnce bool // several attacks run at the same time
}

// attack makes many clients hold memory, and returns when edged has it or has cut the clients off.
// The clients are closed with the context.
type attack struct {
	name    string
	clients int
	run     func(ctx context.Context, t *target, clients int)
}

// attacker is a client that breaks the rules. Its errors do not fail the test: it is cut off, as it
// should be.
type attacker struct {
	net.Conn
	in *bufio.Reader
}

// dial makes a connection that buffers few unread bytes. It is nil if edged has no place for it.
func (d *target) dial(ctx context.Context) net.Conn {
	small := func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}
	dialer := net.Dialer{Control: small, Timeout: patience}
	conn, err := dialer.DialContext(ctx, "tcp", d.Address)
	if err != nil {
		return nil
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return conn
}

// connect makes a client that has logged in; nil if it is not admitted.
func (d *target) connect(ctx context.Context) *attacker {
	conn := d.dial(ctx)
	if conn == nil {
		return nil
	}

	in := bufio.NewReaderSize(conn, 1024)
	if _, err := in.ReadString('\n'); err != nil {
		return nil
	}
	if d.secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		in.Reset(conn)
	}
	c := &attacker{conn, in}
	if !c.ask("CONNECT {\"user\":\"all\",\"pass\":\"s3cret\",\"headers\":true,\"no_responders\":true}\r\n") {
		return nil
	}
	return c
}

// ask sends commands, and reports whether edged executed them.
func (c *attacker) ask(commands string) bool {
	if _, err := io.WriteString(c, commands+"PING\r\n"); err != nil {
		return false
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "PONG\r\n" {
			return true
		}
	}
}

// each runs do for many clients that have logged in, a few at a time.
func each(ctx context.Context, d *target, clients int, do func(i int, c *attacker)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if c := d.connect(ctx); c != nil {
					do(i, c)
				}
			}
		})
	}

	for i := 0; i < clients && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
}

// attacks work against any daemon.
var attacks = []attack{
	{"messages to clients that read nothing", attackers, func(ctx context.Context, d *target, clients int) {
		each(ctx, d, clients, func(_ int, c *attacker) { c.ask("SUB flood 1\r\n") })
		if c := d.connect(ctx); c != nil {
			c.ask(strings.Repeat(fmt.Sprintf("PUB flood %d\r\n%s\r\n", 256<<10, strings.Repeat("x", 256<<10)), 16))
		}
	}},
	{"unfinished messages", attackers, func(ctx context.Context, d *target, clients int) {
		begin := "PUB a 1048576\r\n" + strings.Repeat("x", 100_000)
		each(ctx, d, clients, func(_ int, c *attacker) { io.WriteString(c, begin) })
	}},
	{"deep wildcards", attackers, func(ctx context.Context, d *target, clients int) {
		each(ctx, d, clients, func(i int, c *attacker) {
			var b strings.Builder
			for j := range 50 {
				fmt.Fprintf(&b, "SUB %d_%d%s.* %d\r\n", i, j, strings.Repeat(".a", 62), j)
			}
			c.ask(b.String())
		})
	}},
	{"acknowledgements with long reply subjects", attackers, func(ctx context.Context, d *target, clients int) {
		var mu sync.Mutex
		var all []*attacker
		each(ctx, d, clients, func(_ int, c *attacker) {
			if c.ask("SUB jobs 1\r\nSUB jobs 2\r\n") {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, c)
			}
		})
		d.redis.Push("jobs", "one")
		replies := make([]string, len(all))
		for i, c := range all {
			replies[i] = c.await("MSG jobs 1 ")
		}
		thaw := d.freezeRedis()
		defer thaw()
		for i, c := range all {
			reply, _, _ := strings.Cut(replies[i], " ")
			c.ask(strings.Repeat(fmt.Sprintf("PUB %s %s 0\r\n\r\n", reply, strings.Repeat("r", 3000)), 12))
		}
	}},
	{"JetStream requests that wait", attackers, func(ctx context.Context, d *target, clients int) {
		thaw := d.freezeRedis()
		defer thaw()
		each(ctx, d, clients, func(i int, c *attacker) {
			api := fmt.Sprintf("$JS.API.CONSUMER.DURABLE.CREATE.jobs.d%d _INBOX.%s", i, strings.Repeat("r", 2000))
			create := fmt.Sprintf(`{"stream_name":"jobs","config":{"durable_name":"d%d","ack_policy":"explicit","description":%q}}`, i, strings.Repeat("x", 4000))
			c.ask("SUB _INBOX.> 1\r\n" + strings.Repeat(fmt.Sprintf("PUB %s %d\r\n%s\r\n", api, len(create), create), 8))
		})
	}},
	{"clients that are silent", attackers, func(ctx context.Context, d *target, clients int) {
		for range clients {
			if conn := d.dial(ctx); conn != nil {
				io.WriteString(conn, "CONNECT {\"name\":\""+strings.Repeat("x", 4000))
			}
		}
	}},
	{"items to clients that read nothing", attackers, func(ctx context.Context, d *target, clients int) {
		each(ctx, d, clients, func(_ int, c *attacker) { c.ask("SUB events 1\r\n") })
		d.push(10)
		d.awaitItems(ctx)
	}},
	{"items to clients that stop one after the other", 20, func(ctx context.Context, d *target, clients int) {
		var wg sync.WaitGroup
		each(ctx, d, clients, func(i int, c *attacker) {
			if !c.ask("SUB events 1\r\n") {
				return
			}
			wg.Go(func() {
				for items := 0; items < 1000*(i+1); {
					line, err := c.in.ReadString('\n')
					if err != nil {
						return
					}
					if line == "PING\r\n" {
						io.WriteString(c, "PONG\r\n")
					}
					if strings.HasPrefix(line, "MSG ") {
						items++
					}
				}
			})
		})
		d.push(25)
		wg.Wait()
	}},
}

// attacksOnTLS work against a daemon that uses TLS.
var attacksOnTLS = []attack{
	{"unfinished handshakes", attackers, func(ctx context.Context, d *target, clients int) {
		hello := append([]byte{1, 0, 0xff, 0xff}, make([]byte, 65_000)...) // of 65,535 bytes
		var begin []byte
		for record := range slices.Chunk(hello, 16_000) {
			begin = append(begin, 22, 3, 1, byte(len(record)>>8), byte(len(record)))
			begin = append(begin, record...)
		}
		for range clients {
			if conn := d.dial(ctx); conn != nil {
				conn.Write(begin)
			}
		}
	}},
}

// push pushes so many thousand items to the list events.
func (d *target) push(thousands int) {
	items := slices.Repeat([]any{strings.Repeat("x", 1000)}, 1000)
	for range thousands {
		d.redis.Push("events", items...)
	}
}

// await returns the rest of the first line with this beginning.
func (c *attacker) await(begin string) string {
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return ""
		}
		if rest, ok := strings.CutPrefix(line, begin); ok {
			return rest
		}
	}
}

// freezeRedis keeps Redis from answering until thaw is called, unless other attacks need it.
func (d *target) freezeRedis() (thaw func()) {
	if d.atOnce {
		return func() {}
	}
	d.redis.Signal(syscall.SIGSTOP)
	return func() { d.redis.Signal(syscall.SIGCONT) }
}

// awaitItems waits until items are in flight, or ctx ends.
func (d *target) awaitItems(ctx context.Context) {
	for flight := 0; flight == 0 && ctx.Err() == nil; {
		var status struct {
			InFlight int `json:"in_flight"`
		}
		d.ControlJSON("status", &status)
		flight = status.InFlight
	}
}

// peak returns the maximum resident memory so far.
func (d *target) peak() int {
	d.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		d.t.Fatal(err)
	}
	return kib << 10
}

// startTarget starts a daemon without the race detector, which uses memory.
func startTarget(t *testing.T, secure bool) *target {
	t.Helper()
	r := redistest.Start(t)
	settings := []string{`instance = "e2e"`, `tcp.connect_timeout = "1m"`, fmt.Sprintf("tcp.user = [{ name = \"all\", password_file = %q }]", file(t, "password", "s3cret"))}
	if secure {
		tls, _, _, _ := withTLS(t)
		settings = append(settings, tls)
	}
	settings = append(settings, "[[list]]\nkey = \"events\"\n[[list]]\nkey = \"jobs\"\nack = \"explicit\"\n[[list]]\nkey = \"honest\"")
	server := edgedtest.New(t, r.Address(), settings...)
	server.Binary = filepath.Join(t.TempDir(), "edged")
	if err := edgedtest.Build(t.Context(), server.Binary); err != nil {
		t.Fatal(err)
	}
	server.Start()
	return &target{daemon: &daemon{server, t}, redis: r, secure: secure}
}

// allowed returns how much memory the daemon says that its configuration allows.
func (d *target) allowed() int {
	d.t.Helper()
	return int(d.AwaitLog("memory limit of the garbage collector")["allowed_bytes"].(float64))
}

// attacked runs an attack, then checks that the daemon still works.
func (d *target) attacked(name string, run func(ctx context.Context)) {
	d.t.Helper()
	ctx, end := context.WithCancel(d.t.Context())
	defer end()
	run(ctx)

	// All clients have one address, so handshakes that wait for their turn can crowd this client
	// out for a moment.
	for c := d.connect(ctx); c == nil || !c.ask(""); c = d.connect(ctx) {
		if d.HasEnded() {
			d.t.Fatalf("%s: edged has ended", name)
		}
	}
	peak, most := d.peak(), d.allowed()*6/5
	d.t.Logf("%s: at most %d MiB", name, peak>>20)
	if peak > most {
		d.t.Errorf("%s: %d MiB were resident, want at most %d", name, peak>>20, most>>20)
	}
}

// TestMemoryStaysWithinTheConfiguration has a thousand clients that each make edged hold as much
// memory as they can. Resident memory may exceed the configured amount by a fifth.
func TestMemoryStaysWithinTheConfiguration(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, all := startTarget(t, secure), attacks
			if secure {
				all = slices.Concat(attacksOnTLS, attacks)
			}
			for _, a := range all {
				d.attacked(a.name, func(ctx context.Context) { a.run(ctx, d, a.clients) })
			}

			d.atOnce = true
			d.attacked("all at once", func(ctx context.Context) {
				var wg sync.WaitGroup
				for _, a := range all {
					wg.Go(func() { a.run(ctx, d, min(a.clients, attackers/len(all))) })
				}
				wg.Wait()
			})
		})
	}
}

// TestAnHonestClientGetsItsItemsUnderAllAttacksAtOnce has a client take a list during all attacks,
// and again when they are over. Its rate is in the log: go test -v -run Honest ./e2e
func TestAnHonestClientGetsItsItemsUnderAllAttacksAtOnce(t *testing.T) {
	d := startTarget(t, false)
	d.atOnce = true
	honest, err := nats.Connect("nats://"+d.Address, nats.UserInfo("all", "s3cret"), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer honest.Close()
	const items = 200_000
	got, next := make(chan error, 1), 0
	if _, err := honest.Subscribe("honest", func(m *nats.Msg) {
		if n, err := strconv.Atoi(strings.TrimSpace(string(m.Data))); err != nil || n != next {
			got <- fmt.Errorf("item %q came in place of %d", m.Data, next)
		}
		if next++; next == items {
			got <- nil
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := honest.Flush(); err != nil {
		t.Fatal(err)
	}

	ctx, end := context.WithCancel(t.Context())
	var attacking sync.WaitGroup
	for _, a := range attacks {
		attacking.Go(func() {
			for ctx.Err() == nil {
				round, over := context.WithCancel(ctx)
				a.run(round, d, min(a.clients, attackers/len(attacks)))
				over()
			}
		})
	}
	began := time.Now()
	for first := 0; first < items; first += 1000 {
		batch := make([]any, 1000)
		for i := range batch {
			batch[i] = fmt.Sprintf("%-256d", first+i)
		}
		d.redis.Push("honest", batch...)
	}
	select {
	case err = <-got:
	case <-honest.StatusChanged(nats.CLOSED):
		err = honest.LastError()
	}
	took := time.Since(began)
	end()
	attacking.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d items a second reached the honest client", int(items/took.Seconds()))
}
