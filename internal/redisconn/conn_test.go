package redisconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"edged/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a connection that yields the replies in Reader.
type scripted struct {
	net.Conn
	io.Reader
	sent bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)  { return s.Reader.Read(p) }
func (s *scripted) Write(p []byte) (int, error) { return s.sent.Write(p) }
func (s *scripted) SetDeadline(time.Time) error { return nil }

// reading returns a Conn that receives the replies in r.
func reading(r io.Reader) *Conn {
	c := NewConn(&scripted{Reader: r}, time.Minute, nil)
	c.Receive(nil)
	return c
}

// kept is a Sink that keeps items of up to most bytes.
type kept struct {
	c     *Conn
	most  int
	items []string
	sizes []int
}

func (k *kept) Begin(size int) bool { k.sizes = append(k.sizes, size); return size <= k.most }
func (k *kept) Part([]byte)         {}
func (k *kept) End(s batch.Span) {
	if s.To > 0 {
		k.items = append(k.items, string(k.c.in.Data[s.From:s.To]))
	}
}

func TestAnErrorReplyIsAnError(t *testing.T) {
	c := reading(strings.NewReader("-WRONGTYPE no list\r\n"))
	if err := c.Items(&kept{c: c}, 1); err != Reply("WRONGTYPE no list") || Broken(err) != nil {
		t.Errorf("%v", err)
	}
}

func TestItemsArriveHoweverTheReplyIsCut(t *testing.T) {
	const raw = "*3\r\n$1\r\na\r\n$4\r\n\r\n$3\r\n$0\r\n\r\n:7\r\n"
	for name, r := range map[string]io.Reader{
		"at once":   strings.NewReader(raw),
		"byte wise": iotest.OneByteReader(strings.NewReader(raw)),
		"with EOF":  iotest.DataErrReader(strings.NewReader(raw)),
	} {
		c := reading(r)
		k := &kept{c: c, most: 10}
		if err := c.Items(k, 3); err != nil || !slices.Equal(k.sizes, []int{1, 4, 0}) {
			t.Errorf("%s: %q, %v", name, k.items, err)
		}
		if v, err := c.Value(); v != int64(7) || c.Finish(err) != nil {
			t.Errorf("%s: %v and %v after the items", name, v, err)
		}
	}
}

func TestAReplyThatBreaksTheProtocolEndsTheConnection(t *testing.T) {
	for _, raw := range []string{
		"+OK\r\n", "*1\r\n:3\r\n+\r\n", "*1\r\n$-1\r\n+\r\n", "*1\n$1\r\na\r\n+\r\n", "*x\r\n", "*-2\r\n", "*99999999999\r\n", "*4294967296\r\n+\r\n",
		"*1\r\n-ERR inside\r\n+\r\n", "*0\r\n$3\r\nab", "*0\r\n+after\r\n+more\r\n", "*0\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n+x\r\n", "",
		"*0\r\n*2\r\n-ERR inside\r\n+x\r\n", strings.Repeat("x", 1<<20),
	} {
		c := reading(strings.NewReader(raw))
		err := c.Items(&kept{c: c, most: 100}, 100)
		if err == nil {
			_, err = c.Value()
		}
		if c.Finish(err) == nil {
			t.Errorf("%.40q: %v", raw, err)
		}

		if _, err := c.Do(t.Context(), "PING"); err == nil {
			t.Errorf("%.40q: the connection is still used", raw)
		}
	}
}

func TestNoMemoryIsTakenForAnnouncedBytes(t *testing.T) {
	for _, raw := range []string{
		"$9223372036854775807\r\n", "$1073741823\r\n", "$2000000000\r\n", "*9223372036854775807\r\n", "*1073741823\r\n",
		"*2\r\n$600000\r\n" + strings.Repeat("x", 600000) + "\r\n$600000\r\n", strings.Repeat("*1\r\n", 1<<20), "%9\r\n",
	} {
		c := reading(strings.NewReader(raw))
		if _, err := c.Value(); !errors.Is(err, errReply) {
			t.Errorf("%.40q: %v", raw, err)
		}
		if got := cap(c.own.Data); got > 2*maxValue {
			t.Errorf("%.40q: %d bytes of memory", raw, got)
		}
	}
}

