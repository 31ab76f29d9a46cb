package tcpserver

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"edged/internal/batch"
	"edged/internal/subject"
)

// API answers requests below $JS.API., and takes acknowledgements and answers for the items of
// JetStream consumers. Its methods may be called from any goroutine, and must not block.
type API interface {
	// Request answers a request. It must not keep the payload.
	Request(r Request)
	// Acknowledge is that of batch.Acknowledger, for a consumer. life is the epoch, "-", and
	// OutletOptions.Incarnation.
	Acknowledge(stream, consumer, life string, n uint64, a batch.Ack, saved func(error)) error
	// Resume says that a client has taken the items before the request for flow control with this
	// reply subject.
	Resume(reply string)
	// Left says that a client is gone. It makes no more requests.
	Left(client uint64)
	// Interest says that a subscription to a subject, or to a pattern, has begun or ended.
	Interest(subject string)
}

// Request is a request to the API.
type Request struct {
	Subject string // without $JS.API.
	Payload []byte
	Reply   string // empty: no answer is wanted
	From    Requester
}

// Requester is the client that makes a request.
type Requester struct {
	client *client
	user   string
}

const (
	apiPrefix  = "$JS.API."
	flowPrefix = "$JS.FC."
)

// callAPI passes a message to the API if it is a request.
func (c *client) callAPI(cmd command) bool {
	api := c.server.opts.API
	if api == nil {
		return false
	}
	if name, ok := bytes.CutPrefix(cmd.subject, []byte(apiPrefix)); ok {
		api.Request(Request{Subject: string(name), Payload: cmd.payload, Reply: string(cmd.reply), From: c.requester()})
		return true
	}
	if bytes.HasPrefix(cmd.subject, []byte(flowPrefix)) {
		api.Resume(string(cmd.subject))
		return true
	}
	return false
}

// requester returns the client as the sender of a request.
func (c *client) requester() Requester {
	if c.user == nil {
		return Requester{c, ""}
	}
	return Requester{c, c.user.Name}
}

// pullNext requests the items that +NXT asks for in addition to the acknowledgement.
func (c *client) pullNext(cmd command) {
	_, name, _, ok := parseAckSubject(cmd.subject)
	request := apiPrefix + "CONSUMER.MSG.NEXT." + string(name)
	if !ok || c.server.opts.API == nil || len(c.given[string(name)]) > 0 || !c.mayPublish([]byte(request)) {
		return
	}
	cmd.payload = bytes.TrimPrefix(bytes.TrimSpace(cmd.payload), []byte("+NXT"))
	cmd.subject = []byte(request)
	c.callAPI(cmd)
}

// acknowledgeConsumer passes an acknowledgement to a JetStream consumer; name is the names of the
// stream and the consumer. A user with rules needs the right to publish to the item's reply subject,
// as it came or in the form without domain and account, and the right to subscribe to the list.
func (c *client) acknowledgeConsumer(reply []byte, life, name string, n uint64, ack batch.Ack, saved func(error)) error {
	plain := slices.Concat(ackSubjects, reply[len(ackPrefix)+len(life)+1:])
	stream, consumer, _ := strings.Cut(name, ".")
	takes := func(l List) bool { return l.Stream == stream && c.maySubscribe(l.Subject) }
	if !c.mayPublish(reply) && !c.mayPublish(plain) || !slices.ContainsFunc(c.server.lists.Load().all, takes) {
		return batch.ErrNotGiven
	}
	return c.server.opts.API.Acknowledge(stream, consumer, life, n, ack, saved)
}

// interest tells the API that a subscription has begun or ended.
func (s *Server) interest(sub *subscription) {
	if s.opts.API != nil {
		s.opts.API.Interest(sub.subject)
	}
}

// ID returns the client's number, which is unique.
func (r Requester) ID() uint64 { return r.client.id }

// User returns the name of the user that the client had when it made the request; empty: none.
func (r Requester) User() string { return r.user }

