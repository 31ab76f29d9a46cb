package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// makeItem is item n of a list: a checksum, the list, the number, and up to 255
// bytes of anything.
func makeItem(list string, n int) []byte {
	random := rand.NewPCG(uint64(n), 0)
	text := fmt.Appendf(nil, "%s %d ", list, n)
	for range random.Uint64() % 32 {
		text = fmt.Appendf(text, "\r\n\x00%c\xff", rune(random.Uint64()%128))
	}
	return fmt.Appendf(nil, "%08x %s", crc32.ChecksumIEEE(text), text)
}

// readItem returns the number of an item of a list, or false if it is none.
func readItem(list string, item []byte) (n int, ok bool) {
	sum, text, _ := bytes.Cut(item, []byte(" "))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || len(sum) != 8 || uint32(want) != crc32.ChecksumIEEE(text) {
		return 0, false
	}
	name, text, _ := bytes.Cut(text, []byte(" "))
	number, _, _ := bytes.Cut(text, []byte(" "))
	n, err = strconv.Atoi(string(number))
	return n, err == nil && string(name) == list
}

// client is a NATS client that keeps account of what it gets. It records an item
// before it confirms it: before it answers a PING that came behind, or before it
// acknowledges it. When its connection ends it makes another.
type client struct {
	address  string
	list     string
	explicit bool // acknowledges each item
	lags     bool // reads slowly
	mark     atomic.Pointer[mark]
	last     chan struct{} // closed when the item with the highest number is recorded

	// Owned by run.
	times     []uint32 // how often each item was recorded
	twice     int
	disorder  int
	corrupted int
	refused   string // an -ERR
}

// mark is a place in the stream of a client, some items further on.
type mark struct {
	left    int           // items to record before it; owned by the client
	reached chan struct{} // closed by the client
	stalls  bool          // whether the client reads on only after resume
	resume  chan struct{} // closed by others
	dies    bool          // whether the connection ends then, and all that is unread with it; set before resume is closed
	back    chan struct{} // closed by the client when it has subscribed again
	again   sync.Once     // closes back
}

func newMark(left int, stalls bool) *mark {
	return &mark{left: left, stalls: stalls, reached: make(chan struct{}), resume: make(chan struct{}), back: make(chan struct{})}
}

// newClient makes a client of a list that will have had items items.
func newClient(address, list string, items int, explicit bool) *client {
	return &client{address: address, list: list, explicit: explicit, times: make([]uint32, items), last: make(chan struct{})}
}

// run takes items until ctx is done.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			time.Sleep(time.Millisecond) // the daemon is away
			continue
		}
		unwatch := context.AfterFunc(ctx, func() { conn.Close() })
		if err := c.session(ctx, conn); errors.Is(err, errGarbled) {
			c.corrupted++
		}
		unwatch()
		conn.Close()
	}
}

var (
	errGarbled = errors.New("what came is not the NATS protocol")
	errDied    = errors.New("told to die")
)

// session takes items from one connection until it ends.
func (c *client) session(ctx context.Context, conn net.Conn) error {
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	fmt.Fprintf(out, "CONNECT {\"verbose\":false,\"name\":\"crash\"}\r\nSUB %s 1\r\nPING\r\n", c.list)
	before, items := -1, 0 // before: number of the item before
	for {
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return err // a line cut off is no line
		}
		op, rest, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), " ")
		switch op {
		case "INFO":
		case "PONG": // edged has the subscription
			if m := c.mark.Load(); m != nil && m.left == 0 {
				m.again.Do(func() { close(m.back) })
			}
		case "PING":
			out.WriteString("PONG\r\n")
		case "-ERR":
			c.refused = rest
		case "MSG":
			args := strings.Fields(rest) // subject, sid, reply where there is one, size
			size, err := strconv.Atoi(args[len(args)-1])
			if err != nil || len(args) < 3 {
				return errGarbled
			}
			item := make([]byte, size+2)
			if _, err := io.ReadFull(in, item); err != nil {
				return err
			}
			again := false
			if len(args) == 4 {
				reply := strings.Split(args[2], ".") // $JS.ACK._.<epoch>.<list>.edged.<deliveries>…
				again = len(reply) > 6 && reply[6] != "1"
			}
			before = c.record(item, args[0], before, again)
			if c.explicit {
				fmt.Fprintf(out, "PUB %s 0\r\n\r\n", args[2])
			}
			if items++; c.lags && items%20 == 0 {
				time.Sleep(time.Millisecond)
			}
			if err := c.pass(ctx); err != nil {
				return err
			}
		default:
			return errGarbled
		}
	}
}

// record notes that an item came, before being the number of the one that came
// before it on this connection, and returns its number.
func (c *client) record(item []byte, subject string, before int, again bool) int {
	n, ok := readItem(c.list, bytes.TrimSuffix(item, []byte("\r\n")))
	if !ok || n < 0 || n >= len(c.times) || subject != c.list {
		c.corrupted++
		return before
	}
	if c.times[n] > 0 {
		c.twice++
	} else if n < before && !again {
		c.disorder++
	}
	if c.times[n]++; n == len(c.times)-1 && c.times[n] == 1 {
		close(c.last)
	}
	return n
}

// pass counts an item off the mark, and stalls there where the mark says so.
func (c *client) pass(ctx context.Context) error {
	m := c.mark.Load()
	if m == nil || m.left == 0 {
		return nil
	}
	if m.left--; m.left > 0 {
		return nil
	}
	close(m.reached)
	if !m.stalls {
		return nil
	}
	select {
	case <-m.resume:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.dies {
		return errDied
	}
	return nil
}
