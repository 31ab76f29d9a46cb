// Package trace finds out why this box cannot reach a server: a NATS hub, Redis, or any host and
// port. It needs no privileges: it reads the reports of routers (ICMP) from the error queues of
// ordinary TCP and UDP sockets, ip(7).
//
// A trace is a sequence of steps: the clock, the name, this box's own rules, its route, the
// connection, the routers on the way if there is none, the path's MTU, TLS, the server's greeting,
// and steps of the caller, such as a login. Each step is a line. The last line is the verdict: the
// first cause that explains the failure, and its remedy.
//
// Targets are traced at the same time, but their lines are reported one target after the other.
// Lines have no secrets: the package knows none.
package trace

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Results of steps.
const (
	Running = "running"
	OK      = "ok"
	Warn    = "warn"
	Fail    = "fail"
)

// verdictStep is the step of a trace's last line.
const verdictStep = "verdict"

// Line is a line of a trace: the outcome of a step, or the time that it has run so far.
type Line struct {
	Step    string  `json:"step"`
	Result  string  `json:"result"` // running, ok, warn or fail
	At      string  `json:"at,omitempty"`
	Text    string  `json:"text"`
	Seconds float64 `json:"seconds"`
}

// Protocol is the protocol that a server is expected to speak.
type Protocol int

// Protocols.
const (
	Unknown Protocol = iota // NATS, if it greets as NATS does
	NATS
	Silent // the client speaks first, with TLS from the first byte if at all: Redis, WebSocket
)

// Target is a server to be traced.
type Target struct {
	Address  string // host:port, or unix:// and a path
	Protocol Protocol
	TLS      *tls.Config // nil: none, unless a NATS server requires it

	// Find finds the address and describes it, if it is not known; nil: Address is it.
	Find func(ctx context.Context) (address, text string, err error)
	// Then are the steps that follow once a connection was possible. Each makes its own.
	Then []Step
}

// Step is a step of the caller.
type Step struct {
	Name string
	// Run returns the outcome in words. The text of an error has the remedy.
	Run func(ctx context.Context, address string) (text string, err error)
}

// Times of a trace.
const (
	Longest = 30 * time.Second // of a whole trace

	nameTimeout    = 6 * time.Second
	connectTimeout = 5 * time.Second // three SYNs
	deniedTimeout  = 1500 * time.Millisecond
	mtuTimeout     = 3 * time.Second
	greetTimeout   = 3 * time.Second
	tlsTimeout     = 5 * time.Second
	thenTimeout    = 10 * time.Second
	reportEvery    = time.Second
)

const (
	mostTargets = 8   // servers of one trace
	mostLines   = 128 // more than a target has: it waits for no other target's lines
)

// Run traces the way to the targets, and reports each line as soon as it is known: those of running
// steps each second, and the verdict last. It ends after Longest, or when ctx is done or report
// returns an error, which it returns.
func Run(ctx context.Context, name string, targets []Target, report func(Line) error) (verdict Line, err error) {
	ctx, cancel := context.WithTimeout(ctx, Longest)
	defer cancel()
	left := len(targets) - mostTargets
	targets = targets[:min(len(targets), mostTargets)]

	began := time.Now()
	if err := report(clockNow()); err != nil {
		return verdict, err
	}
	tracers := make([]*tracer, len(targets))
	for i, t := range targets {
		tracers[i] = &tracer{Target: t, lines: make(chan Line, mostLines)}
		go tracers[i].run(ctx)
	}
	for _, t := range tracers {
		if err == nil {
			err = t.pass(report)
		}
		if err != nil {
			cancel()
			for range t.lines {
			}
		}
	}
	if err != nil {
		return verdict, err
	}

	verdict = judge(name, tracers)
	if left > 0 {
		verdict.Text += fmt.Sprintf("; %d more were not traced", left)
	}
	verdict.Seconds = time.Since(began).Seconds()
	return verdict, report(verdict)
}

// tracer traces one target. Except for lines, the goroutine of run owns it until lines is closed.
type tracer struct {
	Target
	lines chan Line // closed at the end
	host  string

	cause string   // reason why the server cannot be used; empty: it can
	notes []string // other problems
	good  []string // text of the verdict if all is well
}

// pass reports the lines of a target until there are no more.
func (t *tracer) pass(report func(Line) error) error {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()

	var current Line
	began := time.Now()
	for {
		select {
		case line, more := <-t.lines:
			if !more {
				return nil
			}
			if line.Result == Running {
				current, began = line, time.Now()
				continue
			}
			if err := report(line); err != nil {
				return err
			}
			ticker.Reset(reportEvery)
		case <-ticker.C:
			current.Seconds = time.Since(began).Seconds()
			if err := report(current); err != nil {
				return err
			}
		}
	}
}

