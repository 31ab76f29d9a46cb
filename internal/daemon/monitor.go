package daemon

import (
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"edged/internal/jetstream"
	"edged/internal/monitor"
	"edged/internal/poller"
	"edged/internal/relay"
)

// The adapters here make the snapshots for monitoring tools out of those that the control socket
// answers with.

// monitoring answers the requests of monitoring tools, without authentication.
func (d *daemon) monitoring() []monitor.Endpoint {
	return monitor.New(monitor.Options{
		Server: d.monitorServer, Clients: d.monitorClients, Subscriptions: d.monitorSubscriptions, Lists: d.monitorLists,
		Inbound: d.monitorInbound, Uplinks: d.monitorUplinks, JetStream: d.monitorJetStream,
	}).Endpoints()
}

func (d *daemon) monitorServer() monitor.Server {
	cfg, version, status := d.served.config(), VersionOf(d.options.Version), d.status()
	tcp, limits := status.TCP, d.limits(cfg)
	s := monitor.Server{
		ID: d.tcp.ID(), Name: status.Instance, Version: status.Version, GoVersion: version.Go, Commit: version.Commit, Start: d.started,
		Draining: status.Why != "", Faults: len(status.Faults), LogDropped: status.LogDropped, LogRepeated: status.LogRepeated,
		AuthRequired: len(cfg.TCP.Users) > 0 || cfg.TCP.Auth.TokenFile != "", TLSRequired: cfg.TCP.TLS.CertFile != "", TLSVerify: cfg.TCP.TLS.CAFile != "",
		MaxConnections: limits.MaxConnections, MaxPayload: int(cfg.TCP.MaxPayload), MaxControlLine: int(cfg.TCP.MaxControlLine), MaxPending: limits.MaxPending,
		PingInterval: limits.PingInterval, ConnectTimeout: limits.ConnectTimeout, CPU: cpuTime(), Memory: residentMemory(),
		Clients: tcp.Clients, Subscriptions: tcp.Subscriptions, Subscribed: tcp.Subscribed, Accepted: tcp.Accepted, Refused: tcp.Refused, Yielded: tcp.Yielded,
		Crowded: tcp.Crowded, Abandoned: tcp.Abandoned, TLSFailures: tcp.TLSFailures, AuthFailures: tcp.AuthFailures, ConnectTimeouts: tcp.ConnectTimeouts,
		ProtocolErrors: tcp.ProtocolErrors, SlowConsumers: tcp.SlowConsumers, OverMemory: tcp.OverMemory, Stuck: tcp.Stuck, Lagged: tcp.Lagged, Stale: tcp.Stale,
		Denied: tcp.Denied, AcksRefused: tcp.AcksRefused, MessagesIn: tcp.MessagesIn, MessagesOut: tcp.MessagesOut, BytesIn: tcp.BytesIn, BytesOut: tcp.BytesOut,
	}
	s.Host, s.Port = hostPort(status.Listen)
	return s
}

// cpuTime is the time of processors that the process has used.
func cpuTime() time.Duration {
	var use syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &use) != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// residentMemory is the process's memory as the kernel counts it, in bytes. Outside of Linux it is the
// memory that the Go runtime has obtained.
func residentMemory() int64 {
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(data)); len(f) > 1 {
			if pages, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				return pages * int64(os.Getpagesize())
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}

// hostPort splits an address; the port is 0 if it has none.
func hostPort(address string) (host string, port int) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return address, 0
	}
	port, _ = strconv.Atoi(text)
	return host, port
}

func (d *daemon) monitorClients() []monitor.Client {
	infos := d.tcp.Clients()
	all := make([]monitor.Client, len(infos))
	for i, c := range infos {
		all[i] = monitor.Client{
			ID: c.ID, Name: c.Name, Lang: c.Lang, Version: c.ClientVersion, User: c.User, Start: c.Since, Active: c.Active,
			RTT: time.Duration(c.RTT * float64(time.Second)), TLSVersion: c.TLSVersion, TLSCipher: c.TLSCipher, Subscriptions: c.Subscriptions,
			Pending: c.Pending, MessagesIn: c.Received, MessagesOut: c.Sent, BytesIn: c.BytesIn, BytesOut: c.BytesOut,
		}
		all[i].IP, all[i].Port = hostPort(c.Address)
	}
	return all
}

func (d *daemon) monitorSubscriptions(client uint64) []monitor.Subscription {
	infos := d.tcp.Subscriptions(client)
	all := make([]monitor.Subscription, len(infos))
	for i, s := range infos {
		all[i] = monitor.Subscription(s)
	}
	return all
}

