package edgedtest

import (
	"bufio"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script starts a shell script that ends with the test.
func script(t *testing.T, text string) *Process {
	t.Helper()
	p, err := Start(exec.Command("sh", "-c", text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestALineWithoutItsEndIsNoLine(t *testing.T) {
	t.Parallel()
	p := script(t, "echo one; printf two")
	if _, err := p.AwaitLine(func(line string) bool { return line == "one\n" }); err != nil {
		t.Fatal(err)
	}
	_, err := p.AwaitLine(func(line string) bool { return strings.HasPrefix(line, "t") })
	if err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("error %v, want one that says that the process has ended", err)
	}
}

func TestTheLastLineCountsAfterTheEnd(t *testing.T) {
	t.Parallel()
	p := script(t, "echo out; echo err >&2; printf rest; exit 3")
	if code, err := p.Wait(); code != 3 || err != nil {
		t.Errorf("exit code %d, %v; want 3", code, err)
	}
	if _, err := p.AwaitLine(func(line string) bool { return line == "err\n" }); err != nil {
		t.Error(err)
	}
	if got := p.Output(); got != "out\nerr\nrest" {
		t.Errorf("output %q", got)
	}
	if got := len(p.Lines()); got != 2 {
		t.Errorf("%d lines, want 2", got)
	}
}

func TestADaemonMustEndAsTheSignalAsks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		sig  syscall.Signal
		fits bool
	}{
		{`trap 'echo "{\"msg\":\"drained\"}"; exit 0' TERM`, syscall.SIGTERM, true},
		{`trap 'echo "{\"msg\":\"drained\"}"; exit 1' TERM`, syscall.SIGTERM, false},
		{`trap 'exit 0' TERM`, syscall.SIGTERM, false},
		{`true`, syscall.SIGTERM, false},
		{`true`, syscall.SIGKILL, true},
		{`exit 66`, syscall.SIGKILL, false},
	} {
		p := script(t, c.text+"; echo ready; while :; do sleep 0.01; done")
		p.AwaitLine(func(line string) bool { return line == "ready\n" }) // or until it has ended
		if err := (&Daemon{Process: p}).Stop(c.sig); (err == nil) != c.fits {
			t.Errorf("%s and %v: %v", c.text, c.sig, err)
		}
	}
}

func TestControlSendsALineAndReturnsTheWholeAnswer(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := io.ReadAll(conn)
		io.WriteString(conn, "got "+string(line)+"OK\n")
	}()

	if answer, err := Control(socket, "status"); answer != "got status\nOK\n" || err != nil {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestAReservedAddressIsGivenToNoOtherProgram(t *testing.T) {
	address, release, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	defer release()

	for range 2 {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		ln.Close()
	}
}

// served returns a connection to a server that answers once, after a PING.
func served(answer string) net.Conn {
	conn, server := net.Pipe()
	go func() {
		defer server.Close()
		for lines := bufio.NewScanner(server); lines.Scan() && lines.Text() != "PING"; {
		}
		io.WriteString(server, answer)
	}()
	return conn
}

func TestPingNeedsAPong(t *testing.T) {
	t.Parallel()
	for answer, fails := range map[string]bool{"INFO {}\r\nPONG\r\n": false, "INFO {}\r\n-ERR 'no'\r\n": true} {
		conn := served(answer)
		if err := Ping(conn, "{}", Patience); (err != nil) != fails {
			t.Errorf("the answer %q: %v", answer, err)
		}
		conn.Close()
	}
}

func TestKeepAskingCountsTheRequestsAnswered(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	enough := make(chan struct{})
	stop := KeepAsking(t, 2, func() error {
		if asked.Add(1) == 4 {
			close(enough)
		}
		return nil
	})
	<-enough
	if answered := stop(); answered != asked.Load() {
		t.Errorf("%d of %d requests were answered", answered, asked.Load())
	}
}