// Hold notes that n bytes more, or fewer if n is negative, are held for the client.
func (r Requester) Hold(n int) { r.client.memory.Take(n).Cut() }

// Connected reports whether the client is still there.
func (r Requester) Connected() bool { return !r.client.ended.Load() }

// MaySubscribe reports whether the client may subscribe to a subject.
func (r Requester) MaySubscribe(name string) bool { return r.client.maySubscribe(name) }

// MayKeep reports whether the client may make durable consumers.
func (r Requester) MayKeep() bool { return r.client.user.MayMakeDurables() }

// Send sends an answer to a request, from any goroutine.
func (r Requester) Send(to string, header, payload []byte) {
	if to == "" {
		return
	}
	c := r.client
	out := sender{server: c.server, to: receivers{only: c.answersTo([]byte(to))}}
	out.send(message{subject: []byte(to), header: header, payload: payload})
}

// Outlet passes the items of a JetStream consumer to the subscriptions of a subject.
type Outlet struct {
	OutletOptions
	server *Server
	client *client // the client that asked for it; nil: none in particular
	only   *client // the only client that may receive messages
	held   int     // bytes of client's memory
	last   *member // the member that last got items
}

// OutletOptions describe an Outlet.
type OutletOptions struct {
	Subject     string
	Consumer    string       // the consumer's stream and name, as in reply subjects
	Incarnation string       // of the consumer, appended to the epoch; empty: there is none
	Confirm     Confirmation // Acknowledged, or OnPong: no item is acknowledged
	HeadersOnly bool
}

// outletSize is the approximate memory of a request that waits for items.
const outletSize = 512

// Outlet makes an Outlet for a client, which holds memory until Close. A subscription of that
// client is preferred.
func (r Requester) Outlet(o OutletOptions) *Outlet {
	c := r.client
	out := &Outlet{OutletOptions: o, server: c.server, client: c, only: c.answersTo([]byte(o.Subject)), held: outletSize + len(o.Subject)}
	c.memory.Take(out.held).Cut()
	return out
}

// Outlet makes an Outlet for all subscriptions to its subject.
func (s *Server) Outlet(o OutletOptions) *Outlet { return &Outlet{OutletOptions: o, server: s} }

// Close gives the Outlet's memory back. It is called once.
func (o *Outlet) Close() {
	if o.client != nil {
		o.client.memory.Give(o.held)
	}
}

// Open reports whether there is a subscription.
func (o *Outlet) Open() bool { return o.find() != nil }

// find returns a subscription to the subject, preferably of the client that asked for the Outlet.
func (o *Outlet) find() *subscription {
	if o.client != nil {
		if own := o.pick(receivers{only: o.client}); own != nil || o.only != nil {
			return own
		}
	}
	return o.pick(receivers{one: true})
}

// pick returns one of the receivers, preferably a plain one.
func (o *Outlet) pick(to receivers) *subscription {
	o.server.router.match([]byte(o.Subject), &to)
	switch {
	case len(to.plain) > 0:
		return to.plain[0]
	case len(to.groups) > 0:
		return to.groups[rand.IntN(len(to.groups))].sub
	}
	return nil
}

// Deliver is that of batch.Member, for a consumer that has counted the items up to and including
// the first of these. One subscription gets them.
func (o *Outlet) Deliver(b *batch.Batch, from, to int, count uint64, receipt batch.Receipt) (taken int) {
	part := b.Part(from, to, count)
	defer part.Release()
	if o.last != nil && o.last.sub.queue == "" && o.last.sub.open() {
		if taken = o.last.receive(part, receipt); taken > 0 {
			return taken
		}
	}
	sub := o.find()
	if sub == nil {
		return 0
	}
	if o.last == nil || o.last.sub != sub {
		o.last = o.member(sub)
	}
	return o.last.receive(part, receipt)
}

