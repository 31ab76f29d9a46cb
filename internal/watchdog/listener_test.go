package watchdog

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"
)

// watched listens on a free port with a heartbeat; interval is the watchdog's.
func watched(t *testing.T, interval time.Duration) (*Listener, *heartbeat) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	w := New(Options{Notify: &manager{interval: interval}, Probe: func() {}, Log: zap.NewNop()})
	l := w.Listener("tcp", ln)
	return l, w.heartbeats[0]
}

func TestAnAcceptLoopWithoutClientsGoesRound(t *testing.T) {
	l, h := watched(t, 4*time.Millisecond)
	accepted := make(chan error)
	go func() {
		for {
			if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				accepted <- err
				return
			}
		}
	}()

	beats := map[int64]bool{}
	for deadline := time.Now().Add(20 * time.Second); len(beats) < 5 && time.Now().Before(deadline); {
		beats[h.at.Load()] = true
	}

	if len(beats) < 5 {
		t.Error("the loop does not beat")
	}
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener fails with %v", err)
	}
	if h.at.Load() != hasEnded {
		t.Error("the heartbeat of a closed listener has not ended")
	}
}

// A client that connects after Stop stays in the queue of the socket: the next daemon
// accepts it.
func TestAStoppedListenerRefusesNoConnection(t *testing.T) {
	l, _ := watched(t, 0)
	address := l.Addr().String()
	accepted := make(chan net.Conn)
	accept := func() { // as the accept loops do
		conn, err := l.Accept()
		for errors.Is(err, os.ErrDeadlineExceeded) {
			conn, err = l.Accept()
		}
		accepted <- conn
	}
	go accept()
	early, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	(<-accepted).Close()

	stopped := make(chan struct{})
	go func() {
		l.Stop()
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Fatal("Stop did not wait until the accept loop was done with a client")
	default:
	}
	go accept()
	<-stopped
	late, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	next := l.Unwrap().(*net.TCPListener)
	next.SetDeadline(time.Time{})
	conn, err := next.Accept()
	if err != nil {
		t.Fatalf("the next daemon does not get the late client: %v", err)
	}
	conn.Close()
	l.Close()
	if conn := <-accepted; conn != nil {
		t.Error("a stopped listener accepted a connection")
	}
}