func (d *daemon) monitorLists() []monitor.List {
	states := make(map[string]poller.Status)
	for _, s := range d.loop.Lists() {
		states[s.Key] = s
	}
	served := d.served.lists()
	all := make([]monitor.List, len(served))
	for i, l := range served {
		all[i] = d.monitorList(l, states[l.Key])
	}
	return all
}

func (d *daemon) monitorList(one relayed, s poller.Status) monitor.List {
	b, at := one.Stats(), one.State()
	l := monitor.List{
		Key: one.Key, Failing: s.State == poller.Failing, Paused: s.Paused, Standby: s.State == poller.Standby,
		Serving: s.State != poller.Failing && s.State != poller.Standby && s.State != poller.Starting,
		Backlog: uint64(s.Backlog), Kept: uint64(s.Kept), Unclaimed: at.Unclaimed, InFlight: uint64(b.InFlight), Oldest: since(b.Oldest),
		Members: b.Members, Taken: b.Taken, Confirmed: b.Confirmed, Returned: b.Returned, Dead: b.Dead, Gone: b.Gone, Redelivered: b.Redelivered, Duplicates: b.Duplicates,
	}
	for _, c := range at.Consumers {
		l.Owed += uint64(c.Owed)
		l.LagItems, l.Lag = max(l.LagItems, c.LagItems), max(l.Lag, c.Lag)
		l.Consumers = append(l.Consumers, d.monitorConsumer(c))
	}
	return l
}

func (d *daemon) monitorConsumer(c relay.ConsumerInfo) monitor.Consumer {
	m := monitor.Consumer{
		Name: c.Name.Name, Viewer: c.Viewer, Owed: uint64(c.Owed), LagItems: c.LagItems, Missed: c.Missed, Lag: c.Lag, Oldest: since(c.Oldest), Away: since(c.Away),
	}
	for _, member := range c.Members {
		if _, ok := d.tcp.ClientOf(member); ok {
			m.Clients++
		}
	}
	return m
}

// since is how long ago t was; 0 if it is zero.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return time.Since(t)
}

func (d *daemon) monitorInbound() []monitor.Inbound {
	stats := d.inboundStats().Lists
	all := make([]monitor.Inbound, len(stats))
	for i, s := range stats {
		all[i] = monitor.Inbound{
			Key: s.Key, Written: s.Written, Duplicates: s.Duplicates, Uncertain: s.Uncertain, RefusedBuffer: s.RefusedBuffer, RefusedMaxLen: s.RefusedMaxLen,
			RefusedRedis: s.RefusedRedis, Waiting: s.Waiting, WaitingBytes: s.WaitingBytes, Failing: s.Failing != "", Full: s.Full != "",
		}
	}
	return all
}

func (d *daemon) monitorUplinks() (all []monitor.Uplink) {
	for _, u := range d.uplinksAnswer().Uplinks {
		one := monitor.Uplink{
			Name: u.Name, Up: u.State == "up", Paused: u.State == "paused", InFlight: u.InFlight, Sent: u.Sent, Bytes: u.SentBytes,
			Skipped: u.Skipped + u.Repeated, Refused: u.Refused, Breaks: u.Breaks,
		}
		one.LagItems, one.Lag = u.behind()
		all = append(all, one)
	}
	return all
}

func (d *daemon) monitorJetStream() monitor.JetStream {
	if d.js == nil {
		return monitor.JetStream{Disabled: true}
	}
	var js monitor.JetStream
	js.Requests, js.Errors = d.js.Requests()
	lengths := make(map[string]uint64)
	for _, s := range d.loop.Lists() {
		lengths[s.Key] = uint64(s.Backlog + s.Kept)
	}
	for _, l := range d.served.lists() {
		first, n := l.State().First, lengths[l.Key]
		stream := monitor.Stream{Name: l.Stream, Subject: l.Subject, Messages: n, First: first + 1, Last: first + n}
		created, consumers := d.js.Snapshot(l.Key, first, first+n)
		stream.Created = created
		for _, c := range consumers {
			stream.Consumers = append(stream.Consumers, monitor.StreamConsumer{
				Name: c.Name, Created: c.Created, Delivered: sequence(c.Delivered), AckFloor: sequence(c.AckFloor), AckPending: c.NumAckPending,
				Redelivered: c.NumRedelivered, Waiting: c.NumWaiting, Pending: c.NumPending, PushBound: c.PushBound,
			})
		}
		js.Streams = append(js.Streams, stream)
	}
	return js
}

func sequence(s jetstream.Sequence) monitor.Sequence {
	return monitor.Sequence{Consumer: s.Consumer, Stream: s.Stream}
}
