package daemon

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/budget"
	"edged/internal/config"
	"edged/internal/dedup"
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
	files, err := readFiles(cfg, log.Logger)
	if err != nil {
		return nil, err
	}
	redis := files.redis

	d := &daemon{options: o, started: time.Now(), log: log, budget: budget.New(int(cfg.TCP.Memory)), pending: relay.Pending{Limit: maxPending}, life: newLifecycle(), reloading: make(chan struct{}, 1)}
	d.gate = auth.New(auth.Options{Security: files.security})
	d.watchdog = watchdog.New(watchdog.Options{Notify: o.Notify, Probe: d.probe, Log: log.Logger})
	relayed, lists, subjects := d.buildLists(cfg)
	d.served.replace(cfg, relayed)
	redis.Timeout = redisTimeout(cfg, o.Notify.Watchdog(), log.Logger)
	redis.Dial, redis.Random, redis.Secrets = o.DialRedis, o.Random, &d.secrets
	d.loop = d.buildLoop(cfg, redis, lists)
	d.js = d.buildJetStream(cfg)
	for _, l := range relayed {
		d.addStream(l)
	}
	d.inbound = buildInbound(cfg, redis, log.Logger)
	d.tcp = d.buildTCP(cfg, subjects)
	d.http = d.buildHTTP(cfg)
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

// redisTimeout returns a timeout that is short enough for systemd's watchdog. The loop waits for Redis three
// times at most before it reports that it is alive: to connect, to introduce itself,
// and for an answer.
func redisTimeout(cfg *config.Config, watchdog time.Duration, log *zap.Logger) time.Duration {
	timeout := time.Duration(cfg.Redis.Timeout)
	if most := watchdog / 4; most > 0 && timeout > most {
		log.Warn("redis.timeout is too long for systemd's watchdog; taking a quarter of WatchdogSec",
			place(cfg, "redis.timeout"), zap.Duration("timeout", most))
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
		Share:        cfg.Delivery.Share,
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
		lists[i] = inbound.List{Subject: in.Subject, Key: in.List, MaxLen: in.MaxLen, IDWindow: time.Duration(in.MsgIDWindow), FromRight: in.TakeFrom == config.TakeRight}
	}
	return inbound.New(inbound.Options{
		Redis: redis.NewClients(), Lists: lists, Buffer: int(cfg.Delivery.InboundBuffer),
		Random: redis.Random, Log: log.Named("inbound"),
	})
}

