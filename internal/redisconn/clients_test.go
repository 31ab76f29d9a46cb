package redisconn

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// answering serves one connection: HELLO is refused, and each other command gets
// reply.
func answering(t *testing.T, reply string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answer(conn, reply)
		}
	}()

	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func answer(conn net.Conn, reply string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}

		switch {
		case strings.HasPrefix(line, "hello"), strings.HasPrefix(line, "HELLO"):
			io.WriteString(conn, "-ERR unknown command\r\n")
		case strings.HasPrefix(line, "PING"), strings.HasPrefix(line, "ping"):
			io.WriteString(conn, "+PONG\r\n")
		case strings.HasPrefix(line, "llen"), strings.HasPrefix(line, "LLEN"):
			if _, err := io.WriteString(conn, reply); err != nil {
				return
			}
		}
	}
}

// go-redis allocates the length that a reply announces, and panics if it is too large.
func TestNoReplyMakesTheRedisLibraryPanicOrTakeMuchMemory(t *testing.T) {
	for _, reply := range []string{
		"$9223372036854775807\r\n", "$2000000000\r\n", "*9223372036854775807\r\n", "*2000000000\r\n", "$-5\r\n", "*-5\r\n",
		"%9223372036854775807\r\n", "~9\r\n", "=9\r\n", "\r\n", "\x00\r\n", strings.Repeat("*1\r\n", 100_000), ":" + strings.Repeat("1", 100_000) + "\r\n",
	} {
		o := Options{Address: answering(t, reply), Timeout: 5 * time.Second}
		client := o.client(o.Address)
		if n, err := client.LLen(t.Context(), "key").Result(); err == nil {
			t.Errorf("%.30q is taken for the length %d", reply, n)
		}
		client.Close()
	}
}

func TestGoodRepliesPassTheCheck(t *testing.T) {
	const raw = "+OK\r\n-ERR no\r\n:-7\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n$4\r\n*9\r\n\r\n*2\r\n*2\r\n$1\r\na\r\n:1\r\n*1\r\n*1\r\n*1\r\n+x\r\n"
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(raw), "byte wise": iotest.OneByteReader(strings.NewReader(raw)),
	} {
		c := newChecked(&scripted{Reader: r})
		got, err := io.ReadAll(c)
		if err != nil || string(got) != raw {
			t.Errorf("%s: %v after %d bytes", name, err, len(got))
		}
		if c.skip != 0 || len(c.left) != 0 || len(c.line) != 0 || c.room != maxReply {
			t.Errorf("%s: the check has lost its place: %+v", name, c)
		}
	}
}
