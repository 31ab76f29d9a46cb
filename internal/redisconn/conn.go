package redisconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"edged/internal/batch"
)

// Conn is one connection that speaks RESP2. Items are read into their final place, without a copy
// and without an allocation for each item.
//
// A round trip can be left open while the next one is sent: Later queues the function that receives
// its replies, and Settle calls those functions in order. After an error that is not a reply
// nothing more is sent or received. https://redis.io/docs/latest/develop/reference/protocol-spec/
type Conn struct {
	conn     net.Conn
	timeout  time.Duration
	progress func()    // called when a deadline is extended; may be nil
	deadline time.Time // of conn
	limit    time.Time // the deadline is not extended beyond it; zero: no limit
	came     int       // bytes sent or received since the deadline was extended

	waiting []func()      // receive the replies to commands in flight
	dead    error         // reason why the connection is no longer used
	out     []byte        // commands to send
	in      *batch.Memory // replies; Data[:kept] stays, Data[next:] is not parsed yet
	kept    int
	next    int
	rest    []byte       // replies of the next round trip that have arrived already
	own     batch.Memory // for replies that are not kept

	id     int64       // the client ID that Redis gave it; 0 before Redis 6
	closed atomic.Bool // the other side has closed it
	stop   func()      // ends the goroutine that sets closed
}

// Sink takes the items of a reply one by one.
type Sink interface {
	Begin(size int) (keep bool) // an item of size bytes follows
	Part(p []byte)              // a part of an item that is not kept
	End(s batch.Span)           // the item is complete; s is its place if it is kept
}

// Bounds of a reply. They are far above the replies that edged requests.
const (
	maxNumber = 1 << 30  // of items, and of bytes in an item; fits into an int of 32 bits
	maxLine   = 64 << 10 // bytes
	maxValue  = 1 << 20  // bytes of memory for a reply that Value reads
	maxNested = 4        // levels of nested arrays; HELLO's list of modules needs them all
	perValue  = 16       // bytes that count for each value in addition to its own
)

// progressBytes is the number of bytes that count as progress.
const progressBytes = 1 << 10

// NewConn makes a Conn on a new connection, with a timeout for progress. progress is called when a
// deadline is extended; it may be nil.
func NewConn(conn net.Conn, timeout time.Duration, progress func()) *Conn {
	return &Conn{conn: conn, timeout: timeout, progress: progress, stop: func() {}}
}

// used returns when the last command was sent, to within a quarter of the timeout.
func (c *Conn) used() time.Time { return c.deadline.Add(-c.timeout) }

// Close closes the connection.
func (c *Conn) Close() {
	c.stop()
	c.conn.Close()
}

// Command adds a command to those that Send sends. Its words are strings, bytes and integers.
func (c *Conn) Command(words ...any) {
	c.out = append(c.out, '*')
	c.out = strconv.AppendInt(c.out, int64(len(words)), 10)
	c.out = append(c.out, "\r\n"...)

	for _, word := range words {
		var digits [20]byte
		switch word := word.(type) {
		case string:
			c.out = appendBulk(c.out, word)
		case []byte:
			c.out = appendBulk(c.out, word)
		case int:
			c.out = appendBulk(c.out, strconv.AppendInt(digits[:0], int64(word), 10))
		case int64:
			c.out = appendBulk(c.out, strconv.AppendInt(digits[:0], word, 10))
		case uint64:
			c.out = appendBulk(c.out, strconv.AppendUint(digits[:0], word, 10))
		default:
			panic(fmt.Sprintf("redisconn: a %T in a command", word))
		}
	}
}

// Repeat adds a command n times.
func (c *Conn) Repeat(n int, words ...any) {
	begin := len(c.out)
	c.Command(words...)
	one := c.out[begin:]
	for range n - 1 {
		c.out = append(c.out, one...)
	}
}

func appendBulk[T string | []byte](out []byte, word T) []byte {
	out = append(out, '$')
	out = strconv.AppendInt(out, int64(len(word)), 10)
	out = append(out, "\r\n"...)
	out = append(out, word...)
	return append(out, "\r\n"...)
}

// Send sends the commands. From now on the timeout bounds each pause in progress, and the deadline
// of ctx bounds the whole.
func (c *Conn) Send(ctx context.Context) error {
	defer func() { c.out = c.out[:0] }()
	if c.dead != nil {
		return c.dead
	}

	now := time.Now()
	var bounded bool
	// Setting a deadline is not cheap: the last one is kept while most of its time is left.
	if c.limit, bounded = ctx.Deadline(); bounded || c.deadline.Sub(now) < c.timeout*3/4 {
		c.dead = c.putOff(now)
	}
	for out := c.out; len(out) > 0 && c.dead == nil; {
		var n int
		n, c.dead = c.conn.Write(out[:min(len(out), writeSize)])
		if out = out[n:]; len(out) > 0 {
			c.moved(n)
		}
	}
	return c.dead
}