func TestMoreItemsThanWereAskedForAreRefused(t *testing.T) {
	c := reading(strings.NewReader("*3\r\n$1\r\na\r\n"))
	if err := c.Items(&kept{c: c, most: 10}, 2); !errors.Is(err, errReply) {
		t.Errorf("%v", err)
	}
}

func TestEachWordOfACommandIsSentAsItIs(t *testing.T) {
	conn := &scripted{Reader: strings.NewReader("+OK\r\n")}
	v, err := NewConn(conn, time.Minute, nil).Do(t.Context(), "SET", []byte("k\r\n"), 7, int64(-8), uint64(1<<63))
	if err != nil || v != "OK" {
		t.Errorf("%v, %v", v, err)
	}
	want := "*5\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$1\r\n7\r\n$2\r\n-8\r\n$19\r\n9223372036854775808\r\n"
	if conn.sent.String() != want {
		t.Errorf("%q", conn.sent.String())
	}
}

// pipe returns a Conn with a timeout of 3 s, whose other end peer serves. progressed counts how
// often its deadline was extended.
func pipe(t *testing.T, peer func(other net.Conn)) (c *Conn, progressed *int) {
	mine, other := net.Pipe()
	var speaking sync.WaitGroup
	speaking.Go(func() { peer(other) })
	t.Cleanup(func() {
		mine.Close()
		other.Close()
		speaking.Wait()
	})
	progressed = new(int)
	return NewConn(mine, 3*time.Second, func() { *progressed++ }), progressed
}

// A link of 1,000 bytes a second is slow but not faulty.
func TestAReplyMayTakeLongerThanTheTimeoutWhileItProgresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, progressed := pipe(t, func(other net.Conn) {
			io.ReadFull(other, make([]byte, len("*1\r\n$3\r\nGET\r\n")))
			raw := "$20000\r\n" + strings.Repeat("x", 20000) + "\r\n"
			for ; len(raw) > 0; raw = raw[min(1000, len(raw)):] {
				io.WriteString(other, raw[:min(1000, len(raw))])
				time.Sleep(time.Second)
			}
		})
		v, err := c.Do(t.Context(), "GET")
		if s, _ := v.(string); err != nil || len(s) != 20000 || *progressed == 0 {
			t.Errorf("%d bytes, %v, progress %d times", len(s), err, *progressed)
		}
	})
}

func TestAReplyThatDribblesTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c, _ := pipe(t, func(other net.Conn) {
			io.ReadFull(other, make([]byte, len("*1\r\n$3\r\nGET\r\n")))
			io.WriteString(other, "$20000\r\n")
			for {
				if _, err := io.WriteString(other, "x"); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})

		if _, err := c.Do(t.Context(), "GET"); !TimedOut(err) || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestTheDeadlineOfAContextIsNotPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()

		c, _ := pipe(t, func(other net.Conn) {
			io.ReadFull(other, make([]byte, len("*1\r\n$3\r\nGET\r\n")))
			io.WriteString(other, "$1000000\r\n")
			for {
				if _, err := other.Write(make([]byte, 2000)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		if _, err := c.Do(ctx, "GET"); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestALargeCommandMayTakeLongerThanTheTimeoutWhileItProgresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := strings.Repeat("x", 100_000)
		c, _ := pipe(t, func(other net.Conn) {
			left := len("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$100000\r\n\r\n") + len(value)
			for ; left > 0; left -= min(left, 8000) {
				io.ReadFull(other, make([]byte, min(left, 8000)))
				time.Sleep(time.Second)
			}
			io.WriteString(other, "+OK\r\n")
		})
		if v, err := c.Do(t.Context(), "SET", "key", value); v != "OK" || err != nil {
			t.Errorf("%v, %v", v, err)
		}
	})
}
