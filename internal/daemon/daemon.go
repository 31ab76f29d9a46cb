// Package daemon is the composition root: it builds the components from a
// configuration, runs them, and drains them in order. Components know nothing of
// each other; this package ties them together.
//
// Main is for a program that is edged; Run runs a daemon beside others in a process.
// docs/ARCHITECTURE.md lists the goroutines and the steps of the drain.
package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"

	"edged/internal/auth"
	"edged/internal/budget"
	"edged/internal/config"
	"edged/internal/httpserver"
	"edged/internal/inbound"
	"edged/internal/jetstream"
	"edged/internal/poller"
	"edged/internal/progress"
	"edged/internal/redisconn"
	"edged/internal/relay"
	"edged/internal/systemd"
	"edged/internal/tcpserver"
	"edged/internal/uds"
	"edged/internal/uplink"
	"edged/internal/watchdog"
)

// ExitFailed is the exit code of Main and Run if they could not start, or fail later. What
// is missing may come by itself, such as a file on a disk that is mounted late, so the
// service manager is to try again.
const ExitFailed = 1

// Options are the surroundings of a daemon.
type Options struct {
	Config  *config.Config
	Reread  func() (*config.Config, error) // reads the configuration again; nil if there is no file
	Version string                         // a semantic version: NATS clients read it in INFO
	Stderr  io.Writer                      // for the log, and for errors before there is one
	Ready   func(Addresses)                // called when the daemon serves; may be nil

	// The network and chance, for daemons that run in a simulation. Each may be nil.
	DialRedis func(ctx context.Context, network, address string) (net.Conn, error)
	Hub       func(c config.Uplink, instance string) uplink.Hub // nil: the NATS cluster that it names
	Random    func(n uint64) uint64                             // returns a number below n, from any goroutine; for jitter and samples

	// Things that a process has only once. Main sets them. Each may be nil.
	Signals <-chan os.Signal        // the first starts the drain, the second ends it
	Notify  *systemd.Notifier       // the service manager
	Sockets map[string]net.Listener // to serve on, by name, instead of opening sockets; Run closes them
	memory  *limiter                // of the garbage collector
}

// Addresses are those that a daemon serves at.
type Addresses struct {
	TCP  net.Addr
	HTTP net.Addr // nil if it is off
}

// Run runs a daemon from start to drain and returns its exit code. If ctx ends, so
// does the daemon, without waiting for its clients. Run has no effect on the process
// around the daemon.
func Run(ctx context.Context, o Options) (code int) {
	log := newLog(o.Config.Log, o.Stderr, journal.Send)
	defer log.close()
	return serve(ctx, o, log)
}

// daemon is the wired whole, which the control commands report on.
type daemon struct {
	options Options
	started time.Time
	log     *logging
	budget  *budget.Budget // of the memory that clients make edged hold
	pending relay.Pending  // items that await acknowledgements, of all lists
	tasks   progress.Tasks
	tracing atomic.Int32 // traces that run

	gate     *auth.Gate // of all servers
	loop     *poller.Loop
	tcp      *tcpserver.Server
	js       *jetstream.API  // nil if it is turned off
	inbound  *inbound.Writer // nil if clients write to no list
	control  *uds.Server
	http     *httpserver.Server // nil if it is off
	events   *httpserver.Events // of it
	viewed   *viewedLists       // for events
	samples  history            // for the page
	watchdog *watchdog.Watchdog
	address  net.Addr // where clients connect

	uplinks   uplinks
	secrets   redisconn.Secrets // for Redis, as of the last reload
	life      *lifecycle
	served    served
	reloading chan struct{}          // holds one while reload runs, and when the drain begins
	shortage  atomic.Pointer[string] // why not all of tcp.max_connections fit; empty or nil if they do
}

