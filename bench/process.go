package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that is measured.
type process struct {
	name    string
	address string // where clients connect
	control string // edged's control socket
	started time.Duration

	cmd    *exec.Cmd
	output bytes.Buffer // read once ended is closed
	ended  chan struct{}
}

// launch starts a server and waits until it accepts a connection, and has said
// INFO where it speaks the NATS protocol.
func launch(ctx context.Context, p *process, speaks bool, command ...string) (*process, error) {
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the benchmark alone
	p.ended = make(chan struct{})
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %v", p.name, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	for {
		if accepts(p.address, speaks) {
			p.started = time.Since(begin)
			return p, nil
		}
		select {
		case <-p.ended:
			return nil, p.failed(fmt.Errorf("%s ends at its start: %v", p.name, p.cmd.ProcessState))
		case <-ctx.Done():
			return nil, p.failed(fmt.Errorf("%s accepts no connection: %v", p.name, context.Cause(ctx)))
		case <-time.After(100 * time.Microsecond):
		}
	}
}

func accepts(address string, speaks bool) bool {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	conn, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	if !speaks {
		return true
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

// stop ends the process and waits for it. Nothing of it is worth keeping.
func (p *process) stop() {
	p.cmd.Process.Kill()
	<-p.ended
}

// failed ends the process, and is err with what the process has said.
func (p *process) failed(err error) error {
	p.stop()
	return fmt.Errorf("%v\n%s", err, p.output.Bytes())
}

// freeAddress is a loopback address that nobody listens on at the moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// usage is what a process has taken from the machine.
type usage struct {
	cpu      time.Duration // of all its threads that live
	resident float64       // MiB now
	peak     float64       // MiB at most since its start
}

// usage reads /proc, which counts processor time there in nanoseconds: the
// ticks of getrusage and ps are too coarse for a process that does next to nothing.
func (p *process) usage() (u usage, err error) {
	folder := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	threads, err := filepath.Glob(filepath.Join(folder, "task", "*", "schedstat"))
	if err != nil {
		return u, err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // the thread has ended
		}
		on, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(on, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s: %v", thread, err)
		}
		u.cpu += time.Duration(ns)
	}
	status, err := os.ReadFile(filepath.Join(folder, "status"))
	if err != nil {
		return u, p.failed(fmt.Errorf("%s has ended: %v", p.name, err))
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch key {
		case "VmRSS":
			u.resident = kib / 1024
		case "VmHWM":
			u.peak = kib / 1024
		}
	}
	if len(threads) == 0 || u.peak == 0 {
		return u, errors.New("this system's /proc does not say what a process uses; the benchmark needs Linux")
	}
	return u, nil
}
