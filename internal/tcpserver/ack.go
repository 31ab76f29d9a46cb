package tcpserver

import (
	"bytes"
	"container/heap"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"edged/internal/batch"
	"edged/internal/subject"
)

// Items that are acknowledged one by one carry a reply subject in JetStream's form, so that the
// client libraries' own calls work (nats.go v1.55, internal/parser/parse.go):
//
//	$JS.ACK._.<epoch>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>
//
// It is the form with a domain, which is empty here, and an account, which edged replaces by the
// epoch. For an item of a JetStream consumer it is the epoch and the consumer's incarnation,
// <epoch>-<incarnation>. The incarnation tells the consumer from a deleted one of the same name,
// whose acknowledgements must not confirm items of this one. Items of JetStream consumers with ack
// policy none are not acknowledged, so they need no epoch. They have the older form, the only one
// that ordered consumers of nats.c read (v3.4.1, js.c, jsSub_checkOrderedMsg):
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>
//
// The consumer of a plain subscription is "edged". If a client is a member of a list more than once
// at the same time, its further consumers are "edged-2" and so on, so that it can acknowledge for
// each. Sequence numbers start at 1, as in JetStream.

var (
	ackSubjects = []byte("$JS.ACK.") // all subjects with this prefix belong to the daemon
	ackPrefix   = []byte("$JS.ACK._.")
)

const (
	// maxAckEnd bounds the bytes that appendAckEnd appends: four numbers of 64 bits.
	maxAckEnd = 4*20 + 4
	// answerSize is the approximate memory of a waiting answer, without its reply subject.
	answerSize = 256
	// keptMembers is the number of past memberships under one name for which a client
	// can still acknowledge.
	keptMembers = 64
	// maxReason is the number of bytes kept of a client's reason for terminating an item.
	maxReason = 200
)

// ackNames are the numbers of the consumers that a client is of one stream. Guarded by client.mu.
type ackNames struct {
	next int     // the lowest number that no member has had
	free minHeap // lower numbers that no active member has
}

// take returns the lowest free number.
func (n *ackNames) take() int {
	if len(n.free) > 0 {
		return heap.Pop(&n.free).(int)
	}
	n.next++
	return n.next
}

// minHeap implements heap.Interface.
type minHeap []int

func (h minHeap) Len() int           { return len(h) }
func (h minHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h minHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *minHeap) Push(x any)        { *h = append(*h, x.(int)) }
func (h *minHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// nameForAcks gives a member the first name that no other active member of this client has, and
// forgets the oldest of its past holders.
func (c *client) nameForAcks(m *member, l List) {
	if c.given == nil {
		c.given = make(map[string][]*member)
	}

	m.name = l.Stream + ".edged"
	if m.number = c.numberForAcks(m, l); m.number > 1 {
		consumer := ".edged-" + strconv.Itoa(m.number)
		m.name = l.Stream + consumer
		m.key = m.sub.sid + " " + consumer // no sid contains a space
	}

	c.given[m.name] = append(c.given[m.name], m)
	if past := c.given[m.name]; len(past) > keptMembers+1 {
		old := past[0]
		c.given[m.name] = slices.Delete(past, 0, 1)
		c.mu.Lock()
		old.abandon()
		c.dropMember(old)
		c.mu.Unlock()
		old.membership.Leave()
	}
}

// numberForAcks returns the number of the member's name, which the member keeps until it finishes.
func (c *client) numberForAcks(m *member, l List) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names == nil {
		c.names = make(map[string]*ackNames)
	}
	if c.names[l.Name] == nil {
		c.names[l.Name] = new(ackNames)
	}
	m.names = c.names[l.Name]
	return m.names.take()
}

// ackBegin returns the part of reply subjects that all items of a batch share.
func ackBegin(b *batch.Batch, name string) string { return ackBeginIn(b.Epoch(), b, name) }

func ackBeginIn(epoch string, b *batch.Batch, name string) string {
	return string(ackPrefix) + epoch + "." + name + "." + strconv.Itoa(b.Tries()) + "."
}

// viewBegin is ackBegin for items that are not acknowledged.
func viewBegin(b *batch.Batch, name string) string {
	return string(ackSubjects) + name + "." + strconv.Itoa(b.Tries()) + "."
}

// appendAckEnd appends the rest of item i's reply subject.
func appendAckEnd(data []byte, b *batch.Batch, i int) []byte {
	data = strconv.AppendUint(data, b.First()+uint64(i)+1, 10)
	data = append(data, '.')
	data = strconv.AppendUint(data, b.Count()+uint64(i), 10)
	data = append(data, '.')
	data = strconv.AppendInt(data, b.Time(i).UnixNano(), 10)
	data = append(data, '.')
	return strconv.AppendInt(data, b.Pending()+int64(b.Len()-1-i), 10)
}

// parseAckSubject parses the reply subject of an item.
func parseAckSubject(reply []byte) (epoch, name []byte, seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(reply, ackPrefix)
	var f [8][]byte // epoch, list, consumer, deliveries, sequence numbers, nanoseconds, pending
	if !ok || bytes.Count(rest, []byte(".")) != len(f)-1 {
		return nil, nil, 0, false
	}
	for i := range f {
		f[i], rest, _ = subject.Cut(rest)
	}
	epoch, name = f[0], reply[len(ackPrefix)+len(f[0])+1:][:len(f[1])+1+len(f[2])]
	seq, err := strconv.ParseUint(string(f[4]), 10, 64)
	if err != nil || seq == 0 {
		return nil, nil, 0, false
	}
	return epoch, name, seq - 1, true
}