// writeSize is the number of bytes written between two checks of the deadline.
const writeSize = 16 << 10

// putOff extends the deadline.
func (c *Conn) putOff(now time.Time) error {
	c.came = 0
	c.deadline = now.Add(c.timeout)
	if !c.limit.IsZero() && c.limit.Before(c.deadline) {
		c.deadline = c.limit
	}
	return c.conn.SetDeadline(c.deadline)
}

// moved notes that n bytes were sent or received.
func (c *Conn) moved(n int) {
	if c.came += n; c.came < progressBytes {
		return
	}
	now := time.Now()
	if c.deadline.Sub(now) >= c.timeout/2 {
		return
	}
	c.putOff(now) // the next call meets its error
	if c.progress != nil {
		c.progress()
	}
}

// Receive begins to read the replies. Items that are kept are stored in m; nil keeps none.
func (c *Conn) Receive(m *batch.Memory) {
	if m == nil {
		m = &c.own
	}
	m.Data = append(m.Data[:0], c.rest...)
	c.in, c.kept, c.next, c.rest = m, 0, 0, c.rest[:0]
}

// Later leaves the replies to the commands sent so far to receive, which must call Receive and
// Finish.
func (c *Conn) Later(receive func()) { c.waiting = append(c.waiting, receive) }

// settle receives the open round trips, the oldest first, until at most left remain.
func (c *Conn) settle(left int) {
	for len(c.waiting) > left {
		receive := c.waiting[0]
		c.waiting = slices.Delete(c.waiting, 0, 1)
		if now := time.Now(); now.After(c.deadline) { // edged waited for another server; the reply may be there
			c.putOff(now)
		}
		receive()
	}
}

// Finish is called when all replies are read, with the error of the last one. It fails if the
// connection must not be used any more.
func (c *Conn) Finish(err error) error {
	c.rest = append(c.rest, c.in.Data[c.next:]...)
	c.in.Data = c.in.Data[:c.kept]
	c.in = nil
	if c.dead == nil {
		c.dead = Broken(err)
	}
	if c.dead == nil && len(c.rest) > 0 && len(c.waiting) == 0 {
		c.dead = fmt.Errorf("%w: %d bytes more than expected", errReply, len(c.rest))
	}
	return c.dead
}

// Do sends one command and returns its reply. No round trip may be open.
func (c *Conn) Do(ctx context.Context, words ...any) (any, error) {
	return c.DoWithin(ctx, maxValue, words...)
}

// DoWithin is Do for a reply that may take most bytes in memory.
func (c *Conn) DoWithin(ctx context.Context, most int, words ...any) (any, error) {
	c.out = c.out[:0]
	c.Command(words...)
	if err := c.Send(ctx); err != nil {
		return nil, err
	}
	c.Receive(nil)
	reply, err := c.ValueWithin(most)
	if dead := c.Finish(err); dead != nil {
		return nil, dead
	}
	return reply, err
}

// lastWords returns the error reply that Redis sent before it closed the connection, or err if
// there is none. It is for a new connection on which a command could not be sent.
func (c *Conn) lastWords(err error) error {
	c.dead = nil
	c.Receive(nil)
	_, reply := c.Value()
	c.Finish(err)
	if IsReply(reply) {
		return reply
	}
	if ClosedByPeer(err) {
		return greetingError{err}
	}
	return err
}

// more reads until n unparsed bytes are available.
func (c *Conn) more(n int) error {
	if c.dead != nil {
		return c.dead
	}

	m := c.in
	for len(m.Data)-c.next < n {
		if c.next > c.kept && cap(m.Data)-c.next < n {
			m.Data = m.Data[:c.kept+copy(m.Data[c.kept:], m.Data[c.next:])]
			c.next = c.kept
		}
		if c.next+n > cap(m.Data) {
			m.Grow(c.next + n - len(m.Data))
		}
		k, err := c.conn.Read(m.Data[len(m.Data):cap(m.Data)])
		m.Data = m.Data[:len(m.Data)+k]
		if err != nil && len(m.Data)-c.next < n {
			if ClosedByPeer(err) {
				err = fmt.Errorf("%w: %w", errMidway, err)
			}
			return err
		}
		c.moved(k)
	}

	return nil
}

// line reads a line; it is valid until the next call of more.
func (c *Conn) line() ([]byte, error) {
	for looked := 0; ; {
		rest := c.in.Data[c.next:]
		if i := bytes.IndexByte(rest[looked:], '\n') + looked; i >= looked {
			c.next += i + 1
			if i == 0 || i > maxLine || rest[i-1] != '\r' {
				return nil, errReply
			}
			return rest[:i-1], nil
		}

		if looked = len(rest); looked > maxLine {
			return nil, fmt.Errorf("%w: a line without an end", errReply)
		}
		if err := c.more(looked + 1); err != nil {
			return nil, err
		}
	}
}

