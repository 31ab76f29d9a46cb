package redis

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conn is a client.
type conn struct {
	tb   testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func newConn(tb testing.TB, c net.Conn) *conn { return &conn{tb, c, bufio.NewReader(c)} }

// dial connects to a simulated server.
func dial(tb testing.TB, r *Redis) *conn {
	here, there := pipe()
	r.Serve(there)
	return newConn(tb, here)
}

// send sends a command.
func (c *conn) send(words ...string) {
	if _, err := io.WriteString(c.conn, wire(words)); err != nil {
		c.tb.Helper()
		c.tb.Fatalf("send %.100q: %v", words, err)
	}
}

// receive returns a reply, byte for byte.
func (c *conn) receive() string {
	c.tb.Helper()
	var reply strings.Builder
	if err := readReply(c.in, &reply); err != nil {
		c.tb.Fatalf("receive: %v after %q", err, reply.String())
	}
	return reply.String()
}

// do returns the reply to a command.
func (c *conn) do(words ...string) string {
	c.tb.Helper()
	c.send(words...)
	return c.receive()
}

func readReply(in *bufio.Reader, reply *strings.Builder) error {
	line, err := in.ReadString('\n')
	reply.WriteString(line)
	if err != nil || len(line) < 3 {
		return err
	}
	n, _ := strconv.Atoi(line[1 : len(line)-2])
	switch line[0] {
	case '$':
		if n >= 0 {
			_, err = io.CopyN(reply, in, int64(n+2))
		}
	case '*':
		for range n {
			if err := readReply(in, reply); err != nil {
				return err
			}
		}
	}
	return err
}

// wire is a command as it is sent.
func wire(words []string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(word), word)
	}
	return out.String()
}
