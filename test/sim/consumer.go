package sim

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"

	"edged/test/sim/judge"
)

// The part of a client that consumes by JetStream. It makes sure that there is the
// consumer, asks for items, and asks again when these have come or a status says that the
// request is over. A request waits for ten seconds, so that none outlives its client for long.

// ackWait and ackPending are the terms of durable consumers.
const (
	ackWait    = 5 * time.Second
	ackPending = 50
)

// consumes reports whether the client consumes by JetStream.
func (c *client) consumes() bool { return c.args.Text("durable", "") != "" || c.args.Is("ordered") }

// pushes reports whether its consumer delivers to a subject, without requests.
func (c *client) pushes() bool { return strings.HasPrefix(c.args.Text("durable", ""), "push") }

// pushed is the subject that its consumer delivers to; empty: it pulls.
func (c *client) pushed() string {
	if !c.pushes() {
		return ""
	}
	return "deliver." + c.args.Text("list", "") + "." + c.consumer()
}

// consumer is the name of its consumer. An ordered one is new on each connection.
func (c *client) consumer() string {
	if c.args.Is("ordered") {
		return fmt.Sprintf("%s-%d", c.name, c.connection)
	}
	return c.args.Text("durable", "")
}

// inbox is a subject of the current connection.
func (c *client) inbox(purpose string) string {
	return fmt.Sprintf("%s.%d.%s", c.own, c.connection, purpose)
}

// create is the command that makes the consumer.
func (c *client) create() string {
	list, name := c.args.Text("list", ""), c.consumer()
	config := fmt.Sprintf(`"durable_name":%q,"ack_policy":"explicit","ack_wait":%d,"max_ack_pending":%d`, name, ackWait, ackPending)
	before := ""
	switch {
	case c.args.Is("ordered"):
		config = fmt.Sprintf(`"name":%q,"ack_policy":"none","mem_storage":true,"inactive_threshold":%d`, name, time.Minute)
	case c.pushes():
		config += fmt.Sprintf(`,"deliver_subject":%q`, c.pushed())
		before = "SUB " + c.pushed() + " 3\r\n"
	}
	c.asked = time.Now()
	request := fmt.Sprintf(`{"stream_name":%q,"config":{%s}}`, list, config)
	return before + published("$JS.API.CONSUMER.CREATE."+list+"."+name, c.inbox("created"), request)
}

// next is the command that asks for items.
func (c *client) next() string {
	c.wanted = c.args.Int("batch", 10)
	request := fmt.Sprintf(`{"batch":%d,"expires":%d}`, c.wanted, 10*time.Second)
	return published("$JS.API.CONSUMER.MSG.NEXT."+c.args.Text("list", "")+"."+c.consumer(), c.inbox("items"), request)
}

// hear takes an answer to a request of this connection; others are over.
func (c *client) hear(conn net.Conn, inbox string, head, payload []byte) error {
	switch {
	case inbox == c.inbox("created") && bytes.Contains(payload, []byte(`"error"`)):
		c.world.tell(c.name, "no consumer: %s", payload)
		c.later(conn, c.create())
	case inbox == c.inbox("created"):
		c.world.lock(func() {
			if c.session(c.args.Text("list", "")) != nil && !c.args.Is("ordered") {
				c.world.judge.Created(c.args.Text("list", ""), c.consumer(), c.asked)
			}
		})
		if !c.pushes() {
			return c.write(conn, c.next())
		}
	case inbox == c.pushed():
		c.world.tell(c.name, "%s", strings.TrimSpace(string(head)))
		c.later(conn, c.create())
	case inbox == c.inbox("items"):
		status := strings.TrimSpace(string(head))
		if strings.HasPrefix(status, "NATS/1.0 408") {
			return c.write(conn, c.next())
		}
		c.world.tell(c.name, "%s", status)
		if strings.HasPrefix(status, "NATS/1.0 503") || strings.Contains(status, "Consumer Deleted") {
			c.later(conn, c.create())
		} else {
			c.later(conn, c.next())
		}
	}
	return nil
}

// later writes a command in a second.
func (c *client) later(conn net.Conn, command string) {
	time.AfterFunc(time.Second, func() { c.write(conn, command) })
}

// refill asks for more items when those that it has asked for have come.
func (c *client) refill(conn net.Conn) error {
	if c.wanted--; c.wanted > 0 || c.pushes() {
		return nil
	}
	return c.write(conn, c.next())
}

// consuming begins a session; the world is locked.
func (c *client) consuming(list string) *judge.Session {
	daemon := c.args.Text("daemon", "")
	if c.args.Is("ordered") {
		return c.world.judge.Viewing(c.name, daemon, list, c.polite())
	}
	return c.world.judge.Consuming(c.name, daemon, list, c.consumer(), ackWait, c.polite())
}
