package uplink

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a message at the hub, in addition to JetStream's own.
const (
	headerBox    = "Edged-Box"    // the instance
	headerList   = "Edged-List"   // the list's key
	headerEpoch  = "Edged-Epoch"  // the epoch of the number
	headerNumber = "Edged-Number" // of the item in its list
	headerRun    = "Edged-Run"    // the items from this number on were sent one after the other
	headerTime   = "Edged-Time"   // when edged first saw the item, RFC 3339
)

// Times of a link.
const (
	dialTimeout  = 10 * time.Second
	ackTimeout   = 30 * time.Second // for the hub's confirmation of the oldest item in flight
	replyTimeout = 10 * time.Second // for the hub's answer to a question
	askEvery     = 4 * time.Second  // without a confirmation, between two questions how far the stream is
	pingEvery    = 10 * time.Second // after the previous answer
	pingTimeout  = 20 * time.Second // for its answer
	// slowest is the rate in bytes a second of the slowest link: ackTimeout, pingTimeout and
	// replyTimeout are extended by the time that the bytes in flight take at this rate.
	slowest = 4 << 10
	// sequentialFor is how long items of a list are sent one at a time after another publisher was
	// found to use the stream.
	sequentialFor = 10 * time.Minute
)

// NATSOptions describe a NATS cluster with JetStream.
type NATSOptions struct {
	URLs    []string
	Name    string // of the connection
	Box     string // the instance, for a header
	Stream  string // empty: the stream that has the subject
	Window  int    // items in flight
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Connect func() ([]nats.Option, error) // credentials and TLS, for one connection
}

// NATS is a Hub that stores items in the streams of a NATS cluster.
type NATS struct {
	opts NATSOptions

	mu         sync.Mutex
	subjects   map[string]bool   // guarded by mu; subjects that this process sends to
	conflicts  map[string]uint64 // guarded by mu; by stream: sequence of the message that came between ours
	sequential time.Time         // guarded by mu; until then items are sent one at a time
}

// NewNATS makes a NATS without connecting.
func NewNATS(o NATSOptions) *NATS {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &NATS{opts: o, subjects: make(map[string]bool), conflicts: make(map[string]uint64)}
}

// dialer makes the connection of a link.
type dialer struct {
	ctx  context.Context
	link *natsLink
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	defer cancel()
	c, err := d.link.hub.opts.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	if d.link.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	d.link.socket = c
	return patient{c, &d.link.received}, nil
}

// patient is a connection whose peer takes some bytes within ackTimeout, or is dead. The library
// writes with a lock held that Close needs too.
type patient struct {
	net.Conn
	received *atomic.Int64 // bytes
}

func (c patient) Read(p []byte) (n int, err error) {
	n, err = c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

func (c patient) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		const piece = 16 << 10
		if err = c.SetWriteDeadline(time.Now().Add(ackTimeout)); err != nil {
			break
		}
		var written int
		written, err = c.Conn.Write(p[n:min(len(p), n+piece)])
		n += written
	}
	return n, err
}

// Connect implements Hub. The library's own reconnecting and retrying is off, because it would
// reorder items.
func (h *NATS) Connect(ctx context.Context) (Link, error) {
	l := &natsLink{hub: h, streams: make(map[string]string), ends: make(map[string]uint64), replicated: make(map[string]bool),
		nonce: rand.Text(), sent: make(map[string]string), sizes: make(map[string]int), newest: make(map[string]uint64), stored: make(map[string]uint64)}
	l.life, l.end = context.WithCancel(context.Background())
	secrets, err := h.opts.Connect()
	if err != nil {
		return nil, err
	}
	options := append([]nats.Option{
		nats.Name(h.opts.Name), nats.NoReconnect(), nats.Timeout(dialTimeout), nats.SetCustomDialer(dialer{ctx, l}),
		nats.PingInterval(24 * time.Hour), // see ping
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.fail(err) }),
		nats.ClosedHandler(func(c *nats.Conn) { l.fail(c.LastError()) }),
	}, secrets...)
	stop := context.AfterFunc(ctx, l.closeSocket)
	l.conn, err = nats.Connect(strings.Join(h.opts.URLs, ","), options...)
	if stop(); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", strings.Join(h.opts.URLs, ", "), err)
	}

	l.js, err = jetstream.New(l.conn, jetstream.WithPublishAsyncMaxPending(h.opts.Window+1))
	if err != nil {
		l.Close()
		return nil, err
	}
	h.mu.Lock()
	l.sequential = time.Now().Before(h.sequential)
	h.mu.Unlock()
	l.pinging.Go(l.ping)
	return l, nil
}