// parseAck parses an acknowledgement as nats-server does (server/consumer.go of v2.15, processAck
// and processNak). next reports whether the client also asks for another item.
func parseAck(payload []byte) (ack batch.Ack, next, ok bool) {
	payload = bytes.TrimSpace(payload)
	has := func(verb string) bool { return bytes.HasPrefix(payload, []byte(verb)) }
	switch {
	case len(payload) == 0, string(payload) == "+ACK", string(payload) == "+OK":
		return batch.Ack{Kind: batch.Acked}, false, true
	case has("+NXT"):
		return batch.Ack{Kind: batch.Acked}, true, true
	case has("-NAK"):
		return batch.Ack{Kind: batch.Refused, Delay: parseDelay(payload[len("-NAK"):])}, false, true
	case string(payload) == "+WPI":
		return batch.Ack{Kind: batch.InProgress}, false, true
	case has("+TERM"):
		return batch.Ack{Kind: batch.Terminated, Reason: parseReason(payload[len("+TERM"):])}, false, true
	}
	return ack, false, false
}

// parseReason parses the reason for terminating an item: at most maxReason bytes, without
// unprintable characters.
func parseReason(arg []byte) string {
	const cut = "…"
	arg = arg[:min(len(arg), 4*maxReason)] // some bytes may be unprintable
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(arg), "")), " ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason-len(cut)], "") + cut
	}
	return text
}

// parseDelay parses {"delay": nanoseconds} or a duration such as 1.5s. An invalid one is no delay.
func parseDelay(arg []byte) time.Duration {
	arg = bytes.TrimSpace(arg)
	if len(arg) > 0 && arg[0] == '{' {
		var options struct {
			Delay time.Duration `json:"delay"`
		}
		if json.Unmarshal(arg, &options) != nil {
			return 0
		}
		return options.Delay
	}
	delay, _ := time.ParseDuration(string(arg))
	return delay
}

var (
	errAckSubject = errors.New("no item has this reply subject")
	errAckPayload = errors.New("the payload is none of +ACK, -NAK, +WPI, +TERM and +NXT")
)

// acknowledge executes a PUB to the reply subject of an item. If the publisher gave a reply
// subject, it gets an answer when Redis has the acknowledgement.
func (c *client) acknowledge(cmd command) {
	ack, next, known := parseAck(cmd.payload)
	var saved func(error)
	if len(cmd.reply) > 0 && !next { // the answer to +NXT would be another item
		saved = c.ackAnswer(cmd.reply)
	}

	err := errAckPayload
	if known {
		err = c.acknowledgeItem(cmd.subject, ack, saved)
	}
	if next && err == nil {
		c.pullNext(cmd)
	}
	c.ok()
	if err == nil {
		return
	}

	// Refused: most likely an acknowledgement for an item of an earlier connection, which is
	// redelivered. Only a client that asked gets an answer.
	c.server.AckRefused()
	if saved != nil {
		saved(err)
	}
}

// AckRefused counts a refused acknowledgement.
func (s *Server) AckRefused() { s.count(func(st *Stats) { st.AcksRefused++ }) }

// acknowledgeItem passes an acknowledgement to the member that received the item.
func (c *client) acknowledgeItem(reply []byte, ack batch.Ack, saved func(error)) error {
	epoch, name, n, ok := parseAckSubject(reply)
	if !ok {
		return errAckSubject
	}
	c.server.joining.RLock()
	defer c.server.joining.RUnlock()

	if len(c.given[string(name)]) == 0 && c.server.opts.API != nil {
		return c.acknowledgeConsumer(reply, string(epoch), string(name), n, ack, saved)
	}
	err := batch.ErrNotGiven
	for _, m := range slices.Backward(c.given[string(name)]) {
		if err = m.membership.(batch.Acknowledger).Acknowledge(string(epoch), n, ack, saved); err == nil {
			return nil
		}
	}
	return err
}

// ackAnswer returns the function that answers an acknowledgement, from any goroutine: with an empty
// message on success, otherwise with the status "no responders". Only that status makes nats.go's
// AckSync fail, because it reads no payload. A client that reads no headers gets a payload. Until
// the function is called the client holds memory.
func (c *client) ackAnswer(reply []byte) func(error) {
	held := answerSize + len(reply)
	c.memory.Take(held).Cut()
	s, headers, only := c.server, c.connect.Headers, c.answersTo(reply)

	msg := message{subject: bytes.Clone(reply)}
	return func(err error) {
		c.memory.Give(held)
		msg := msg
		switch {
		case err == nil:
		case headers:
			msg.header = []byte("NATS/1.0 503 " + err.Error() + "\r\n\r\n")
		default:
			msg.payload = []byte("-ERR " + err.Error())
		}
		out := sender{server: s, to: receivers{only: only}}
		out.send(msg)
	}
}
