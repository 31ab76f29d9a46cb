// Package redistest runs real redis-servers for tests. Each has its own folder and Unix socket,
// listens on no port, saves nothing, and ends with the test that started it.
package redistest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server process.
type Server struct {
	tb     testing.TB
	dir    string
	args   []string
	cmd    *exec.Cmd
	client *redis.Client
}

// Start starts a server with more arguments, such as "--appendonly", "yes". It fails the test if
// redis-server is not installed.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		tb.Fatal("this test needs redis-server 6 or later: run `make tools`, or install Debian's package redis-server")
	}

	quiet.Do(func() { redis.SetLogger(discard{}) })
	dir, err := os.MkdirTemp("", "edged") // t.TempDir is too long for a socket's path
	if err != nil {
		tb.Fatal(err)
	}

	s := &Server{tb: tb, dir: dir, args: args}
	s.client = redis.NewClient(&redis.Options{
		Network: "unix", Addr: s.socket(), DisableIdentity: true, Protocol: 2, MaxRetries: -1, DialerRetries: 1,
	})
	s.Restart()
	tb.Cleanup(func() {
		s.client.Close()
		s.Kill()
		os.RemoveAll(dir)
	})
	return s
}

// Tests kill servers on purpose; go-redis's lines about it add nothing.
var quiet sync.Once

type discard struct{}

func (discard) Printf(context.Context, string, ...any) {}

func (s *Server) socket() string { return filepath.Join(s.dir, "s") }

// Address returns the value for edged's redis.address.
func (s *Server) Address() string { return "unix://" + s.socket() }

// Client returns a connection for the test's own commands.
func (s *Server) Client() *redis.Client { return s.client }

// Restart starts the server after Kill and waits until it answers.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Launch()
	s.Await()
}

// Launch starts the server after Kill, with more arguments, and does not wait.
func (s *Server) Launch(args ...string) {
	s.tb.Helper()
	os.Remove(s.socket())
	first, more := []string{}, append(s.args[:len(s.args):len(s.args)], args...)
	if len(more) > 0 && !strings.HasPrefix(more[0], "--") {
		first, more = more[:1:1], more[1:] // a configuration file, which must come first
	}
	first = append(first, "--port", "0", "--unixsocket", s.socket(), "--save", "", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log"))
	s.cmd = exec.Command("redis-server", append(first, more...)...)
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("start redis-server: %v", err)
	}
}

// Await waits until the server answers.
func (s *Server) Await() {
	s.tb.Helper()
	Eventually(s.tb, "redis-server answers", func() bool {
		return s.client.Ping(context.Background()).Err() == nil
	})
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() {
	s.Signal(syscall.SIGKILL)
	s.cmd.Wait()
}

// Signal sends the server a signal, such as SIGSTOP and SIGCONT.
func (s *Server) Signal(sig syscall.Signal) { s.cmd.Process.Signal(sig) }

// Push appends items to a list.
func (s *Server) Push(key string, items ...any) {
	s.tb.Helper()
	for len(items) > 0 {
		n := min(len(items), 1000)
		if err := s.client.RPush(context.Background(), key, items[:n]...).Err(); err != nil {
			s.tb.Fatalf("RPUSH %s: %v", key, err)
		}
		items = items[n:]
	}
}

// Len returns the length of a list.
func (s *Server) Len(key string) int64 {
	s.tb.Helper()
	n, err := s.client.LLen(context.Background(), key).Result()
	if err != nil {
		s.tb.Fatalf("LLEN %s: %v", key, err)
	}
	return n
}

// Eventually waits until a condition that cannot be awaited otherwise holds, and fails the test
// after half a minute.
func Eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			tb.Fatalf("gave up waiting: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
