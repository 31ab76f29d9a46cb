package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The tests run this binary as edged-dev, in a separate process.
func TestMain(m *testing.M) {
	if os.Getenv("EDGED_DEV_RUN") != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "EDGED_DEV_RUN=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// temporary sets the folder for temporary files; its path leaves room for a socket's.
func temporary(t *testing.T) (folder string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	t.Setenv("TMPDIR", folder)
	return folder
}

// output reads the standard output of a process.
type output struct {
	*bufio.Scanner
	t *testing.T
}

// next returns the next line that matches a pattern, and its groups.
func (o output) next(pattern string) []string {
	o.t.Helper()
	want := regexp.MustCompile(pattern)
	for o.Scan() {
		if m := want.FindStringSubmatch(o.Text()); m != nil {
			return m
		}
	}
	o.t.Fatalf("the output ended before a line that matches %s", pattern)
	return nil
}

// start starts a process with its children; its standard output is read.
func start(t *testing.T, cmd *exec.Cmd) output {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}

	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	timer := time.AfterFunc(time.Minute, kill)
	t.Cleanup(func() {
		timer.Stop()
		kill()
		cmd.Wait()
	})
	return output{bufio.NewScanner(out), t}
}

func needFreePort(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:4222")
	if err != nil {
		t.Fatalf("this test needs 127.0.0.1:4222 to be free; stop the program that listens there: %v", err)
	}
	ln.Close()
}

func TestItsFirstLinesSayHowToLook(t *testing.T) {
	needFreePort(t)
	folder := temporary(t)
	dev := command(t)
	var log strings.Builder
	dev.Stderr = &log
	out := start(t, dev)
	control := out.next(`^  control   (echo status .*)$`)[1]
	data := out.next(`^  data      (.*)$`)[1]
	same := out.next(`^  the same  (.*)$`)[1]

	// The lines work as printed.
	status, err := exec.Command("sh", "-c", control).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(status), "state      serving ") {
		t.Errorf("%s: %v\n%s", control, err, status)
	}
	start(t, exec.Command("sh", "-c", data)).next(`^MSG events 1 \d+\r?$`)
	if want := filepath.Join(filepath.Dir(dev.Args[0]), "edged") + " sub events"; same != want {
		t.Errorf("the same with %q, want %q: the program beside this one", same, want)
	}

	// Items of both lists follow, from the first one on.
	first := map[string]bool{}
	for len(first) < 2 {
		first[out.next(`^(events|readings) \{"n":1,`)[1]] = true
	}
	out.next(`^events \{"n":3,`)

	// Ctrl-C drains.
	dev.Process.Signal(syscall.SIGINT)
	for out.Scan() {
	}
	if err := dev.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, want := range []string{`"why":"SIGINT"`, `"msg":"drained"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log.String())
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("it left files: %v, %v", left, err)
	}
}

func TestASecondOneSaysWhyItCannotStart(t *testing.T) {
	needFreePort(t)
	temporary(t)
	start(t, command(t)).next(`^  the same `)
	second := command(t)
	log, err := second.CombinedOutput()
	if code := second.ProcessState.ExitCode(); code != 1 {
		t.Errorf("it ended with %v", err)
	}
	for _, want := range []string{"can't listen for clients; is another edged or NATS server running?", "127.0.0.1:4222"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log has no %q:\n%s", want, log)
		}
	}
}

func TestWrongUsageIsNamed(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-h"}, 0, "  edged-dev\n"},
		{[]string{"-no-such-flag"}, 2, "flag provided but not defined: -no-such-flag\n"},
		{[]string{"events"}, 2, "edged-dev: unexpected argument: events\n"},
	} {
		var out, errs strings.Builder
		code := run(append([]string{"edged-dev"}, c.args...), &out, &errs)
		if said := out.String() + errs.String(); code != c.code || !strings.Contains(said, c.want) {
			t.Errorf("%v: exit code %d, want %d, and %q in:\n%s", c.args, code, c.code, c.want, said)
		}
	}
}
