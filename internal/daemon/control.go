package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"go.uber.org/zap/zapcore"

	"edged/internal/inbound"
	"edged/internal/poller"
	"edged/internal/tcpserver"
	"edged/internal/uds"
)

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
		{Name: "lists", Summary: "state, backlog, place and lag of each list", Example: "lists",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.listsAnswer(), nil }},
		{Name: "consumers", Args: "[LIST]", Summary: "place, lag and debt of each consumer", Example: "consumers events", MaxArgs: 1,
			Run: d.consumers},
		{Name: "clients", Summary: "who is connected, and what they owe", Example: "clients json",
			Run: func(context.Context, []string) (uds.Answer, error) { return clientsAnswer{d.tcp.Clients()}, nil }},
		{Name: "config", Summary: "every setting in effect, and where it came from", Example: "config json",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.settings(), nil }},
		{Name: "watch", Args: "[INTERVAL]", Summary: "a line each second, or INTERVAL, until the drain", Example: "watch 2s", MaxArgs: 1,
			Stream: d.watch},
		{Name: "peek", Level: uds.Operator, Args: "LIST [N]", Summary: "the first items of a list, 10 or N of them", Example: "peek events 3", MinArgs: 1, MaxArgs: 2,
			Run: d.peek},
		{Name: "history", Level: uds.Operator, Args: "LIST [FROM]", Summary: "items in Redis; FROM: from ID, or since TIME, and N", Example: "history events since 10m 20", MinArgs: 1, MaxArgs: 4,
			Run: d.history},
		{Name: "pause", Level: uds.Operator, Args: "LIST|all", Summary: "take nothing more from a list", Example: "pause events", MinArgs: 1, MaxArgs: 1,
			Run: func(_ context.Context, args []string) (uds.Answer, error) { return nil, d.pause(args[0], true) }},
		{Name: "resume", Level: uds.Operator, Args: "LIST|all", Summary: "take from a paused list again", Example: "resume all", MinArgs: 1, MaxArgs: 1,
			Run: func(_ context.Context, args []string) (uds.Answer, error) { return nil, d.pause(args[0], false) }},
		{Name: "kick", Level: uds.Operator, Args: "CLIENT", Summary: "disconnect a client; clients lists their numbers", Example: "kick 12", MinArgs: 1, MaxArgs: 1,
			Run: d.kick},
		{Name: "dead", Level: uds.Operator, Args: "LIST [N]", Summary: "the oldest dead letters of a list, 10 or N of them", Example: "dead events 3", MinArgs: 1, MaxArgs: 2,
			Run: d.dead},
		{Name: "requeue", Level: uds.Operator, Args: "LIST [N|all]", Summary: "put dead letters back to the end of the list, 1 or more", Example: "requeue events all", MinArgs: 1, MaxArgs: 2,
			Run: d.requeue},
		{Name: "inbound", Summary: "what clients write to lists", Example: "inbound json",
			Run: func(context.Context, []string) (uds.Answer, error) { return d.inboundStats(), nil }},
		{Name: "loglevel", Level: uds.Operator, Args: "[LEVEL]", Summary: "show or set the log level: debug, info, warn, error", Example: "loglevel debug", MaxArgs: 1,
			Run: d.loglevel},
		{Name: "reload", Level: uds.Admin, Summary: "take up the file again: lists, limits, users, certificates", Example: "reload", Stream: d.reload},
		{Name: "drain", Level: uds.Admin, Args: "[TIMEOUT]", Summary: "tell the clients, let them finish, end", Example: "drain 30s", MaxArgs: 1,
			Stream: d.drain},
		{Name: "quit", Level: uds.Admin, Summary: "end without waiting for clients; nothing is lost", Example: "quit",
			Run: func(context.Context, []string) (uds.Answer, error) {
				d.life.order(stop{why: "quit", quit: true})
				return nil, nil
			}},
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

	LogDropped  uint64 `json:"log_lines_dropped"`
	LogRepeated uint64 `json:"log_lines_repeated"`

	Faults  []string        `json:"faults"`  // what does not work, and why
	Lagging []string        `json:"lagging"` // consumers over a quarter of max_lag
	TCP     tcpserver.Stats `json:"tcp"`
}

