package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/config"
	"edged/internal/redistest"
)

// manager stands in for systemd: it receives what sd_notify(3) sends.
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

// daemonUnder makes a daemon's process with the environment that systemd gives
// it. Its log is in the file at logPath.
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
	m := startManager(t, shortFolder(t))
	redis := redistest.Start(t)
	cmd, socket, logPath := daemonUnder(t, m, redis, "127.0.0.1:0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })

	// READY: from then on both sockets are there.
	if ready := m.await(t, "READY=1"); !strings.Contains(ready, "\nSTATUS=2 lists, 0 clients, backlog 0") {
		t.Errorf("the message with READY=1 is %q, it should have a STATUS", ready)
	}
	operator, err := net.Dial("unix", socket)
	if err != nil {
		t.Errorf("ready, and yet: %v", err)
	} else {
		operator.Close()
	}
	log, err := os.ReadFile(logPath)
	if err != nil {
		t.Fatal(err)
	}
	serving := servingAt.FindSubmatch(log)
	if serving == nil {
		t.Fatalf("ready, and yet the log has no line \"serving\":\n%s", log)
	}
	client, err := net.Dial("tcp", string(serving[1]))
	if err != nil {
		t.Fatalf("ready, and yet: %v", err)
	}
	defer client.Close()
	fmt.Fprint(client, "CONNECT {}\r\nPING\r\n")
	answers := bufio.NewScanner(client)
	for answers.Scan() && answers.Text() != "PONG" {
	}

	// The state in words, and the loop's signs of life.
	redis.Push("events", "1", "2", "3")
	m.await(t, "STATUS=2 lists, 1 client, backlog 3")
	for range 3 {
		m.await(t, "WATCHDOG=1")
	}

	// The end: announced at once, and more time asked for while a client stays.
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
	m.SetReadDeadline(time.Now()) // what it sent is here already
	if n, err := m.Read(make([]byte, 4096)); err == nil {
		t.Errorf("systemd was sent %d bytes, want nothing", n)
	}
}

const unitFile = "../../deploy/systemd/edged.service"

// unitSettings are the settings of the unit file; ones that stand there several
// times are joined with a space.
func unitSettings(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = strings.TrimSpace(settings[key] + " " + value)
		}
	}
	return settings
}

func TestUnitFileFitsTheProgram(t *testing.T) {
	settings := unitSettings(t)
	for key, want := range map[string]string{
		"Type":                     "notify",
		"RestartPreventExitStatus": fmt.Sprint(exitConfig),
		"Restart":                  "on-failure", // a drain ends with 0 and stays ended
	} {
		if settings[key] != want {
			t.Errorf("%s=%s, want %s", key, settings[key], want)
		}
	}
	args := strings.Fields(settings["ExecStart"])[1:]
	if !slices.Equal(args, []string{"-config", defaultConfig}) {
		t.Errorf("ExecStart has the arguments %q, want -config %s", args, defaultConfig)
	}
	// A flag that does not exist would be wrong usage, not a bad configuration.
	args[len(args)-1] = filepath.Join(t.TempDir(), "missing.toml")
	var stderr strings.Builder
	if code := run(args, &stderr, &stderr); code != exitConfig {
		t.Errorf("edged %s ends with %d: %s", strings.Join(args, " "), code, &stderr)
	}
	defaults, err := config.Load("")
	if err != nil {
		t.Fatal(err)
	}
	if folder := "/run/" + settings["RuntimeDirectory"]; filepath.Dir(defaults.Control.Socket) != folder {
		t.Errorf("the control socket's default is %s, which is not in %s of RuntimeDirectory", defaults.Control.Socket, folder)
	}
	if stop, err := time.ParseDuration(settings["TimeoutStopSec"]); err != nil || stop <= time.Duration(defaults.Drain.Timeout) {
		t.Errorf("TimeoutStopSec=%s must be above the default of drain.timeout, %v", settings["TimeoutStopSec"], defaults.Drain.Timeout)
	}
}

func TestUnitFileIsGoodForSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("NOT CHECKED: systemd-analyze is not installed, so nobody has verified " + unitFile)
		return
	}
	data, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	// The program is not installed here: verify would say so.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "edged.service")
	data = []byte(strings.ReplaceAll(string(data), "=/usr/bin/edged", "="+self))
	if err := os.WriteFile(unit, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", unit).CombinedOutput(); err != nil || strings.Contains(string(out), "edged.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
