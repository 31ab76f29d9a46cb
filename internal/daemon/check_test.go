package daemon

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"edged/internal/config"
)

// withSockets returns the defaults with sockets in a folder that can be written to.
func withSockets(t *testing.T) *config.Config {
	cfg := config.Default()
	cfg.Control.Socket, cfg.Control.StatusSocket = filepath.Join(t.TempDir(), "control.sock"), ""
	return cfg
}

// check returns the output of Check for a configuration that a start would go on with.
func check(t *testing.T, cfg *config.Config) (notes, warnings string) {
	t.Helper()
	var stdout, stderr strings.Builder
	if !Check(&stdout, &stderr, cfg) {
		t.Errorf("a start would fail: %s", stderr.String())
	}
	return stdout.String(), stderr.String()
}

func TestCheckFindsNoFaultInTheDefaults(t *testing.T) {
	if notes, warnings := check(t, withSockets(t)); notes != "" || warnings != "" {
		t.Errorf("notes: %s, warnings: %s", notes, warnings)
	}
}

func TestCheckWarnsOfAddressesBeyondLoopback(t *testing.T) {
	for listen, beyond := range map[string]bool{
		":4222": true, "0.0.0.0:4222": true, "[::]:0": true, "192.0.2.1:4222": true,
		"127.0.0.2:4222": false, "[::1]:4222": false, "localhost:4222": false,
	} {
		cfg := withSockets(t)
		cfg.TCP.Listen = listen
		if _, warnings := check(t, cfg); strings.Contains(warnings, "tcp.listen: listening beyond loopback") != beyond {
			t.Errorf("%s: %q", listen, warnings)
		}
	}
}

// playedByAnotherUser plays a test again as a user that may not write everywhere, if this process is root's.
func playedByAnotherUser(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	const nobody = 65534
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
	return true
}

func TestAFolderOfAnotherUserIsNotKnown(t *testing.T) {
	if playedByAnotherUser(t) {
		return
	}
	cfg := withSockets(t)
	cfg.Control.Socket = "/etc/control.sock"
	if notes, _ := check(t, cfg); !strings.Contains(notes, "not known: whether /etc/control.sock can be made: the user ") {
		t.Errorf("notes: %s", notes)
	}
}

func TestAFolderThatItsOwnerCannotWriteToKeepsEdgedFromStarting(t *testing.T) {
	if playedByAnotherUser(t) {
		return
	}
	cfg := withSockets(t)
	if err := os.Chmod(filepath.Dir(cfg.Control.Socket), 0o500); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	if Check(&stdout, &stderr, cfg) || !strings.Contains(stderr.String(), "the folder must be writable") {
		t.Errorf("stderr: %s", stderr.String())
	}
}

func TestCheckKnowsTheUnit(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/edged.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"WatchdogSec=" + unitWatchdog.String(), "User=" + unitUser} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).Match(bytes.TrimSpace(unit)) {
			t.Errorf("edged.service does not have %s", line)
		}
	}
}
