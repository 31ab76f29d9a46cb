package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// client is a NATS client that counts the messages it receives, and answers PING as every NATS
// client does. It is as cheap as possible, so that it is not the bottleneck: it reads as much as is
// available, and parses only headers that differ from the previous one. It belongs to one
// goroutine.
type client struct {
	net.Conn
	unwatch      func() bool
	acknowledges bool         // each message, by an empty PUB to its reply subject
	message      func([]byte) // gets the payload of each message, if not nil
	refuses      []byte       // payloads with this prefix get -NAK instead of an acknowledgement

	got     int  // messages
	refused int  // the messages with -NAK
	pongs   int  // answers to PINGs of this client
	leave   bool // the server has announced its end

	buf  []byte
	held int    // bytes of an incomplete frame at the start of buf
	skip int    // bytes of the current message that are still missing
	out  []byte // to be written when all bytes read are handled

	header []byte // of the previous message; an equal header means an equal size
	body   int    // its payload and CR LF
}

// bigBuffer suits a few clients; for a thousand, smallBuffer is enough.
const (
	bigBuffer   = 1 << 20
	smallBuffer = 64 << 10
)

// dial connects, and returns when the server has handled lines, which are lines of the protocol.
// When ctx is done the connection is closed.
func dial(ctx context.Context, address string, buffer int, lines ...string) (*client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn, buf: make([]byte, buffer)}
	c.unwatch = context.AfterFunc(ctx, func() { conn.Close() })
	lines = append([]string{`CONNECT {"verbose":false,"protocol":1,"name":"bench"}`}, lines...)
	if err := c.sync(lines...); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close closes the connection.
func (c *client) Close() error {
	c.unwatch()
	return c.Conn.Close()
}

// subscriptions returns the lines that subscribe to all lists.
func subscriptions() (lines []string) {
	for i, list := range lists {
		lines = append(lines, fmt.Sprintf("SUB %s %d", list, i+1))
	}
	return lines
}

// sync sends lines, and returns when the server has handled them.
func (c *client) sync(lines ...string) error {
	pongs := c.pongs
	if _, err := c.Write([]byte(strings.Join(append(lines, "PING"), "\r\n") + "\r\n")); err != nil {
		return err
	}
	for c.pongs == pongs {
		if err := c.read(); err != nil {
			return err
		}
	}
	return nil
}

// receive returns when n messages have come since the start.
func (c *client) receive(n int) error {
	for c.got < n {
		if err := c.read(); err != nil {
			return fmt.Errorf("message %d of %d: %w", c.got+1, n, err)
		}
	}
	return nil
}

// read reads once from the connection, and handles all frames.
func (c *client) read() error {
	n, err := c.Read(c.buf[c.held:])
	if err != nil {
		return err
	}
	rest, err := c.consume(c.buf[:c.held+n])
	if err != nil {
		return err
	}

	if c.held = copy(c.buf, rest); c.held == len(c.buf) {
		return errors.New("a line of the protocol is larger than the client's buffer")
	}
	if len(c.out) > 0 {
		_, err = c.Write(c.out)
		c.out = c.out[:0]
	}
	return err
}

// consume handles the frames in b, and returns the beginning of an incomplete one.
func (c *client) consume(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(b))
			if b, c.skip = b[n:], c.skip-n; c.skip == 0 {
				c.got++
			}
			continue
		}
		if h := len(c.header); h > 0 && c.message == nil {
			for len(b) >= h+c.body && string(b[:h]) == string(c.header) {
				b = b[h+c.body:]
				c.got++
			}
		}
		end := bytes.IndexByte(b, '\n') + 1
		if end == 0 {
			return b, nil
		}
		line := b[:end]
		switch {
		case bytes.HasPrefix(line, []byte("MSG ")):
			n, err := c.msg(line, b[end:])
			if err != nil || n < 0 {
				return b, err
			}
			b = b[end+n:]
			continue
		case bytes.HasPrefix(line, []byte("PING")):
			c.out = append(c.out, "PONG\r\n"...)
		case bytes.HasPrefix(line, []byte("PONG")):
			c.pongs++
		case bytes.HasPrefix(line, []byte("INFO ")):
			c.leave = c.leave || bytes.Contains(line, []byte(`"ldm":true`))
		default:
			return nil, fmt.Errorf("the server says %.80q", line)
		}
		b = b[end:]
	}

	return nil, nil
}

// answer returns the end of the PUB that acknowledges a message.
func (c *client) answer(body []byte) string {
	if c.refuses == nil || !bytes.HasPrefix(body, c.refuses) {
		return " 0\r\n\r\n"
	}
	c.refused++
	return " 4\r\n-NAK\r\n"
}

// crawl reads items at no more than a rate, until ctx is done.
func (c *client) crawl(ctx context.Context, rate float64) error {
	begin, before := time.Now(), c.got
	for {
		if err := c.read(); err != nil {
			return err
		}
		took := float64(c.got-before) / rate
		if err := pause(ctx, time.Until(begin.Add(time.Duration(took*float64(time.Second))))); err != nil {
			return err
		}
	}
}

// msg handles a message whose header line is complete, and returns how many of the bytes after it
// belong to it. It returns -1 if more must arrive first.
func (c *client) msg(line, body []byte) (n int, err error) {
	line = line[:len(line)-2]
	i := bytes.LastIndexByte(line, ' ')
	size, err := strconv.Atoi(string(line[i+1:]))
	if err != nil || size < 0 {
		return 0, fmt.Errorf("the server says %.80q", line)
	}
	size += 2
	if c.message != nil {
		if len(body) < size {
			return -1, nil
		}
		c.message(body[:size-2])
	}

	if c.refuses != nil && len(body) < size {
		return -1, nil
	}

	if c.acknowledges {
		line = line[:i]
		c.out = append(c.out, "PUB "...)
		c.out = append(c.out, line[bytes.LastIndexByte(line, ' ')+1:]...)
		c.out = append(c.out, c.answer(body)...)
	}

	if c.message == nil && !c.acknowledges {
		c.header, c.body = append(append(c.header[:0], line...), '\r', '\n'), size
	}
	if len(body) < size {
		c.skip = size - len(body)
		return len(body), nil
	}
	c.got++
	return size, nil
}
