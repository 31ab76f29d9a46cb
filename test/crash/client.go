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

// makeItem returns item n of a list: a checksum, the list, the number, and up to 255 arbitrary
// bytes.
func makeItem(list string, n int) []byte {
	random := rand.NewPCG(uint64(n), 0)
	text := fmt.Appendf(nil, "%s %d ", list, n)
	for range random.Uint64() % 32 {
		text = fmt.Appendf(text, "\r\n\x00%c\xff", rune(random.Uint64()%128))
	}
	return fmt.Appendf(nil, "%08x %s", crc32.ChecksumIEEE(text), text)
}

// readItem returns the number of an item of a list; ok is false if it is not one.
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

// client is a NATS client that records the items it gets. It records an item before it confirms it:
// before it answers a PING after the item, or before it acknowledges the item. When its connection
// ends it makes a new one.
type client struct {
	address string
	list    string
	ack     string // received, none, or explicit or durable: it acknowledges each item
	durable string // the name of its JetStream consumer, if ack is durable
	lags    bool   // reads slowly
	mark    atomic.Pointer[mark]
	ready   chan struct{} // closed when edged has its subscription
	last    chan struct{} // closed when the item with the highest number is recorded
	begins  sync.Once     // closes ready

	// Owned by run.
	times     []uint32 // how often each item was recorded
	twice     int
	disorder  int
	corrupted int
	refused   string // an -ERR
}

// mark is a point in the stream of a client, some items ahead.
type mark struct {
	left    int           // items to record before it is reached; owned by the client
	reached chan struct{} // closed by the client
	stalls  bool          // whether the client reads on only after resume
	resume  chan struct{} // closed by another goroutine
	dies    bool          // whether the connection ends then, with all unread bytes; set before resume is closed
	back    chan struct{} // closed by the client when it has subscribed again
	again   sync.Once     // closes back
}

func newMark(left int, stalls bool) *mark {
	return &mark{left: left, stalls: stalls, reached: make(chan struct{}), resume: make(chan struct{}), back: make(chan struct{})}
}

// newClient makes a client of a list that will have had items items.
func newClient(address, list string, items int, ack string) *client {
	return &client{
		address: address, list: list, ack: ack, durable: "steady", times: make([]uint32, items), ready: make(chan struct{}), last: make(chan struct{}),
	}
}

// newLagging makes a client that reads slowly.
func newLagging(address, list string, items int, ack string) *client {
	c := newClient(address, list, items, ack)
	c.durable, c.lags = "slow", true
	return c
}

// run takes items until ctx is done.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			time.Sleep(time.Millisecond) // the daemon is down
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
	errGarbled = errors.New("the server does not speak the NATS protocol")
	errDied    = errors.New("told to die")
)

// session takes items from one connection until it ends.
func (c *client) session(ctx context.Context, conn net.Conn) error {
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	c.subscribe(out)

	before, items := -1, 0 // before: number of the previous item
	for {
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return err // an incomplete line is ignored
		}
		op, rest, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), " ")
		switch op {
		case "INFO":
		case "PONG": // edged has the subscription
			c.begins.Do(func() { close(c.ready) })
			if m := c.mark.Load(); m != nil && m.left == 0 {
				m.again.Do(func() { close(m.back) })
			}
		case "PING":
			out.WriteString("PONG\r\n")
		case "-ERR":
			c.refused = rest
		case "HMSG": // the daemon drains, so it ends the requests for items
			if _, _, err := readMessage(in, rest); err != nil {
				return err
			}
		case "MSG":
			args, body, err := readMessage(in, rest)
			if err != nil {
				return err
			}
			if args[0] == c.inbox("created") {
				err = c.consume(out, body)
			} else {
				items++
				before = c.take(out, args, body, before)
				err = c.pass(ctx, out, items)
			}
			if err != nil {
				return err
			}
		default:
			return errGarbled
		}
	}
}

// readMessage splits a message's line into the subject, the sid, the reply if there is one, and the
// sizes, and reads its body to the end of the line.
func readMessage(in *bufio.Reader, line string) (args []string, body []byte, err error) {
	args = strings.Fields(line)
	if len(args) < 3 {
		return nil, nil, errGarbled
	}
	size, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return nil, nil, errGarbled
	}
	body = make([]byte, size+2)
	_, err = io.ReadFull(in, body)
	return args, body, err
}

// pull is the number of items that a client requests from its durable consumer at once.
const pull = 500

// inbox returns the client's own inbox, which also receives answers to requests of its other
// connections.
func (c *client) inbox(purpose string) string {
	return "_INBOX." + c.list + "." + c.durable + "." + purpose
}

// subscribe subscribes to the list, or ensures that there is the durable consumer. A PONG says that
// edged has it.
func (c *client) subscribe(out io.Writer) {
	fmt.Fprint(out, "CONNECT {\"verbose\":false,\"headers\":true,\"name\":\"crash\"}\r\n")
	if c.ack != "durable" {
		fmt.Fprintf(out, "SUB %s 1\r\nPING\r\n", c.list)
		return
	}
	config := fmt.Sprintf(`{"stream_name":%q,"config":{"durable_name":%q,"ack_policy":"explicit","ack_wait":2000000000}}`, c.list, c.durable)
	fmt.Fprintf(out, "SUB %s 1\r\n", c.inbox(">"))
	fmt.Fprintf(out, "PUB $JS.API.CONSUMER.CREATE.%s.%s %s %d\r\n%s\r\n", c.list, c.durable, c.inbox("created"), len(config), config)
}

// consume starts once the durable consumer exists. Two requests wait for items, so that one does
// while the other is renewed.
func (c *client) consume(out io.Writer, answer []byte) error {
	if bytes.Contains(answer, []byte(`"error"`)) {
		return fmt.Errorf("no consumer: %s", answer) // Redis or the daemon is not ready yet
	}
	c.pull(out)
	c.pull(out)
	fmt.Fprint(out, "PING\r\n")
	return nil
}

// pull requests items from the durable consumer.
func (c *client) pull(out io.Writer) {
	request := fmt.Sprintf(`{"batch":%d}`, pull)
	fmt.Fprintf(out, "PUB $JS.API.CONSUMER.MSG.NEXT.%s.%s %s %d\r\n%s\r\n", c.list, c.durable, c.inbox("items"), len(request), request)
}

// take records an item, and acknowledges it if the list requires that.
func (c *client) take(out io.Writer, args []string, body []byte, before int) int {
	again := false
	if len(args) == 4 {
		reply := strings.Split(args[2], ".") // $JS.ACK._.<epoch>.<list>.<consumer>.<deliveries>…
		again = len(reply) > 6 && reply[6] != "1"
	}
	before = c.record(body, args[0], before, again)
	if c.ack == "explicit" || c.ack == "durable" {
		fmt.Fprintf(out, "PUB %s 0\r\n\r\n", args[2])
	}
	return before
}

// record records an item and returns its number; before is the number of the previous item on this
// connection.
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

// pass requests more items if needed, counts an item off the mark, and stalls there if the mark
// says so. items is the number of items on this connection so far.
func (c *client) pass(ctx context.Context, out io.Writer, items int) error {
	if c.ack == "durable" && items%pull == 0 {
		c.pull(out)
	}
	if c.lags && items%20 == 0 {
		time.Sleep(time.Millisecond)
	}
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