// conflict records which message of a stream came between those of this process.
func (h *NATS) conflict(stream string, sequence uint64) error {
	h.mu.Lock()
	h.conflicts[stream] = sequence
	h.mu.Unlock()
	return errors.New("the stream has a message that came between: asking again which items it has")
}

// settle finds out whether the message that came between belongs to another publisher. If not, it
// was still in flight over an earlier connection.
func (l *natsLink) settle(ctx context.Context, stream string) error {
	h := l.hub
	h.mu.Lock()
	sequence := h.conflicts[stream]
	h.mu.Unlock()
	if sequence == 0 {
		return nil
	}
	m, err := l.get(ctx, stream, map[string]uint64{"seq": sequence})
	if err != nil {
		return err
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conflicts, stream)
	if m != nil && !h.subjects[m.Subject] {
		h.sequential = time.Now().Add(sequentialFor)
		l.sequential = true
	}
	return nil
}

// natsLink is a connection. Its fields are used by the goroutine that sends.
type natsLink struct {
	hub        *NATS
	conn       *nats.Conn
	js         jetstream.JetStream
	sequential bool
	streams    map[string]string // by subject
	nonce      string            // in the ids of messages sent over this connection
	ends       map[string]uint64 // by stream: sequence of its last message, once everything sent is stored
	replicated map[string]bool   // by stream: it has more than one replica
	sent       map[string]string // by stream: id of the last message sent
	sizes      map[string]int    // by stream: its max_msg_size, or -1
	pinging    sync.WaitGroup
	onWay      atomic.Int64 // bytes of items that the hub has not answered
	received   atomic.Int64 // bytes from the hub

	mu     sync.Mutex
	newest map[string]uint64 // guarded by mu; by subject: sequence of its newest message
	stored map[string]uint64 // guarded by mu; by stream: sequence of the newest message of this link
	socket net.Conn          // guarded by mu; the newest one
	closed bool              // guarded by mu

	once sync.Once
	life context.Context // ends when the link is broken
	end  context.CancelFunc
	why  error // set before life ends
}

// Done implements Link.
func (l *natsLink) Done() <-chan struct{} { return l.life.Done() }

// Err implements Link.
func (l *natsLink) Err() error { return l.explain(l.why) }

// grace returns how long the bytes in flight take on the slowest link.
func (l *natsLink) grace() time.Duration { return takes(l.onWay.Load()) }

// takes returns how long some bytes take on the slowest link.
func takes(bytes int64) time.Duration { return time.Duration(bytes) * time.Second / slowest }

// ping finds out whether the link is dead. The library's own pings would consider a link dead that
// is busy with a large item.
func (l *natsLink) ping() {
	for {
		select {
		case <-l.life.Done():
			return
		case <-time.After(pingEvery):
		}
		ctx, cancel := l.ask(context.Background(), pingTimeout)
		if err := l.conn.FlushWithContext(ctx); err != nil {
			l.fail(l.failed(ctx, err))
		}
		cancel()
	}
}

// fail ends the link.
func (l *natsLink) fail(err error) {
	l.once.Do(func() {
		if l.why = err; err == nil {
			l.why = nats.ErrConnectionClosed
		}
		l.end()
	})
}

// Close implements Link.
func (l *natsLink) Close() {
	l.fail(nil)
	l.closeSocket() // a write may hang while it holds the lock that conn.Close needs
	l.conn.Close()
	l.pinging.Wait()
}

func (l *natsLink) closeSocket() {
	l.mu.Lock()
	socket := l.socket
	l.closed = true
	l.mu.Unlock()
	if socket != nil {
		socket.Close()
	}
}

// Server returns the address of the server.
func (l *natsLink) Server() string { return l.conn.ConnectedUrlRedacted() }

// Pipelined implements Link.
func (l *natsLink) Pipelined() bool { return !l.sequential }

