package compat

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edged/internal/tcpserver"
)

// FuzzSessions lets two clients hold the same valid session with two servers: with edged's TCP
// server, which runs in this process so that the fuzzer sees its coverage, and with nats-server.
// Both servers must send the same, except for the order between subscriptions and the choice of a
// queue group's member.
func FuzzSessions(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		seed := make([]byte, 600)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}

	theirs := start(f, natsServer, settings{natsServer: `ping_interval: "1h"`}).tcp
	ours := serveInProcess(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		rounds, queues := plan(input)
		want, got := hold(t, theirs, rounds, queues), hold(t, ours, rounds, queues)
		for i := range rounds {
			if got[i] != want[i] {
				t.Fatalf("answers to round %d of\n%s\nedged:\n%s\nnats-server:\n%s", i, transcript(rounds), got[i], want[i])
			}
		}
	})
}

func serveInProcess(f *testing.F) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}

	s := tcpserver.New(tcpserver.Options{
		Name: "fuzz", Version: "1.2.3", MaxPayload: 1 << 20, MaxControlLine: 4096,
		Limits: tcpserver.Limits{
			MaxConnections: 1000, MaxSubscriptions: 1000, MaxPending: 64 << 20,
			ConnectTimeout: time.Hour, PingInterval: time.Hour, ReceiptTimeout: time.Hour,
		},
	})

	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	f.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			f.Error(err)
		}
	})
	return ln.Addr().String()
}

// round is the input of one client until it waits for the answers.
type round struct {
	client int
	lines  []byte
	pings  int   // in lines; each is answered
	splits []int // lengths of the pieces in which lines are sent
}

// dice makes choices from the fuzzer's bytes; when they are used up, the first one.
type dice struct{ bytes []byte }

