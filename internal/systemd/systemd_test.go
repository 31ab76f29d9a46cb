package systemd

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager stands for a service manager: a socket that takes notifications.
type manager struct{ *net.UnixConn }

// manage listens at address as a manager does, and sets the environment that a service would get
// from it.
func manage(t *testing.T, address, watchdogUsec string) manager {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	t.Setenv("NOTIFY_SOCKET", address)
	t.Setenv("WATCHDOG_USEC", watchdogUsec)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return manager{c}
}

func (m manager) expect(t *testing.T, want string) {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := m.Read(buf)
	if err != nil {
		t.Fatalf("want %q: %v", want, err)
	}
	if got := string(buf[:n]); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "n")
}

// unexpected is a log for tests in which nothing fails.
func unexpected(t *testing.T) func(error) {
	return func(err error) { t.Errorf("reported: %v", err) }
}

func TestNotificationsHaveSystemdsForm(t *testing.T) {
	abstract := "@edged-test-" + strconv.Itoa(os.Getpid())
	for _, address := range []string{socketPath(t), abstract} {
		m := manage(t, address, "")
		n := New(unexpected(t))
		n.Ready("2 lists, 3 clients")
		m.expect(t, "READY=1\nSTATUS=2 lists, 3 clients")
		n.Status("backlog 12")
		m.expect(t, "STATUS=backlog 12")
		n.Status("no\nREADY=0")
		m.expect(t, "STATUS=no READY=0")
		n.Stopping("draining")
		m.expect(t, "STOPPING=1\nSTATUS=draining")
		n.ExtendTimeout(1500 * time.Millisecond)
		m.expect(t, "EXTEND_TIMEOUT_USEC=1500000")
		n.Alive(time.Now()) // not requested
		n.Status("end")
		m.expect(t, "STATUS=end")
	}
}

func TestAliveSendsOnceInAThirdOfTheInterval(t *testing.T) {
	m := manage(t, socketPath(t), "3000000")
	n := New(unexpected(t))
	if got := n.Watchdog(); got != 3*time.Second {
		t.Fatalf("the watchdog interval is %v, want 3 s", got)
	}

	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		sends bool
	}{
		{0, true},
		{0, false},
		{time.Second - 1, false},
		{1, true},
		{time.Hour, true},
		{time.Second - 1, false},
	} {
		now = now.Add(step.after)
		n.Alive(now)
		if step.sends {
			m.expect(t, "WATCHDOG=1")
		}
		n.Status("barrier")
		m.expect(t, "STATUS=barrier")
	}
}

func TestTheWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	manage(t, socketPath(t), "3000000")
	t.Setenv("WATCHDOG_PID", "1")
	if got := New(unexpected(t)).Watchdog(); got != 0 {
		t.Errorf("the watchdog interval is %v, want 0", got)
	}
}

func TestAWatchdogSettingThatCannotBeReadIsReported(t *testing.T) {
	m := manage(t, socketPath(t), "soon")
	var reported []error
	n := New(func(err error) { reported = append(reported, err) })
	if len(reported) != 1 || !strings.Contains(reported[0].Error(), "WATCHDOG_USEC") {
		t.Errorf("reported %v, want one error about WATCHDOG_USEC", reported)
	}
	n.Ready("")
	m.expect(t, "READY=1\nSTATUS=")
}

func TestAFailureIsReportedOnceAndNotificationsGoOn(t *testing.T) {
	path := socketPath(t)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "")
	var reported []error
	n := New(func(err error) { reported = append(reported, err) })
	n.Ready("nobody there")
	n.Status("still nobody")
	if len(reported) != 1 || !errors.Is(reported[0], fs.ErrNotExist) {
		t.Errorf("reported %v, want that there is no such file", reported)
	}
	m := manage(t, path, "")
	n.Status("there you are")
	m.expect(t, "STATUS=there you are")
}

func TestWithoutAServiceManagerThereIsNothingToDo(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "3000000")
	n := New(unexpected(t))
	if n != nil {
		t.Fatal("there is a notifier")
	}
	n.Ready("")
	n.Status("")
	n.Stopping("")
	n.ExtendTimeout(time.Second)
	n.Alive(time.Now())
	if got := n.Watchdog(); got != 0 {
		t.Errorf("the watchdog interval is %v, want 0", got)
	}
}

func TestTheEnvironmentStaysAsItIs(t *testing.T) {
	m := manage(t, socketPath(t), "3000000")
	n := New(unexpected(t))
	n.Ready("")
	m.expect(t, "READY=1\nSTATUS=")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if os.Getenv(name) == "" {
			t.Errorf("%s is gone", name)
		}
	}
}