// header reads the number in a line that begins with kind; it is -1 for nil.
func (c *Conn) header(kind byte) (int, error) {
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	if len(line) > 0 && line[0] == '-' {
		return 0, Reply(line[1:])
	}
	if len(line) < 2 || line[0] != kind {
		return 0, errReply
	}
	n, ok := length(line[1:])
	if !ok {
		return 0, errReply
	}
	return n, nil
}

// length parses the number of bytes or elements in a header: -1, or up to
// maxNumber.
func length(digits []byte) (n int, ok bool) {
	if string(digits) == "-1" {
		return -1, true
	}
	for _, digit := range digits {
		if digit < '0' || digit > '9' || n > maxNumber/10 {
			return 0, false
		}
		n = 10*n + int(digit-'0')
	}
	return n, len(digits) > 0
}

// Items reads an array of at most most items.
func (c *Conn) Items(sink Sink, most int) error {
	n, err := c.header('*')
	if err != nil {
		return err
	}
	if n > most {
		return fmt.Errorf("%w: %d items instead of at most %d", errReply, n, most)
	}

	for range n {
		there, err := c.Item(sink)
		if err := Broken(err); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%w: an item is missing", errReply)
		}
	}
	return nil
}

// Item reads an item, unless the reply says that there is none.
func (c *Conn) Item(sink Sink) (there bool, err error) {
	size, err := c.header('$')
	if err != nil || size < 0 {
		return false, err
	}

	if sink.Begin(size) {
		if err := c.more(size + 2); err != nil {
			return false, err
		}
		span := batch.Span{From: int32(c.next), To: int32(c.next + size)}
		c.next += size + 2
		c.kept = c.next
		sink.End(span)
		return true, nil
	}

	for left := size; left > 0; {
		if err := c.more(1); err != nil {
			return false, err
		}
		p := c.in.Data[c.next:]
		p = p[:min(left, len(p))]
		sink.Part(p)
		c.next += len(p)
		left -= len(p)
	}

	if err := c.more(2); err != nil {
		return false, err
	}
	c.next += 2
	sink.End(batch.Span{})
	return true, nil
}

// Answer is a script's result, or the error reply in its place.
type Answer struct {
	Value any
	Err   error
}

// Around reads all replies to a script, a list of at most most items, and the script once more.
func (c *Conn) Around(sink Sink, most int) (before, after Answer, _ error) {
	before.Value, before.Err = c.Value()
	if err := Broken(before.Err); err != nil {
		return before, after, c.Finish(err)
	}
	listErr := c.Items(sink, most)
	if err := Broken(listErr); err != nil {
		return before, after, c.Finish(err)
	}
	after.Value, after.Err = c.Value()
	if err := c.Finish(after.Err); err != nil {
		return before, after, err
	}
	return before, after, listErr
}

// Value reads any other reply: a string, an int64, nil, or a []any of values. It
// takes at most 1 MiB.
func (c *Conn) Value() (any, error) { return c.ValueWithin(maxValue) }

// ValueWithin is Value for replies that may take most bytes in memory.
func (c *Conn) ValueWithin(most int) (any, error) { return c.value(maxNested, &most) }

// value reads a reply with at most levels levels of arrays and room bytes.
func (c *Conn) value(levels int, room *int) (any, error) {
	if err := c.more(1); err != nil {
		return nil, err
	}
	if c.in.Data[c.next] != '*' {
		return c.scalar(room)
	}
	n, err := c.header('*')
	if err != nil || n <= 0 {
		return []any(nil), err
	}

	if *room -= n * perValue; *room < 0 || levels == 0 {
		return nil, fmt.Errorf("%w: an array of %d elements, %d levels deep", errReply, n, maxNested-levels+1)
	}
	all := make([]any, n)
	for i := range all {
		if all[i], err = c.value(levels-1, room); IsReply(err) {
			return nil, fmt.Errorf("%w: an error inside an array: %v", errReply, err)
		} else if err != nil {
			return nil, err
		}
	}

	return all, nil
}

func (c *Conn) scalar(room *int) (any, error) {
	if c.in.Data[c.next] == '$' {
		n, err := c.header('$')
		if err != nil || n < 0 {
			return nil, err
		}
		if *room -= n; *room < 0 {
			return nil, fmt.Errorf("%w: a string of %d bytes", errReply, n)
		}
		if err := c.more(n + 2); err != nil {
			return nil, err
		}
		s := string(c.in.Data[c.next : c.next+n])
		c.next += n + 2
		return s, nil
	}

	line, err := c.line()
	switch {
	case err != nil:
		return nil, err
	case len(line) > 0 && line[0] == '+':
		return string(line[1:]), nil
	case len(line) > 0 && line[0] == '-':
		return nil, Reply(line[1:])
	case len(line) > 0 && line[0] == ':':
		n, err := strconv.ParseInt(string(line[1:]), 10, 64)
		if err == nil {
			return n, nil
		}
	}

	return nil, errReply
}

// errReply is the error of a reply that breaks the protocol or its bounds.
var errReply = errors.New("unexpected reply from Redis")
