package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/systemd"
)

func TestTheWatchdogIsFedOnlyWhileAllLoopsGoRound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	m, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "12000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	core, logged := observer.New(zap.ErrorLevel)
	probes := 0
	life := &lifeline{notify: systemd.New(func(err error) { t.Error(err) }), probe: func() { probes++ }, log: zap.New(core)}
	if got := life.every(); got != 3*time.Second {
		t.Errorf("a loop must go round every %v, want 3s", got)
	}
	first, second := life.pulse("first"), life.pulse("second")

	now := time.Now()
	for _, step := range []struct {
		what          string
		first, second time.Duration // since their last beats; -1: they have ended
		fed           bool
	}{
		{"both went round lately", 3 * time.Second, time.Second, true},
		{"one stands still", 6 * time.Second, time.Second, false},
		{"it still does", 10 * time.Second, time.Second, false},
		{"it goes round again", 0, time.Second, true},
		{"the other stands still", 0, time.Hour, false},
		{"both have ended", -1, -1, true},
	} {
		now = now.Add(4 * time.Second) // a third of the interval
		for p, since := range map[*pulse]time.Duration{first: step.first, second: step.second} {
			p.at.Store(now.Add(-since).UnixNano())
			if since < 0 {
				p.end()
			}
		}
		life.feed(now)
		life.feed(now.Add(time.Second)) // too early to look again
		life.notify.Status("barrier")
		buf := make([]byte, 100)
		n, err := m.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if fed := string(buf[:n]) == "WATCHDOG=1"; fed != step.fed {
			t.Errorf("%s: fed is %v", step.what, fed)
		} else if fed {
			m.Read(buf) // the barrier
		}
	}
	if probes != 6 {
		t.Errorf("the locks were probed %d times, want 6", probes)
	}
	if logged.Len() != 2 || logged.All()[0].ContextMap()["loop"] != "first" || logged.All()[1].ContextMap()["loop"] != "second" {
		t.Errorf("the log has %v, want each loop that stood still once", logged.All())
	}
}

func TestAnAcceptLoopWithoutClientsGoesRound(t *testing.T) {
	p := &pulse{name: "idle"}
	d := newDoor(listen(t, "tcp", "127.0.0.1:0"), p, time.Millisecond)
	accepted := make(chan error)
	go func() {
		for {
			if _, err := d.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				accepted <- err
				return
			}
		}
	}()
	beats := map[int64]bool{}
	for deadline := time.Now().Add(20 * time.Second); len(beats) < 5 && time.Now().Before(deadline); {
		beats[p.at.Load()] = true
	}
	if len(beats) < 5 {
		t.Error("the loop shows no pulse")
	}
	d.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed door says %v", err)
	}
	if p.at.Load() != hasEnded {
		t.Error("the pulse of a closed door has not ended")
	}
}

// Whoever connects when the door is shut stays in the queue of the socket, where
// the next daemon finds it.
func TestAShutDoorSendsNobodyAway(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	d := newDoor(ln, &pulse{}, 0)
	accepted := make(chan net.Conn)
	accept := func() { // as the accept loops do it
		conn, err := d.Accept()
		for errors.Is(err, os.ErrDeadlineExceeded) {
			conn, err = d.Accept()
		}
		accepted <- conn
	}
	go accept()
	early, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	(<-accepted).Close()

	shut := make(chan struct{})
	go func() {
		d.Shut()
		close(shut)
	}()
	select {
	case <-shut:
		t.Fatal("Shut did not wait for the accept loop to be done with a client")
	default:
	}
	go accept()
	<-shut
	late, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	ln.(*net.TCPListener).SetDeadline(time.Time{})
	next, err := ln.Accept()
	if err != nil {
		t.Fatalf("the next daemon does not get who came late: %v", err)
	}
	next.Close()
	d.Close()
	if conn := <-accepted; conn != nil {
		t.Error("a shut door let somebody in")
	}
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}
