package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"

	"edged/internal/config"
)

// Exit codes of edged ctl.
const (
	ctlOK     = 0
	ctlERR    = 1
	ctlNobody = 2 // nobody answers; exitUsage is the same
)

const ctlUsage = `usage: edged ctl [-socket PATH] COMMAND...

Sends a command to the control socket and prints the answer, as socat does:
edged ctl status, edged ctl peek events 3, edged ctl lists json. Several commands
are one argument: edged ctl 'pause events; lists'. edged ctl help lists them.

  -socket PATH   the socket (default: control.socket of ` + defaultConfig + `,
                 or ` + defaultSocket + `)

Exit codes: 0 OK, 1 ERR, 2 nobody answers, or wrong usage.
`

// defaultSocket is control.socket where no file says otherwise.
const defaultSocket = "/run/edged/control.sock"

func runCtl(args []string, stdout, stderr io.Writer) int {
	flags := newFlags("edged ctl", ctlUsage, stdout, stderr)
	socket := flags.String("socket", "", "")
	switch err := flags.Parse(args); { // not parse: what follows the command is the command's
	case isHelp(err):
		fmt.Fprint(stdout, ctlUsage)
		return exitOK
	case err != nil:
		fmt.Fprint(stderr, ctlUsage)
		return exitUsage
	case flags.NArg() == 0:
		fmt.Fprintf(stderr, "edged ctl: a command is missing\n%s", ctlUsage)
		return exitUsage
	}
	if *socket == "" {
		*socket = defaultSocket
		if cfg, err := config.Load(defaultConfig); err == nil {
			*socket = cfg.Control.Socket
		}
	}
	code, err := ask(*socket, strings.Join(flags.Args(), " "), stdout)
	if err != nil {
		fmt.Fprintf(stderr, "edged ctl: %v\n", err)
	}
	return code
}

// ask sends commands to the socket and copies the answers. The error says why
// there is none, or not all of it.
func ask(socket, commands string, out io.Writer) (code int, err error) {
	c, err := net.Dial("unix", socket)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return ctlNobody, fmt.Errorf("%s is for root and the group edged; the status socket is for everybody (-socket): %v", socket, err)
	case err != nil:
		return ctlNobody, fmt.Errorf("nobody answers; is edged running?: %v", err)
	}
	defer c.Close()
	_, err = io.WriteString(c, commands+"\n")
	if err == nil {
		err = c.(*net.UnixConn).CloseWrite()
	}
	v := verdict{out: out}
	n, copyErr := io.Copy(&v, c) // also where sending failed: the daemon has said why
	switch {
	case v.failed:
		return ctlERR, nil
	case copyErr != nil:
		return ctlNobody, fmt.Errorf("the answer is not complete: %v", copyErr)
	case n == 0 && err != nil:
		return ctlNobody, fmt.Errorf("nobody answers: %v", err)
	case n == 0:
		return ctlNobody, errors.New("the daemon closed the connection without an answer")
	}
	return ctlOK, nil
}

// verdict passes answers on and notes whether one of them is an error.
type verdict struct {
	out    io.Writer
	failed bool
	start  []byte // of the line so far, as much of it as tells
}

// The beginnings of a line that is an error. No other line of an answer begins so.
const (
	errText = "ERR "
	errJSON = `{"error":{`
)

func (v *verdict) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case b == '\n':
			v.start = v.start[:0]
		case len(v.start) < len(errJSON):
			v.start = append(v.start, b)
			if s := string(v.start); s == errText || s == errJSON {
				v.failed = true
			}
		}
	}
	return v.out.Write(p)
}
