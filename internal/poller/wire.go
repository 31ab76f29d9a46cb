package poller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"edged/internal/batch"
)

// wire speaks RESP on a connection that go-redis has made, for what happens once
// a batch: items are read to where they stay, without a copy and without an
// allocation an item, which go-redis can't. All else is go-redis's, between round
// trips: see connection.settle.
//
// A round trip can be left under way while the next one is sent: each has its
// receive in waiting, and they are received in the order in which they were sent.
// After an error that is no reply of Redis nothing more is sent nor received.
// https://redis.io/docs/latest/develop/reference/protocol-spec/
type wire struct {
	conn     net.Conn
	timeout  time.Duration
	deadline time.Time     // that the connection has
	waiting  []func()      // receive what was sent
	dead     error         // why it is not used any more
	out      []byte        // commands to send
	in       *batch.Memory // what has come; Data[:kept] stays there, Data[next:] was not looked at yet
	kept     int
	next     int
	rest     []byte       // of the next round trip's replies, that has come already
	own      batch.Memory // for replies that nothing is kept of
}

// itemSink takes the items of a reply one after the other.
type itemSink interface {
	begin(size int) (keep bool) // an item of size bytes follows
	part(p []byte)              // a part of one that is not kept
	end(s batch.Span)           // the item is whole; s is where it stands, if it is kept
}

var errReply = errors.New("unexpected reply from Redis")

// serverError is an error reply of Redis.
type serverError string

func (e serverError) Error() string { return string(e) }

// RedisError marks it as a reply for go-redis.
func (e serverError) RedisError() {}

// command adds a command to those that send sends. Its words are strings, bytes
// and integers.
func (w *wire) command(words ...any) {
	w.out = append(w.out, '*')
	w.out = strconv.AppendInt(w.out, int64(len(words)), 10)
	w.out = append(w.out, "\r\n"...)
	for _, word := range words {
		var digits [20]byte
		switch word := word.(type) {
		case string:
			w.out = appendBulk(w.out, word)
		case []byte:
			w.out = appendBulk(w.out, word)
		case int:
			w.out = appendBulk(w.out, strconv.AppendInt(digits[:0], int64(word), 10))
		case int64:
			w.out = appendBulk(w.out, strconv.AppendInt(digits[:0], word, 10))
		case uint64:
			w.out = appendBulk(w.out, strconv.AppendUint(digits[:0], word, 10))
		default:
			panic(fmt.Sprintf("poller: a %T in a command", word))
		}
	}
}

func appendBulk[T string | []byte](out []byte, word T) []byte {
	out = append(out, '$')
	out = strconv.AppendInt(out, int64(len(word)), 10)
	out = append(out, "\r\n"...)
	out = append(out, word...)
	return append(out, "\r\n"...)
}

// send sends the commands. Send and the replies have the timeout together, or up to
// a quarter less; replies that nobody has waited for until then have it once more.
func (w *wire) send(ctx context.Context) error {
	if w.dead != nil {
		return w.dead
	}
	now := time.Now()
	deadline := now.Add(w.timeout)
	end, ends := ctx.Deadline()
	if ends && end.Before(deadline) {
		deadline = end
	}
	// Deadlines are not cheap: the last one serves while most of the time is left.
	if ends || w.deadline.Sub(now) < w.timeout*3/4 {
		w.deadline = deadline
		w.dead = w.conn.SetDeadline(deadline)
	}
	if w.dead == nil {
		_, w.dead = w.conn.Write(w.out)
	}
	w.out = w.out[:0]
	return w.dead
}

// receive begins to read the replies. What is kept of them will stand in m; nil
// keeps nothing.
func (w *wire) receive(m *batch.Memory) {
	if m == nil {
		m = &w.own
	}
	m.Data = append(m.Data[:0], w.rest...)
	w.in, w.kept, w.next, w.rest = m, 0, 0, w.rest[:0]
}

// settle receives what is under way, the oldest first, until no more than left is.
func (w *wire) settle(left int) {
	for len(w.waiting) > left {
		receive := w.waiting[0]
		w.waiting = slices.Delete(w.waiting, 0, 1)
		if now := time.Now(); now.After(w.deadline) { // another server was waited for; the reply may be there
			w.deadline = now.Add(w.timeout)
			w.conn.SetDeadline(w.deadline)
		}
		receive()
	}
}

// broken returns err unless it is a reply.
func broken(err error) error {
	if _, ok := err.(serverError); ok {
		return nil
	}
	return err
}

// finish is called when all replies were read, with the error of the last one. It
// fails where the connection is not to be used any more.
func (w *wire) finish(err error) error {
	w.rest = append(w.rest, w.in.Data[w.next:]...)
	w.in.Data = w.in.Data[:w.kept]
	w.in = nil
	if w.dead == nil {
		w.dead = broken(err)
	}
	if w.dead == nil && len(w.rest) > 0 && len(w.waiting) == 0 {
		w.dead = fmt.Errorf("%w: %d bytes more than there should be", errReply, len(w.rest))
	}
	return w.dead
}

