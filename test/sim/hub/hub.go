// Package hub is a NATS server with one JetStream stream in memory, as far as an uplink uses them. The
// stream has no duplicates window.
package hub

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Stream is the name of the stream. It has all subjects that begin with Prefix.
const (
	Stream = "BOX"
	Prefix = "edge.box."
)

// Fault is something that is wrong with the stream.
type Fault string

// The faults.
const (
	None       Fault = ""
	Full       Fault = "full"       // it takes nothing more
	Leaderless Fault = "leaderless" // nothing answers for it
	Deaf       Fault = "deaf"       // messages to it are lost
	Mute       Fault = "mute"       // it stores messages and confirms none
)

// Hub is the server. Its methods may be called from any goroutine.
type Hub struct {
	stored func(sender, subject string, data []byte)

	mu       sync.Mutex
	messages []message // guarded by mu; the first one has sequence 1
	fault    Fault     // guarded by mu
	serving  sync.WaitGroup
}

type message struct {
	subject, id  string
	header, data []byte
}

// New makes a hub. It calls stored with each message that the stream gets, in order, and with the name of
// the connection.
func New(stored func(sender, subject string, data []byte)) *Hub { return &Hub{stored: stored} }

// Held is about how many bytes the hub's messages take.
func (h *Hub) Held() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	const each = 256
	for _, m := range h.messages {
		n += each + len(m.subject) + len(m.id) + cap(m.header)
	}
	return n
}

// SetFault begins a fault in place of the one before.
func (h *Hub) SetFault(f Fault) {
	h.mu.Lock()
	h.fault = f
	h.mu.Unlock()
}

// Wait returns when no connection is served any more.
func (h *Hub) Wait() { h.serving.Wait() }

// Serve serves a connection until it ends.
func (h *Hub) Serve(conn net.Conn) {
	h.serving.Go(func() {
		defer conn.Close()
		c := &client{hub: h, conn: conn, in: bufio.NewReader(conn), inboxes: make(map[string]string)}
		_ = c.serve()
	})
}

// client is a connection. One goroutine uses it.
type client struct {
	hub     *Hub
	conn    net.Conn
	in      *bufio.Reader
	name    string
	inboxes map[string]string // by the beginning of the subject: the subscription's id
}

const info = `INFO {"server_id":"HUB","server_name":"hub","version":"2.11.0","proto":1,"headers":true,"jetstream":true,"max_payload":1048576}` + "\r\n"

func (c *client) serve() error {
	if _, err := io.WriteString(c.conn, info); err != nil {
		return err
	}
	for {
		text, err := c.in.ReadString('\n')
		if err != nil {
			return err
		}
		if err := c.line(text); err != nil {
			return err
		}
	}
}

func (c *client) line(text string) (err error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil
	}
	switch words[0] {
	case "CONNECT":
		var options struct{ Name string }
		err = json.Unmarshal([]byte(strings.TrimPrefix(text, "CONNECT ")), &options)
		c.name = options.Name
	case "PING":
		_, err = io.WriteString(c.conn, "PONG\r\n")
	case "SUB":
		c.inboxes[strings.TrimSuffix(words[1], "*")] = words[len(words)-1]
	case "PUB", "HPUB":
		err = c.published(words)
	}
	return err
}

// published reads a message: PUB subject [reply] size, or HPUB with two sizes.
func (c *client) published(words []string) error {
	size, _ := strconv.Atoi(words[len(words)-1])
	header, rest := 0, words[2:len(words)-1]
	if words[0] == "HPUB" {
		header, _ = strconv.Atoi(rest[len(rest)-1])
		rest = rest[:len(rest)-1]
	}
	body := make([]byte, size+2)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return err
	}

	reply := ""
	if len(rest) > 0 {
		reply = rest[0]
	}
	return c.answer(reply, c.hub.take(c.name, words[1], body[:header], body[header:size]))
}