func (d *daemon) buildTCP(cfg *config.Config, lists []tcpserver.List) *tcpserver.Server {
	sinks := make([]tcpserver.Sink, len(cfg.Inbound))
	for i, in := range cfg.Inbound {
		sinks[i] = tcpserver.Sink{Subject: in.Subject, Write: func(id string, payload []byte, answer func([]byte)) { d.inbound.Write(i, id, payload, answer) }}
	}
	return tcpserver.New(tcpserver.Options{
		Sinks:          sinks,
		Name:           cfg.Instance,
		Version:        d.options.Version,
		Lists:          lists,
		Services:       d.services(),
		Discovery:      cfg.TCP.Services,
		API:            d.api(),
		Gate:           d.gate,
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
		MaxConnections:   d.fitting(cfg),
		MaxPerAddress:    cfg.TCP.MaxPerAddress,
		MaxSubscriptions: cfg.TCP.MaxSubscriptions,
		MaxPending:       int(cfg.TCP.MaxPending),
		ConnectTimeout:   time.Duration(cfg.TCP.ConnectTimeout),
		PingInterval:     time.Duration(cfg.TCP.PingInterval),
		Receipts:         cfg.HasClasses(),
		ReceiptTimeout:   time.Duration(cfg.Delivery.ReceiptTimeout),
	}
}

// relay returns the window of a list, with the views that the loop and the TCP server
// have of it.
func (d *daemon) relay(list config.List, cfg *config.Config) (relayed, poller.List, tcpserver.List) {
	source := poller.List{Key: list.Key, Subject: list.Subject, FromRight: list.TakeFrom == config.TakeRight, Keep: list.Keep, Class: list.Class}
	source.Dedup, source.DedupItems = dedupOf(list)
	subject := tcpserver.List{Name: list.Key, Subject: list.Subject, Stream: list.Stream}

	options := relayOptions(list, cfg)
	options.Pending = &d.pending
	options.Changed = func() { d.loop.Wake(list.Key) }
	options.Duplicate = func(n uint64) (is, known bool) { return d.loop.Verdict(list.Key, n) }
	options.CutOff = func(c relay.ConsumerInfo) { d.cutOff(list.Key, c) }
	options.Dropped = func(c relay.ConsumerInfo) { d.dropped(list.Key, c) }
	switch list.Ack {
	case config.AckExplicit:
		options.Explicit, subject.Confirm = true, tcpserver.Acknowledged
	case config.AckNone:
		subject.Confirm = tcpserver.OnWrite
	}
	log := relay.New(options)
	source.Log, subject.Joiner = corkedLog{log, d, list.Key}, log
	return relayed{List: list, window: log}, source, subject
}

// corkedLog lets the loop write the items that it offers to idle clients, shows them to viewers, and
// tells the JetStream API whether this process serves the list: its consumers before the list begins.
type corkedLog struct {
	poller.Log
	daemon *daemon
	key    string
}

func (w corkedLog) Load(s batch.Snapshot) {
	if w.daemon.js != nil {
		var placed []string
		for name := range s.Records {
			if name.Durable && !strings.HasPrefix(name.Name, uplinkPrefix) {
				placed = append(placed, name.Name)
			}
		}
		w.daemon.js.Load(w.key, s.Consumers, placed, s.Lost)
	}
	w.daemon.resetUplinks(w.key)
	w.Log.Load(s)
	w.keepStrays(s)
}

// keepStrays lets uplinks that are in no configuration hold the list.
func (w corkedLog) keepStrays(s batch.Snapshot) {
	var names []string
	for name := range s.Records {
		if short, ok := strings.CutPrefix(name.Name, uplinkPrefix); ok && name.Durable {
			names = append(names, short)
		}
	}
	if log, ok := w.Log.(*relay.Log); ok {
		w.daemon.keepStrays(w.key, log, names)
	}
}

// Reset follows the loss of the ledger, and so of the consumers' configurations.
func (w corkedLog) Reset(epoch string, first uint64) {
	w.daemon.resetUplinks(w.key)
	w.Log.Reset(epoch, first)
	if w.daemon.js != nil {
		w.daemon.js.Load(w.key, nil, nil, true)
	}
}

func (w corkedLog) Unload() {
	w.daemon.resetUplinks(w.key)
	if w.daemon.js != nil {
		w.daemon.js.Unload(w.key)
	}
	w.Log.Unload()
}

func (w corkedLog) Offer(b *batch.Batch, sweep bool) {
	w.offer(b, sweep)
	if w.daemon.events != nil {
		w.daemon.events.Show(w.key, b) // after the consumers, and dated by the relay
	}
}

func (w corkedLog) offer(b *batch.Batch, sweep bool) {
	w.daemon.tcp.Cork()
	defer w.daemon.tcp.Uncork()
	w.Log.Offer(b, sweep)
}

// delay is how long a list's items on their way may delay others: less in higher classes, so that these give way
// on a link that is too slow for all. It is 0, for no bound, if all lists have one class.
func delay(list config.List, cfg *config.Config) time.Duration {
	if !cfg.HasClasses() {
		return 0
	}
	lower := make(map[int]bool)
	for _, l := range cfg.Lists {
		if l.Class < list.Class {
			lower[l.Class] = true
		}
	}
	return time.Second >> min(len(lower), 2)
}

// relayOptions are those that reload can change.
func relayOptions(list config.List, cfg *config.Config) relay.Options {
	return relay.Options{
		Delay:  delay(list, cfg),
		Window: cfg.Delivery.WindowItems, Memory: memory(list, cfg), Times: list.Keep > 0,
		MaxLag: time.Duration(list.MaxLag), MaxAway: time.Duration(cfg.Delivery.MaxAway), MaxAwayItems: uint64(cfg.Delivery.MaxAwayItems),
		Terms: relay.Terms{
			AckWait: time.Duration(list.AckWait), Backoff: durations(list.Backoff),
			MaxDeliver: list.MaxDeliver, MaxAckPending: list.MaxAckPending,
		},
	}
}

// dedupOf says which items of a list are duplicates. The configuration is valid.
func dedupOf(list config.List) (dedup.By, int) {
	by, _ := dedup.ParseBy(list.Dedup)
	return by, list.DedupItems
}

// memory is how many bytes of items a list may have on their way.
func memory(list config.List, cfg *config.Config) int {
	share := int(cfg.Delivery.Memory) / len(cfg.Lists)
	if list.Dedup != "" {
		share -= dedup.Memory(list.DedupItems)
	}
	return max(share, leastMemory)
}

// leastMemory is for a list whose window takes more than its share: other lists take less.
const leastMemory = 64 << 10

func durations(all []config.Duration) []time.Duration {
	list := make([]time.Duration, len(all))
	for i, d := range all {
		list[i] = time.Duration(d)
	}
	return list
}
