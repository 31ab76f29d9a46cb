package sim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"edged/test/sim/judge"
	"edged/test/sim/scenario"
)

// client is a NATS client with habits, good or bad ones. Its arguments:
//
//	daemon, list, group   its subscription
//	durable               the JetStream consumer that it uses in place of one; if the name begins
//	                      with "push" that pushes, otherwise the client pulls
//	batch                 items that it pulls at once; 10 without it
//	ordered               true: it looks at the list with a JetStream consumer that takes nothing
//	pong                  seconds until it answers a PING; "never"
//	read                  seconds that it takes for a message
//	dribble               seconds between two bytes that it writes
//	ack                   seconds until it acknowledges; "never"
//	nak, term, wpi, late  percent of the items for which it does that first
//	sync                  true: it waits for the answer to its acknowledgements
//	most                  it subscribes to so many items
//	unsub                 it says UNSUB after so many items, for a sum of unsub+more, and reads on;
//	                      with more=gone it says UNSUB without a sum, and still acknowledges
//	wild                  true: it subscribes to all lists at once
//	die                   it closes its connection after so many items
//	reconnect             seconds; without it, it connects once
type client struct {
	world *world
	name  string
	args  scenario.Args
	rand  *rand.Rand
	stop  context.CancelFunc
	ended chan struct{}

	// Guarded by world.mu.
	conn     net.Conn
	sessions map[string]*judge.Session // by list
	impolite bool

	writing chan struct{} // holds one while a command is written; a mutex would stop the bubble's clock
	items   int
	had     int                 // items on the connection
	wanted  int                 // items that it has asked for, and lacks
	asked   time.Time           // for its consumer
	syncs   map[string]question // by inbox
	sent    int

	own        string // the beginning of its inboxes: what a client of its name asked for is not for it
	connection int    // a number of its own for each
}

// question is an item that edged is to say something about.
type question struct {
	item    string
	session *judge.Session // nil: it was published
}

func (w *world) startClient(name string, args scenario.Args) *client {
	ctx, cancel := context.WithCancel(context.Background())
	w.started++
	c := &client{world: w, name: name, own: fmt.Sprintf("_INBOX.%s-%d", name, w.started), args: args, rand: w.source(name), stop: cancel, ended: make(chan struct{}), syncs: map[string]question{}, writing: make(chan struct{}, 1)}
	for _, habit := range []string{"pong", "read", "dribble", "ack", "nak", "term", "late", "die", "most", "unsub", "wild"} {
		c.impolite = c.impolite || args.Text(habit, "") != ""
	}
	go c.run(ctx)
	return c
}

// polite reports whether the client confirms all that it gets, soon.
func (c *client) polite() bool { return !c.impolite }

func (c *client) run(ctx context.Context) {
	defer close(c.ended)
	host := c.world.network.Host(c.name)
	host.Window = 64 << 10
	for ctx.Err() == nil {
		err := c.connect(ctx, host)
		c.world.tell(c.name, "disconnected: %v", err)
		again := c.args.Seconds("reconnect", 0)
		if again == 0 {
			return
		}
		select {
		case <-time.After(again/2 + time.Duration(c.rand.Int64N(int64(again)))):
		case <-ctx.Done():
		}
	}
}

// connect serves one connection until it ends.
func (c *client) connect(ctx context.Context, host interface {
	Dial(context.Context, string, string) (net.Conn, error)
}) error {
	w := c.world
	dialling, cancel := context.WithTimeout(ctx, 5*time.Second)
	conn, err := host.Dial(dialling, c.args.Text("daemon", ""), "tcp")
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c.had = 0
	c.connection++
	w.lock(func() { c.conn, c.sessions = conn, map[string]*judge.Session{} })
	defer w.lock(func() {
		for _, s := range c.sessions {
			s.End()
			w.judge.Trouble()
		}
		c.sessions, c.conn = nil, nil
	})

	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	c.write(conn, "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true,\"name\":\""+c.name+"\"}\r\n"+
		"SUB "+c.own+".> 2\r\n"+
		c.subscribe()+"PING\r\n")
	for asked := false; ; {
		conn.SetReadDeadline(time.Now().Add(silence))
		if _, err := in.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) && !asked {
			asked = true
			c.write(conn, "PING\r\n")
			continue
		}
		if err := c.line(ctx, conn, in); err != nil {
			return err
		}
		asked = false
	}
}

