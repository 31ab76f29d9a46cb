package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"

	"edged/internal/inbound"
	"edged/internal/poller"
	"edged/internal/tcpserver"
	"edged/internal/uds"
)

// pauseSummary is that of pause and of resume, so that they share a line of help.
const pauseSummary = "take nothing more from a list (or uplink NAME), or again"

// endSummary is that of quit and of drain.
const endSummary = "end now, or let clients finish first; nothing is lost"

const flowSummary = "what clients write to lists, what uplinks send to hubs"

// Commands returns the control socket's table, for its names and texts: there is
// no daemon to run them.
func Commands() []uds.Command { return (&daemon{}).commands() }

// commands is the control socket's table. Each is an adapter of a few lines
// between the socket and the part that knows.
func (d *daemon) commands() []uds.Command {
	return []uds.Command{
		{Name: "version", Summary: "version, platform and Go version", Example: "version",
			Run: func(context.Context, []string) (uds.Answer, error) { return VersionOf(d.options.Version), nil }},
		{Name: "status", Summary: "how it is, on one screen", Example: "status json",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.status(), nil }},
		{Name: "health", Summary: "whether edged does its work, and if not, why", Example: "health json",
			Run: func(context.Context, []string) (uds.Answer, error) { return healthAnswer(d.health()) }},
		{Name: "lists", Summary: "state, backlog, place and lag of each list", Example: "lists",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.listsAnswer(), nil }},
		{Name: "consumers", Args: "[LIST]", Summary: "place, lag and debt of each consumer", Example: "consumers events", MaxArgs: 1,
			Run: d.consumers},
		{Name: "forget", Level: uds.Operator, Args: "LIST CONSUMER", Summary: "delete a JetStream consumer: it owes nothing any more", Example: "forget events worker", MinArgs: 2, MaxArgs: 2,
			Run: d.forget},
		{Name: "clients", Summary: "who is connected, and what they owe", Example: "clients json",
			Run: func(context.Context, []string) (uds.Answer, error) { return clientsAnswer{d.tcp.Clients()}, nil }},
		{Name: "config", Summary: "every setting in effect, and where it came from", Example: "config json",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.settings(), nil }},
		{Name: "watch", Args: "[INTERVAL]", Summary: "a line each second, or INTERVAL, until the drain", Example: "watch 2s", MaxArgs: 1,
			Stream: d.watch},
		{Name: "peek", Level: uds.Operator, Args: "LIST [N]", Summary: "the first items of a list, 10 or N of them", Example: "peek events 3", MinArgs: 1, MaxArgs: 2,
			Run: d.peek},
		{Name: "history", Level: uds.Operator, Args: "LIST [FROM]", Summary: "items in Redis; FROM: from ID, or since TIME, and N", Example: "history events since 10m", MinArgs: 1, MaxArgs: 4,
			Run: d.history},
		{Name: "tasks", Summary: "tasks that take time: how far each is, or its outcome", Example: "tasks json",
			Run: func(context.Context, []string) (uds.Answer, error) {
				a, _ := d.taskList()
				return a, nil
			}},
		{Name: "pause", Level: uds.Operator, Args: "LIST|all", Summary: pauseSummary, Example: "pause events", MinArgs: 1, MaxArgs: 2,
			Run: func(_ context.Context, args []string) (uds.Answer, error) { return nil, d.pause(args, true) }},
		{Name: "resume", Level: uds.Operator, Args: "LIST|all", Summary: pauseSummary, Example: "resume all", MinArgs: 1, MaxArgs: 2,
			Run: func(_ context.Context, args []string) (uds.Answer, error) { return nil, d.pause(args, false) }},
		{Name: "kick", Level: uds.Operator, Args: "CLIENT", Summary: "disconnect a client; clients lists their numbers", Example: "kick 12", MinArgs: 1, MaxArgs: 1,
			Run: d.kick},
		{Name: "dead", Level: uds.Operator, Args: "LIST [N]", Summary: "the oldest dead letters of a list, 10 or N of them", Example: "dead events 3", MinArgs: 1, MaxArgs: 2,
			Run: d.dead},
		{Name: "requeue", Level: uds.Operator, Args: "LIST [N|all]", Summary: "put dead letters back to the end of the list, 1 or more", Example: "requeue events all", MinArgs: 1, MaxArgs: 2,
			Stream: d.requeue},
		{Name: "inbound", Summary: flowSummary, Example: "inbound json",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.inboundStats(), nil }},
		{Name: "uplinks", Summary: flowSummary, Example: "uplinks",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.uplinksAnswer(), nil }},
		{Name: "trace", Level: uds.Operator, Args: "HOST[:PORT]", Summary: "why a HOST, redis, or uplink NAME can't be reached", Example: "trace redis", MinArgs: 1, MaxArgs: 2,
			Stream: d.trace},
		{Name: "loglevel", Level: uds.Operator, Args: "[LEVEL]", Summary: "show or set the log level: debug, info, warn, error", Example: "loglevel debug", MaxArgs: 1,
			Run: d.loglevel},
		{Name: "reload", Level: uds.Admin, Summary: "read the file again: lists, limits, users, certificates", Example: "reload", Stream: d.reload},
		{Name: "quit", Level: uds.Admin, Summary: endSummary, Example: "quit",
			Run: func(context.Context, []string) (uds.Answer, error) {
				d.life.order(stop{why: "quit", quit: true})
				return nil, nil
			}},
		{Name: "drain", Level: uds.Admin, Args: "[TIMEOUT]", Summary: endSummary, Example: "drain 30s", MaxArgs: 1,
			Stream: d.drain},
	}
}