func (o *Outlet) member(sub *subscription) *member {
	m := &member{sub: sub, name: o.Consumer, confirm: o.Confirm}
	begin, frames := o.ackBegin, encode
	if o.Confirm != Acknowledged {
		begin = viewBegin
	}
	if o.HeadersOnly {
		frames = encodeHeaders
	}
	m.encode = func(b *batch.Batch) *batch.Encoding { return frames(b, sub.sid, begin(b, o.Consumer)) }
	return m
}

// ackBegin is the function ackBegin with the consumer's incarnation.
func (o *Outlet) ackBegin(b *batch.Batch, name string) string {
	if o.Incarnation == "" {
		return ackBegin(b, name)
	}
	return ackBeginIn(b.Epoch()+"-"+o.Incarnation, b, name)
}

// receive queues a Part. The client keeps the receipt until the items are confirmed: it is
// confirmed in the end, whatever happens to the client.
func (m *member) receive(part *batch.Batch, receipt batch.Receipt) (taken int) {
	c := m.sub.client
	c.mu.Lock()
	defer c.mu.Unlock()
	taken = m.queue(part, 0, part.Len(), receipt)
	if taken > 0 {
		if c.outlets == nil {
			c.outlets = make(map[*member]struct{})
		}
		c.outlets[m] = struct{}{}
		m.receipts = append(m.receipts, receipt)
	}
	return taken
}

// dropReceipt forgets the oldest receipt of a member. mu is held.
func (c *client) dropReceipt(m *member) {
	if len(m.receipts) == 0 {
		return
	}
	m.receipts[0] = nil
	if m.receipts = m.receipts[1:]; len(m.receipts) == 0 {
		m.receipts = nil
		delete(c.outlets, m)
	}
}

// takeReceipts removes and returns those for items that the client will not confirm any more. mu is
// held.
func (c *client) takeReceipts() (all []batch.Receipt) {
	for m := range c.outlets {
		all = append(all, m.receipts...)
		m.receipts = nil
	}
	clear(c.outlets)
	return all
}

// Send sends a status to the subscriptions. reply may be empty. It must not be called with a lock held.
func (o *Outlet) Send(header, reply string) {
	out := sender{server: o.server, to: receivers{only: o.only}}
	out.send(message{subject: []byte(o.Subject), reply: []byte(reply), header: []byte(header)})
}

// Owned reports whether a client's message to a literal subject goes to edged rather than to
// subscribers.
func (s *Server) Owned(literal string) bool {
	for _, own := range []string{"$", servicePrefix, "edged."} {
		if strings.HasPrefix(literal, own) {
			return true
		}
	}
	return s.lists.Load().owns([]byte(literal)) || s.sink([]byte(literal)) != nil || !subject.Literal([]byte(literal))
}

// encodeHeaders is encode for a client that gets the items' sizes instead of the items.
func encodeHeaders(b *batch.Batch, sid, begin string) *batch.Encoding {
	const head, end = "NATS/1.0\r\nNats-Msg-Size: ", "\r\n\r\n"
	prefix := "HMSG " + b.Subject() + " " + sid + " " + begin
	m := b.Memory(b.Len() * (len(prefix) + maxAckEnd + len(head) + len(end) + 40))
	for i := range b.Len() {
		size := len(b.Item(i))
		length := len(head) + digits(size) + len(end)
		from := len(m.Data)
		m.Data = append(m.Data, prefix...)
		m.Data = appendAckEnd(m.Data, b, i)
		for range 2 { // length of the header, and total length
			m.Data = append(m.Data, ' ')
			m.Data = strconv.AppendInt(m.Data, int64(length), 10)
		}
		m.Data = append(m.Data, crlf+head...)
		m.Data = strconv.AppendInt(m.Data, int64(size), 10)
		m.Data = append(m.Data, end+crlf...)
		m.Mark(from)
	}

	return batch.NewWhole(m)
}
