package network

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair connects a client to a server.
func pair(t *testing.T, n *Network, client, server string) (near, far net.Conn) {
	t.Helper()
	listener := n.Host(server).Listen("tcp")
	near, err := n.Host(client).Dial(t.Context(), server, "tcp")
	if err != nil {
		t.Fatal(err)
	}
	if far, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func read(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func TestBytesArriveAfterTheDelayAndAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := pair(t, n, "c", "s")
		n.Set("c", "s", Rules{Delay: time.Second, Rate: 1000})
		began := time.Now()
		near.Write(make([]byte, 2000))
		io.ReadFull(far, make([]byte, 2000))
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("2000 bytes take %s", took)
		}
	})
}

func TestACutLetsTheFirstBytesArriveAndFailsBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := pair(t, n, "c", "s")
		n.Links("c", "s")[0].Cut(Up, 3, false)
		if _, err := near.Write([]byte("hello")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the write that is cut: %v", err)
		}
		read(t, far, "hel")
		for _, conn := range []net.Conn{near, far} {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a read after the cut: %v", err)
			}
		}
	})
}

func TestASilentCutTellsNeitherEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := pair(t, n, "c", "s")
		n.Links("c", "s")[0].Cut(Down, 0, true)
		for range 2 {
			if _, err := far.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		near.Write([]byte("y"))
		for _, conn := range []net.Conn{near, far} {
			conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a read after the cut: %v", err)
			}
		}
	})
}

func TestBytesOfAFrozenHostArriveWhenItThawsThoughItHasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := pair(t, n, "c", "s")
		n.Freeze("c", true)
		near.Write([]byte("late"))
		near.Close()
		time.AfterFunc(time.Minute, func() { n.Freeze("c", false) })
		began := time.Now()
		read(t, far, "late")
		if took := time.Since(began); took != time.Minute {
			t.Errorf("they arrive after %s", took)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("then the connection says %v", err)
		}
	})
}

func TestAKilledHostSaysNoMoreThanWasOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		host := n.Host("s")
		listener := host.Listen("tcp")
		near, err := n.Host("c").Dial(t.Context(), "s", "tcp")
		if err != nil {
			t.Fatal(err)
		}
		far, _ := listener.Accept()
		far.Write([]byte("12345"))
		host.Kill(2, false)
		far.Write([]byte("678"))
		read(t, near, "12")
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("its peer reads %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("it still reads")
		}
		if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("it accepts: %v", err)
		}
		if _, err := host.Dial(t.Context(), "c", "tcp"); err == nil {
			t.Error("it still dials")
		}
	})
}

func TestAWriteWaitsForTheWindowOfASlowHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client := n.Host("c")
		client.Window = 10
		listener := n.Host("s").Listen("tcp")
		near, err := client.Dial(t.Context(), "s", "tcp")
		if err != nil {
			t.Fatal(err)
		}
		far, _ := listener.Accept()
		far.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := far.Write(make([]byte, 15)); n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d, %v", n, err)
		}
		far.SetWriteDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { io.ReadFull(near, make([]byte, 5)) })
		if n, err := far.Write(make([]byte, 5)); n != 5 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
}

func TestConnectionsAreRefusedOrTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client := n.Host("c")
		n.Host("s").Listen("tcp")
		n.Set("c", "s", Rules{Refuse: true})
		if _, err := client.Dial(t.Context(), "s", "tcp"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refused: %v", err)
		}
		n.Set("c", "s", Rules{Drop: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.Dial(ctx, "s", "tcp"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dropped: %v", err)
		}
	})
}