type statusAnswer struct {
	State       string  `json:"state"` // serving or draining
	Why         string  `json:"why,omitempty"`
	Version     string  `json:"version"`
	Instance    string  `json:"instance"`
	PID         int     `json:"pid"`
	Uptime      float64 `json:"uptime_seconds"`
	Redis       string  `json:"redis"`
	Listen      string  `json:"listen"`
	Lists       int     `json:"lists"`
	Backlog     int64   `json:"backlog"`
	InFlight    int     `json:"in_flight"`
	Taken       uint64  `json:"taken"`
	Confirmed   uint64  `json:"confirmed"`
	Returned    uint64  `json:"returned"`
	Dead        uint64  `json:"dead"`
	Gone        uint64  `json:"gone"`
	Redelivered uint64  `json:"redelivered"`
	Duplicates  uint64  `json:"duplicates"`

	LogDropped  uint64 `json:"log_lines_dropped"`
	LogRepeated uint64 `json:"log_lines_repeated"`

	Faults  []string        `json:"faults"`    // what does not work, and why
	Lagging []string        `json:"lagging"`   // consumers over a quarter of max_lag, or away for a quarter of max_away
	Free    []string        `json:"unclaimed"` // lists with items that no consumer owes
	Uplinks []string        `json:"uplinks"`   // state of each, in words
	Standby []string        `json:"standby"`   // lists that other instances serve
	TCP     tcpserver.Stats `json:"tcp"`
}

func (d *daemon) status() statusAnswer {
	b, cfg := d.served.books(), d.served.config()
	a := statusAnswer{
		State: "serving", Why: d.life.draining(), Version: d.options.Version, Instance: cfg.Instance, PID: os.Getpid(),
		Uptime: time.Since(d.started).Seconds(), Redis: cfg.Redis.Where(), Listen: d.address.String(), Lists: len(d.served.lists()),
		InFlight: b.InFlight, Taken: b.Taken, Confirmed: b.Confirmed, Returned: b.Returned, Dead: b.Dead, Gone: b.Gone,
		Redelivered: b.Redelivered, Duplicates: b.Duplicates, LogRepeated: d.log.repeated(), Faults: []string{}, Lagging: d.lagging(), Free: d.unclaimed(), Uplinks: d.uplinksAnswer().texts(), TCP: d.tcp.Stats(),
	}
	if a.Why != "" {
		a.State = "draining"
	}
	if a.LogDropped = d.log.lost(); a.LogDropped > 0 {
		a.Faults = append(a.Faults, fmt.Sprintf("log: %d lines were lost; the journal or the reader of standard error does not take them", a.LogDropped))
	}
	if shortage := d.shortage.Load(); shortage != nil && *shortage != "" {
		a.Faults = append(a.Faults, "clients: "+*shortage)
	}
	a.Faults = append(a.Faults, d.strayTexts()...)
	a.Faults = append(a.Faults, inboundFaults(d.inboundStats().Lists)...)
	for _, notice := range d.loop.Notices() {
		a.Faults = append(a.Faults, "redis: "+notice)
	}
	lists := d.loop.Lists()
	a.Faults = append(a.Faults, d.twins(lists)...)
	a.Standby = standingBy(lists)
	for _, s := range lists {
		a.Backlog += s.Backlog
		if s.Reason != "" {
			a.Faults = append(a.Faults, fmt.Sprintf("list %s: %s (for %s)", s.Key, s.Reason, age(s.FaultSince)))
		}
	}
	return a
}

