// Package compat compares edged with nats-server, as clients and tools that
// others wrote see them. A scenario is run against both, as processes, and what
// it saw must be the same, or a difference that is named and meant.
package compat

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"

	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen: never in a test that
// passes, on a machine however slow.
const patience = time.Minute

var binaries string // the folder of what TestMain has built

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "compat")
	if err == nil {
		binaries = dir
		err = errors.Join(
			build(filepath.Join("..", ".."), "-race", "-o", filepath.Join(dir, "edged"), "./cmd/edged"),
			build(".", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2"),
		)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

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

// kind is which server it is.
type kind string

const (
	edged      kind = "edged"
	natsServer kind = "nats-server"
)

// settings are lines of the configuration of each.
type settings struct{ edged, natsServer string }

// server is edged or nats-server, on a port of its own that it keeps.
type server struct {
	t        testing.TB
	kind     kind
	settings settings
	tcp      string            // where clients connect
	redis    *redistest.Server // edged's; nil for nats-server
	folder   string
	log      bytes.Buffer // of all its lives; owned by the reader of the present one

	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone, and all of its log read
}

// start starts a server that ends with the test, edged with code 0.
func start(t testing.TB, k kind, set settings) *server {
	t.Helper()
	folder, err := os.MkdirTemp("", "c") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	s := &server{t: t, kind: k, settings: set, folder: folder, tcp: "127.0.0.1:0"}
	if k == edged {
		s.redis = redistest.Start(t)
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the log of %s:\n%s", k, s.log.Bytes())
		}
	})
	if err := writeFiles(); err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

// start starts the process, and returns when it listens.
func (s *server) start() {
	s.t.Helper()
	var config string
	if s.kind == edged {
		config = fmt.Sprintf("redis.address = %q\ntcp.listen = %q\ncontrol.socket = %q\nlog.format = \"json\"\ndrain.timeout = \"1h\"\n%s\n",
			s.redis.Address(), s.tcp, filepath.Join(s.folder, "control.sock"), s.settings.edged)
	} else {
		listen, any := strings.CutSuffix(s.tcp, ":0")
		if any {
			listen += ":-1" // its way to say so
		}
		config = fmt.Sprintf("listen: %q\nlame_duck_grace_period: 1s\n%s\n", listen, s.settings.natsServer)
	}
	file := filepath.Join(s.folder, "config")
	config = strings.ReplaceAll(config, "FILES", binaries)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binaries, string(s.kind)), "-config", file)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else the race detector ends each process a second late
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatalf("start %s: %v", s.kind, err)
	}
	s.cmd, s.ended = cmd, make(chan struct{})
	serving, once := make(chan string), sync.Once{}
	go func() {
		defer close(s.ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.log.Write(append(lines.Bytes(), '\n'))
			if tcp := address(lines.Text()); tcp != "" {
				once.Do(func() { serving <- tcp })
			}
		}
		cmd.Wait()
	}()
	select {
	case s.tcp = <-serving:
	case <-s.ended:
		s.t.Fatalf("%s does not start:\n%s", s.kind, s.log.Bytes())
	case <-time.After(patience):
		s.kill()
		s.t.Fatalf("gave up waiting: %s listens", s.kind)
	}
}

// address reads from a line of a log where the server listens, if it says so.
func address(line string) string {
	if _, tcp, ok := strings.Cut(line, "Listening for client connections on "); ok {
		return tcp
	}
	var fields struct{ Msg, TCP string }
	if json.Unmarshal([]byte(line), &fields) == nil && fields.Msg == "serving" {
		return fields.TCP
	}
	return ""
}

// stop ends the process at once and in good order, if it is still there.
func (s *server) stop() {
	if s.kind == edged {
		s.quit()
	} else {
		s.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.kill()
		s.t.Errorf("gave up waiting: %s ends", s.kind)
	}
	if code := s.cmd.ProcessState.ExitCode(); s.kind == edged && code != 0 {
		s.t.Errorf("edged ended with code %d", code)
	}
}

// quit tells edged to end without waiting for its clients. It may be gone already.
func (s *server) quit() {
	conn, err := net.Dial("unix", filepath.Join(s.folder, "control.sock"))
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(conn, "quit")
	io.Copy(io.Discard, conn)
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.ended
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
	s.cmd.Process.Signal(sig)
}

// difference is what edged does otherwise than nats-server, and means to.
type difference struct {
	saw     string // at edged
	because string
}

// compare checks that both servers were seen to do the same, or else that edged
// did what the difference says.
func compare(t *testing.T, saw map[kind]string, differs *difference) {
	t.Helper()
	switch {
	case t.Failed():
	case differs == nil && saw[edged] != saw[natsServer]:
		t.Errorf("a difference that nobody named:\nedged:       %s\nnats-server: %s", saw[edged], saw[natsServer])
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
