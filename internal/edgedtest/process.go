// Package edgedtest runs edged as a process, for tests and for the programs that measure it.
//
// A Process is any running program and the lines that it prints. A Daemon is edged with a
// configuration, an address and a control socket, run as successive processes. Both return errors.
// A Server is a Daemon that belongs to a test and fails it instead.
package edgedtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Patience is how long this package waits before it gives up. A passing test never
// waits that long, however slow the machine is.
const Patience = time.Minute

// Build builds edged into file, an absolute path, with flags of go build, such as "-race". It works
// in each module of this repository.
func Build(ctx context.Context, file string, flags ...string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "edged").Output()
	if err != nil {
		return fmt.Errorf("find the module edged: %v; run this in a folder of its repository", err)
	}

	cgo := "CGO_ENABLED=0"
	if slices.Contains(flags, "-race") {
		cgo = "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", file}, flags, []string{"./cmd/edged"})...)
	cmd.Dir = strings.TrimSpace(string(root))
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build edged: %v\n%s", err, out)
	}
	return nil
}

// Process is a running program. It ends when this process does.
type Process struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	output output
}

// Start starts a program. The process collects the standard output and the standard error unless
// cmd redirects them.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, ended: make(chan struct{}), output: output{more: make(chan struct{})}}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.output
	}
	// Without the first option each program with the race detector ends a second late.
	cmd.Env = append(cmd.Environ(), "GORACE=atexit_sleep_ms=0 halt_on_error=1")
	cmd.SysProcAttr = attributes()

	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %v", cmd.Path, err)
	}
	go func() {
		defer close(p.ended)
		cmd.Wait()
	}()
	return p, nil
}

// Pid is the process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended is closed when the process is gone and all of its output has been read.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// HasEnded reports whether Ended is closed.
func (p *Process) HasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// State is how the process ended. It is nil before Ended is closed.
func (p *Process) State() *os.ProcessState { return p.cmd.ProcessState }

// Signal sends a signal. It fails if the process is gone.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process with SIGKILL and waits for the last of its output.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Wait waits until the process has ended and returns its exit code, which is -1
// after a signal. A process that does not end is killed.
func (p *Process) Wait() (code int, err error) {
	select {
	case <-p.ended:
		return p.State().ExitCode(), nil
	case <-time.After(Patience):
		p.Kill()
		return -1, fmt.Errorf("%s does not end within %v", p.cmd.Path, Patience)
	}
}

// Lines are the whole lines that the process has printed.
func (p *Process) Lines() []string {
	lines, _ := p.output.lines()
	return lines
}

// Output returns everything that the process has printed.
func (p *Process) Output() string {
	p.output.mu.Lock()
	defer p.output.mu.Unlock()
	return strings.Join(p.output.whole, "") + string(p.output.rest)
}

// AwaitLine waits for the first line that matches, and returns it. It fails if the process ends
// without such a line.
func (p *Process) AwaitLine(matches func(line string) bool) (string, error) {
	deadline := time.After(Patience)
	for seen := 0; ; {
		ended := p.HasEnded() // read before the lines, so that the last lines count
		lines, more := p.output.lines()
		for ; seen < len(lines); seen++ {
			if matches(lines[seen]) {
				return lines[seen], nil
			}
		}
		if ended {
			return "", fmt.Errorf("%s has ended: %v", p.cmd.Path, p.State())
		}

		select {
		case <-more:
		case <-p.ended:
		case <-deadline:
			return "", errors.New("gave up waiting")
		}
	}
}

// output collects lines.
type output struct {
	mu    sync.Mutex
	whole []string      // each with its newline; guarded by mu
	rest  []byte        // beginning of the next line; guarded by mu
	more  chan struct{} // closed when a line is added; guarded by mu
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.whole)
	o.rest = append(o.rest, b...)
	for {
		end := bytes.IndexByte(o.rest, '\n') + 1
		if end == 0 {
			break
		}
		o.whole = append(o.whole, string(o.rest[:end]))
		o.rest = o.rest[end:]
	}

	if len(o.whole) > before {
		close(o.more)
		o.more = make(chan struct{})
	}
	return len(b), nil
}

// lines returns the whole lines, and a channel that is closed when there are more.
func (o *output) lines() (lines []string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.whole[:len(o.whole):len(o.whole)], o.more
}