func (a statusAnswer) Text(w io.Writer) {
	state := a.State
	if a.Why != "" {
		state += " (" + a.Why + ")"
	}
	uptime := time.Duration(a.Uptime * float64(time.Second)).Round(time.Second)
	wrap(w, "state      ", fmt.Sprintf("%s for %s, pid %d, version %s, instance %s", state, uptime, a.PID, a.Version, a.Instance))
	wrap(w, "redis      ", a.Redis)
	wrap(w, "clients    ", fmt.Sprintf("%d at %s, %d accepted, %d cut off", a.TCP.Clients, a.Listen, a.TCP.Accepted,
		a.TCP.Stuck+a.TCP.Lagged+a.TCP.Stale+a.TCP.SlowConsumers+a.TCP.OverMemory))
	refusedText(w, a.TCP)
	fmt.Fprintf(w, "lists      %d, backlog %d items, %d of them on their way\n", a.Lists, a.Backlog, a.InFlight)
	wrap(w, "books      ", fmt.Sprintf("%d taken = %d confirmed + %d returned + %d dead + %d gone + %d on their way",
		a.Taken, a.Confirmed, a.Returned, a.Dead, a.Gone, a.InFlight))
	if a.LogRepeated > 0 {
		fmt.Fprintf(w, "log        %d lines dropped: more than %d with the same message in %s\n", a.LogRepeated, repeats, repeatInterval)
	}
	for _, u := range a.Uplinks {
		wrap(w, "uplink     ", u)
	}
	for _, f := range a.Faults {
		wrap(w, "fault      ", f)
	}
	for _, s := range a.Standby {
		wrap(w, "standby    ", s)
	}
	const shown = 5 // all have to fit on one screen
	for _, l := range a.Lagging[:min(len(a.Lagging), shown)] {
		wrap(w, "lag        ", l)
	}
	if more := len(a.Lagging) - shown; more > 0 {
		fmt.Fprintf(w, "lag        and %d more: see consumers\n", more)
	}
	for _, u := range a.Free[:min(len(a.Free), shown)] {
		wrap(w, "unclaimed  ", u)
	}
}

// refusedText counts connections that did not become authenticated clients, by the reasons.
func refusedText(w io.Writer, st tcpserver.Stats) {
	all := []string{}
	for _, r := range []struct {
		count uint64
		why   string
	}{
		{st.AuthFailures, "wrong credentials"}, {st.Refused, "too many connections"}, {st.Yielded, "silent, made room"},
		{st.ConnectTimeouts, "too late"}, {st.Crowded, "too many waiting"}, {st.Abandoned, "left while waiting"}, {st.TLSFailures, "TLS"},
	} {
		if r.count > 0 {
			all = append(all, fmt.Sprintf("%d %s", r.count, r.why))
		}
	}
	const inLine = 2 // within 80 columns
	for line := range slices.Chunk(all, inLine) {
		fmt.Fprintf(w, "refused    %s\n", strings.Join(line, ", "))
	}
}

type clientsAnswer struct {
	Clients []tcpserver.ClientInfo `json:"clients"`
}

func (a clientsAnswer) Text(w io.Writer) {
	t := newTable("ID", "~ADDRESS", "~NAME", "FOR", "SUBS", "SENT", "OWED", "PENDING")
	t.cuts[1] = len("192.168.100.100:65535")
	for _, c := range a.Clients {
		t.add(c.ID, c.Address, nameOf(c), age(c.Since), c.Subscriptions, c.Sent, c.Owed, size(c.Pending))
	}
	t.write(w)
}

// nameOf returns the client's name for itself, or else its library in parentheses.
func nameOf(c tcpserver.ClientInfo) string {
	library := strings.TrimSpace(c.Lang + " " + c.ClientVersion)
	if c.Name != "" || library == "" {
		return printable(c.Name)
	}
	return "(" + printable(library) + ")"
}

// printable returns s as it is, or quoted where that could upset a terminal or a
// table.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

// counted is a number of things in words: "1 list", "2 lists".
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// zoned is how times are shown to people, with their zone.
const zoned = "2006-01-02 15:04:05Z07:00"

// age is how long ago t was, in words.
func age(t time.Time) string { return span(time.Since(t).Round(time.Second)) }

// span is a duration in words, in at most six columns: 59m59s, 99h59m, 99d23h.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch hours := int(d / time.Hour); {
	case d >= 100*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 100*time.Hour:
		return fmt.Sprintf("%dd%dh", hours/24, hours%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", hours, int(d/time.Minute)%60)
	}
	return d.String()
}

// pause pauses or resumes one list, all, or an uplink.
func (d *daemon) pause(args []string, paused bool) error {
	key := args[0]
	if len(args) == 2 {
		if key != "uplink" {
			return uds.Errorf(uds.BadArgument, "write a list, all, or uplink and a name")
		}
		return d.pauseUplink(args[1], paused)
	}
	if d.loop.Pause(key, paused) { // a list may be called "all"
		return nil
	}
	if key != "all" {
		return uds.Errorf(uds.NotFound, "there is no list %q; the command lists shows them", key)
	}
	for _, l := range d.served.lists() {
		d.loop.Pause(l.Key, paused)
	}
	return nil
}