// finding is the outcome of a step.
type finding struct {
	result string
	text   string
	remedy string // if the finding is a cause
}

// words returns the outcome with its remedy.
func (f finding) words() string {
	if f.remedy == "" {
		return f.text
	}
	return f.text + ": " + f.remedy
}

func ok(format string, args ...any) finding {
	return finding{result: OK, text: fmt.Sprintf(format, args...)}
}

func warn(format string, args ...any) finding {
	return finding{result: Warn, text: fmt.Sprintf(format, args...)}
}

func fail(remedy, format string, args ...any) finding {
	return finding{Fail, fmt.Sprintf(format, args...), remedy}
}

// step carries out a step and sends its line.
func (t *tracer) step(ctx context.Context, name, at string, do func(context.Context) finding) finding {
	t.lines <- Line{Step: name, Result: Running, At: printable(at)}
	began := time.Now()
	f := do(ctx)
	if f.result != OK && ctx.Err() != nil {
		f = fail("", "not finished: the time for the trace was up")
	}
	t.tell(name, at, f, time.Since(began))
	return f
}

// tell sends the line of a step.
func (t *tracer) tell(name, at string, f finding, took time.Duration) {
	f.text = printable(f.text)
	t.lines <- Line{name, f.result, printable(at), f.text, took.Seconds()}
}

// because records why the server cannot be used. The first cause counts.
func (t *tracer) because(f finding) {
	if t.cause == "" && f.result == Fail {
		t.cause = printable(f.words())
	}
}

// run traces the target.
func (t *tracer) run(ctx context.Context) {
	defer close(t.lines)
	if t.Find != nil {
		f := t.step(ctx, "find", "", func(ctx context.Context) finding {
			address, text, err := t.Find(ctx)
			if err != nil {
				return fail("", "%v", err)
			}
			t.Address = address
			return ok("%s", text)
		})
		if t.because(f); t.cause != "" {
			return
		}
	}

	conn := t.connect(ctx)
	if conn == nil {
		return
	}
	greeted := t.greet(ctx, conn)
	conn.Close()
	if greeted {
		t.then(ctx)
	}
}

// then carries out the caller's steps, until one fails.
func (t *tracer) then(ctx context.Context) {
	for _, s := range t.Then {
		f := t.step(ctx, s.Name, "", func(ctx context.Context) finding {
			ctx, cancel := context.WithTimeout(ctx, thenTimeout)
			defer cancel()
			text, err := s.Run(ctx, t.Address)
			if err != nil {
				return fail("", "%v", err)
			}
			return ok("%s", text)
		})
		if t.because(f); t.cause != "" {
			return
		}
		t.good = append(t.good, f.text)
	}
}

// judge returns the verdict about all targets.
func judge(name string, tracers []*tracer) Line {
	v := Line{Step: verdictStep, Result: OK}
	var well, ill []string
	for _, t := range tracers {
		where := prefixed(t.Address, name)
		switch {
		case t.cause != "":
			ill = append(ill, where+t.cause)
		case len(t.notes) > 0:
			well = append(well, where+"reached, but "+strings.Join(t.notes, "; "))
			v.Result = Warn
		case len(t.good) > 0:
			well = append(well, where+"reached: "+t.good[len(t.good)-1])
		default:
			well = append(well, where+"reached")
		}
	}

	switch {
	case len(well) == 0:
		v.Result = Fail
	case len(ill) > 0:
		v.Result = Warn
	}
	v.Text = name + ": " + strings.ReplaceAll(strings.Join(append(ill, well...), ". "), "?. ", "? ")
	return v
}

// prefixed returns the address as the beginning of a sentence, unless it is the trace's name.
func prefixed(address, name string) string {
	if address == name || address == "" {
		return ""
	}
	return printable(address) + ": "
}

// Parse returns the address of a host with or without a port: a name, an IPv4 or IPv6
// address, with or without brackets.
func Parse(text, port string) (address string, err error) {
	host := text
	if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}

	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%q is no port; write HOST:PORT with a port from 1 to 65535", port)
	}
	if host == "" || len(host) > 255 || strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII || !isHostByte(byte(r)) }) {
		return "", fmt.Errorf("%q is no host; write a name or an address, and a port if it is not 4222", text)
	}
	return net.JoinHostPort(host, port), nil
}

// isHostByte reports whether b is allowed in a name or an address.
func isHostByte(b byte) bool {
	switch {
	case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		return true
	}
	return strings.IndexByte(".-_:%", b) >= 0
}

// printable returns s as one line of at most 300 bytes without control characters: much of it comes
// from the network.
func printable(s string) string {
	const most = 300
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			b.WriteString("..")
			break
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
