package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/config"
	"edged/internal/inbound"
	"edged/internal/poller"
	"edged/internal/relay"
	"edged/internal/signals"
	"edged/internal/systemd"
	"edged/internal/tcpserver"
	"edged/internal/uds"
)

// daemon is the wired whole: what the control commands report on.
type daemon struct {
	cfg     *config.Config
	started time.Time
	level   zap.AtomicLevel
	loop    *poller.Loop
	tcp     *tcpserver.Server
	inbound *inbound.Writer // nil where clients write to no list
	listen  net.Addr        // where clients connect
	log     *zap.Logger
	stops   chan stop     // orders to drain or to quit; holds one
	left    chan struct{} // closed when the drain begins
	over    chan struct{} // closed when the books are

	reread    func() (*config.Config, error) // reads the configuration again; nil where there is no file
	reloading sync.Mutex                     // held by reload, and when the drain begins

	logDropped  func() uint64 // lines that did not reach the journal; nil where it is not the journal's
	logRepeated func() uint64 // lines dropped because their message came too often

	mu       sync.Mutex     // guards everything below
	inForce  *config.Config // cfg with what reload has changed
	relayed  []relayed      // the lists, in the order of inForce; never changed in place
	past     relay.Stats    // counters of lists that reload has removed
	leaving  string         // why it drains, empty while it serves
	shortage string         // guarded by mu; why not all of tcp.max_connections fit, empty where they do
}

// relayed is a list that is served.
type relayed struct {
	config.List
	window
}

// window is a list's place in the relay, whatever its items are confirmed by.
type window interface {
	tcpserver.Joiner
	Stats() relay.Stats
	SetBounds(window, memory int)
	Stop()
}

// stop is an order to end.
type stop struct {
	why     string
	timeout time.Duration // for the clients to leave
	quit    bool          // waits for nobody
	code    int           // the exit code
}

// order hands on a stop. Where one is waiting already that one stands, but for a
// quit, which takes its place.
func (d *daemon) order(s stop) {
	for {
		select {
		case d.stops <- s:
			return
		default:
		}
		if !s.quit {
			return
		}
		select {
		case <-d.stops:
		default:
		}
	}
}