// serve is the life of the daemon, from top to bottom.
func serve(ctx context.Context, o Options, log *logging) (code int) {
	d, err := build(o, log)
	if err != nil {
		fmt.Fprintf(o.Stderr, "edged: %v\n", err)
		return ExitFailed
	}
	sockets, code := d.listen()
	if sockets == nil {
		return code
	}
	defer sockets.close()

	d.startUplinks(d.served.config())
	running := d.start(sockets)
	d.ready(sockets)
	why := d.awaitStop(ctx)

	d.beginDrain(why)
	d.drainClients(ctx, why, sockets)
	d.closeBooks(running)
	d.endHTTP(running)
	running.end() // the control socket closes last
	return why.code
}

// running are the goroutines of a daemon. serve waits for all of them before it
// returns.
type running struct {
	loop, writer, js task
	control          *uds.Server
	http             *httpserver.Server // nil if it is off
	webServed        chan struct{}      // closed when the HTTP listener is
	stopTelling      context.CancelFunc // follow, too
	rest             sync.WaitGroup     // the accept loops, tell and follow
}

// task is a goroutine that runs until it is cancelled.
type task struct {
	cancel context.CancelFunc
	ended  chan error
}

func startTask(run func(context.Context) error) task {
	ctx, cancel := context.WithCancel(context.Background())
	t := task{cancel, make(chan error, 1)}
	go func() { t.ended <- run(ctx) }()
	return t
}

// start starts the loop, the accept loops and the rest.
func (d *daemon) start(s *sockets) *running {
	r := &running{control: d.control, loop: startTask(d.loop.Run)}
	r.rest.Go(func() {
		if err := d.tcp.Serve(s.tcp); err != nil {
			d.life.order(stop{why: "the TCP listener failed: " + err.Error(), timeout: d.drainTimeout(), code: ExitFailed})
		}
	})
	r.rest.Go(func() {
		if err := d.control.Serve(s.operators, uds.Admin); err != nil {
			d.log.Error("the control socket is gone", zap.Error(err))
		}
	})
	if s.monitors != nil {
		r.rest.Go(func() {
			if err := d.control.Serve(s.monitors, uds.User); err != nil {
				d.log.Error("the status socket is gone", zap.Error(err))
			}
		})
	}

	if s.web != nil {
		r.http, r.webServed = d.http, make(chan struct{})
		r.rest.Go(func() {
			defer close(r.webServed)
			if err := d.http.Serve(s.web); err != nil {
				d.log.Error("the HTTP listener is gone", zap.Error(err))
			}
		})
	}

	r.writer, r.js = startTask(d.write), startTask(d.answer)
	telling, stopTelling := context.WithCancel(context.Background())
	r.stopTelling = stopTelling
	r.rest.Go(func() { d.tell(telling) })
	r.rest.Go(func() { d.follow(telling) })
	if s.web != nil {
		r.rest.Go(func() { d.remember(telling) })
	}
	return r
}

// write runs the inbound writer, if there is one.
func (d *daemon) write(ctx context.Context) error {
	if d.inbound == nil {
		return nil
	}
	return d.inbound.Run(ctx)
}

// endHTTP closes the connections of HTTP. Its listener was closed when the drain began.
func (d *daemon) endHTTP(r *running) {
	if r.http != nil {
		<-r.webServed
		r.http.End()
		d.viewed.close()
	}
}

// end closes the control socket, and returns when the last goroutine has ended.
func (r *running) end() {
	r.stopTelling()
	r.control.Shutdown()
	r.rest.Wait()
}

// ready announces that the daemon serves.
func (d *daemon) ready(s *sockets) {
	cfg := d.served.config()
	d.log.Info("serving", zap.String("version", d.options.Version), zap.String("instance", cfg.Instance), zap.Int("pid", os.Getpid()),
		zap.String("redis", cfg.Redis.Where()), zap.Stringer("tcp", s.tcp.Addr()), zap.Stringer("control", s.operators.Addr()),
		zap.String("event", "started"))
	d.options.Notify.Ready(d.summary())
	if d.options.Ready != nil {
		at := Addresses{TCP: s.tcp.Addr()}
		if s.web != nil {
			at.HTTP = s.web.Addr()
		}
		d.options.Ready(at)
	}
}