// answer writes a reply, unless it is nil.
func (c *client) answer(to string, reply any) error {
	if reply == nil {
		return nil
	}
	id := ""
	for beginning, of := range c.inboxes {
		if strings.HasPrefix(to, beginning) {
			id = of
		}
	}
	if reply == noResponders {
		const status = "NATS/1.0 503\r\n\r\n"
		_, err := fmt.Fprintf(c.conn, "HMSG %s %s %d %d\r\n%s\r\n", to, id, len(status), len(status), status)
		return err
	}
	text, err := json.Marshal(reply)
	if err == nil {
		_, err = fmt.Fprintf(c.conn, "MSG %s %s %d\r\n%s\r\n", to, id, len(text), text)
	}
	return err
}

// noResponders is the reply of a server to a request that nothing takes.
var noResponders any = "503"

// failure is a reply with an error of JetStream.
func failure(code int, text string) any {
	return map[string]any{"error": map[string]any{"code": 400, "err_code": code, "description": text}}
}

// take takes a message and returns the reply.
func (h *Hub) take(sender, subject string, header, data []byte) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.fault == Leaderless:
		return noResponders
	case subject == "$JS.API.STREAM.INFO."+Stream:
		return map[string]any{
			"config": map[string]any{"name": Stream, "max_msg_size": -1},
			"state":  map[string]any{"messages": len(h.messages), "last_seq": len(h.messages)},
		}
	case subject == "$JS.API.STREAM.MSG.GET."+Stream:
		return h.get(data)
	case !strings.HasPrefix(subject, Prefix):
		return noResponders
	case h.fault == Deaf:
		return nil
	case h.fault == Full:
		return failure(10077, "maximum bytes exceeded")
	}
	reply := h.store(sender, subject, header, data)
	if h.fault == Mute {
		return nil
	}
	return reply
}

// get finds a message. mu is held.
func (h *Hub) get(request []byte) any {
	var wanted struct {
		Last     string `json:"last_by_subj"`
		Sequence int    `json:"seq"`
	}
	if err := json.Unmarshal(request, &wanted); err != nil {
		return failure(10025, err.Error())
	}
	if wanted.Last != "" {
		wanted.Sequence = len(h.messages)
		for wanted.Sequence > 0 && h.messages[wanted.Sequence-1].subject != wanted.Last {
			wanted.Sequence--
		}
	}
	if wanted.Sequence < 1 || wanted.Sequence > len(h.messages) {
		return failure(int(jetstream.JSErrCodeMessageNotFound), "no message found")
	}
	m := h.messages[wanted.Sequence-1]
	return map[string]any{"message": map[string]any{"subject": m.subject, "seq": wanted.Sequence, "hdrs": m.header, "data": m.data}}
}

// store adds a message to the stream, if it has what the sender expects. mu is held.
func (h *Hub) store(sender, subject string, header, data []byte) any {
	headers, err := nats.DecodeHeadersMsg(header)
	if err != nil {
		return failure(10025, err.Error())
	}
	last, lastID := uint64(len(h.messages)), ""
	if last > 0 {
		lastID = h.messages[last-1].id
	}
	lastOfSubject := uint64(0)
	for i, m := range h.messages {
		if m.subject == subject {
			lastOfSubject = uint64(i) + 1
		}
	}
	for _, expected := range []struct {
		header, is string
		code       int
	}{
		{jetstream.ExpectedStreamHeader, Stream, 10060},
		{jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10), 10071},
		{jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(lastOfSubject, 10), 10071},
		{jetstream.ExpectedLastMsgIDHeader, lastID, 10070},
	} {
		if want := headers.Get(expected.header); want != "" && want != expected.is {
			return failure(expected.code, "the stream has "+expected.is)
		}
	}

	h.messages = append(h.messages, message{subject, headers.Get(jetstream.MsgIDHeader), header, data})
	h.stored(sender, subject, data)
	return map[string]any{"stream": Stream, "seq": last + 1}
}
