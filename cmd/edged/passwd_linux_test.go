package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with edged passwd on its other side.
type terminal struct {
	*os.File
	t     *testing.T
	other *os.File
	cmd   *exec.Cmd
	out   strings.Builder // of standard output
	shown string          // shown by the terminal, and not consumed by an await yet
}

func startPasswd(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("this test needs a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })

	tt := &terminal{File: master, t: t, other: other, cmd: exec.Command("edged", "passwd")}
	tt.cmd.Stdin, tt.cmd.Stdout, tt.cmd.Stderr = other, &tt.out, other
	tt.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := tt.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return tt
}

// await reads until the terminal has shown text, and returns the output before it.
func (tt *terminal) await(text string) (before string) {
	tt.t.Helper()
	buf := make([]byte, 1000)
	for {
		if before, after, ok := strings.Cut(tt.shown, text); ok {
			tt.shown = after
			return before
		}
		n, err := tt.Read(buf)
		if err != nil {
			tt.t.Fatalf("%v; it shows %q", err, tt.shown)
		}
		tt.shown += string(buf[:n])
	}
}

func (tt *terminal) enter(text string) {
	tt.t.Helper()
	if _, err := io.WriteString(tt, text); err != nil {
		tt.t.Fatal(err)
	}
}

// ended waits for the end, and checks that the terminal shows input again.
func (tt *terminal) ended() (code int) {
	tt.t.Helper()
	err := tt.cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		tt.t.Fatal(err)
	}
	if state, err := unix.IoctlGetTermios(int(tt.other.Fd()), unix.TCGETS); err != nil || state.Lflag&unix.ECHO == 0 {
		tt.t.Errorf("the terminal does not show input any more (%v)", err)
	}
	return tt.cmd.ProcessState.ExitCode()
}

func TestPasswdAsksTwiceAndShowsNothing(t *testing.T) {
	tt := startPasswd(t)
	tt.await("password: ")
	tt.enter("open barley\n")
	shown := tt.await("once more: ")
	tt.enter("open barley\n")
	if code := tt.ended(); code != exitOK {
		t.Fatalf("it ended with %d", code)
	}
	if err := bcrypt.CompareHashAndPassword([]byte(strings.TrimSpace(tt.out.String())), []byte("open barley")); err != nil {
		t.Errorf("%q: %v", tt.out.String(), err)
	}
	if strings.TrimSpace(shown) != "" {
		t.Errorf("the terminal showed %q", shown)
	}
}

func TestPasswdRefusesTwoPasswordsThatDiffer(t *testing.T) {
	tt := startPasswd(t)
	tt.await("password: ")
	tt.enter("open barley\n")
	tt.await("once more: ")
	tt.enter("open parley\n")
	tt.await("the two passwords differ: begin again")
	if code := tt.ended(); code != exitFailed || tt.out.Len() > 0 {
		t.Errorf("it ended with %d and printed %q", code, tt.out.String())
	}
}

func TestPasswdShowsInputAgainAfterAnInterrupt(t *testing.T) {
	tt := startPasswd(t)
	tt.await("password: ")
	tt.enter("open\x03")
	tt.await("no password was read: SIGINT")
	if code := tt.ended(); code != exitFailed {
		t.Errorf("it ended with %d", code)
	}
}
