// Package compat compares edged with nats-server, as third-party clients and tools see them. A
// scenario is run against both, as processes. Its observations must be the same, or differ in a way
// that is listed here.
package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"go.uber.org/goleak"
)

// patience is how long a test waits before it gives up.
const patience = edgedtest.Patience

var binaries string // folder of the other programs, and of files that settings name

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "compat")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = folder
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(folder)
		edgedtest.Exit(code)
	}))
}

// buildNATSServer builds nats-server, once.
var buildNATSServer = sync.OnceValue(func() error {
	return build(".", "-o", filepath.Join(binaries, "nats-server"), "github.com/nats-io/nats-server/v2")
})

// build runs `go build` in a folder.
func build(folder string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// kind says which server it is.
type kind string

const (
	edged      kind = "edged"
	natsServer kind = "nats-server"
)

// settings are lines of each server's configuration.
type settings struct{ edged, natsServer string }

// server is edged or nats-server, on a port that it keeps.
type server struct {
	t        testing.TB
	kind     kind
	settings settings
	tcp      string             // address for clients
	process  *edgedtest.Process // the present one; nil before the first
	redis    *redistest.Server  // edged's; nil for nats-server
	daemon   *edgedtest.Server  // nil for nats-server
}

// start starts a server that ends with the test, edged with code 0. The last arguments are those of
// edged's Redis.
func start(t testing.TB, k kind, set settings, redis ...string) *server {
	t.Helper()
	if err := writeFiles(); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, kind: k, settings: set}
	if k == edged {
		s.redis = redistest.Start(t, redis...)
		s.daemon = edgedtest.New(t, s.redis.Address(), `drain.timeout = "1h"`, withFiles(set.edged))
		s.tcp = s.daemon.Address
	} else if err := buildNATSServer(); err != nil {
		t.Fatal(err)
	} else {
		s.tcp = edgedtest.Address(t)
	}

	t.Cleanup(s.stop)
	s.start()
	return s
}

// withFiles fills in the folder that settings call FILES.
func withFiles(settings string) string { return strings.ReplaceAll(settings, "FILES", binaries) }

// start starts the process, and returns when it listens.
func (s *server) start() {
	s.t.Helper()
	if s.kind == edged {
		s.daemon.Start()
		s.process = s.daemon.Process
		return
	}

	file := filepath.Join(s.t.TempDir(), "config")
	config := fmt.Sprintf("listen: %q\nlame_duck_grace_period: 1s\njetstream: {store_dir: %q}\n%s\n", s.tcp, s.t.TempDir(), withFiles(s.settings.natsServer))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
	process, err := edgedtest.Start(exec.Command(filepath.Join(binaries, "nats-server"), "-config", file))
	if err != nil {
		s.t.Fatal(err)
	}
	s.process = process
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("the log of nats-server:\n%s", process.Output())
		}
	})

	listening := func(line string) bool { return strings.Contains(line, "Listening for client connections on "+s.tcp) }
	if _, err := process.AwaitLine(listening); err != nil {
		s.t.Fatalf("nats-server does not listen: %v", err)
	}
}

// stop ends the process without waiting for its clients, if it is still there.
func (s *server) stop() {
	if s.process == nil {
		return
	}
	if s.kind == edged {
		s.daemon.Daemon.Control("quit") // fails if edged has ended
	} else {
		s.process.Signal(syscall.SIGTERM)
	}
	code, err := s.process.Wait()
	if err != nil {
		s.t.Error(err)
	}
	if s.kind == edged && code != 0 {
		s.t.Errorf("edged ended with code %d", code)
	}
}

// restart stops the server and starts it again at the same address.
func (s *server) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

// lameDuck tells the server to send its clients away.
func (s *server) lameDuck() {
	sig := syscall.SIGTERM
	if s.kind == natsServer {
		sig = syscall.SIGUSR2
	}
	s.process.Signal(sig)
}

// difference is an intended difference between edged and nats-server.
type difference struct {
	saw     string // at edged
	because string
}

// compare checks that the observations at both servers are the same, or that those at edged are the
// listed difference.
func compare(t *testing.T, saw map[kind]string, differs *difference) {
	t.Helper()
	switch {
	case t.Failed():
	case differs == nil && saw[edged] != saw[natsServer]:
		t.Errorf("an unlisted difference:\nedged:       %s\nnats-server: %s", saw[edged], saw[natsServer])
	case differs != nil && saw[edged] == saw[natsServer]:
		t.Errorf("the difference is gone, both: %s", saw[edged])
	case differs != nil && saw[edged] != differs.saw:
		t.Errorf("edged differs in another way:\nedged:       %s\nbut named:   %s\nnats-server: %s", saw[edged], differs.saw, saw[natsServer])
	case differs != nil:
		t.Logf("differs, because %s\nedged:       %s\nnats-server: %s", differs.because, saw[edged], saw[natsServer])
	default:
		t.Logf("both: %s", saw[edged])
	}
}
