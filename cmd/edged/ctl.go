package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"
)

// Exit codes of edged ctl.
const (
	ctlOK     = 0
	ctlERR    = 1
	ctlNobody = 2 // no answer; exitUsage is the same
)

const ctlUsage = `usage: edged ctl [-config FILE | -socket PATH] COMMAND...

Sends a command to the control socket and prints the answer, as socat does:
edged ctl status, edged ctl peek events 3, edged ctl lists json. Several commands
are one argument: edged ctl 'pause events; lists'. edged ctl help lists them.

  -config FILE   the configuration of the daemon: its control.socket is the socket
                 (default ` + defaultConfig + `, and without it
                 ` + defaultSocket + `)
  -socket PATH   the socket

Exit codes: 0 OK, 1 ERR, 2 no answer, or wrong usage. edged ctl health, for
monitors: 0 well, 1 ill, 2 not known, which includes no answer within ` + healthPatience + `.
`

// healthPatience bounds the time of health: a daemon that is stuck does not answer.
const healthPatience = "5s"

// defaultSocket is control.socket if no file sets it.
const defaultSocket = "/run/edged/control.sock"

func runCtl(args []string, stdout, stderr io.Writer) int {
	flags := newFlags("edged ctl", ctlUsage, stdout, stderr)
	file := flags.String("config", "", "")
	socket := flags.String("socket", "", "")
	if code, done := parseFlags(flags, args); done { // not parse: flags after the command belong to the command
		return code
	}
	if flags.NArg() == 0 {
		fmt.Fprintf(stderr, "edged ctl: a command is missing\n%s", ctlUsage)
		return exitUsage
	}

	to, err := findSocket(*file, *socket)
	if err != nil {
		fmt.Fprintf(stderr, "edged ctl: %v\n", err)
		return exitUsage
	}

	commands := strings.Join(flags.Args(), " ")
	code, err := ask(to, commands, isHealth(commands), stdout)
	if err != nil {
		fmt.Fprintf(stderr, "edged ctl: %v\n", err)
	}
	return code
}

// target is the socket that receives a command.
type target struct {
	path   string
	source string // where the path comes from
	status string // the status socket, if it is known
}

// findSocket returns the socket in the flags, or else the one in the configuration.
func findSocket(file, socket string) (target, error) {
	switch {
	case file != "" && socket != "":
		return target{}, errors.New("-config and -socket both name a socket: use one of them")
	case socket != "":
		return target{path: socket, source: "-socket"}, nil
	}

	cfg, err := read(file)
	switch {
	case err != nil && file != "":
		return target{}, fmt.Errorf("%v\nno socket is known: mend the file, or name the socket with -socket", err)
	case err != nil: // the daemon may have started with the defaults
		return target{path: defaultSocket, source: "the default: " + defaultConfig + " can't be used, edged check says why"}, nil
	}
	source := "the default"
	if place := cfg.Place("control.socket"); place != "" {
		source = "control.socket, " + place
	}
	return target{path: cfg.Control.Socket, source: source, status: cfg.Control.StatusSocket}, nil
}

// unreachable explains why a socket cannot be reached, with a remedy.
func unreachable(to target, err error) error {
	socket := fmt.Sprintf("%s (%s)", to.path, to.source)
	switch {
	case errors.Is(err, fs.ErrPermission):
		status := to.status
		if status == "" {
			status = "/run/edged/status.sock"
		}
		return fmt.Errorf("%s is for root and the group edged: become a member (usermod -aG edged NAME, then log in again); "+
			"to look at the state is for everybody: -socket %s", socket, status)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no socket %s: edged does not run (systemctl status edged), or serves on another: name its file with -config", socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing answers on the socket %s: edged does not run any more (systemctl status edged)", socket)
	}
	return fmt.Errorf("no connection to the socket %s: %v", socket, err)
}

// isHealth reports whether health is the only command.
func isHealth(commands string) bool {
	words := strings.Fields(commands)
	return len(words) > 0 && strings.EqualFold(words[0], "health") && !strings.Contains(commands, ";")
}

// ask sends commands to a socket and copies the answers. The error explains why there is no answer,
// or only part of it. If the command is health, ask waits only for a while, and the code is ctlERR
// only if the daemon is not healthy.
func ask(to target, commands string, health bool, out io.Writer) (code int, err error) {
	c, err := net.Dial("unix", to.path)
	if err != nil {
		return ctlNobody, unreachable(to, err)
	}
	defer c.Close()
	if patience, err := time.ParseDuration(healthPatience); health && err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
	}

	_, err = io.WriteString(c, commands+"\n")
	if err == nil {
		err = c.(*net.UnixConn).CloseWrite()
	}
	v := verdict{out: out}
	n, copyErr := io.Copy(&v, c) // even if sending failed: the daemon has given the reason
	switch {
	case v.failed && health && !v.ill:
		return ctlNobody, errors.New("the health is not known")
	case v.failed:
		return ctlERR, nil
	case copyErr != nil:
		return ctlNobody, fmt.Errorf("the answer is not complete: %v", copyErr)
	case n == 0 && err != nil:
		return ctlNobody, fmt.Errorf("there is no answer on the socket %s: %v", to.path, err)
	case n == 0:
		return ctlNobody, errors.New("the daemon closed the connection without an answer")
	}
	return ctlOK, nil
}

// verdict passes answers on and notes whether one of them is an error.
type verdict struct {
	out    io.Writer
	failed bool
	ill    bool   // the error is that of health
	start  []byte // beginning of the current line, as far as it matters
}

// Beginnings of a line that is an error. No other line of an answer begins like this.
const (
	errText = "ERR "
	errJSON = `{"error":{`
	illText = "ERR Ill "
	illJSON = `{"ok":false`
)

func (v *verdict) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case b == '\n':
			v.start = v.start[:0]
		case len(v.start) < len(illJSON):
			v.start = append(v.start, b)
			s := string(v.start)
			v.ill = v.ill || s == illText || s == illJSON
			v.failed = v.failed || v.ill || s == errText || s == errJSON
		}
	}
	return v.out.Write(p)
}
