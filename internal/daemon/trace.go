package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/redisconn"
	"edged/internal/trace"
	"edged/internal/uds"
	"edged/internal/uplink"
)

// mostTraces bounds the traces that run at the same time.
const mostTraces = 2

// traceLine is a line of trace.
type traceLine struct{ trace.Line }

// Text writes the line within 80 columns.
func (l traceLine) Text(w io.Writer) {
	text := l.Line.Text
	if l.At != "" {
		text = l.At + ": " + text
	}
	result := l.Result
	switch result {
	case trace.Running:
		result, text = "...", strings.TrimSuffix(text, ": ")
		text = strings.TrimSpace(text + " for " + seconds(l.Seconds))
	case trace.Fail:
		result = "FAIL"
	}

	wrap(w, fmt.Sprintf("%-7s  %-4s  ", l.Step, result), text)
}

// trace finds out why a server can't be reached.
func (d *daemon) trace(ctx context.Context, args []string, send func(uds.Answer) error) error {
	name, targets, err := d.traceTargets(args)
	if err != nil {
		return err
	}
	if d.tracing.Add(1) > mostTraces {
		d.tracing.Add(-1)
		return uds.Errorf("Busy", "%d traces run already, which is the limit; one takes %s at most", mostTraces, trace.Longest)
	}
	defer d.tracing.Add(-1)

	task, steps := d.tasks.Begin(traceTask, "", ""), uint64(0)
	task.Report(0, 0, name)
	verdict, err := trace.Run(ctx, name, targets, func(l trace.Line) error {
		steps++
		task.Report(steps, 0, name+": "+l.Step)
		return send(traceLine{l})
	})
	if err != nil {
		task.Fail(name + ": its client left")
		return err
	}
	task.Finish(verdict.Text)
	d.log.Info("a trace has ended", zap.String("target", name), zap.String("result", verdict.Result), zap.String("verdict", verdict.Text))
	return nil
}

// traceTargets returns the servers to be traced, and their name.
func (d *daemon) traceTargets(args []string) (name string, targets []trace.Target, err error) {
	cfg := d.served.config()
	switch {
	case len(args) == 2 && args[0] == "uplink":
		i := slices.IndexFunc(cfg.Uplinks, func(u config.Uplink) bool { return u.Name == args[1] })
		if i < 0 {
			return "", nil, uds.Errorf(uds.NotFound, "there is no uplink %q; the command uplinks shows them", args[1])
		}
		targets, err = d.traceUplink(cfg.Uplinks[i], cfg.Instance)
		name = "uplink " + args[1]
	case len(args) == 2:
		return "", nil, uds.Errorf(uds.BadArgument, "write a host, redis, or uplink and a name")
	case args[0] == "redis":
		targets, err = d.traceRedis(cfg.Redis)
		name = "redis"
	default:
		const natsPort = "4222"
		address, err := trace.Parse(args[0], natsPort)
		if err != nil {
			return "", nil, uds.Errorf(uds.BadArgument, "%v", err)
		}
		return address, []trace.Target{{Address: address}}, nil
	}
	if err != nil {
		err = uds.Errorf("BadConfig", "%v", err)
	}
	return name, targets, err
}

// traceUplink are the servers of an uplink, each with the uplink's credentials.
func (d *daemon) traceUplink(c config.Uplink, instance string) (targets []trace.Target, err error) {
	// The files are read here, so that their errors are seen first.
	if _, err := d.hubOptions(c); err != nil {
		return nil, err
	}
	var secure *tls.Config
	if c.TLS.Enabled {
		files := fileReader{cfg: d.served.config(), log: zap.NewNop()}
		secure = files.clientTLS("tls", c.TLS)
	}

	for _, address := range c.URL {
		at, err := url.Parse(address)
		if err != nil {
			return nil, fmt.Errorf("%q is not the address of a NATS server", address)
		}
		t := trace.Target{Protocol: trace.NATS, TLS: secure}
		port := map[string]string{"ws": "80", "wss": "443"}[at.Scheme]
		if port != "" {
			t.Protocol = trace.Silent
		} else {
			port = "4222"
		}
		if at.Port() != "" {
			port = at.Port()
		}
		if t.TLS == nil && (at.Scheme == "tls" || at.Scheme == "wss") {
			t.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		t.Address = net.JoinHostPort(at.Hostname(), port)
		one := c
		one.URL = []string{address}
		hub := d.natsHub(one, instance)
		t.Then = []trace.Step{
			{Name: "login", Run: func(ctx context.Context, _ string) (string, error) { return logInToHub(ctx, hub) }},
			{Name: "stream", Run: func(ctx context.Context, _ string) (string, error) { return lookForStreams(ctx, hub, one, instance) }},
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// logInToHub connects as the uplink does.
func logInToHub(ctx context.Context, hub uplink.Hub) (string, error) {
	link, err := hub.Connect(ctx)
	if err != nil {
		return "", hubError(ctx, err)
	}
	link.Close()
	return "the hub accepts the credentials", nil
}

// lookForStreams asks the hub for the newest message of each list, as the uplink does first.
func lookForStreams(ctx context.Context, hub uplink.Hub, c config.Uplink, instance string) (string, error) {
	link, err := hub.Connect(ctx)
	if err != nil {
		return "", hubError(ctx, err)
	}
	defer link.Close()

	const most = 20
	var last uplink.Mark
	lists := c.Lists[:min(len(c.Lists), most)]
	for _, list := range lists {
		m, err := link.Last(ctx, c.At(instance, list))
		if err != nil {
			return "", fmt.Errorf("list %s: %w", printable(list), hubError(ctx, err))
		}
		if m.Sequence > last.Sequence {
			last = m
		}
	}
	text := fmt.Sprintf("the hub has a stream for %s", counted(len(lists), "list"))
	if last.Sequence == 0 {
		return text + ", without a message of this box", nil
	}
	return fmt.Sprintf("%s; its newest message of this box has sequence %d", text, last.Sequence), nil
}

// hubError says what an error of the hub means, and what to do.
func hubError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("the hub does not answer in time: it is overloaded, or the link loses large packets")
	}
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("the hub refuses the credentials (%s): check creds_file, nkey_file, token_file, or user and password_file", strings.TrimPrefix(refusal.Error(), "nats: "))
		}
	}
	return err
}

