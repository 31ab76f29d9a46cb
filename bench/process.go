package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"edged/internal/edgedtest"
)

// process is a measured server.
type process struct {
	*edgedtest.Process
	name    string
	address string // address for clients
	control string // edged's control socket
	started time.Duration
}

// launch starts a server and waits until it accepts a connection and, if it speaks the NATS
// protocol, has sent INFO.
func launch(ctx context.Context, p *process, speaks bool, start func() (*edgedtest.Process, error)) (_ *process, err error) {
	begin := time.Now()
	if p.Process, err = start(); err != nil {
		return nil, err
	}

	for {
		if accepts(p.address, speaks) {
			p.started = time.Since(begin)
			return p, nil
		}
		select {
		case <-p.Ended():
			return nil, p.failed(fmt.Errorf("%s ends at its start: %v", p.name, p.State()))
		case <-ctx.Done():
			return nil, p.failed(fmt.Errorf("%s accepts no connection: %v", p.name, context.Cause(ctx)))
		case <-time.After(100 * time.Microsecond):
		}
	}
}

// program starts any program.
func program(command ...string) func() (*edgedtest.Process, error) {
	return func() (*edgedtest.Process, error) {
		return edgedtest.Start(exec.Command(command[0], command[1:]...))
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

// failed ends the process, and returns err with the process's output.
func (p *process) failed(err error) error {
	p.Kill()
	return fmt.Errorf("%v\n%s", err, p.Output())
}

// command sends a command to edged's control socket.
func (p *process) command(line string) error {
	answer, err := edgedtest.Control(p.control, line)
	if err == nil && !strings.HasSuffix(answer, "OK\n") {
		err = fmt.Errorf("edged answers %q to %s", answer, line)
	}
	return err
}

// usage is the resources that a process has used.
type usage struct {
	cpu      time.Duration // of all its living threads
	resident float64       // MiB now
	peak     float64       // maximum MiB since its start
}

// usages are those of a server and of Redis.
type usages struct{ edged, redis usage }

func (l *lab) usages(server *process) (u usages, err error) {
	if u.edged, err = server.usage(); err == nil {
		u.redis, err = l.redis.usage()
	}
	return u, err
}

// usage reads /proc, which counts processor time in nanoseconds: the ticks of getrusage and ps are
// too coarse for a process that is almost idle.
func (p *process) usage() (u usage, err error) {
	folder := filepath.Join("/proc", strconv.Itoa(p.Pid()))
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
		return u, errors.New("this system's /proc does not show the resources of a process; the benchmark needs Linux")
	}
	return u, nil
}