func (d *daemon) kick(_ context.Context, args []string) (uds.Answer, error) {
	id, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return nil, uds.Errorf(uds.BadArgument, "%q is no client's number; the command clients shows them", args[0])
	}
	if d.tcp.Kick(id) != nil {
		return nil, uds.Errorf(uds.NotFound, "there is no client %d; the command clients shows them", id)
	}
	return nil, nil
}

type deadLetter struct {
	poller.Epitaph
	Item string `json:"item"` // quoted as in Go, cut behind shownBytes
}

// shownLetters and shownBytes bound what is shown of payloads.
const (
	shownLetters = 100
	shownBytes   = 200
)

type deadAnswer struct {
	Total   int64        `json:"total"`
	Letters []deadLetter `json:"letters"`
}

func (a deadAnswer) Text(w io.Writer) {
	for _, l := range a.Letters {
		wrap(w, l.Time.Local().Format(zoned)+"  ", fmt.Sprintf("%s, delivered %d times, %s:", printable(l.Reason), l.Deliveries, size(l.Size)))
		wrap(w, "  ", l.Item)
	}
	fmt.Fprintf(w, "%s in all\n", counted(int(a.Total), "dead letter"))
}

func (d *daemon) dead(ctx context.Context, args []string) (uds.Answer, error) {
	n, err := countArg(args, 10)
	if err != nil {
		return nil, err
	}
	n = min(n, shownLetters)
	letters, total, err := d.loop.Dead(ctx, args[0], n)
	if err != nil {
		return nil, listError(args[0], err)
	}
	a := deadAnswer{Total: total, Letters: []deadLetter{}}
	for _, l := range letters {
		a.Letters = append(a.Letters, deadLetter{l.Epitaph, quoted(l.Item, len(l.Item))})
	}
	return a, nil
}

// countArg reads the number behind a list's key.
func countArg(args []string, normal int) (int, error) {
	switch {
	case len(args) < 2:
		return normal, nil
	case args[1] == "all":
		return math.MaxInt32, nil
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 1 {
		return 0, uds.Errorf(uds.BadArgument, "%q is no number of dead letters; write 1 or more, or all", args[1])
	}
	return n, nil
}

func listError(key string, err error) error {
	if errors.Is(err, poller.ErrNoList) {
		return uds.Errorf(uds.NotFound, "there is no list %q; the command lists shows them", key)
	}
	return uds.Errorf("Redis", "%s", err)
}

type inboundAnswer struct {
	Lists []inbound.Stats `json:"lists"`
}

func (d *daemon) inboundStats() inboundAnswer {
	a := inboundAnswer{Lists: []inbound.Stats{}}
	if d.inbound != nil {
		a.Lists = d.inbound.Stats()
	}
	return a
}

func (a inboundAnswer) Text(w io.Writer) {
	t := newTable("~SUBJECT", "~LIST", "WRITTEN", "WAITING", "REFUSED", "UNCERTAIN")
	for _, l := range a.Lists {
		t.add(l.Subject, printable(l.Key), l.Written, l.Waiting, l.RefusedBuffer+l.RefusedMaxLen+l.RefusedRedis, l.Uncertain)
	}
	t.write(w)

	for _, l := range a.Lists {
		subject := l.Subject + ": "
		if l.RefusedBuffer+l.RefusedMaxLen+l.RefusedRedis > 0 {
			wrap(w, subject, fmt.Sprintf("refused %d as its buffer was full, %d by max_len, %d as Redis was away",
				l.RefusedBuffer, l.RefusedMaxLen, l.RefusedRedis))
		}
		if l.Failing != "" {
			wrap(w, subject, l.Failing)
		}
		if l.Full != "" {
			wrap(w, subject, l.Full)
		}
	}
}

type levelAnswer struct {
	Level string `json:"level"`
}

func (a levelAnswer) Text(w io.Writer) { fmt.Fprintln(w, a.Level) }

func (d *daemon) loglevel(_ context.Context, args []string) (uds.Answer, error) {
	if len(args) > 0 {
		level, err := zapcore.ParseLevel(args[0])
		if err != nil || level > zapcore.ErrorLevel {
			return nil, uds.Errorf(uds.BadArgument, "%q is no log level; take debug, info, warn or error", args[0])
		}
		d.log.level.SetLevel(level)
	}
	return levelAnswer{d.log.level.Level().String()}, nil
}