// more reads until n bytes are there that were not looked at.
func (w *wire) more(n int) error {
	if w.dead != nil {
		return w.dead
	}
	m := w.in
	for len(m.Data)-w.next < n {
		if w.next > w.kept && cap(m.Data)-w.next < n {
			m.Data = m.Data[:w.kept+copy(m.Data[w.kept:], m.Data[w.next:])]
			w.next = w.kept
		}
		if w.next+n > cap(m.Data) {
			m.Grow(w.next + n - len(m.Data))
		}
		k, err := w.conn.Read(m.Data[len(m.Data):cap(m.Data)])
		m.Data = m.Data[:len(m.Data)+k]
		if err != nil && len(m.Data)-w.next < n {
			return err
		}
	}
	return nil
}

// longestLine bounds what is read in search of the end of a line.
const longestLine = 64 << 10

// line reads a line; it is valid until the next call of more.
func (w *wire) line() ([]byte, error) {
	for looked := 0; ; {
		rest := w.in.Data[w.next:]
		if i := bytes.IndexByte(rest[looked:], '\n') + looked; i >= looked {
			w.next += i + 1
			if i == 0 || rest[i-1] != '\r' {
				return nil, errReply
			}
			return rest[:i-1], nil
		}
		if looked = len(rest); looked > longestLine {
			return nil, errReply
		}
		if err := w.more(looked + 1); err != nil {
			return nil, err
		}
	}
}

// mostNumber bounds the numbers of items and bytes in a reply; an int of 32 bits
// has room for them.
const mostNumber = 1 << 30

// header reads the number in a line that begins with kind; it is -1 for nil.
func (w *wire) header(kind byte) (int, error) {
	line, err := w.line()
	if err != nil {
		return 0, err
	}
	if len(line) > 0 && line[0] == '-' {
		return 0, serverError(line[1:])
	}
	if len(line) < 2 || line[0] != kind {
		return 0, errReply
	}
	n := 0
	for _, digit := range line[1:] {
		if digit < '0' || digit > '9' || n > mostNumber/10 {
			if string(line[1:]) == "-1" {
				return -1, nil
			}
			return 0, errReply
		}
		n = 10*n + int(digit-'0')
	}
	return n, nil
}

// items reads an array of items.
func (w *wire) items(sink itemSink) error {
	n, err := w.header('*')
	if err != nil {
		return err
	}
	for range n {
		there, err := w.item(sink)
		if err := broken(err); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%w: an item is missing", errReply)
		}
	}
	return nil
}

// answer is what a script returned, or the error that Redis replied with.
type answer struct {
	value any
	err   error
}

// around reads all replies to a script, a list, and the script once more.
func (w *wire) around(sink itemSink) (before, after answer, _ error) {
	before.value, before.err = w.value()
	if err := broken(before.err); err != nil {
		return before, after, err
	}
	listErr := w.items(sink)
	if err := broken(listErr); err != nil {
		return before, after, err
	}
	after.value, after.err = w.value()
	if err := w.finish(after.err); err != nil {
		return before, after, err
	}
	return before, after, listErr
}

// item reads an item, unless the reply says that there is none.
func (w *wire) item(sink itemSink) (there bool, err error) {
	size, err := w.header('$')
	if err != nil || size < 0 {
		return false, err
	}
	if sink.begin(size) {
		if err := w.more(size + 2); err != nil {
			return false, err
		}
		span := batch.Span{From: int32(w.next), To: int32(w.next + size)}
		w.next += size + 2
		w.kept = w.next
		sink.end(span)
		return true, nil
	}
	for left := size; left > 0; {
		if err := w.more(1); err != nil {
			return false, err
		}
		p := w.in.Data[w.next:]
		p = p[:min(left, len(p))]
		sink.part(p)
		w.next += len(p)
		left -= len(p)
	}
	if err := w.more(2); err != nil {
		return false, err
	}
	w.next += 2
	sink.end(batch.Span{})
	return true, nil
}

// value reads any other reply: a string, an int64, nil, or a []any of values.
func (w *wire) value() (any, error) { return w.nested(3) }

// nested is value, with arrays in as many levels at most.
func (w *wire) nested(levels int) (any, error) {
	if err := w.more(1); err != nil {
		return nil, err
	}
	if w.in.Data[w.next] != '*' || levels == 0 {
		return w.scalar()
	}
	n, err := w.header('*')
	var all []any
	for range n {
		v, err := w.nested(levels - 1)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, err
}

func (w *wire) scalar() (any, error) {
	if err := w.more(1); err != nil {
		return nil, err
	}
	if w.in.Data[w.next] == '$' {
		n, err := w.header('$')
		if err != nil || n < 0 {
			return nil, err
		}
		if err := w.more(n + 2); err != nil {
			return nil, err
		}
		s := string(w.in.Data[w.next : w.next+n])
		w.next += n + 2
		return s, nil
	}
	line, err := w.line()
	switch {
	case err != nil:
		return nil, err
	case len(line) > 0 && line[0] == '+':
		return string(line[1:]), nil
	case len(line) > 0 && line[0] == '-':
		return nil, serverError(line[1:])
	case len(line) > 0 && line[0] == ':':
		n, err := strconv.ParseInt(string(line[1:]), 10, 64)
		if err == nil {
			return n, nil
		}
	}
	return nil, errReply
}
