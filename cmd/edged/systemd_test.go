package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/edgedtest"
	"edged/internal/redistest"
)

// manager stands for systemd: it receives the messages of sd_notify(3).
type manager struct {
	*net.UnixConn
	path string
}

func startManager(t *testing.T, folder string) manager {
	t.Helper()
	path := filepath.Join(folder, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return manager{conn, path}
}

// await returns the next message that has a line matching pattern.
func (m manager) await(t *testing.T, pattern string) string {
	t.Helper()
	want := regexp.MustCompile("(?m)^" + pattern + "$")
	m.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 4096)
	for {
		n, err := m.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %s: %v", pattern, err)
		}
		if message := string(buf[:n]); want.MatchString(message) {
			return message
		}
	}
}

// daemonUnder makes a daemon's process with the environment that systemd gives it. Its log goes to
// the file at logPath.
func daemonUnder(t *testing.T, m manager, redis *redistest.Server, listen string) (cmd *exec.Cmd, socket, logPath string) {
	t.Helper()
	folder := filepath.Dir(m.path)
	socket, logPath = filepath.Join(folder, "control.sock"), filepath.Join(folder, "log")
	config := filepath.Join(folder, "edged.toml")

	content := fmt.Sprintf(`
[redis]
address = %q
poll_interval = "100ms"
[tcp]
listen = %q
[control]
socket = %q
status_socket = ""
[drain]
timeout = "1h"
`, redis.Address(), listen, socket)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}

	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { log.Close() })
	cmd = exec.Command("edged", "-config", config)
	cmd.Stderr = log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=300000", "GORACE=atexit_sleep_ms=0")
	return cmd, socket, logPath
}

func TestSystemdIsToldOfStartStateLifeAndEnd(t *testing.T) {
	t.Parallel()
	m := startManager(t, shortFolder(t))
	redis := redistest.Start(t)
	cmd, socket, logPath := daemonUnder(t, m, redis, "127.0.0.1:0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })

	// After READY both sockets exist.
	if ready := m.await(t, "READY=1"); !strings.Contains(ready, "\nSTATUS=2 lists, 0 clients, backlog 0") {
		t.Errorf("the message with READY=1 is %q, it should have a STATUS", ready)
	}
	operator, err := net.Dial("unix", socket)
	if err != nil {
		t.Errorf("ready, and yet: %v", err)
	} else {
		operator.Close()
	}
	var serving [][]byte
	redistest.Eventually(t, "the log has the line \"serving\"", func() bool { // a goroutine of its own writes it
		log, err := os.ReadFile(logPath)
		if err != nil {
			t.Fatal(err)
		}
		serving = servingAt.FindSubmatch(log)
		return serving != nil
	})
	client, err := net.Dial("tcp", string(serving[1]))
	if err != nil {
		t.Fatalf("ready, and yet: %v", err)
	}
	defer client.Close()
	if err := edgedtest.Ping(client, "{}", edgedtest.Patience); err != nil {
		t.Fatal(err)
	}

	// The state in words, and the loop's watchdog messages.
	redis.Push("events", "1", "2", "3")
	m.await(t, "STATUS=2 lists, 1 client, backlog 3")
	for range 3 {
		m.await(t, "WATCHDOG=1")
	}

	// The end is announced at once, and more time is requested while a client stays.
	cmd.Process.Signal(syscall.SIGTERM)
	if stopping := m.await(t, "STOPPING=1"); !strings.Contains(stopping, "\nSTATUS=draining: SIGTERM") {
		t.Errorf("the message with STOPPING=1 is %q, it should have a STATUS", stopping)
	}
	m.await(t, "EXTEND_TIMEOUT_USEC=10000000")
	m.await(t, `STATUS=draining \(SIGTERM\): 2 lists, 1 client, backlog 3`)
	m.await(t, "WATCHDOG=1")
	client.Close()
	if err := <-ended; err != nil {
		t.Errorf("edged ended with %v", err)
	}
}

func TestAFailedStartIsNeverReady(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	m := startManager(t, shortFolder(t))
	cmd, _, _ := daemonUnder(t, m, redistest.Start(t), taken.Addr().String())
	if cmd.Run(); cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("edged ended with %v, want exit code %d", cmd.ProcessState, exitFailed)
	}
	m.SetReadDeadline(time.Now()) // all its messages have arrived
	if n, err := m.Read(make([]byte, 4096)); err == nil {
		t.Errorf("systemd was sent %d bytes, want nothing", n)
	}
}
