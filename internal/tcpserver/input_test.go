package tcpserver

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/budget"
)

// inputOf returns the input of a connection, and its other side.
func inputOf(t *testing.T) (in *input, conn, peer net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	if peer, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if conn, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	spare := &inputs{
		small: sync.Pool{New: func() any { return new([smallInput]byte) }},
		large: sync.Pool{New: func() any { return new([largeInput]byte) }},
	}
	return newInput(spare, new(budget.Holder), conn, conn), conn, peer
}

func TestInputThatWaitsHoldsOnlyItsBytes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, smallInput - 1, smallInput, smallInput + 1, largeInput - 1} {
		in, conn, peer := inputOf(t)
		sent := strings.Repeat("x", size)
		peer.Write([]byte(sent))
		for in.have < size {
			if err := in.fill(); err != nil {
				t.Fatal(err)
			}
			in.drop(0)
		}

		conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if err := in.fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("with %d bytes: %v, want the deadline", size, err)
		}
		if len(in.buf) != size || string(in.buf) != sent {
			t.Errorf("with %d bytes it holds %d", size, len(in.buf))
		}

		conn.SetReadDeadline(time.Time{})
		peer.Write([]byte("yz"))
		for in.have < size+2 {
			if err := in.fill(); err != nil {
				t.Fatal(err)
			}
			in.drop(0)
		}

		if got := string(in.buf[:in.have]); got != sent+"yz" {
			t.Errorf("after %d bytes came %q", size, got[size:])
		}
	}
}

func TestInputForgetsTheBufferOfALargeMessage(t *testing.T) {
	t.Parallel()
	in, _, peer := inputOf(t)
	const size = 3 * largeInput
	go peer.Write(make([]byte, size))
	for in.have < size {
		if err := in.fill(); err != nil {
			t.Fatal(err)
		}
		in.drop(0)
	}
	in.drop(size)
	if in.have != 0 || len(in.buf) != 0 {
		t.Errorf("it holds %d bytes, in a buffer of %d", in.have, len(in.buf))
	}
}

// TestInputTakesTheMemoryOfItsMessage has a message that is slightly larger than a power of two.
func TestInputTakesTheMemoryOfItsMessage(t *testing.T) {
	t.Parallel()
	in, _, peer := inputOf(t)
	const size = 1<<20 + 30
	in.need = size
	go peer.Write(make([]byte, size))
	for in.have < size {
		if err := in.fill(); err != nil {
			t.Fatal(err)
		}
		in.drop(0)
	}
	if len(in.buf) > size+largeInput {
		t.Errorf("a message of %d bytes takes %d", size, len(in.buf))
	}
}
