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

// healthPatience is how long health may take: a daemon that is stuck does not answer.
const healthPatience = "5s"

// defaultSocket is control.socket where no file says otherwise.
const defaultSocket = "/run/edged/control.sock"

func runCtl(args []string, stdout, stderr io.Writer) int {
	flags := newFlags("edged ctl", ctlUsage, stdout, stderr)
	file := flags.String("config", "", "")
	socket := flags.String("socket", "", "")
	if code, done := parseFlags(flags, args); done { // not parse: flags after the command are the command's
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

// target is the socket that a command goes to.
type target struct {
	path   string
	source string // of the path
	status string // the status socket, if it is known
}

// findSocket returns the socket of the flags, or else the one of the configuration.
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
	case err != nil: // what the daemon may have started with
		return target{path: defaultSocket, source: "the default: " + defaultConfig + " can't be used, edged check says why"}, nil
	}
	source := "the default"
	if place := cfg.Place("control.socket"); place != "" {
		source = "control.socket, " + place
	}
	return target{path: cfg.Control.Socket, source: source, status: cfg.Control.StatusSocket}, nil
}

// unreachable says why no connection to a socket came about, and what to do.
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

// isHealth reports whether commands are health alone.
func isHealth(commands string) bool {
	words := strings.Fields(commands)
	return len(words) > 0 && strings.EqualFold(words[0], "health") && !strings.Contains(commands, ";")
}

// ask sends commands to a socket and copies the answers. The error says why
// there is none, or not all of it. If the command is health, it waits for a while only, and
// the code is ctlERR only if the daemon is ill.
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
	n, copyErr := io.Copy(&v, c) // also where sending failed: the daemon has said why
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
	start  []byte // of the line so far, as much of it as tells
}

// The beginnings of a line that is an error. No other line of an answer begins so.
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