// ask bounds a question to the hub: the answer begins within some time, and continues at the rate
// of the slowest link. The question ends with the link: one without the right to it breaks the
// link, and gets no answer. Its cause tells why it ended.
func (l *natsLink) ask(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	const longest = time.Hour // the library wants a deadline
	ctx, stop := context.WithTimeout(ctx, longest)
	ctx, cancel := context.WithCancelCause(ctx)
	within += l.grace()
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(within)
		defer tick.Stop()
		for before := l.received.Load(); ; {
			select {
			case <-ctx.Done():
				return
			case <-l.life.Done():
				cancel(l.why)
				return
			case <-tick.C:
			}
			now := l.received.Load()
			if takes(now-before) < within {
				cancel(fmt.Errorf("the hub has not answered for %s", within.Round(time.Second)))
				return
			}
			before = now
		}
	})
	return ctx, func() {
		cancel(nil)
		stop()
		watching.Wait()
	}
}

// failed explains why a question failed.
func (l *natsLink) failed(asked context.Context, err error) error {
	select {
	case <-l.life.Done():
		err = l.why
	default:
		if why := context.Cause(asked); why != nil {
			err = why
		}
	}
	return l.explain(err)
}

// stored is a message as $JS.API.STREAM.MSG.GET returns it.
type stored struct {
	Subject  string `json:"subject"`
	Sequence uint64 `json:"seq"`
	Header   []byte `json:"hdrs"`
	Data     []byte `json:"data"`
	header   nats.Header
}