// serve runs the daemon from start to drain and returns the exit code. reread
// reads the configuration again; where it is nil, there is nothing to reload. ready,
// where not nil, is called when it serves.
func serve(cfg *config.Config, reread func() (*config.Config, error), stderr io.Writer, ready func()) int {
	// Never stopped: a signal that comes behind the drain must not kill the process
	// before it has given its exit code.
	sigs := signals.New()

	d := &daemon{cfg: cfg, inForce: cfg, reread: reread, started: time.Now(), level: zap.NewAtomicLevel(), stops: make(chan stop, 1),
		left: make(chan struct{}), over: make(chan struct{})}
	d.level.UnmarshalText([]byte(cfg.Log.Level)) // config has checked it
	log, closeLog := d.newLog(stderr, journal.Send)
	defer closeLog()
	d.log = log
	poller.SetRedisLog(log)
	limitMemory(os.DirFS("/"), log)

	redis, err := redisOptions(cfg.Redis)
	if err != nil {
		fmt.Fprintf(stderr, "edged: %v\n", err)
		return exitConfig
	}
	sec, err := security(cfg.TCP)
	if err != nil {
		fmt.Fprintf(stderr, "edged: %v\n", err)
		return exitConfig
	}
	notify := systemd.New(func(err error) { log.Warn("can't notify systemd", zap.Error(err)) })
	life := &lifeline{notify: notify, probe: d.probe, log: log}
	d.build(log, life, redis, sec)

	passed, err := passedSockets(cfg, log)
	if err != nil {
		log.Error("can't use the sockets that systemd passed", zap.Error(err))
		return exitConfig
	}
	defer passed.close()
	tcpListener, err := passed.or(tcpSocket, func() (net.Listener, error) { return net.Listen("tcp", cfg.TCP.Listen) })
	if err != nil {
		log.Error("can't listen for clients; is another edged or NATS server running?",
			zap.String("key", "tcp.listen"), zap.String("address", cfg.TCP.Listen), zap.Error(err))
		return exitFailed
	}
	tcpDoor := newDoor(tcpListener, life.pulse(tcpSocket), life.every())
	defer tcpDoor.Close()
	d.listen = tcpListener.Addr()
	controlListener, err := passed.or(controlSocket, func() (net.Listener, error) { return uds.Listen(cfg.Control.Socket, 0o660, controlGroup) })
	if err != nil {
		log.Error("can't listen for operators", zap.String("key", "control.socket"), zap.Error(err))
		return exitFailed
	}
	controlDoor := newDoor(controlListener, life.pulse(controlSocket), life.every())
	defer controlDoor.Close()
	var statusDoor *door // nil where nobody listens for monitors
	if ln := listenForMonitors(cfg.Control.StatusSocket, passed, log); ln != nil {
		statusDoor = newDoor(ln, life.pulse(statusSocket), life.every())
		defer statusDoor.Close()
	}
	control := uds.New(uds.Options{Commands: d.commands(), Path: cfg.Control.Socket, Log: log.Named("control")})
	d.warnIfOpen()

	// Every goroutine that is started here is waited for before serve returns.
	loopCtx, stopLoop := context.WithCancel(context.Background())
	defer stopLoop()
	looped := make(chan error, 1)
	go func() { looped <- d.loop.Run(loopCtx) }()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := d.tcp.Serve(tcpDoor); err != nil {
			d.order(stop{why: "the TCP listener failed: " + err.Error(), timeout: time.Duration(cfg.Drain.Timeout), code: exitFailed})
		}
	})
	serving.Go(func() {
		if err := control.Serve(controlDoor, uds.Admin); err != nil {
			log.Error("the control socket is gone", zap.Error(err))
		}
	})
	if statusDoor != nil {
		serving.Go(func() {
			if err := control.Serve(statusDoor, uds.User); err != nil {
				log.Error("the status socket is gone", zap.Error(err))
			}
		})
	}
	writeCtx, stopWriting := context.WithCancel(context.Background())
	defer stopWriting()
	written := make(chan error, 1)
	go func() {
		if d.inbound == nil {
			written <- nil
			return
		}
		written <- d.inbound.Run(writeCtx)
	}()
	tellCtx, stopTelling := context.WithCancel(context.Background())
	serving.Go(func() { d.tell(tellCtx, notify) })

	log.Info("serving", zap.String("version", version), zap.String("instance", cfg.Instance), zap.Int("pid", os.Getpid()),
		zap.String("redis", cfg.Redis.Where()), zap.Stringer("tcp", tcpListener.Addr()), zap.Stringer("control", controlListener.Addr()),
		zap.String("event", "started"))
	notify.Ready(d.summary())
	if ready != nil {
		ready()
	}

	// 1. The first signal, or the command, starts the drain.
	var order stop
	select {
	case sig := <-sigs.C:
		order = stop{why: signals.Name(sig), timeout: time.Duration(d.config().Drain.Timeout)}
	case order = <-d.stops:
	}
	d.leave(order.why)
	notify.Stopping("draining: " + order.why)
	log.Info("draining", zap.String("why", order.why), zap.Duration("timeout", order.timeout), zap.Int("clients", d.tcp.Stats().Clients),
		zap.String("event", "draining"))

	// 2. The loop takes nothing more; 3. to 5. clients are told, served and left
	// time. A second signal ends the waiting.
	d.reloading.Lock() // a reload that is under way gives up
	for _, l := range d.lists() {
		l.Stop()
	}
	d.loop.StopTaking()
	d.reloading.Unlock()
	drainCtx, hurry := context.WithCancel(context.Background())
	if order.quit {
		hurry()
	}
	drained := make(chan struct{})
	serving.Go(func() {
		defer hurry()
		for {
			select {
			case sig := <-sigs.C:
				log.Warn("not waiting for the clients any more", zap.String("why", "second signal: "+signals.Name(sig)))
				return
			case again := <-d.stops:
				if again.quit {
					log.Warn("not waiting for the clients any more", zap.String("why", again.why))
					return
				}
			case <-drained:
				return
			}
		}
	})
	tcpDoor.Shut()
	d.tcp.Drain(drainCtx, order.timeout)
	close(drained)

	// 6. Nobody is there any more: what was confirmed is removed, the rest stays
	// in Redis. The books close.
	stopWriting()
	stopLoop()
	for _, ended := range []chan error{written, looped} {
		if err := <-ended; err != nil {
			log.Error("the end was not clean", zap.Error(err))
		}
	}
	total := d.books()
	log.Info("drained", zap.Uint64("taken", total.Taken), zap.Uint64("confirmed", total.Confirmed),
		zap.Uint64("returned", total.Returned), zap.Uint64("dead", total.Dead), zap.Uint64("gone", total.Gone))

	close(d.over)

	// 7. The control socket closes last.
	stopTelling()
	control.Shutdown()
	serving.Wait()
	return order.code
}

// controlGroup is the group whose members may use the control socket.
const controlGroup = "edged"

