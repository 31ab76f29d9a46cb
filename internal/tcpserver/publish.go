package tcpserver

import (
	"fmt"
	"strconv"
)

// publish reads PUB and HPUB.
func (c *client) publish(cmd command) error {
	if cmd.isHPub && !c.connect.Headers {
		return errHeaders
	}
	c.received.Add(1)
	switch {
	case !validLiteral(cmd.subject), len(cmd.reply) > 0 && !validLiteral(cmd.reply):
		c.server.count(func(st *Stats) { st.Denied++ })
		if c.connect.Pedantic {
			c.send(errLine("Invalid Publish Subject"))
		}
		return nil
	case c.server.own[string(cmd.subject)]:
		c.server.count(func(st *Stats) { st.Denied++ })
		c.send(errLine(fmt.Sprintf("Permissions Violation for Publish to %q", cmd.subject)))
		return nil
	case c.server.own[string(cmd.reply)]: // an answer would be no item of the list
		c.server.count(func(st *Stats) { st.Denied++ })
		c.send(errLine(fmt.Sprintf("Permissions Violation for Publish with Reply of %q", cmd.reply)))
		return nil
	}
	c.ok()
	served := c.serve(cmd)
	sent := c.route(&c.to, message{cmd.subject, cmd.reply, cmd.header, cmd.payload})
	if !served && !sent && len(cmd.reply) > 0 && c.connect.NoResponders {
		c.noResponders(cmd.reply)
	}
	return nil
}

// serve lets the daemon answer a request, where it has a service for it.
func (c *client) serve(cmd command) bool {
	service := c.server.opts.Services[string(cmd.subject)]
	if service == nil {
		return false
	}
	if len(cmd.reply) > 0 {
		c.route(&c.other, message{subject: cmd.reply, payload: service(cmd.payload)})
	}
	return true
}

// noResponders tells the client that nobody is there to answer, the way
// nats-server does: a status without payload to its own subscription.
func (c *client) noResponders(reply []byte) {
	const status = "NATS/1.0 503\r\n\r\n"
	c.server.router.match(reply, &c.other)
	for _, sub := range c.other.plain {
		if sub.client == c {
			c.deliver(sub, message{subject: reply, header: []byte(status)})
			break
		}
	}
	c.other.reset()
}

// message is what is sent on. Its slices belong to the sender's read buffer.
type message struct {
	subject, reply, header, payload []byte
}

// route sends a message to whoever is subscribed to its subject and reports
// whether anybody took it.
func (c *client) route(to *receivers, msg message) bool {
	r := c.server.router
	r.match(msg.subject, to)
	sent := false
	for _, sub := range to.plain {
		sent = c.deliver(sub, msg) || sent
	}
	var again []string
	for _, g := range to.groups {
		if c.deliver(g.sub, msg) {
			sent = true
		} else {
			again = append(again, g.name)
		}
	}
	// Somebody was chosen in the moment they stopped taking messages: they are
	// not chosen again, so this comes to an end.
	for _, name := range again {
		for done := false; !done; {
			r.match(msg.subject, to)
			done = true
			for _, g := range to.groups {
				if g.name == name {
					done = c.deliver(g.sub, msg)
					sent = sent || done
				}
			}
		}
	}
	to.reset()
	return sent
}

// deliver queues a message for the client that sub belongs to. It is called by
// the goroutine that reads from c.
func (c *client) deliver(sub *subscription, msg message) bool {
	to := sub.client
	to.mu.Lock()
	if sub.room(1) == 0 {
		to.mu.Unlock()
		return false
	}
	if to.queue.bytes > c.server.opts.MaxPending {
		to.mu.Unlock()
		to.end(endSlow)
		return false
	}
	if !to.connect.Headers {
		msg.header = nil
	}
	c.line = appendHead(c.line[:0], sub.sid, msg)
	put(c.server, &to.queue, c.line)
	put(c.server, &to.queue, msg.header)
	put(c.server, &to.queue, msg.payload)
	put(c.server, &to.queue, crlf)
	sub.took(1)
	to.wakeWriter()
	to.mu.Unlock()
	return true
}

// appendHead appends the control line of MSG or HMSG.
func appendHead(line []byte, sid string, msg message) []byte {
	verb := "MSG "
	if len(msg.header) > 0 {
		verb = "HMSG "
	}
	line = append(line, verb...)
	line = append(line, msg.subject...)
	line = append(line, ' ')
	line = append(line, sid...)
	line = append(line, ' ')
	if len(msg.reply) > 0 {
		line = append(line, msg.reply...)
		line = append(line, ' ')
	}
	if len(msg.header) > 0 {
		line = strconv.AppendInt(line, int64(len(msg.header)), 10)
		line = append(line, ' ')
	}
	line = strconv.AppendInt(line, int64(len(msg.header)+len(msg.payload)), 10)
	return append(line, crlf...)
}