// subscribe are the commands with which it asks for items.
func (c *client) subscribe() string {
	if c.consumes() {
		return c.create()
	}
	return strings.TrimRight(fmt.Sprintf("SUB %s %s", c.subject(), c.args.Text("group", "")), " ") + " 1\r\n" + c.most()
}

// subject is the subject that it subscribes to.
func (c *client) subject() string {
	if c.args.Is("wild") {
		return "*"
	}
	return c.args.Text("list", "none")
}

// session returns the client's session with a list; the world is locked.
func (c *client) session(list string) *judge.Session {
	s := c.sessions[list]
	if s == nil && c.conn != nil {
		c.world.tell(c.name, "subscribed to %s at %s", list, c.args.Text("daemon", ""))
		if c.consumes() {
			s = c.consuming(list)
		} else {
			s = c.world.judge.Subscribed(c.name, c.args.Text("daemon", ""), list, c.args.Text("group", ""), c.polite())
		}
		c.sessions[list] = s
	}
	return s
}

// most ends the subscription after some items, if that is a habit of the client.
func (c *client) most() string {
	if n := c.args.Int("most", 0); n > 0 {
		return fmt.Sprintf("UNSUB 1 %d\r\n", n)
	}
	return ""
}

// silence is after how much of it a client asks whether its server is there.
const silence = 15 * time.Second

func (c *client) line(ctx context.Context, conn net.Conn, in *bufio.Reader) error {
	text, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil
	}
	switch words[0] {
	case "PING":
		return c.pong(conn)
	case "PONG":
		c.world.lock(func() {
			if list := c.args.Text("list", ""); list != "" && !c.args.Is("wild") && !c.consumes() {
				c.session(list)
			}
		})
	case "MSG", "HMSG":
		return c.message(ctx, conn, in, words)
	case "-ERR":
		c.world.tell(c.name, "%s", strings.TrimSpace(text))
	case "INFO":
		if strings.Contains(text, `"ldm":true`) {
			c.world.tell(c.name, "is told that the daemon goes")
		}
	}
	return nil
}

func (c *client) pong(conn net.Conn) error {
	switch delay := c.args.Text("pong", "0"); delay {
	case "never":
		return nil
	case "0":
	default:
		time.Sleep(c.args.Seconds("pong", 0))
	}
	c.world.lock(func() {
		for _, s := range c.sessions {
			s.Ponged()
		}
	})
	return c.write(conn, "PONG\r\n")
}

// message reads a message: MSG subject sid [reply] size, or HMSG with two sizes.
func (c *client) message(ctx context.Context, conn net.Conn, in *bufio.Reader, words []string) error {
	size, _ := strconv.Atoi(words[len(words)-1])
	header, last := 0, len(words)-1
	if words[0] == "HMSG" {
		last--
		header, _ = strconv.Atoi(words[last])
	}
	reply := ""
	if last > 3 {
		reply = words[3]
	}
	body := make([]byte, size+2)
	if _, err := io.ReadFull(in, body); err != nil {
		return err
	}
	head, payload := body[:header], body[header:size]
	if words[1] == c.pushed() || strings.HasPrefix(words[1], "_INBOX.") {
		c.answer(words[1], head, payload)
		return c.hear(conn, words[1], head, payload)
	}

	time.Sleep(c.args.Seconds("read", 0))
	if ctx.Err() != nil {
		return ctx.Err() // the message was read with others before the connection was closed
	}
	if c.had++; c.enough() {
		return nil
	}
	dies := false
	var session *judge.Session
	c.world.lock(func() {
		if session = c.session(words[1]); session == nil {
			return
		}
		session.Received(payload)
		c.world.deliveries++
		c.items++
		dies = c.items == c.args.Int("die", 0)
	})
	switch {
	case session == nil:
		return net.ErrClosed
	case dies:
		return fmt.Errorf("it dies after %d items", c.items)
	case c.had == c.args.Int("unsub", 0):
		if err := c.unsubscribe(conn); err != nil {
			return err
		}
	}
	if c.consumes() {
		if err := c.refill(conn); err != nil {
			return err
		}
	}
	if reply != "" && !c.args.Is("ordered") {
		return c.acknowledge(conn, session, reply, payload)
	}
	return nil
}

