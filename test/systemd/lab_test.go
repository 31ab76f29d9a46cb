// Package systemd tests edged as systemd runs it: a real systemd, booted by the script lab in
// separate namespaces, with the units of deploy/systemd, a real redis-server and real clients. It
// needs root, Linux and systemd; without them it reports that nothing was checked. `make
// test-systemd` runs it.
//
// The tests share one lab and run one after the other; each begins with the shipped units and an
// empty Redis.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/edgedtest"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for an event that must happen.
const patience = 30 * time.Second

var (
	leader string // the process ID of the lab's systemd
	root   string // the lab's root folder, as seen from here
)

func TestMain(m *testing.M) {
	if os.Getenv("EDGED_LAB") == "" {
		fmt.Println("These tests boot a systemd: run `make test-systemd`.")
		return
	}
	if missing := whatIsMissing(); missing != "" {
		fmt.Printf("NOT CHECKED: how edged behaves under systemd, for lack of %s\n", missing)
		os.Exit(0)
	}
	os.Exit(inLab(m.Run))
}

func whatIsMissing() string {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		return "root on Linux"
	}
	for _, program := range []string{"systemctl", "dpkg", "unshare", "nsenter", "redis-server", "socat"} {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		return "systemd"
	}
	return ""
}

// inLab boots a lab, runs run and powers the lab off.
func inLab(run func() int) (code int) {
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "the lab does not boot: %v\n", err)
		return 1
	}

	folder, err := os.MkdirTemp("", "edged-lab")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)

	if err := furnish(folder); err != nil {
		return fail(err)
	}

	lab := exec.Command("./lab", folder)
	lab.Stdout, lab.Stderr = os.Stderr, os.Stderr
	lab.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig depends on the thread
	if err := lab.Start(); err != nil {
		return fail(err)
	}
	cgroup := fmt.Sprintf("%s/edged-lab-%d", cgroupRoot(), lab.Process.Pid)
	defer func() {
		lab.Process.Kill()
		lab.Wait()
		removeCgroup(cgroup)
	}()

	err = eventually(func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", lab.Process.Pid))
		if err != nil || len(strings.Fields(string(children))) != 1 {
			return fmt.Errorf("it has no leader: %q, %v", children, err)
		}
		leader = strings.Fields(string(children))[0]
		root = "/proc/" + leader + "/root"
		out, err := try("systemctl is-system-running --wait")
		if state := strings.TrimSpace(out); err != nil && state != "degraded" {
			return fmt.Errorf("systemd is %q: %v", state, err)
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}

	if out, err := try("systemd-sysusers && mkdir -p /run/redis && chown redis:redis /run/redis && systemctl start redis-server"); err != nil {
		return fail(fmt.Errorf("%v: %s", err, out))
	}
	return run()
}

func cgroupRoot() string {
	mounts, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

func removeCgroup(folder string) {
	for range 100 { // until the last process is gone
		exec.Command("find", folder, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
		if _, err := os.Stat(folder); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

const redisUnit = `[Service]
Type=notify
User=redis
ExecStart=/usr/bin/env redis-server --supervised systemd --bind 127.0.0.1 --port 6379 --unixsocket /run/redis/redis-server.sock --unixsocketperm 770 --save ""
`

// The lab boots only the units that it needs, whatever this machine has.
const target = `[Unit]
Requires=sysinit.target dbus.socket
After=sysinit.target
AllowIsolate=yes
`

// furnish makes the files that the lab has in addition to those of this machine.
func furnish(folder string) error {
	files := filepath.Join(folder, "files")
	if err := os.Mkdir(filepath.Join(folder, "memory"), 0o755); err != nil {
		return err
	}
	units := filepath.Join(files, "etc/systemd/system")
	for _, f := range []string{units, filepath.Join(files, "etc/edged"), filepath.Join(files, "etc/credstore"),
		filepath.Join(files, "usr/bin"), filepath.Join(files, "etc/sysusers.d")} {
		if err := os.MkdirAll(f, 0o755); err != nil {
			return err
		}
	}

	for path, text := range map[string]string{
		filepath.Join(units, "redis-server.service"):          redisUnit,
		filepath.Join(units, "edged-lab.target"):              target,
		filepath.Join(files, "etc/sysusers.d/edged-lab.conf"): "u redis - -\nu operator - -\nm operator edged\nu visitor - -\n",
		filepath.Join(files, "etc/systemd/journald.conf"):     "[Journal]\nStorage=volatile\nRateLimitBurst=0\nForwardToSyslog=no\n",
		filepath.Join(files, "etc/systemd/coredump.conf"):     "[Coredump]\nStorage=none\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}

	programs := filepath.Join(files, "usr/bin")
	if err := edgedtest.Build(context.Background(), filepath.Join(programs, "edged")); err != nil {
		return err
	}

	if err := edgedtest.Build(context.Background(), filepath.Join(programs, "edged-faults"), "-tags", "faults"); err != nil {
		return err
	}
	shipped, err := filepath.Glob("../../deploy/systemd/edged*")
	if err != nil {
		return err
	}

	if err := exec.Command("cp", "../../deploy/deb/sysusers.conf", filepath.Join(files, "etc/sysusers.d/edged.conf")).Run(); err != nil {
		return err
	}
	return exec.Command("cp", append(shipped, units)...).Run()
}

// try runs a shell script in the lab.
func try(script string) (string, error) {
	cmd := exec.Command("nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "-C", "sh", "-ec", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER=", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sh runs a shell script that must succeed, and returns its output.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := try(script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

func eventually(check func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// await runs script until it prints want.
func await(t *testing.T, want, script string) {
	t.Helper()
	if err := eventually(func() error {
		if out, err := try(script); strings.TrimSpace(out) != want {
			return fmt.Errorf("%s: %q (%v), want %q", script, strings.TrimSpace(out), err, want)
		}
		return nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, journal(t))
	}
}

// show returns a command that prints a property of the service.
func show(property string) string { return "systemctl show edged -P " + property }

// write writes a file of the lab.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dropIn changes edged.service for this test.
func dropIn(t *testing.T, text string) {
	t.Helper()
	write(t, "/etc/systemd/system/edged.service.d/lab.conf", text)
	sh(t, "systemctl daemon-reload")
}

// prepare gives a test the shipped units, an empty Redis, and edged not running, with these lines
// of configuration.
func prepare(t *testing.T, config string) {
	t.Helper()
	clear := func() {
		sh(t, `systemctl stop edged.socket edged-control.socket edged-status.socket edged.service 2>/dev/null || true
			systemctl reset-failed edged.service edged.socket edged-control.socket edged-status.socket 2>/dev/null || true
			rm -rf /etc/systemd/system/edged.service.d /run/edged/fault
			systemctl daemon-reload; redis-cli flushall`)
	}
	clear()
	sh(t, "journalctl --rotate --quiet; journalctl --vacuum-time=1us --quiet")
	write(t, "/etc/edged/edged.toml", config)

	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the journal:\n%s", journal(t))
		}
		clear()
	})
}

func journal(t *testing.T) string {
	out, _ := try("journalctl --no-pager --output=cat -u edged -u edged.socket -u edged-control.socket")
	return out
}

// dial connects to a TCP address in the lab's network.
func dial(address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread enters the lab's network, and ends with this goroutine
		ns, failure := os.Open("/proc/" + leader + "/ns/net")
		if failure != nil {
			err = failure
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = net.DialTimeout("tcp", address, patience) // a literal address: the socket is made on this thread
		}
	}()

	<-done
	return conn, err
}
