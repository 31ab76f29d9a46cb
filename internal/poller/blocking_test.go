package poller

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// blockingPair returns a blocking connection and its other end.
func blockingPair(t *testing.T, network string) (*blocking, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	b, err := newBlocking(conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	conn.Close()
	return b, other
}

func TestABlockedCallEndsAtItsDeadline(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		b, _ := blockingPair(t, network)
		b.SetDeadline(time.Now().Add(3 * tick))
		n, err := b.Read(make([]byte, 1))
		var netErr net.Error
		if n != 0 || !errors.As(err, &netErr) || !netErr.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a read that nothing came for: %d bytes, error %v", network, n, err)
		}
		much := make([]byte, 64<<20) // more than the socket's buffers take
		b.SetDeadline(time.Now().Add(3 * tick))
		if n, err := b.Write(much); n == len(much) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a write that nobody read: %d bytes, error %v", network, n, err)
		}
	}
}

func TestAWriteThatIsReadSlowlyEndsAtItsDeadline(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		b, other := blockingPair(t, network)
		var reading sync.WaitGroup
		reading.Go(func() {
			p := make([]byte, 16<<10)
			for {
				if _, err := other.Read(p); err != nil {
					return
				}
				time.Sleep(time.Millisecond) // slow, but never so slow that the write is held up for a tick
			}
		})
		b.SetDeadline(time.Now().Add(3 * tick))
		much := make([]byte, 32<<20) // two seconds of reading
		if n, err := b.Write(much); n == len(much) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, error %v", network, n, err)
		}
		b.Close()
		reading.Wait()
	}
}

func TestABlockedCallGoesOnPastItsTicks(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		b, other := blockingPair(t, network)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
		got := make(chan []byte)
		go func() {
			time.Sleep(3 * tick) // so that the write finds the buffers full for longer than a tick
			p := make([]byte, len(sent))
			io.ReadFull(other, p)
			time.Sleep(3 * tick)
			other.Write([]byte("answer"))
			other.Close()
			got <- p
		}()
		if n, err := b.Write(sent); n != len(sent) || err != nil {
			t.Errorf("%s: %d of %d bytes written, error %v", network, n, len(sent), err)
		}
		if answer, err := io.ReadAll(b); string(answer) != "answer" || err != nil {
			t.Errorf("%s: read %q, error %v", network, answer, err)
		}
		if !bytes.Equal(<-got, sent) {
			t.Errorf("%s: other bytes arrived", network)
		}
	}
}

func TestABlockingConnectionThatIsResetSaysSo(t *testing.T) {
	b, other := blockingPair(t, "tcp")
	other.(*net.TCPConn).SetLinger(0)
	other.Close()
	_, err := b.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) {
		t.Errorf("error %v", err)
	}
	if got := explain(err, "redis:6379"); got != "Redis at redis:6379 closed the connection" {
		t.Errorf("explained as %q", got)
	}
}
