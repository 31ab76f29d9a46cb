package signals

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// In a test's child process this variable selects the role.
const childRole = "EDGED_SIGNALS_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		child(role)
	}
	goleak.VerifyTestMain(m)
}

// child writes to a standard output without a reader, with SIGPIPE ignored or not. It exits with
// code 0 if it survives and the write fails.
func child(role string) {
	if role == "watch" {
		New()
	}
	if _, err := fmt.Println("anybody?"); !errors.Is(err, syscall.EPIPE) {
		os.Exit(1)
	}
	os.Exit(0)
}

func send(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, w *Watcher, want os.Signal) {
	t.Helper()
	select {
	case got := <-w.C:
		if got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%v did not arrive", want)
	}
}

var all = []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT}

func TestEachOfTheFourSignalsArrives(t *testing.T) {
	w := New()
	defer w.Stop()
	for _, s := range all {
		send(t, s)
		expect(t, w, s)
	}
}

func TestTheSameSignalArrivesTwice(t *testing.T) {
	w := New()
	defer w.Stop()
	for range 2 {
		send(t, syscall.SIGTERM)
		expect(t, w, syscall.SIGTERM)
	}
}

func TestSignalsWaitForAReaderThatIsBusy(t *testing.T) {
	w := New()
	defer w.Stop()
	missing := map[os.Signal]bool{}
	for _, s := range all {
		send(t, s)
		missing[s] = true
	}
	for len(missing) > 0 { // pending signals arrive in any order
		select {
		case s := <-w.C:
			delete(missing, s)
		case <-time.After(20 * time.Second):
			t.Fatalf("%v did not arrive", missing)
		}
	}
}

func TestNothingArrivesAfterStop(t *testing.T) {
	stopped, other := New(), New()
	defer other.Stop()
	stopped.Stop()
	send(t, syscall.SIGTERM)
	expect(t, other, syscall.SIGTERM)
	select {
	case s := <-stopped.C:
		t.Errorf("got %v", s)
	default:
	}
}

func TestAClosedStandardOutputKillsOnlyAProcessThatDoesNotWatch(t *testing.T) {
	run := func(role string) *os.ProcessState {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		defer w.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childRole+"="+role)
		cmd.Stdout = w
		_ = cmd.Run() // the state shows the outcome
		return cmd.ProcessState
	}
	if state := run("watch"); !state.Success() {
		t.Errorf("with New: %v", state)
	}

	if status := run("do not watch").Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGPIPE {
		t.Errorf("without New: status %#x, want death by SIGPIPE", status)
	}
}

func TestNamesAreThoseThatPeopleWrite(t *testing.T) {
	for s, want := range map[os.Signal]string{
		syscall.SIGHUP:      "SIGHUP",
		syscall.SIGINT:      "SIGINT",
		syscall.SIGTERM:     "SIGTERM",
		syscall.SIGQUIT:     "SIGQUIT",
		syscall.Signal(250): "signal 250",
	} {
		if got := Name(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