// traceRedis are the servers of Redis: with Sentinel, the Sentinels and then the master.
func (d *daemon) traceRedis(cfg config.Redis) (targets []trace.Target, err error) {
	files := fileReader{cfg: d.served.config(), log: zap.NewNop()}
	o := files.redis(cfg)
	if err := files.err(); err != nil {
		return nil, err
	}
	o.Timeout, o.Dial, o.Secrets = time.Duration(cfg.Timeout), d.options.DialRedis, &d.secrets
	then := []trace.Step{{Name: "login", Run: func(ctx context.Context, address string) (string, error) { return logInToRedis(ctx, o, address) }}}
	for _, sentinel := range cfg.Sentinel.Addresses {
		targets = append(targets, trace.Target{Address: sentinel, Protocol: trace.Silent, TLS: o.TLS})
	}

	switch {
	case len(cfg.Sentinel.Addresses) > 0:
		targets = append(targets, trace.Target{Protocol: trace.Silent, TLS: o.TLS, Then: then,
			Find: func(ctx context.Context) (string, string, error) { return findMaster(ctx, o) }})
	case len(cfg.Cluster) > 0:
		for _, node := range cfg.Cluster {
			targets = append(targets, trace.Target{Address: node, Protocol: trace.Silent, TLS: o.TLS, Then: then})
		}
	default:
		targets = append(targets, trace.Target{Address: cfg.Address, Protocol: trace.Silent, TLS: o.TLS, Then: then})
	}
	return targets, nil
}

// findMaster asks the Sentinels.
func findMaster(ctx context.Context, o redisconn.Options) (address, text string, err error) {
	servers := redisconn.NewServers(o, redisconn.Callbacks{})
	defer servers.Close()
	route := servers.Route()
	_, err = route.Server.Open(ctx) // fails: its address is not known
	_, err = route.Detour(err)
	if address = route.Server.Address; address == "" {
		return "", "", err
	}
	return address, fmt.Sprintf("the Sentinels say that the master %s is %s", printable(o.Sentinel.Master), address), nil
}

// logInToRedis connects as edged does, and asks for version and role.
func logInToRedis(ctx context.Context, o redisconn.Options, address string) (text string, err error) {
	o.Address, o.Cluster, o.Sentinel.Addresses = address, nil, nil
	servers := redisconn.NewServers(o, redisconn.Callbacks{})
	defer servers.Close()
	redis := servers.Route().Server
	began := time.Now()
	if _, err := redis.Do(ctx, "PING"); err != nil && !redisconn.Says(err, "NOPERM") {
		return "", errors.New(redisconn.Explain(err, address))
	}
	text = "Redis accepts the credentials and answers after " + time.Since(began).Round(10*time.Microsecond).String()

	info, infoErr := redis.Do(ctx, "INFO", "server")
	role, roleErr := redis.Do(ctx, "ROLE")
	if infoErr != nil || roleErr != nil {
		return text + "; version and role are not for this user", nil // edged does not need them
	}
	about, err := judgeRedis(info, role)
	return text + about, err
}

// judgeRedis says which version and role Redis has, and returns an error if edged can't use it.
func judgeRedis(info, role any) (text string, err error) {
	const oldest = 6
	_, version, _ := strings.Cut(fmt.Sprint(info), "redis_version:")
	if version, _, _ = strings.Cut(version, "\r\n"); version != "" {
		text = ", version " + version
	}
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < oldest {
		text += " (before 6 it does not tell of new items)"
	}

	fields, _ := role.([]any)
	if len(fields) == 0 {
		return text, nil
	}
	if fields[0] == "slave" && len(fields) > 2 {
		return "", fmt.Errorf("it is a read-only replica: connect to its master %v:%v", fields[1], fields[2])
	}
	return fmt.Sprintf("%s, %v", text, fields[0]), nil
}
