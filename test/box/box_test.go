//go:build box

package box

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edged/internal/edgedtest"
)

// patience is how long a test waits for an event that must happen.
const patience = 10 * time.Minute

// box is a machine with its own disk.
type box struct {
	files    string // kernel and initrd
	disk     string
	commands string // address of the control connection; see the script image
	clients  string // address of edged for clients outside the box
	process  *edgedtest.Process
}

// made returns the files of an unused Debian, and makes them if this machine has none yet.
func made(t *testing.T) (folder string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("./image", filepath.Join(cache, "edged"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the box can't be made: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// make gives the box these files and a disk with packages in /root.
func (b *box) make(t *testing.T, files string, packages ...string) {
	t.Helper()
	b.files = files
	if out, err := exec.Command("cp", "--sparse=always", filepath.Join(files, "disk"), b.disk).CombinedOutput(); err != nil {
		t.Fatalf("copy the disk: %v\n%s", err, out)
	}
	script := "cd /root\n"
	for _, p := range packages {
		script += fmt.Sprintf("write %s %s\n", p, filepath.Base(p))
	}
	debugfs := exec.Command("debugfs", "-w", "-f", "/dev/stdin", b.disk)
	debugfs.Stdin = strings.NewReader(script)
	if out, err := debugfs.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}

	for _, address := range []*string{&b.commands, &b.clients} {
		reserved, release, err := edgedtest.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		release() // qemu cannot be given a socket
		*address = reserved
	}
}

// start switches the box on and waits until systemd has nothing left to start.
func (b *box) start(t *testing.T) {
	t.Helper()
	forward := fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:%s-10.0.2.15:1000,hostfwd=tcp:%s-10.0.2.15:4222", b.commands, b.clients)
	p, err := edgedtest.Start(exec.Command("./boot", b.files, b.disk,
		"-netdev", forward, "-device", "virtio-net-device,netdev=net"))
	if err != nil {
		t.Fatal(err)
	}
	b.process = p

	deadline := time.Now().Add(patience)
	for {
		out, err := b.run("systemctl is-system-running || true", 10*time.Second)
		if strings.TrimSpace(out) == "running" {
			return
		}
		if p.HasEnded() || time.Now().After(deadline) {
			t.Fatalf("the box does not boot: it is %q (%v)\n%s", out, err, p.Output())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// cutPower switches the box off as a power cut does: the disk has only the data that the box's
// kernel had written to it.
func (b *box) cutPower() {
	if b.process != nil {
		b.process.Kill()
	}
}

// dial connects to the box and sends it a script.
func (b *box) dial(script string) (net.Conn, error) {
	conn, err := net.Dial("tcp", b.commands)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, script+"\n"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// try runs a shell script as root on the box.
func (b *box) try(script string) (string, error) { return b.run(script, patience) }

func (b *box) run(script string, patience time.Duration) (string, error) {
	conn, err := b.dial(script)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	out, err := io.ReadAll(conn)
	if err != nil {
		return string(out), err
	}

	text, code, whole := cutLast(string(out), "\nexit ")
	if !whole {
		return string(out), fmt.Errorf("the connection ended within %q", script)
	}
	if code = strings.TrimSpace(code); code != "0" {
		return text, fmt.Errorf("exit code %s", code)
	}
	return text, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// sh runs a shell script that must succeed, and returns its output.
func (b *box) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := b.try(script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// await runs script until it prints want.
func (b *box) await(t *testing.T, want, script string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		out, err := b.try(script)
		if err == nil && strings.TrimSpace(out) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %q (%v), want %q", script, strings.TrimSpace(out), err, want)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