// unsubscribe says UNSUB.
func (c *client) unsubscribe(conn net.Conn) error {
	if c.args.Text("more", "") == "gone" {
		return c.write(conn, "UNSUB 1\r\n")
	}
	return c.write(conn, fmt.Sprintf("UNSUB 1 %d\r\n", c.had+c.args.Int("more", 0)))
}

// enough reports whether the client passes over the item that it has read, because it
// has said UNSUB before.
func (c *client) enough() bool {
	n := c.args.Int("unsub", 0)
	return n > 0 && c.had > n+c.args.Int("more", 0)
}

// acknowledge answers an item on an explicit list, now or later.
func (c *client) acknowledge(conn net.Conn, session *judge.Session, reply string, payload []byte) error {
	chance := func(habit string) bool { return c.rand.IntN(100) < c.args.Int(habit, 0) }
	switch {
	case c.args.Text("ack", "0") == "never":
		return nil
	case chance("nak"):
		c.world.lock(func() { session.Refused(payload, false) })
		if c.rand.IntN(2) == 0 {
			return c.publish(conn, reply, "", "-NAK")
		}
		return c.publish(conn, reply, "", `-NAK {"delay": 1500000000}`)
	case chance("term"):
		c.world.lock(func() { session.Refused(payload, true) })
		return c.publish(conn, reply, "", "+TERM")
	case chance("wpi"):
		if err := c.publish(conn, reply, "", "+WPI"); err != nil {
			return err
		}
	}
	delay := c.args.Seconds("ack", 0)
	if chance("late") {
		delay += session.Wait() + time.Duration(c.rand.Int64N(int64(2*time.Second)))
	}
	if delay == 0 {
		return c.ack(conn, session, reply, payload)
	}
	time.AfterFunc(delay, func() { c.ack(conn, session, reply, payload) })
	return nil
}

func (c *client) ack(conn net.Conn, session *judge.Session, reply string, payload []byte) error {
	inbox, gone := "", false
	c.world.lock(func() {
		if gone = c.conn != conn; gone {
			return
		}
		session.Acknowledged(payload)
		if c.args.Is("sync") {
			c.sent++
			inbox = fmt.Sprintf("%s.%d", c.own, c.sent)
			c.syncs[inbox] = question{string(payload), session}
		}
	})
	if gone {
		return nil
	}
	return c.publish(conn, reply, inbox, "")
}

// answer takes the answer to a synchronous acknowledgement or to a publication.
func (c *client) answer(inbox string, head, payload []byte) {
	c.world.lock(func() {
		asked, ok := c.syncs[inbox]
		if !ok {
			return
		}
		delete(c.syncs, inbox)
		switch {
		case c.args.Text("subject", "") != "":
			if !bytes.Contains(payload, []byte(`"error"`)) && len(head) == 0 {
				c.world.judge.Accepted(asked.item)
			}
		case len(head) == 0:
			asked.session.Settled([]byte(asked.item))
		default:
			asked.session.Denied([]byte(asked.item))
		}
	})
}

func (c *client) publish(conn net.Conn, subject, reply, payload string) error {
	return c.write(conn, published(subject, reply, payload))
}

// published is the command that publishes something.
func published(subject, reply, payload string) string {
	return strings.Join(strings.Fields(fmt.Sprintf("PUB %s %s %d", subject, reply, len(payload))), " ") + "\r\n" + payload + "\r\n"
}

// write writes a command, in one piece or byte by byte.
func (c *client) write(conn net.Conn, text string) error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	pause := c.args.Seconds("dribble", 0)
	if pause == 0 {
		_, err := io.WriteString(conn, text)
		return err
	}
	for i := range len(text) {
		time.Sleep(pause)
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}
