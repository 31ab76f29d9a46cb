package daemon

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"edged/internal/config"
	"edged/internal/redistest"
)

// configured returns a configuration with free sockets, for a Redis.
func configured(t *testing.T, redis *redistest.Server) *config.Config {
	t.Helper()
	cfg, err := config.Load("")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "e") // its path leaves room for that of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	cfg.Instance, cfg.Redis.Address, cfg.TCP.Listen = filepath.Base(folder), redis.Address(), "127.0.0.1:0"
	cfg.Control.Socket, cfg.Control.StatusSocket = filepath.Join(folder, "control.sock"), ""
	return cfg
}

// process is a daemon that Run runs in this process.
type process struct {
	address net.Addr
	signals chan os.Signal
	ended   chan int
	log     *logBuffer
	http    net.Addr // nil if it is off
}

// run runs a daemon and waits until it serves.
func run(ctx context.Context, t *testing.T, o Options) *process {
	t.Helper()
	p := &process{signals: make(chan os.Signal), ended: make(chan int, 1), log: &logBuffer{}}
	ready := make(chan Addresses, 1)
	o.Version, o.Stderr, o.Signals = "0.0.0", p.log, p.signals
	o.Ready = func(at Addresses) { ready <- at }
	go func() { p.ended <- Run(ctx, o) }()
	select {
	case at := <-ready:
		p.address, p.http = at.TCP, at.HTTP
	case code := <-p.ended:
		t.Fatalf("Run returned %d before the daemon served:\n%s", code, p.log)
	}
	return p
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// client connects to a daemon and has read its INFO.
func client(t *testing.T, address net.Addr) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial(address.Network(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("CONNECT {}\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "PONG\r\n" {
			return r
		}
	}
}

func TestTwoDaemonsRunInOneProcessAndEndOneByOne(t *testing.T) {
	redis := redistest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	one := run(t.Context(), t, Options{Config: configured(t, redis)})
	two := run(ctx, t, Options{Config: configured(t, redis)})
	of, other := client(t, one.address), client(t, two.address)

	// A signal of the first is no signal of the second; its client is told and waited for.
	one.signals <- syscall.SIGTERM
	if line, err := of.ReadString('\n'); err != nil || !strings.Contains(line, `"ldm":true`) {
		t.Errorf("the client of a draining daemon reads %q, %v", line, err)
	}
	one.signals <- syscall.SIGTERM
	if code := <-one.ended; code != 0 {
		t.Errorf("the exit code is %d", code)
	}

	// The end of the context does not wait for the client.
	client(t, two.address)
	cancel()
	if code := <-two.ended; code != 0 {
		t.Errorf("the exit code is %d", code)
	}
	for err := error(nil); err == nil; {
		_, err = other.ReadString('\n')
	}
	for p, want := range map[*process]string{one: `"why":"SIGTERM"`, two: `"why":"context canceled"`} {
		if log := p.log.String(); !strings.Contains(log, want) || !strings.Contains(log, `"msg":"drained"`) {
			t.Errorf("the log has no %s, or no books:\n%s", want, log)
		}
	}
}

func TestADaemonServesOnTheSocketsThatItIsGiven(t *testing.T) {
	cfg := configured(t, redistest.Start(t))
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	control, err := net.Listen("unix", cfg.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	p := run(t.Context(), t, Options{Config: cfg, Sockets: map[string]net.Listener{TCPSocket: tcp, ControlSocket: control}})
	if p.address != tcp.Addr() {
		t.Errorf("it serves at %v, want %v", p.address, tcp.Addr())
	}
	operator, err := net.Dial("unix", cfg.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	if _, err := operator.Write([]byte("quit\n")); err != nil {
		t.Fatal(err)
	}
	if code := <-p.ended; code != 0 {
		t.Errorf("the exit code is %d", code)
	}
	if conn, err := tcp.Accept(); err == nil {
		conn.Close()
		t.Error("a given socket is still open after Run")
	}
}

func TestAFailedStartSaysWhyAndLeavesNothing(t *testing.T) {
	redis := redistest.Start(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		change func(*config.Config)
		code   int
		want   string
	}{
		{func(c *config.Config) { c.TCP.Listen = taken.Addr().String() }, ExitFailed, "can't listen for clients; is another edged or NATS server running?"},
		{func(c *config.Config) { c.Control.Socket = t.TempDir() }, ExitFailed, "can't listen for operators"},
		{func(c *config.Config) { c.TCP.Auth.TokenFile = "/missing" }, ExitFailed, "edged: tcp.auth.token_file: "},
	} {
		cfg := configured(t, redis)
		c.change(cfg)
		var log logBuffer
		if code := Run(t.Context(), Options{Config: cfg, Stderr: &log}); code != c.code || !strings.Contains(log.String(), c.want) {
			t.Errorf("Run returned %d, want %d and %q in:\n%s", code, c.code, c.want, &log)
		}
	}
}

// edged-http.socket may be enabled without the other socket units.
func TestASocketForHTTPComesWithTheOthersOrAlone(t *testing.T) {
	for name, others := range map[string]bool{"alone": false, "with the others": true} {
		t.Run(name, func(t *testing.T) {
			cfg := configured(t, redistest.Start(t))
			given := map[string]net.Listener{}
			give := func(name, network, address string) {
				ln, err := net.Listen(network, address)
				if err != nil {
					t.Fatal(err)
				}
				given[name] = ln
			}
			give(HTTPSocket, "tcp", "127.0.0.1:0")
			if others {
				give(TCPSocket, "tcp", "127.0.0.1:0")
				give(ControlSocket, "unix", cfg.Control.Socket)
			}

			ctx, quit := context.WithCancel(t.Context())
			p := run(ctx, t, Options{Config: cfg, Sockets: given})
			if p.http != given[HTTPSocket].Addr() {
				t.Errorf("HTTP is served at %v, want %v", p.http, given[HTTPSocket].Addr())
			}
			client, err := net.Dial("tcp", p.address.String())
			if err != nil {
				t.Error(err)
			} else {
				client.Close()
			}
			quit()
			<-p.ended
		})
	}
}