// listenForMonitors returns nil where there is no path, or where the socket
// cannot be had: items are relayed without it too.
func listenForMonitors(path string, passed sockets, log *zap.Logger) net.Listener {
	if path == "" {
		return nil
	}
	ln, err := passed.or(statusSocket, func() (net.Listener, error) { return uds.Listen(path, 0o666, "") })
	if err != nil {
		log.Warn("can't listen for monitors; serving without", zap.String("key", "control.status_socket"), zap.Error(err))
		return nil
	}
	return ln
}

// build makes the parts and ties them together.
func (d *daemon) build(log *zap.Logger, life *lifeline, redis poller.RedisOptions, sec tcpserver.Security) {
	cfg, notify := d.cfg, life.notify
	lists := make([]poller.List, len(cfg.Lists))
	subjects := make([]tcpserver.List, len(cfg.Lists))
	for i, list := range cfg.Lists {
		var l relayed
		l, lists[i], subjects[i] = d.relay(list, cfg)
		d.relayed = append(d.relayed, l)
	}

	// The loop waits for Redis three times at most before it shows a sign of life:
	// to connect, to introduce itself, and for an answer.
	timeout := time.Duration(cfg.Redis.Timeout)
	if most := notify.Watchdog() / 4; most > 0 && timeout > most {
		log.Warn("redis.timeout is too long for systemd's watchdog; taking a quarter of WatchdogSec", zap.Duration("timeout", most))
		timeout = most
	}
	redis.Timeout = timeout
	d.loop = poller.New(poller.Options{
		Redis:        redis,
		Instance:     cfg.Instance,
		Lists:        lists,
		PollInterval: time.Duration(cfg.Redis.PollInterval),
		Lease:        time.Duration(cfg.Redis.Lease),
		BatchItems:   cfg.Delivery.BatchItems,
		BatchBytes:   int(cfg.Delivery.BatchBytes),
		MaxPayload:   int(cfg.TCP.MaxPayload),
		Alive:        life.feed,
		MaxSleep:     notify.Watchdog() / 3,
		Log:          log.Named("poller"),
	})
	sinks := make([]tcpserver.Sink, len(cfg.Inbound))
	if len(cfg.Inbound) > 0 {
		targets := make([]inbound.List, len(cfg.Inbound))
		for i, in := range cfg.Inbound {
			targets[i] = inbound.List{Subject: in.Subject, Key: in.List, MaxLen: in.MaxLen, FromRight: in.TakeFrom == config.TakeRight}
			sinks[i] = tcpserver.Sink{Subject: in.Subject, Write: func(payload []byte, answer func([]byte)) { d.inbound.Write(i, payload, answer) }}
		}
		d.inbound = inbound.New(inbound.Options{
			Redis: redis.NewRoutes(), Lists: targets, Buffer: int(cfg.Delivery.InboundBuffer), Log: log.Named("inbound"),
		})
	}
	d.tcp = tcpserver.New(tcpserver.Options{
		Sinks:          sinks,
		Name:           cfg.Instance,
		Version:        version,
		Lists:          subjects,
		Services:       d.services(),
		Security:       sec,
		MaxPayload:     int(cfg.TCP.MaxPayload),
		MaxControlLine: int(cfg.TCP.MaxControlLine),
		Limits:         d.limits(cfg),
		Log:            log.Named("tcp"),
	})
}

// limits are what reload may change of the TCP server's.
func (d *daemon) limits(cfg *config.Config) tcpserver.Limits {
	return tcpserver.Limits{
		MaxConnections:   d.fitting(cfg.TCP.MaxConnections),
		MaxPerAddress:    cfg.TCP.MaxPerAddress,
		MaxSubscriptions: cfg.TCP.MaxSubscriptions,
		MaxPending:       int(cfg.TCP.MaxPending),
		ConnectTimeout:   time.Duration(cfg.TCP.ConnectTimeout),
		PingInterval:     time.Duration(cfg.TCP.PingInterval),
		ReceiptTimeout:   time.Duration(cfg.Delivery.ReceiptTimeout),
	}
}

