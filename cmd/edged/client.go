package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"edged/internal/client"
)

// exitTimeout is the exit code of edged sub and edged pub if nothing came in time. They use
// exitFailed and exitUsage too.
const exitTimeout = 3

// connectUsage is the common part of the usage of edged sub and edged pub.
const connectUsage = `
To connect; in brackets the environment variable that does the same:
  -server ADDRESS       host:port, or with tls:// before it [NATS_URL]
                        (default 127.0.0.1:4222)
  -user NAME            [NATS_USER]; the password is in a file, in NATS_PASSWORD,
                        or is asked for on the terminal
  -password-file FILE   its first line is the password
  -token-file FILE      its first line is the token [NATS_TOKEN has the token]
  -creds FILE           credentials of a NATS account [NATS_CREDS]
  -ca-file FILE         authorities of the server's certificate [NATS_CA]
  -cert-file FILE       certificate of this client [NATS_CERT]
  -key-file FILE        its key [NATS_KEY]
  -server-name NAME     in the server's certificate (default: as in ADDRESS)
  -tls-first            the handshake comes first, as with tcp.tls.first
`

const subUsage = `usage: edged sub [flags] SUBJECT...

Prints what arrives on the subjects, an item a line: the subject, then the payload,
quoted if it is not printable. What is printed is confirmed. When the connection ends
it connects again, and says so on standard error.

  -ack                  acknowledge each item after it is printed; without that, items
                        of lists with ack = "explicit" come again
  -count N              end after N items of each subject
  -json                 print objects: subject, data (base64 if it is no text), reply
  -queue NAME           be a member of this queue group
  -raw                  print payloads only, as they are
  -reconnect=false      end when the connection ends
  -timeout DURATION     end when nothing arrives for so long (such as 5s), which
                        includes connecting
` + connectUsage + `
Exit codes: 0 ended as asked, 1 failed, 2 wrong usage, 3 timeout.
`

const pubUsage = `usage: edged pub [flags] SUBJECT [TEXT]

Publishes TEXT, or each line of standard input, to the subject of an [[inbound]] list,
in order. It waits until the server has confirmed that each is in the list, and prints
how many are. It stops at the first one that is not confirmed; of those that it sent
after that one, some may be in the list.

  -timeout DURATION     for connecting, and for each confirmation (default 10s)
` + connectUsage + `
Exit codes: 0 all are confirmed, 1 one is not, 2 wrong usage, 3 timeout.
`

// connecting holds the flags that say how to connect.
type connecting struct {
	client.Server
	passwordFile, tokenFile string
}

// connectFlags are in the order of the usage.
var connectFlags = []string{"-server", "-user", "-password-file", "-token-file", "-creds",
	"-ca-file", "-cert-file", "-key-file", "-server-name", "-tls-first"}

func (c *connecting) register(flags flagSet) {
	flags.StringVar(&c.Address, "server", "", "")
	flags.StringVar(&c.User, "user", os.Getenv("NATS_USER"), "")
	flags.StringVar(&c.passwordFile, "password-file", "", "")
	flags.StringVar(&c.tokenFile, "token-file", "", "")
	flags.StringVar(&c.CredsFile, "creds", os.Getenv("NATS_CREDS"), "")
	flags.StringVar(&c.CAFile, "ca-file", os.Getenv("NATS_CA"), "")
	flags.StringVar(&c.CertFile, "cert-file", os.Getenv("NATS_CERT"), "")
	flags.StringVar(&c.KeyFile, "key-file", os.Getenv("NATS_KEY"), "")
	flags.StringVar(&c.ServerName, "server-name", "", "")
	flags.BoolVar(&c.TLSFirst, "tls-first", false, "")
}