func (d *daemon) status() statusAnswer {
	b, cfg := d.served.books(), d.served.config()
	a := statusAnswer{
		State: "serving", Why: d.life.draining(), Version: d.options.Version, Instance: cfg.Instance, PID: os.Getpid(),
		Uptime: time.Since(d.started).Seconds(), Redis: cfg.Redis.Where(), Listen: d.address.String(), Lists: len(d.served.lists()),
		InFlight: b.InFlight, Taken: b.Taken, Confirmed: b.Confirmed, Returned: b.Returned, Dead: b.Dead, Gone: b.Gone,
		Redelivered: b.Redelivered, LogRepeated: d.log.repeated(), Faults: []string{}, Lagging: d.lagging(), TCP: d.tcp.Stats(),
	}
	if a.Why != "" {
		a.State = "draining"
	}
	if d.log.dropped != nil {
		if a.LogDropped = d.log.dropped(); a.LogDropped > 0 {
			a.Faults = append(a.Faults, fmt.Sprintf("log: %d lines did not reach the journal", a.LogDropped))
		}
	}
	if shortage := d.shortage.Load(); shortage != nil && *shortage != "" {
		a.Faults = append(a.Faults, "clients: "+*shortage)
	}
	for _, s := range d.loop.Lists() {
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
	fmt.Fprintf(w, "state      %s for %s, pid %d, version %s, instance %s\n", state, uptime, a.PID, a.Version, a.Instance)
	fmt.Fprintf(w, "redis      %s\n", a.Redis)
	fmt.Fprintf(w, "clients    %d at %s, %d accepted, %d cut off\n", a.TCP.Clients, a.Listen, a.TCP.Accepted,
		a.TCP.Stuck+a.TCP.Lagged+a.TCP.Stale+a.TCP.SlowConsumers+a.TCP.OverMemory)
	fmt.Fprintf(w, "lists      %d, backlog %d items, %d of them on their way\n", a.Lists, a.Backlog, a.InFlight)
	fmt.Fprintf(w, "books      %d taken = %d confirmed + %d returned + %d dead + %d gone + %d on their way\n",
		a.Taken, a.Confirmed, a.Returned, a.Dead, a.Gone, a.InFlight)
	if a.LogRepeated > 0 {
		fmt.Fprintf(w, "log        %d lines dropped: more than %d with the same message in %s\n", a.LogRepeated, repeats, repeatInterval)
	}
	for _, f := range a.Faults {
		fmt.Fprintf(w, "fault      %s\n", f)
	}
	const shown = 5 // all have to fit on one screen
	for _, l := range a.Lagging[:min(len(a.Lagging), shown)] {
		fmt.Fprintf(w, "lag        %s\n", l)
	}
	if more := len(a.Lagging) - shown; more > 0 {
		fmt.Fprintf(w, "lag        and %d more: see consumers\n", more)
	}
}

type clientsAnswer struct {
	Clients []tcpserver.ClientInfo `json:"clients"`
}

func (a clientsAnswer) Text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tADDRESS\tNAME\tLIBRARY\tCONNECTED\tSUBS\tSENT\tOWED\tPENDING")
	for _, c := range a.Clients {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", c.ID, c.Address, printable(c.Name),
			printable(strings.TrimSpace(c.Lang+" "+c.ClientVersion)), age(c.Since), c.Subscriptions, c.Sent, c.Owed, size(c.Pending))
	}
	t.Flush()
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

// age is how long ago t was, in words.
func age(t time.Time) string { return time.Since(t).Round(time.Second).String() }

// pause pauses or resumes one list or all.
func (d *daemon) pause(key string, paused bool) error {
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
		fmt.Fprintf(w, "%s  %s, delivered %d times, %s: %s\n", l.Time.Local().Format(time.DateTime), l.Reason, l.Deliveries, size(l.Size), l.Item)
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

type requeueAnswer struct {
	Requeued int `json:"requeued"`
}

func (a requeueAnswer) Text(w io.Writer) {
	fmt.Fprintf(w, "%s put back\n", counted(a.Requeued, "dead letter"))
}

func (d *daemon) requeue(ctx context.Context, args []string) (uds.Answer, error) {
	n, err := countArg(args, 1)
	if err != nil {
		return nil, err
	}
	done, err := d.loop.Requeue(ctx, args[0], n)
	if err != nil {
		return nil, listError(args[0], err)
	}
	return requeueAnswer{done}, nil
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
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SUBJECT\tLIST\tWRITTEN\tWAITING\tREFUSED: BUFFER\tMAX_LEN\tREDIS\tUNCERTAIN")
	for _, l := range a.Lists {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", l.Subject, printable(l.Key), l.Written, l.Waiting,
			l.RefusedBuffer, l.RefusedMaxLen, l.RefusedRedis, l.Uncertain)
	}
	t.Flush()
	for _, l := range a.Lists {
		if l.Failing != "" {
			fmt.Fprintf(w, "%s: %s\n", l.Subject, l.Failing)
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
