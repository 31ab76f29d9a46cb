package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// instance is what the daemon is called, in each of its lives.
const instance = "crash"

// build builds the daemon.
func build(ctx context.Context, binary string, race bool) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "edged").Output()
	if err != nil {
		return fmt.Errorf("find the module edged: run this from the folder test: %v", err)
	}
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/edged")...)
	cmd.Dir = strings.TrimSpace(string(root))
	if race {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build edged: %v\n%s", err, out)
	}
	return nil
}

// daemon is edged as a process, again and again.
type daemon struct {
	binary  string
	folder  string
	config  string
	address string // where clients connect: any port at first, then always the same
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it is gone and its log read
	log     []byte        // of this life; owned by its reader until ended is closed
}

func newDaemon(binary, folder, redis, mode string) *daemon {
	config := fmt.Sprintf("redis.address = %q\ncontrol.socket = %q\ncontrol.status_socket = \"\"\n"+
		"drain.timeout = \"300ms\"\nlog.format = \"json\"\ninstance = %q\n",
		redis, filepath.Join(folder, "control"), instance)
	for _, list := range lists {
		config += fmt.Sprintf("[[list]]\nkey = %q\nack = %q\n", list, mode)
		if mode == "explicit" {
			config += "ack_wait = \"2s\"\nmax_ack_pending = 1000\n"
		}
	}
	return &daemon{binary: binary, folder: folder, config: config, address: "127.0.0.1:0"}
}

// start starts the daemon and waits until it serves.
func (d *daemon) start() error {
	file := filepath.Join(d.folder, "edged.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf("tcp.listen = %q\n%s", d.address, d.config)), 0o600); err != nil {
		return err
	}
	d.cmd = exec.Command(d.binary, "-config", file)
	d.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 halt_on_error=1")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program alone
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start edged: %v", err)
	}
	d.log, d.ended = nil, make(chan struct{})
	serving := make(chan string, 1)
	go func() {
		defer close(d.ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			d.log = append(append(d.log, lines.Bytes()...), '\n')
			var line struct{ Msg, TCP string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				serving <- line.TCP
			}
		}
		d.cmd.Wait()
	}()
	select {
	case d.address = <-serving:
		return nil
	case <-d.ended:
		return fmt.Errorf("edged ends at its start: %v", d.cmd.ProcessState)
	case <-time.After(patience):
		d.stop(syscall.SIGKILL)
		return errors.New("gave up waiting: edged serves")
	}
}

// stop ends the daemon with a signal and waits for the last of its log. It fails
// where the daemon ends in another way than that signal asks for, or has done so
// before.
func (d *daemon) stop(sig syscall.Signal) error {
	d.cmd.Process.Signal(sig)
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.cmd.Process.Kill()
		<-d.ended
	}
	state := d.cmd.ProcessState
	status := state.Sys().(syscall.WaitStatus)
	if sig == syscall.SIGKILL && status.Signaled() && status.Signal() == sig {
		return nil
	}
	if sig == syscall.SIGTERM && state.ExitCode() == 0 && bytes.Contains(d.log, []byte(`"drained"`)) {
		return nil
	}
	return fmt.Errorf("edged, told to end by %v, ends so: %v", sig, state)
}