// server reads the secrets and returns how to connect.
func (c *connecting) server(name string) (s client.Server, err error) {
	s = c.Server
	s.Name = name
	switch {
	case strings.Contains(s.Address, "@"): // other users of the machine can see arguments
		return s, errors.New("-server has a user or a token in it: use -user, -password-file, -token-file or the environment")
	case s.Address == "":
		if s.Address = os.Getenv("NATS_URL"); s.Address == "" {
			s.Address = "127.0.0.1:4222"
		}
	}

	if s.Token = os.Getenv("NATS_TOKEN"); c.tokenFile != "" {
		if s.Token, err = firstLine(c.tokenFile); err != nil {
			return s, err
		}
	}
	if s.User == "" {
		return s, nil
	}
	switch secret, given := os.LookupEnv("NATS_PASSWORD"); {
	case c.passwordFile != "":
		s.Password, err = firstLine(c.passwordFile)
	case given:
		s.Password = secret
	default:
		s.Password, err = askPassword(s.User)
	}
	return s, err
}

// firstLine returns the first line of a file with a secret.
func firstLine(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	line, err := bufio.NewReader(file).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("the first line of %s is empty", path)
	}
	return line, nil
}

// askPassword asks on the terminal, which does not show the input.
func askPassword(user string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("the password of %s is missing: set -password-file or NATS_PASSWORD", user)
	}
	defer tty.Close()
	lines, err := askHidden(tty, bufio.NewReader(tty), tty, "password of "+user+": ")
	if err != nil {
		return "", err
	}
	return lines[0], nil
}

func runSub(args []string, stdout, stderr io.Writer) int {
	flags := newFlags("edged sub", subUsage, stdout, stderr)
	s, c := client.Subscription{Out: stdout, Err: stderr}, connecting{}
	c.register(flags)
	flags.BoolVar(&s.Ack, "ack", false, "")
	flags.IntVar(&s.Count, "count", 0, "")
	flags.StringVar(&s.Queue, "queue", "", "")
	flags.BoolVar(&s.Reconnect, "reconnect", true, "")
	flags.DurationVar(&s.Timeout, "timeout", 0, "")
	raw, object := flags.Bool("raw", false, ""), flags.Bool("json", false, "")
	if code, done := parse(flags, args, 1, len(args)); done {
		return code
	}

	s.Subjects = flags.Args()
	switch {
	case *raw && *object:
		fmt.Fprint(stderr, "edged sub: -raw and -json exclude each other\n")
		return exitUsage
	case s.Count < 0 || s.Timeout < 0:
		fmt.Fprint(stderr, "edged sub: -count and -timeout must not be negative\n")
		return exitUsage
	case *raw:
		s.Format = client.Raw
	case *object:
		s.Format = client.JSON
	}
	var err error
	if s.Server, err = c.server("edged sub"); err != nil {
		return outcome("edged sub", err, stderr)
	}
	ctx, stop := untilSignal()
	defer stop()
	return outcome("edged sub", s.Run(ctx), stderr)
}

func runPub(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := newFlags("edged pub", pubUsage, stdout, stderr)
	p, c := client.Publication{Lines: stdin}, connecting{}
	c.register(flags)
	flags.DurationVar(&p.Timeout, "timeout", 10*time.Second, "")
	if code, done := parse(flags, args, 1, 2); done {
		return code
	}
	if p.Timeout <= 0 {
		fmt.Fprint(stderr, "edged pub: -timeout must be more than 0\n")
		return exitUsage
	}

	p.Subject = flags.Arg(0)
	if flags.NArg() == 2 {
		p.Lines, p.Whole = strings.NewReader(flags.Arg(1)), true
	}
	var err error
	if p.Server, err = c.server("edged pub"); err != nil {
		return outcome("edged pub", err, stderr)
	}
	ctx, stop := untilSignal()
	defer stop()
	sent, confirmed, err := p.Run(ctx)
	if sent > 0 {
		fmt.Fprintf(stdout, "confirmed %d of %d\n", confirmed, sent)
	}
	return outcome("edged pub", err, stderr)
}

// untilSignal returns a context that ends with a signal. A second signal ends the program.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// outcome reports the failure of a client, if any, and returns its exit code.
func outcome(name string, err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	if errors.Is(err, client.ErrTimeout) {
		return exitTimeout
	}
	return exitFailed
}