// relay makes the window of a list, and what the loop and the TCP server are told
// of it.
func (d *daemon) relay(list config.List, cfg *config.Config) (relayed, poller.List, tcpserver.List) {
	window, memory := bounds(cfg)
	wake := func() { d.loop.Wake() }
	source := poller.List{Key: list.Key, Subject: list.Subject, FromRight: list.TakeFrom == config.TakeRight}
	subject := tcpserver.List{Name: list.Key, Subject: list.Subject}
	if list.Ack == config.AckExplicit {
		w := relay.NewExplicit(relay.ExplicitOptions{
			Window: window, Memory: memory, Changed: wake,
			AckWait: time.Duration(list.AckWait), Backoff: durations(list.Backoff),
			MaxDeliver: list.MaxDeliver, MaxAckPending: list.MaxAckPending,
		})
		source.Explicit, subject.Joiner, subject.Confirm = corkedExplicit{w, d}, w, tcpserver.Acknowledged
		return relayed{list, w}, source, subject
	}
	w := relay.NewList(relay.Options{Window: window, Memory: memory, Changed: wake})
	source.Window, subject.Joiner = corkedWindow{w, d}, w
	if list.Ack == config.AckNone {
		subject.Confirm = tcpserver.OnWrite
	}
	return relayed{list, w}, source, subject
}

// corkedWindow and corkedExplicit let the loop write to idle clients what it has
// offered.
type corkedWindow struct {
	poller.Window
	daemon *daemon
}

func (w corkedWindow) Offer(b *batch.Batch) bool {
	w.daemon.tcp.Cork()
	defer w.daemon.tcp.Uncork()
	return w.Window.Offer(b)
}

type corkedExplicit struct {
	poller.ExplicitWindow
	daemon *daemon
}

func (w corkedExplicit) Offer(b *batch.Batch) {
	w.daemon.tcp.Cork()
	defer w.daemon.tcp.Uncork()
	w.ExplicitWindow.Offer(b)
}

// bounds are those of each list's window.
func bounds(cfg *config.Config) (window, memory int) {
	return cfg.Delivery.WindowItems, int(cfg.Delivery.Memory) / len(cfg.Lists)
}

func durations(all []config.Duration) []time.Duration {
	list := make([]time.Duration, len(all))
	for i, d := range all {
		list[i] = time.Duration(d)
	}
	return list
}

// tell keeps systemd informed until ctx is done: how it is while it serves, and
// while it drains that it needs more time, which the drain's own timeout bounds.
func (d *daemon) tell(ctx context.Context, notify *systemd.Notifier) {
	if notify == nil {
		return
	}
	const every = time.Second
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if d.draining() != "" {
			notify.ExtendTimeout(10 * every)
		}
		if text := d.summary(); text != told {
			notify.Status(text)
			told = text
		}
	}
}

// probe takes the locks of the relay and of the TCP server: where one of them is
// held for good it does not return.
func (d *daemon) probe() {
	for _, w := range d.lists() {
		jam(w.window)
		w.Stats()
	}
	d.tcp.Stats()
}

// leave notes that the drain has begun; it is called once.
func (d *daemon) leave(why string) {
	d.mu.Lock()
	d.leaving = why
	d.mu.Unlock()
	close(d.left)
}

// draining tells why the daemon drains; it is empty while it serves.
func (d *daemon) draining() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leaving
}

// lists returns those that are served now.
func (d *daemon) lists() []relayed {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.relayed
}

// config returns what is in force.
func (d *daemon) config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inForce
}

// books adds up the lists' books, of those too that are not served any more.
func (d *daemon) books() relay.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	total := d.past
	for _, l := range d.relayed {
		s := l.Stats()
		addBooks(&total, s)
		total.InFlight += s.InFlight
		if total.Oldest.IsZero() || !s.Oldest.IsZero() && s.Oldest.Before(total.Oldest) {
			total.Oldest = s.Oldest
		}
	}
	return total
}

func addBooks(total *relay.Stats, s relay.Stats) {
	total.Taken += s.Taken
	total.Confirmed += s.Confirmed
	total.Returned += s.Returned
	total.Dead += s.Dead
	total.Gone += s.Gone
	total.Redelivered += s.Redelivered
}

// summary is the state in words: "2 lists, 3 clients, backlog 12".
func (d *daemon) summary() string {
	var backlog int64
	failing := ""
	for _, s := range d.loop.Lists() {
		backlog += s.Backlog
		if s.State == poller.Failing {
			failing = "; " + s.Reason
		}
	}
	text := fmt.Sprintf("%s, %s, backlog %d%s", counted(len(d.lists()), "list"), counted(d.tcp.Stats().Clients, "client"), backlog, failing)
	if why := d.draining(); why != "" {
		return fmt.Sprintf("draining (%s): %s", why, text)
	}
	return text
}

// warnIfOpen says in the log where everybody on a network can have the items.
func (d *daemon) warnIfOpen() {
	if addr, ok := d.listen.(*net.TCPAddr); ok && !addr.IP.IsLoopback() && open(d.config().TCP) {
		d.log.Warn("listening beyond loopback without authentication: whoever reaches the port gets the items",
			zap.Stringer("address", addr))
	}
}
