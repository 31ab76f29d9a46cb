package daemon

import (
	"time"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/budget"
	"edged/internal/config"
	"edged/internal/inbound"
	"edged/internal/poller"
	"edged/internal/redisconn"
	"edged/internal/relay"
	"edged/internal/tcpserver"
	"edged/internal/uds"
	"edged/internal/watchdog"
)

// build makes the components and ties them together. The error is about a file that
// the configuration names.
func build(o Options, log *logging) (*daemon, error) {
	cfg := o.Config
	redis, err := redisOptions(cfg.Redis)
	if err != nil {
		return nil, err
	}
	sec, err := security(cfg.TCP)
	if err != nil {
		return nil, err
	}

	d := &daemon{options: o, started: time.Now(), log: log, budget: budget.New(int(cfg.TCP.Memory)), life: newLifecycle(), reloading: make(chan struct{}, 1)}
	d.watchdog = watchdog.New(watchdog.Options{Notify: o.Notify, Probe: d.probe, Log: log.Logger})
	relayed, lists, subjects := d.buildLists(cfg)
	d.served.replace(cfg, relayed)
	redis.Timeout = d.redisTimeout(cfg)
	redis.Dial, redis.Random = o.DialRedis, o.Random
	d.loop = d.buildLoop(cfg, redis, lists)
	d.inbound = buildInbound(cfg, redis, log.Logger)
	d.tcp = d.buildTCP(cfg, sec, subjects)
	d.control = uds.New(uds.Options{Commands: d.commands(), Path: cfg.Control.Socket, Log: log.Named("control")})
	return d, nil
}

// buildLists returns the windows of the lists, with the views that the loop and the
// TCP server have of them.
func (d *daemon) buildLists(cfg *config.Config) ([]relayed, []poller.List, []tcpserver.List) {
	windows := make([]relayed, len(cfg.Lists))
	lists := make([]poller.List, len(cfg.Lists))
	subjects := make([]tcpserver.List, len(cfg.Lists))
	for i, list := range cfg.Lists {
		windows[i], lists[i], subjects[i] = d.relay(list, cfg)
	}
	return windows, lists, subjects
}

// redisTimeout is short enough for systemd's watchdog. The loop waits for Redis three
// times at most before it reports that it is alive: to connect, to introduce itself,
// and for an answer.
func (d *daemon) redisTimeout(cfg *config.Config) time.Duration {
	timeout := time.Duration(cfg.Redis.Timeout)
	if most := d.options.Notify.Watchdog() / 4; most > 0 && timeout > most {
		d.log.Warn("redis.timeout is too long for systemd's watchdog; taking a quarter of WatchdogSec", zap.Duration("timeout", most))
		return most
	}
	return timeout
}

func (d *daemon) buildLoop(cfg *config.Config, redis redisconn.Options, lists []poller.List) *poller.Loop {
	return poller.New(poller.Options{
		Redis:        redis,
		Instance:     cfg.Instance,
		Lists:        lists,
		PollInterval: time.Duration(cfg.Redis.PollInterval),
		Lease:        time.Duration(cfg.Redis.Lease),
		RejoinGrace:  time.Duration(cfg.Delivery.RejoinGrace),
		BatchItems:   cfg.Delivery.BatchItems,
		BatchBytes:   int(cfg.Delivery.BatchBytes),
		MaxPayload:   int(cfg.TCP.MaxPayload),
		Alive:        d.alive,
		MaxSleep:     d.options.Notify.Watchdog() / 3,
		Random:       d.options.Random,
		Log:          d.log.Named("poller"),
	})
}

// buildInbound returns nil if clients write to no list.
func buildInbound(cfg *config.Config, redis redisconn.Options, log *zap.Logger) *inbound.Writer {
	if len(cfg.Inbound) == 0 {
		return nil
	}
	lists := make([]inbound.List, len(cfg.Inbound))
	for i, in := range cfg.Inbound {
		lists[i] = inbound.List{Subject: in.Subject, Key: in.List, MaxLen: in.MaxLen, FromRight: in.TakeFrom == config.TakeRight}
	}
	return inbound.New(inbound.Options{
		Redis: redis.NewClients(), Lists: lists, Buffer: int(cfg.Delivery.InboundBuffer),
		Random: redis.Random, Log: log.Named("inbound"),
	})
}

func (d *daemon) buildTCP(cfg *config.Config, sec tcpserver.Security, lists []tcpserver.List) *tcpserver.Server {
	sinks := make([]tcpserver.Sink, len(cfg.Inbound))
	for i, in := range cfg.Inbound {
		sinks[i] = tcpserver.Sink{Subject: in.Subject, Write: func(payload []byte, answer func([]byte)) { d.inbound.Write(i, payload, answer) }}
	}
	return tcpserver.New(tcpserver.Options{
		Sinks:          sinks,
		Name:           cfg.Instance,
		Version:        d.options.Version,
		Lists:          lists,
		Services:       d.services(),
		Security:       sec,
		MaxPayload:     int(cfg.TCP.MaxPayload),
		MaxControlLine: int(cfg.TCP.MaxControlLine),
		Limits:         d.limits(cfg),
		Budget:         d.budget,
		Log:            d.log.Named("tcp"),
	})
}

// limits returns the limits of the TCP server that reload may change.
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

// relay returns the window of a list, with the views that the loop and the TCP server
// have of it.
func (d *daemon) relay(list config.List, cfg *config.Config) (relayed, poller.List, tcpserver.List) {
	source := poller.List{Key: list.Key, Subject: list.Subject, FromRight: list.TakeFrom == config.TakeRight, Keep: list.Keep}
	subject := tcpserver.List{Name: list.Key, Subject: list.Subject}

	options := relayOptions(list, cfg)
	options.Changed = func() { d.loop.Wake(list.Key) }
	options.CutOff = func(c relay.ConsumerInfo) { d.cutOff(list.Key, c) }
	switch list.Ack {
	case config.AckExplicit:
		options.Explicit, subject.Confirm = true, tcpserver.Acknowledged
	case config.AckNone:
		subject.Confirm = tcpserver.OnWrite
	}
	log := relay.New(options)
	source.Log, subject.Joiner = corkedLog{log, d}, log
	return relayed{list, log}, source, subject
}

// corkedLog lets the loop write the items that it offers to idle clients.
type corkedLog struct {
	poller.Log
	daemon *daemon
}

func (w corkedLog) Offer(b *batch.Batch, sweep bool) {
	w.daemon.tcp.Cork()
	defer w.daemon.tcp.Uncork()
	w.Log.Offer(b, sweep)
}

// relayOptions are those that reload can change.
func relayOptions(list config.List, cfg *config.Config) relay.Options {
	return relay.Options{
		Window: cfg.Delivery.WindowItems, Memory: int(cfg.Delivery.Memory) / len(cfg.Lists), Times: list.Keep > 0,
		MaxLag: time.Duration(list.MaxLag),
		Terms: relay.Terms{
			AckWait: time.Duration(list.AckWait), Backoff: durations(list.Backoff),
			MaxDeliver: list.MaxDeliver, MaxAckPending: list.MaxAckPending,
		},
	}
}

func durations(all []config.Duration) []time.Duration {
	list := make([]time.Duration, len(all))
	for i, d := range all {
		list[i] = time.Duration(d)
	}
	return list
}
