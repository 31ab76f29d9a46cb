package edgedtest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// built is edged with the race detector, for all tests of a package.
var built = sync.OnceValues(func() (file string, err error) {
	if folder, err = os.MkdirTemp("", "edged"); err != nil {
		return "", err
	}
	file = filepath.Join(folder, "edged")
	return file, Build(context.Background(), file, "-race")
})

var folder string // the folder of the file that built returns; read after the tests

// Binary returns the path of edged, built with the race detector on the first call. A data race
// ends it with exit code 66.
func Binary(tb testing.TB) string {
	tb.Helper()
	file, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return file
}

// Exit removes the program that Binary built, and exits. A package that calls
// Binary must end with it:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(edgedtest.Exit)) }
func Exit(code int) {
	if folder != "" {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}

// Address reserves an address for the duration of a test.
func Address(tb testing.TB) string {
	tb.Helper()
	address, release, err := Reserve()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(release)
	return address
}

// Server is a daemon that belongs to a test and fails it.
type Server struct {
	*Daemon
	tb testing.TB
}

// New prepares a daemon for the Redis at an address. It ends with the test, by
// SIGTERM and with code 0; a failed test shows its log.
func New(tb testing.TB, redis string, settings ...string) *Server {
	tb.Helper()
	address := Address(tb)
	folder, err := os.MkdirTemp("", "e") // tb.TempDir is too long for a socket's path
	if err != nil {
		tb.Fatal(err)
	}

	s := &Server{Daemon: &Daemon{Folder: folder, Redis: redis, Address: address, Settings: settings}, tb: tb}
	tb.Cleanup(func() {
		if s.Process != nil && !s.HasEnded() {
			if err := s.Stop(syscall.SIGTERM); err != nil {
				tb.Error(err)
			}
		}
		if tb.Failed() {
			tb.Logf("the log of edged:\n%s", s.History())
		}
		os.RemoveAll(folder)
	})

	return s
}

// Run prepares a daemon as New does, and starts it.
func Run(tb testing.TB, redis string, settings ...string) *Server {
	tb.Helper()
	s := New(tb, redis, settings...)
	s.Start()
	return s
}

// Start starts the daemon, or restarts it if it has ended, and waits until it serves.
func (s *Server) Start() {
	s.tb.Helper()
	if s.Binary == "" {
		s.Binary = Binary(s.tb)
	}
	s.check(s.Daemon.Start())
}

// Kill ends the daemon with SIGKILL. It must not have ended before.
func (s *Server) Kill() {
	s.tb.Helper()
	s.check(s.Stop(syscall.SIGKILL))
}

// Wait waits until the daemon has ended and returns its exit code.
func (s *Server) Wait() (code int) {
	s.tb.Helper()
	code, err := s.Daemon.Wait()
	s.check(err)
	return code
}

// Reload replaces the settings while the daemon runs.
func (s *Server) Reload(settings ...string) (answer string) {
	s.tb.Helper()
	s.Settings = settings
	s.check(s.configure())
	return s.Control("reload")
}

// AwaitLog waits until this process has logged msg, and returns the first such line.
func (s *Server) AwaitLog(msg string) Line {
	s.tb.Helper()
	line, err := s.Daemon.AwaitLog(msg)
	s.check(err)
	return line
}

// Control sends a line to the control socket and returns the answer.
func (s *Server) Control(line string) (answer string) {
	s.tb.Helper()
	answer, err := s.Daemon.Control(line)
	s.check(err)
	return answer
}

// ControlJSON sends a command that answers in JSON, and decodes the answer.
func (s *Server) ControlJSON(command string, answer any) {
	s.tb.Helper()
	text := s.Control(command + " json")
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		s.tb.Fatalf("%s answers %q: %v", command, text, err)
	}
}

func (s *Server) check(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}
