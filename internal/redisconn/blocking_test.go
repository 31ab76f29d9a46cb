package redisconn

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
			t.Errorf("%s: a write without a reader: %d bytes, error %v", network, n, err)
		}
	}
}

func TestAWriteThatIsReadAllTheTimeEndsAtItsDeadline(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		b, other := blockingPair(t, network)
		var reading sync.WaitGroup
		reading.Go(func() { io.Copy(io.Discard, other) }) // so that the write is never blocked for a tick
		much := make([]byte, 64<<20)                      // no machine moves that in so short a time
		b.SetDeadline(time.Now().Add(time.Millisecond))
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
		// The other side does not read for two ticks; the buffers are full by then.
		sent := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
		b.SetWriteDeadline(time.Now().Add(2 * tick))
		n, err := b.Write(sent)
		if n == len(sent) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: %d bytes written without a reader, error %v", network, n, err)
		}

		b.SetWriteDeadline(time.Time{})
		wrote := make(chan error, 1)
		go func() {
			_, err := b.Write(sent[n:])
			wrote <- err
		}()

		// A read is blocked for as long as the write is.
		b.SetReadDeadline(time.Now().Add(2 * tick))
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a read that nothing came for: error %v", network, err)
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(other, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%s: other bytes arrived, error %v", network, err)
		}

		if err := <-wrote; err != nil {
			t.Errorf("%s: the write: %v", network, err)
		}
		b.SetReadDeadline(time.Time{})
		other.Write([]byte("answer"))
		other.Close()
		if answer, err := io.ReadAll(b); string(answer) != "answer" || err != nil {
			t.Errorf("%s: read %q, error %v", network, answer, err)
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
	if got := Explain(err, "redis:6379"); got != "Redis at redis:6379 closed the connection" {
		t.Errorf("explained as %q", got)
	}
}