// get asks the stream's leader for a message, because a replica that lags may answer a direct get.
// The message is nil if there is none.
func (l *natsLink) get(ctx context.Context, stream string, request any) (*stored, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := l.ask(ctx, replyTimeout)
	defer cancel()

	answer, err := l.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, text)
	if err != nil {
		return nil, l.failed(ctx, err)
	}

	var reply struct {
		Error   *jetstream.APIError `json:"error"`
		Message *stored             `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		return nil, fmt.Errorf("the hub's answer is no JSON: %w", err)
	}
	switch {
	case reply.Error != nil && reply.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case reply.Error != nil:
		return nil, l.explain(reply.Error)
	case reply.Message == nil:
		return nil, errors.New("the hub's answer has no message")
	}

	if reply.Message.header, err = nats.DecodeHeadersMsg(reply.Message.Header); err != nil && len(reply.Message.Header) > 0 {
		return nil, fmt.Errorf("headers of message %d of stream %s: %w", reply.Message.Sequence, stream, err)
	}
	return reply.Message, nil
}

// stream returns the stream that has a subject.
func (l *natsLink) stream(ctx context.Context, subject string) (string, error) {
	name, known := l.streams[subject]
	if known {
		return name, nil
	}
	l.hub.mu.Lock()
	l.hub.subjects[subject] = true
	l.hub.mu.Unlock()
	if name = l.hub.opts.Stream; name == "" {
		ctx, cancel := l.ask(ctx, replyTimeout)
		defer cancel()
		var err error
		if name, err = l.js.StreamNameBySubject(ctx, subject); errors.Is(err, jetstream.ErrStreamNotFound) {
			return "", fmt.Errorf("no stream of the hub has the subject %s: create one", subject)
		} else if err != nil {
			return "", l.failed(ctx, err)
		}
	}

	if _, known := l.ends[name]; !known {
		if err := l.settle(ctx, name); err != nil {
			return "", err
		}
		asked, cancel := l.ask(ctx, replyTimeout)
		defer cancel()
		stream, err := l.js.Stream(asked, name)
		if err != nil {
			return "", l.failed(asked, err)
		}
		info := stream.CachedInfo()
		l.ends[name], l.sizes[name] = info.State.LastSeq, int(info.Config.MaxMsgSize)
		l.replicated[name] = info.Config.Replicas > 1
		l.mu.Lock()
		l.stored[name] = info.State.LastSeq
		l.mu.Unlock()
	}
	l.streams[subject] = name
	return name, nil
}

// Last implements Link.
func (l *natsLink) Last(ctx context.Context, subject string) (Mark, error) {
	stream, err := l.stream(ctx, subject)
	if err != nil {
		return Mark{}, err
	}
	m, err := l.get(ctx, stream, map[string]string{"last_by_subj": subject})
	if err != nil || m == nil {
		return Mark{}, err
	}
	l.note(subject, m.Sequence)
	return m.mark(), nil
}

// note records the newest message of a subject.
func (l *natsLink) note(subject string, sequence uint64) {
	l.mu.Lock()
	l.newest[subject] = max(l.newest[subject], sequence)
	l.mu.Unlock()
}

// mark returns the message as a Mark. A message that edged has not sent has no epoch.
func (m *stored) mark() Mark {
	mark := Mark{Epoch: m.header.Get(headerEpoch), Data: m.Data, Sequence: m.Sequence}
	mark.Number, _ = strconv.ParseUint(m.header.Get(headerNumber), 10, 64)
	mark.Run, _ = strconv.ParseUint(m.header.Get(headerRun), 10, 64)
	mark.Run = min(mark.Run, mark.Number)
	return mark
}

// Before implements Link.
func (l *natsLink) Before(ctx context.Context, subject string, sequence uint64, n int) (marks []Mark, err error) {
	stream, err := l.stream(ctx, subject)
	if err != nil {
		return nil, err
	}
	some, errs := make([]*stored, n), make([]error, n)
	var asking sync.WaitGroup
	for i := range some {
		if sequence--; sequence == 0 {
			break
		}
		s := sequence
		asking.Go(func() { some[i], errs[i] = l.get(ctx, stream, map[string]uint64{"seq": s}) })
	}

	asking.Wait()
	for i, m := range some {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if m != nil && m.Subject == subject {
			marks = append(marks, m.mark())
		}
	}

	return marks, nil
}

// Send implements Link. The stream takes the first message of a link only if it has received no
// other since the link asked for its state, and each further one only directly after its
// predecessor. So no item is missing in between, and no message of another publisher, or of a
// process that has lost the list, is in between. Messages that are still in flight when the link
// breaks may be stored later, but only directly after one another.
//
// A stream with replicas gets the sequence of the previous message, because its leader compares
// that before the replicas store anything. An id is compared when they store the message: if the
// leader changes meanwhile, nats-server 2.15.3 treats a wrong id as a critical write error, and
// stops the stream. Ids of such a stream are the same over each link: a late message that finds its
// sequence again is a duplicate. For other streams an id belongs to one link, since a refused
// message leaves its id among the duplicates for their window.
func (l *natsLink) Send(item Item) (Sending, error) {
	stream := l.streams[item.Subject]
	id := fmt.Sprintf("%s/%s-%d", item.Subject, item.Epoch, item.Number)
	if !l.replicated[stream] {
		id += "/" + l.nonce
	}
	m := &nats.Msg{Subject: item.Subject, Data: item.Data, Header: nats.Header{
		jetstream.MsgIDHeader:          {id},
		jetstream.ExpectedStreamHeader: {stream},
		headerBox:                      {l.hub.opts.Box},
		headerList:                     {item.List},
		headerEpoch:                    {item.Epoch},
		headerNumber:                   {strconv.FormatUint(item.Number, 10)},
		headerRun:                      {strconv.FormatUint(item.Run, 10)},
		headerTime:                     {item.Seen.UTC().Format(time.RFC3339Nano)},
	}}
	switch {
	case l.sequential:
		l.mu.Lock()
		m.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(l.newest[item.Subject], 10)}
		l.mu.Unlock()
	case l.sent[stream] == "" || l.replicated[stream]:
		m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(l.ends[stream], 10)}
	default:
		m.Header[jetstream.ExpectedLastMsgIDHeader] = []string{l.sent[stream]}
	}
	// The stream would refuse it, and also the items sent after it.
	if most := l.sizes[stream]; most > 0 && sizeOf(m) > most {
		return nil, tooLarge
	}

	future, err := l.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
	if err != nil {
		return nil, l.explain(err)
	}
	l.sent[stream] = id
	l.ends[stream]++
	l.onWay.Add(int64(item.size()))
	return natsSending{l, future, item, stream}, nil
}

// sizeOf returns the size of a message as a stream counts it.
func sizeOf(m *nats.Msg) int {
	n := len("NATS/1.0\r\n\r\n") + len(m.Data)
	for key, values := range m.Header {
		n += len(key) + len(": \r\n") + len(values[0])
	}
	return n
}

type natsSending struct {
	link   *natsLink
	future jetstream.PubAckFuture
	item   Item
	stream string
}

// Wait implements Sending. A stream's leader that dies takes the messages with it that its
// followers do not have, and they are never answered. The hub has received all messages when it
// answers a question that was sent after them.
func (s natsSending) Wait(ctx context.Context) (repeated bool, err error) {
	size := int64(s.item.size())
	deadline := time.Now().Add(ackTimeout + takes(size))
	timer := time.NewTimer(askEvery + takes(size))
	defer timer.Stop()

	for last, received := uint64(0), s.link.received.Load(); ; {
		select {
		case ack := <-s.future.Ok():
			s.link.onWay.Add(-size)
			s.link.note(s.item.Subject, ack.Sequence)
			s.link.mu.Lock()
			s.link.stored[s.stream] = ack.Sequence
			s.link.mu.Unlock()
			return ack.Duplicate, nil
		case err := <-s.future.Err():
			s.link.onWay.Add(-size)
			return false, s.refused(err)
		case <-s.link.life.Done():
			return false, s.link.explain(s.link.why)
		case <-ctx.Done():
			return false, ctx.Err()
		case <-timer.C:
		}

		if now := s.link.received.Load(); takes(now-received) >= askEvery {
			deadline = deadline.Add(takes(now - received)) // an answer to another question is on its way
			received = now
		}
		if time.Now().After(deadline) {
			return false, fmt.Errorf("the hub has not confirmed an item for %s", ackTimeout)
		}
		before := last
		if last = s.link.lastSequence(ctx, s.stream); last == before && last > 0 {
			return false, errors.New("the stream stores nothing of what was sent: asking again which items it has")
		}
		timer.Reset(askEvery)
	}
}

// refused explains why the hub has not stored the item.
func (s natsSending) refused(err error) error {
	if api := new(jetstream.APIError); errors.As(err, &api) && (api.ErrorCode == codeWrongLastSeq || api.ErrorCode == codeWrongLastID) {
		s.link.mu.Lock()
		defer s.link.mu.Unlock()
		return s.link.hub.conflict(s.stream, s.link.stored[s.stream]+1)
	}
	return s.link.explain(err)
}

// lastSequence returns that of a stream's last message, or 0 if the stream is empty or does not
// answer, as during the election of a leader.
func (l *natsLink) lastSequence(ctx context.Context, stream string) uint64 {
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	s, err := l.js.Stream(ctx, stream)
	if err != nil {
		return 0
	}
	return s.CachedInfo().State.LastSeq
}

// Error codes of JetStream: nats-server's server/jetstream_errors_generated.go.
const (
	codeTooLarge       = 10054
	codeStreamFailed   = 10077 // the stream is full or cannot be written
	codeWrongLastID    = 10070
	codeWrongLastSeq   = 10071
	codeWrongStream    = 10060
	codeStreamNotFound = 10059
)

var tooLarge = Refusal{"it is larger than max_msg_size of the stream"}

// explain explains an error. If no attempt would bring an item to the hub, the error is a Refusal.
func (l *natsLink) explain(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return Refusal{fmt.Sprintf("it is larger than the hub's max_payload (%d bytes)", l.conn.MaxPayload())}
	case errors.As(err, &api) && api.ErrorCode == codeTooLarge:
		return tooLarge
	case errors.As(err, &api) && api.ErrorCode == codeStreamFailed:
		return fmt.Errorf("the stream takes nothing more (%s): raise its limits, or remove messages", api.Description)
	case errors.As(err, &api) && (api.ErrorCode == codeWrongStream || api.ErrorCode == codeStreamNotFound):
		return fmt.Errorf("the stream %q does not have the subject (%s): see the keys stream and subject of the uplink", l.hub.opts.Stream, api.Description)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return errors.New("no stream of the hub answers: it has no JetStream, no stream with the subject, or no leader at the moment")
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("the hub's account lacks a right: %w", err)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected), errors.Is(err, jetstream.ErrConnectionClosed):
		if why := l.conn.LastError(); why != nil {
			return fmt.Errorf("the connection broke: %w", why)
		}
		return errors.New("the hub closed the connection")
	}

	return err
}