func (d *dice) roll(n int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func (d *dice) pick(from ...string) string { return from[d.roll(len(from))] }

// planner makes a session by its dice.
type planner struct {
	dice
	clients [2]planned
	count   int               // of subscription IDs and payloads
	queues  map[string]string // each subscription ID's queue group
}

// planned is a client of a session.
type planned struct {
	sids                      []string
	withHeaders, noResponders bool
}

// plan makes a session from any bytes. queues holds each subscription ID's queue group: an ID is
// never used for another.
func plan(input []byte) (rounds []round, queues map[string]string) {
	p := &planner{dice: dice{input}, queues: make(map[string]string)}
	for i := range p.clients {
		c := &p.clients[i]
		c.withHeaders = p.roll(4) > 0
		c.noResponders = c.withHeaders && p.roll(3) > 0
		rounds = append(rounds, round{client: i, lines: fmt.Appendf(nil,
			`CONNECT {"verbose":%v,"pedantic":%v,"echo":%v,"headers":%v,"no_responders":%v,"protocol":%d}`+"\r\n",
			p.roll(4) == 1, p.roll(4) == 1, p.roll(3) != 1, c.withHeaders, c.noResponders, p.roll(2))})
	}

	for len(p.bytes) > 0 {
		r := round{client: p.roll(len(p.clients))}
		for range 1 + p.roll(6) {
			p.operation(&r, &p.clients[r.client])
		}
		for range p.roll(4) {
			r.splits = append(r.splits, 1+p.roll(40))
		}
		rounds = append(rounds, r)
	}

	return rounds, p.queues
}

// operation adds an operation of c to a round, or none.
func (p *planner) operation(r *round, c *planned) {
	blank, end := p.pick(" ", " ", " ", "  ", "\t"), p.pick("\r\n", "\r\n", "\r\n", "\n")
	verb := func(name string) string { return p.pick(name, name, strings.ToLower(name)) + blank }
	switch p.roll(9) {
	case 0, 1:
		sid, queue := strconv.Itoa(p.count), p.pick("", "", "q", "r")+blank
		if p.count++; p.roll(8) == 1 && len(c.sids) > 0 { // an ID that is taken, or was
			sid = c.sids[p.roll(len(c.sids))]
			queue = p.queues[sid] + blank
		}
		p.queues[sid] = strings.TrimSpace(queue)
		c.sids = append(c.sids, sid)
		r.lines = append(r.lines, verb("SUB")+p.subject(true)+blank+queue+sid+end...)
	case 2:
		sid := "unknown"
		if len(c.sids) > 0 {
			sid = c.sids[p.roll(len(c.sids))]
		}
		limit := ""
		// Chance decides which member of a group reaches its limit; also see "503 and a
		// limit" among the raw scenarios.
		if p.queues[sid] == "" && !c.noResponders {
			limit = p.pick("", "0", "1", "2", "5")
		}
		r.lines = append(r.lines, verb("UNSUB")+sid+blank+limit+end...)
	case 3, 4, 5:
		payload := p.payload()
		p.count++
		payload = strconv.Itoa(p.count) + payload
		r.lines = append(r.lines, verb("PUB")+p.subject(false)+blank+p.reply()+blank+strconv.Itoa(len(payload))+end+payload+"\r\n"...)
	case 6:
		if !c.withHeaders {
			return
		}
		header, payload := p.pick("NATS/1.0\r\n\r\n", "NATS/1.0\r\nKey: value\r\nkey:other\r\n\r\n", "NATS/1.0 503\r\n\r\n"), p.payload()
		r.lines = append(r.lines, verb("HPUB")+p.subject(false)+blank+p.reply()+blank+
			strconv.Itoa(len(header))+blank+strconv.Itoa(len(header)+len(payload))+end+header+payload+"\r\n"...)
	case 7:
		r.lines = append(r.lines, p.pick("PING", "ping")+end...)
		r.pings++
	case 8:
		r.lines = append(r.lines, "PONG"+end...)
	}
}

func (d *dice) subject(wild bool) string {
	subjects := []string{"a", "b", "a.b", "b.a", "a.b.c", "_INBOX.a", "é.a", "a*.>b"}
	if wild {
		subjects = append(subjects, "*", ">", "a.*", "a.>", "*.b", "*.*", "a.*.c", "*.>")
	}
	return d.pick(subjects...)
}

func (d *dice) reply() string { return d.pick("", "", "a", "_INBOX.a", "nobody") }

var large = strings.Repeat("0123456789", 700) // more than a read's worth

func (d *dice) payload() string {
	return d.pick("", "x", "\r\n", "PING\r\n", "MSG a 1 1\r\nx\r\n", large)
}

// hold holds a session with a server and returns the answers to all clients after each round, in a
// form that can be compared.
func hold(t *testing.T, address string, rounds []round, queues map[string]string) []string {
	var conns []*rawConn
	for _, r := range rounds {
		if r.client == len(conns) {
			conns = append(conns, dialRaw(t, address))
		}
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()

	all := make([]string, len(rounds))
	for i, r := range rounds {
		c := conns[r.client]
		rest := append(bytes.Clone(r.lines), "PING\r\n"...)
		for _, n := range r.splits {
			n = min(n, len(rest))
			c.send(rest[:n])
			rest = rest[n:]
		}
		c.send(rest)
		saw := answers{queues: queues, groups: make(map[string][]string)}
		saw.read(c, r.client, r.pings+1)
		// The message was in the other client's queue before this client's PONG.
		for j, other := range conns {
			if j != r.client && i >= len(conns) {
				other.send([]byte("PING\r\n"))
				saw.read(other, j, 1)
			}
		}
		all[i] = saw.String()
	}

	return all
}

// answers are the lines from a server, up to a barrier, normalized.
type answers struct {
	queues map[string]string
	lines  []string            // other lines, in order; then messages of plain subscriptions by subscription
	groups map[string][]string // messages by queue group, for any member
}

func (a *answers) read(c *rawConn, client, pongs int) {
	plain := make(map[string][]string) // by subscription
	for pongs > 0 {
		line := c.line()
		verb, args, _ := strings.Cut(line, " ")
		switch verb {
		case "MSG", "HMSG":
			f := strings.Fields(args)
			header, total := 0, f[len(f)-1]
			names := f[2 : len(f)-1]
			if verb == "HMSG" {
				header = c.number(f[len(f)-2])
				names = f[2 : len(f)-2]
			}
			body := c.bytes(c.number(total) + 2)
			sid := f[1]
			if bytes.HasPrefix(body[:header], []byte("NATS/1.0 503\r\nNats-Subject: ")) {
				sid = "any that takes the answer"
			}
			if q := a.queues[sid]; q != "" { // only some of its members may take headers
				a.groups[q] = append(a.groups[q], fmt.Sprintf("%s %s %q", f[0], names, body[header:]))
			} else {
				plain[sid] = append(plain[sid], fmt.Sprintf("%s %s %s %q %q", verb, f[0], names, body[:header], body[header:]))
			}
		case "PING", "INFO":
		case "PONG":
			pongs--
			fallthrough
		default:
			a.lines = append(a.lines, fmt.Sprintf("client %d: %s", client, line))
		}
	}

	for _, sid := range slices.Sorted(maps.Keys(plain)) {
		for _, m := range plain[sid] {
			a.lines = append(a.lines, fmt.Sprintf("client %d, subscription %s: %.200s", client, sid, m))
		}
	}
}

func (a *answers) String() string {
	for _, q := range slices.Sorted(maps.Keys(a.groups)) {
		slices.Sort(a.groups[q])
		for _, m := range a.groups[q] {
			a.lines = append(a.lines, fmt.Sprintf("group %s: %.200s", q, m))
		}
	}
	return strings.Join(a.lines, "\n")
}

func transcript(rounds []round) string {
	var b strings.Builder
	for i, r := range rounds {
		lines := strings.ReplaceAll(string(r.lines), large, "…")
		fmt.Fprintf(&b, "round %d, client %d, pieces %v: %q\n", i, r.client, r.splits, lines)
	}
	return b.String()
}

// rawConn is a client that speaks raw lines.
type rawConn struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// dialRaw connects and reads INFO.
func dialRaw(t testing.TB, address string) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	c := &rawConn{conn, t, bufio.NewReader(conn)}
	if line := c.line(); !strings.HasPrefix(line, "INFO {") {
		t.Fatalf("the first line is %q, want INFO", line)
	}
	return c
}

func (c *rawConn) send(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// line reads a line without its end.
func (c *rawConn) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading a line: %v, after %q", err, line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (c *rawConn) bytes(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatalf("reading %d bytes: %v", n, err)
	}
	return b
}

func (c *rawConn) number(s string) int {
	c.t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		c.t.Fatalf("a length: %v", err)
	}
	return n
}
