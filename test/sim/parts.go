package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"

	"edged/internal/config"
	edged "edged/internal/daemon"
	"edged/internal/uplink"
	"edged/test/sim/network"
	"edged/test/sim/redis"
	"edged/test/sim/scenario"
)

// Parts are the processes of a world: simulated ones in a bubble, or real ones in
// real time. One goroutine calls the methods.
type Parts interface {
	Redis() Redis
	// Launch starts a process of edged, which is killed when ctx is done.
	Launch(ctx context.Context, p *Process)
	// Freeze stops the processes of a name, or lets them go on; the world does the
	// same to their connections. Thaw lets all processes go on.
	Freeze(name string, frozen bool)
	Thaw()
	// Rest waits until the time is over, or, if waiting costs real time, until the
	// world has settled.
	Rest(longest time.Duration, settled func() bool)
	// Vitals returns the goroutines of all daemons, without those for clients, and the
	// bytes that they use; 0 if they are judged elsewhere.
	Vitals(clients int) (goroutines int, heap uint64)
}

// Process is a process of edged. Its connections lead through Host: it dials the
// service tcp of the hosts redis and hub, and listens for the services tcp and control.
type Process struct {
	Name          string
	Host          *network.Host
	Configuration func(redis, listen, control string) string // with these addresses
	Log           io.Writer                                  // gets a line at a time
	Signals       <-chan os.Signal
	Done          chan<- int // gets the exit code
	Chance        func(n uint64) uint64
}

// Redis is a Redis server that a world can do anything to. *redis.Redis has most of
// the methods.
type Redis interface {
	Serve(conn net.Conn) // may be called from any goroutine
	Do(words ...string) (any, error)
	Execute(words ...string) (any, error)
	// Change executes commands and returns the data before and after them.
	Change(commands ...[]string) (before, after redis.Data)
	Data() redis.Data
	Keys() []string

	Save() redis.Data // for Restart
	Kill()            // the data stay until Restart
	Restart(data redis.Data)
	RestartWithData()
	SetFault(fault redis.Fault)
	SetClock(offset time.Duration)
	MaxClients(n int)
	Disconnect()
	Close()
}

// World is a world that is played event by event, for programs that bring the parts.
// One goroutine uses it.
type World = world

// New makes a world in which Redis runs.
func New(plan *scenario.Scenario, parts Parts) *World {
	w := newWorld(plan, parts)
	w.startRedis()
	return w
}

// Do lets an event happen.
func (w *world) Do(e scenario.Event) { w.do(e) }

// Find notes something wrong.
func (w *world) Find(kind, format string, args ...any) {
	w.lock(func() { w.judge.Find(kind, format, args...) })
}

// Result returns the outcome so far.
func (w *world) Result() result { return w.result() }

// End ends everything, in good order.
func (w *world) End() { w.end() }

// simulated are the parts of a simulation: the daemons run in this process, and stand
// still when their connections do.
type simulated struct{}

func (*simulated) Redis() Redis                              { return memory{redis.New()} }
func (*simulated) Freeze(string, bool)                       {}
func (*simulated) Thaw()                                     {}
func (*simulated) Rest(longest time.Duration, _ func() bool) { time.Sleep(longest) }

func (*simulated) Vitals(clients int) (goroutines int, bytes uint64) {
	return runtime.NumGoroutine() - 6*clients, heap()
}

func (*simulated) Launch(ctx context.Context, p *Process) {
	text := p.Configuration("redis:6379", "10.0.0.1:4222", "/run/control")
	read := func() (*config.Config, error) { return config.Parse("edged.toml", []byte(text)) }
	cfg, err := read()
	if err != nil {
		panic(fmt.Sprintf("%v\n%s", err, text))
	}
	sockets := map[string]net.Listener{edged.TCPSocket: p.Host.Listen("tcp"), edged.ControlSocket: p.Host.Listen("control")}
	go func() {
		p.Done <- edged.Run(ctx, edged.Options{
			Config: cfg, Reread: read, Version: "0.0.0", Stderr: p.Log, Signals: p.Signals, Sockets: sockets, Random: p.Chance,
			DialRedis: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Host.Dial(ctx, "redis", "tcp") },
			Hub: func(c config.Uplink, instance string) uplink.Hub {
				return uplink.NewNATS(uplink.NATSOptions{
					URLs: c.URL, Name: instance, Box: instance, Stream: c.Stream, Window: c.WindowItems,
					Dial:    func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Host.Dial(ctx, "hub", "tcp") },
					Connect: func() ([]nats.Option, error) { return nil, nil },
				})
			},
		})
	}()
}

// memory is a Redis in this process.
type memory struct{ *redis.Redis }

func (m memory) Data() redis.Data { return m.Save() }
func (memory) Kill()              {}

func (m memory) Change(commands ...[]string) (before, after redis.Data) {
	before = m.Save()
	for _, words := range commands {
		m.Execute(words...)
	}
	return before, m.Save()
}
