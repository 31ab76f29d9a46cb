package edgedtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Daemon is edged with a folder of its own, run as successive processes. All fields may be changed
// between two processes.
type Daemon struct {
	*Process // the present process, or the last one

	Binary   string   // program
	Folder   string   // of the configuration and the sockets, with a short path
	Redis    string   // the value of redis.address
	Address  string   // the address for clients, such as one that Reserve returns
	Settings []string // further lines of the configuration, such as `drain.timeout = "1s"`
	Env      []string // variables in addition to those of this process

	earlier strings.Builder // output of the processes before this one
}

// Socket is the path of the control socket.
func (d *Daemon) Socket() string { return filepath.Join(d.Folder, "control.sock") }

// ConfigFile is the path of the configuration.
func (d *Daemon) ConfigFile() string { return filepath.Join(d.Folder, "edged.toml") }

// configure writes the configuration.
func (d *Daemon) configure() error {
	text := fmt.Sprintf("redis.address = %q\ntcp.listen = %q\ncontrol.socket = %q\ncontrol.status_socket = %q\nlog.format = \"json\"\n%s\n",
		d.Redis, d.Address, d.Socket(), filepath.Join(d.Folder, "status.sock"), strings.Join(d.Settings, "\n"))
	return os.WriteFile(d.ConfigFile(), []byte(text), 0o600)
}

// Launch writes the configuration and starts a process. It does not wait until the process serves.
func (d *Daemon) Launch() error {
	if err := d.configure(); err != nil {
		return err
	}
	cmd := exec.Command(d.Binary, "-config", d.ConfigFile())
	if len(d.Env) > 0 {
		cmd.Env = append(os.Environ(), d.Env...)
	}
	process, err := Start(cmd)
	if err != nil {
		return err
	}

	if d.Process != nil {
		d.earlier.WriteString(d.Process.Output())
	}
	d.Process = process
	return nil
}

// Start writes the configuration, starts a process and waits until it serves.
func (d *Daemon) Start() error {
	if err := d.Launch(); err != nil {
		return err
	}
	if _, err := d.AwaitLog("serving"); err != nil {
		d.Kill()
		return fmt.Errorf("%v\n%s", err, d.Output())
	}
	return nil
}

// Stop ends the process with a signal. It fails unless the process ends as expected: by SIGKILL, or
// with code 0 after a drain.
func (d *Daemon) Stop(sig syscall.Signal) error {
	d.Signal(sig)
	if _, err := d.Wait(); err != nil {
		return err
	}
	if sig == syscall.SIGKILL {
		if status := d.State().Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == sig {
			return nil
		}
	} else if _, err := d.AwaitLog("drained"); err == nil && d.State().ExitCode() == 0 {
		return nil
	}
	return fmt.Errorf("edged, stopped by %v: %v", sig, d.State())
}

// History is the output of all processes of this daemon.
func (d *Daemon) History() string {
	if d.Process == nil {
		return ""
	}
	return d.earlier.String() + d.Output()
}

// Line is a line of edged's log, decoded.
type Line map[string]any

// Log returns the lines that the present process has logged. Lines that are not JSON, such as those
// of a panic, are left out.
func (d *Daemon) Log() (log []Line) {
	for _, text := range d.Lines() {
		var line Line
		if json.Unmarshal([]byte(text), &line) == nil {
			log = append(log, line)
		}
	}
	return log
}

// AwaitLog waits until the present process has logged msg, and returns the first such line.
func (d *Daemon) AwaitLog(msg string) (Line, error) {
	var line Line
	_, err := d.AwaitLine(func(text string) bool {
		line = nil
		return strings.Contains(text, msg) && json.Unmarshal([]byte(text), &line) == nil && line["msg"] == msg
	})
	if err != nil {
		return nil, fmt.Errorf("edged has not logged %q: %v", msg, err)
	}
	return line, nil
}

// Control sends a line to the control socket and returns the answer.
func (d *Daemon) Control(line string) (string, error) { return Control(d.Socket(), line) }

// Control sends a line to a control socket and returns the answer.
func Control(socket, line string) (string, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(Patience))

	_, err = io.WriteString(conn, line+"\n")
	err = errors.Join(err, conn.(*net.UnixConn).CloseWrite())
	if err != nil {
		return "", fmt.Errorf("control %q: %v", line, err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("control %q: %v", line, err)
	}
	return string(answer), nil
}
