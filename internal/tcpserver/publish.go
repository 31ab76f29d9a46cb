package tcpserver

import (
	"bytes"
	"strconv"

	"edged/internal/subject"
)

// publish executes PUB and HPUB.
func (c *client) publish(cmd command) error {
	if cmd.isHPub && !c.connect.Headers {
		return errHeaders
	}

	c.received.Add(1)
	own := c.server.lists.Load()
	switch {
	case !subject.Literal(cmd.subject), len(cmd.reply) > 0 && !subject.Literal(cmd.reply):
		c.server.count(func(st *Stats) { st.Denied++ })
		if c.connect.Pedantic {
			c.refuse(errPublishSubject)
		} else {
			c.ok()
		}
		return nil
	case own.owns(cmd.subject):
		c.server.count(func(st *Stats) { st.Denied++ })
		c.refuse(errPublish, cmd.subject)
		return nil
	case own.owns(cmd.reply): // an answer would look like an item of the list
		c.server.count(func(st *Stats) { st.Denied++ })
		c.refuse(errReply, cmd.reply)
		return nil
	}

	if bytes.HasPrefix(cmd.subject, ackSubjects) { // needs no right: the client was given the item
		c.acknowledge(cmd)
		return nil
	}

	if !c.mayPublish(cmd.subject) {
		c.server.count(func(st *Stats) { st.Denied++ })
		c.refuse(errPublish, cmd.subject)
		return nil
	}

	c.ok()
	if c.callAPI(cmd) {
		return nil
	}

	if sink := c.server.sink(cmd.subject); sink != nil {
		sink.Write(messageID(cmd.header), cmd.payload, c.answer(cmd.reply))
		return nil
	}
	served := c.serve(cmd)
	sent := c.pub.send(message{cmd.subject, cmd.reply, cmd.header, cmd.payload})
	if !served && !sent && len(cmd.reply) > 0 && c.connect.NoResponders {
		c.noResponders(cmd)
	}
	return nil
}

// serve answers a request if the daemon has a service for it. It reports whether it has.
func (c *client) serve(cmd command) bool {
	payload, ok := c.server.services.answer(cmd.subject, cmd.payload)
	if ok && len(cmd.reply) > 0 {
		c.own.to.only = c.answersTo(cmd.reply)
		c.own.send(message{subject: cmd.reply, payload: payload})
		c.own.to.only = nil
	}
	return ok
}

// noResponders tells the client that its request has no receiver, as nats-server v2.15 does
// (server/client.go, processInboundClientMsg): by a status without payload to the client's own
// subscription.
func (c *client) noResponders(cmd command) {
	status := "NATS/1.0 503\r\nNats-Subject: " + string(cmd.subject) + "\r\n\r\n"
	c.own.to.only = c
	c.server.router.match(cmd.reply, &c.own.to)
	c.own.to.only = nil
	for _, sub := range c.own.to.plain[:min(1, len(c.own.to.plain))] {
		c.own.deliver(sub, message{subject: cmd.reply, header: []byte(status)})
	}
	c.own.to.reset()
}

// messageID returns the Nats-Msg-Id of a header block; empty if there is none.
func messageID(header []byte) string {
	for line := range bytes.Lines(header) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if ok && bytes.EqualFold(name, []byte("Nats-Msg-Id")) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// sink returns the Sink for messages to a literal subject; nil if there is none.
func (s *Server) sink(literal []byte) *Sink {
	if sink := s.sinks[string(literal)]; sink != nil || len(s.wildSinks) == 0 {
		return sink
	}
	name := string(literal)
	for _, sink := range s.wildSinks {
		if subject.Matches(sink.Subject, name) {
			return sink
		}
	}
	return nil
}

// answer returns a function that answers a request, from any goroutine; nil if no answer
// is wanted.
func (c *client) answer(reply []byte) func(payload []byte) {
	if len(reply) == 0 {
		return nil
	}
	reply = bytes.Clone(reply)
	s, only := c.server, c.answersTo(reply)
	return func(payload []byte) {
		out := sender{server: s, to: receivers{only: only}}
		out.send(message{subject: reply, payload: payload})
	}
}

// message is a message to be delivered. Its slices are not kept.
type message struct {
	subject, reply, header, payload []byte
}

// sender sends messages to the subscriptions that match. Everything in it except the server is
// scratch memory, so a sender belongs to one goroutine.
type sender struct {
	server *Server
	to     receivers
	line   []byte
}

// send sends a message to the subscriptions that match its subject, and reports whether
// one of them took it.
func (s *sender) send(msg message) bool {
	r, to := s.server.router, &s.to
	r.match(msg.subject, to)
	sent := false
	for _, sub := range to.plain {
		sent = s.deliver(sub, msg) || sent
	}

	again, some := s.sendToGroups(msg, nil)
	sent = sent || some
	// The chosen member had just stopped taking messages. It is not chosen again, so this loop
	// ends.
	for len(again) > 0 {
		r.match(msg.subject, to)
		again, some = s.sendToGroups(msg, again)
		sent = sent || some
	}
	to.reset()
	return sent
}

// sendToGroups sends a message to the chosen members, of all groups or of those in only. It returns
// the groups whose member no longer takes messages, and whether any member took the message.
func (s *sender) sendToGroups(msg message, only map[string]bool) (again map[string]bool, sent bool) {
	for _, g := range s.to.groups {
		if only != nil && !only[g.name] {
			continue
		}
		if s.deliver(g.sub, msg) {
			sent = true
			continue
		}
		if again == nil {
			again = make(map[string]bool)
		}
		again[g.name] = true
	}
	return again, sent
}

// deliver queues a message for the client that sub belongs to.
func (s *sender) deliver(sub *subscription, msg message) bool {
	to := sub.client
	to.mu.Lock()
	if sub.accepts(1) == 0 {
		to.mu.Unlock()
		return false
	}

	if to.queue.bytes > s.server.limits.Load().MaxPending {
		to.mu.Unlock()
		to.end(endSlow)
		return false
	}

	if !to.connect.Headers {
		msg.header = nil
	}
	to.wakeWriter()
	s.line = appendHead(s.line[:0], sub.sid, msg)
	put(s.server, &to.queue, s.line)
	put(s.server, &to.queue, msg.header)
	put(s.server, &to.queue, msg.payload)
	put(s.server, &to.queue, crlf)
	sub.took(1)
	over := to.charge()
	to.mu.Unlock()
	over.Cut()
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
