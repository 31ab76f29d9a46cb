package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// redis is a redis-server process with a connection to it. It listens on a Unix socket only, and
// saves nothing.
type redis struct {
	socket string
	cmd    *exec.Cmd

	mu   sync.Mutex // guards the fields below: held during a command
	conn net.Conn
	in   *bufio.Reader
}

func startRedis(folder string) (*redis, error) {
	r := &redis{socket: filepath.Join(folder, "redis")}
	r.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", r.socket, "--save", "", "--dir", folder)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program alone
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server: %v; install it, or run `make tools`", err)
	}

	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		var err error
		if r.conn, err = net.Dial("unix", r.socket); err == nil {
			r.in = bufio.NewReader(r.conn)
			return r, nil
		}
		if time.Now().After(deadline) {
			r.close()
			return nil, fmt.Errorf("redis-server does not answer: %v", err)
		}
	}
}

func (r *redis) address() string { return "unix://" + r.socket }

// do sends a command with a one-line answer, and returns that answer.
func (r *redis) do(args ...string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := bufio.NewWriter(r.conn)
	fmt.Fprintf(out, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(out, "$%d\r\n%s\r\n", len(arg), arg)
	}

	if err := out.Flush(); err != nil {
		return "", fmt.Errorf("%s: %v", args[0], err)
	}

	line, err := r.in.ReadString('\n')
	if err == nil && strings.HasPrefix(line, "-") {
		err = errors.New(line)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %v", args[0], err)
	}
	return strings.TrimSuffix(line, "\r\n"), nil
}

func (r *redis) close() {
	if r.conn != nil {
		r.conn.Close()
	}
	r.cmd.Process.Kill()
	r.cmd.Wait()
}
