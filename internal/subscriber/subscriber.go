// Package subscriber is a small NATS client that subscribes to one subject and
// prints what arrives, for boxes that have no other.
//
// It speaks the text protocol of
// https://docs.nats.io/reference/reference-protocols/nats-protocol over plain
// TCP. edged takes a client's PONG as its word that it has everything sent
// before the PING; so no PING is answered before the items ahead of it have been
// written to Options.Out. One goroutine reads, prints and answers, and nothing
// is read ahead of a slow Out but one buffer.
package subscriber

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxLine bounds a line of the protocol, in bytes.
	maxLine = 64 << 10
	// maxMessage bounds a message, headers included, whatever the server allows.
	maxMessage = 64 << 20
	// answerTimeout is for connecting, for the server's answers to CONNECT and
	// PING, and for the farewell.
	answerTimeout = 10 * time.Second

	defaultPort = "4222"
	sid         = "1" // the one subscription
)

// Options say what to subscribe to.
type Options struct {
	Server  string        // host:port or nats://host:port; 4222 where there is no port
	Subject string        // wildcards are fine
	Queue   string        // the queue group; empty for none
	Count   int           // items after which to end; 0 for no end
	Timeout time.Duration // the longest wait for an item; 0 for no limit
	Name    string        // what the server calls this client; may be empty
	Out     io.Writer     // gets a line an item
	Err     io.Writer     // gets remarks for people; nil for none
}

// Run prints items until Count of them came or ctx is done, neither of which is
// an error, and returns how many it printed. With a Count it returns when the
// server has its confirmation of them all.
//
// A line is the subject, the header block if there is one, and the payload. The
// payload stands as it is where it is printable text, quoted as in Go where not;
// the headers are always quoted.
//
// Run does not reconnect. A server that says it is going (lame duck) ends it too,
// once what was on its way is printed and confirmed. A connection that breaks, a server that refuses, an
// Out that cannot be written and an idle time of Timeout are errors.
func Run(ctx context.Context, opts Options) (received int, err error) {
	address, err := parseServer(opts.Server)
	if err != nil {
		return 0, err
	}
	if !isName(opts.Subject) {
		return 0, fmt.Errorf("%q is no subject: it must not be empty, nor have spaces or control characters in it", opts.Subject)
	}
	if opts.Queue != "" && !isName(opts.Queue) {
		return 0, fmt.Errorf("%q is no queue group: it must not have spaces or control characters in it", opts.Queue)
	}

	dialer := net.Dialer{Timeout: answerTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil {
			return 0, nil
		}
		return 0, fmt.Errorf("connect to %s: %w (is the server running, and listening there?)", address, err)
	}
	defer conn.Close()

	s := newSession(opts, address, conn)
	err = s.run(ctx)
	return s.received, err
}

// parseServer returns the host:port of a server's name.
func parseServer(server string) (address string, err error) {
	address = strings.TrimSuffix(strings.TrimPrefix(server, "nats://"), "/")
	if address == "" || strings.ContainsAny(address, "/@ ") {
		return "", fmt.Errorf("%q is no server: write host:port or nats://host:port (no TLS, no password)", redact(server))
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), defaultPort)
	}
	return address, nil
}

// redact takes a user and a password out of an address.
func redact(server string) string {
	if at := strings.LastIndexByte(server, '@'); at >= 0 {
		return "…" + server[at:]
	}
	return server
}

// isName reports whether s can stand as one word in a line of the protocol.
func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	})
}

// flushFirst is a connection before each read of which out is flushed: nothing
// stays unprinted while the next item is waited for.
type flushFirst struct {
	out  *bufio.Writer
	conn net.Conn
}

func (f flushFirst) Read(p []byte) (int, error) {
	if err := f.out.Flush(); err != nil {
		return 0, &outputError{err}
	}
	return f.conn.Read(p)
}

type outputError struct{ cause error }

func (e *outputError) Error() string { return "print an item: " + e.cause.Error() }
func (e *outputError) Unwrap() error { return e.cause }

// Causes for a session to be interrupted.
var (
	errSilent = errors.New("no answer")
	errIdle   = errors.New("no item")
)

// session is one connection. All of it is owned by the goroutine in run.
type session struct {
	Options
	address string
	conn    net.Conn
	in      *bufio.Reader
	out     *bufio.Writer

	interrupt  context.CancelCauseFunc
	watchdog   *time.Timer // interrupts with errSilent or errIdle
	maxMessage int
	message    []byte // reused
	received   int
	unanswered int // PINGs sent without a PONG so far
	farewells  int // round trips still to make before closing; 0 while items are wanted
	lameDuck   bool
}

func newSession(opts Options, address string, conn net.Conn) *session {
	if opts.Err == nil {
		opts.Err = io.Discard
	}
	out := bufio.NewWriterSize(opts.Out, maxLine)
	return &session{
		Options: opts,
		address: address,
		conn:    conn,
		in:      bufio.NewReaderSize(flushFirst{out, conn}, maxLine),
		out:     out,
	}
}

// run serves the connection to its end.
func (s *session) run(parent context.Context) error {
	ctx, interrupt := context.WithCancelCause(parent)
	defer interrupt(nil)
	s.interrupt = interrupt

	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		s.conn.SetDeadline(time.Unix(1, 0)) // whatever waits on the connection, waits no more
	})
	s.watch(answerTimeout, errSilent)
	defer func() { s.watchdog.Stop() }()

	err := s.serve()
	if flushErr := s.out.Flush(); flushErr != nil && err == nil {
		err = &outputError{flushErr}
	}
	if stop() {
		return err
	}
	<-interrupted
	s.conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(s.conn, "UNSUB %s\r\n", sid) // a courtesy: closing says the same

	var output *outputError
	switch cause := context.Cause(ctx); {
	case err == nil, errors.As(err, &output):
		return err
	case parent.Err() != nil:
		return nil
	case cause == errIdle:
		return fmt.Errorf("nothing arrived on %s for %v", s.Subject, s.Timeout)
	default:
		return fmt.Errorf("%s gave no answer for %v", s.address, answerTimeout)
	}
}

// watch interrupts the session after a while, in place of what it watched for
// before.
func (s *session) watch(after time.Duration, cause error) {
	if s.watchdog != nil {
		s.watchdog.Stop()
	}
	s.watchdog = time.AfterFunc(after, func() { s.interrupt(cause) })
}

// serve subscribes and handles what the server sends, until the last item is
// confirmed.
func (s *session) serve() error {
	if err := s.greet(); err != nil {
		return err
	}
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		done, err := s.handle(line)
		if done || err != nil {
			return err
		}
	}
}

// info is what matters here of the server's INFO.
type info struct {
	MaxPayload   int  `json:"max_payload"`
	TLSRequired  bool `json:"tls_required"`
	AuthRequired bool `json:"auth_required"`
	LameDuck     bool `json:"ldm"`
}

// greet awaits INFO and subscribes. The PONG for the PING at the end says that
// the subscription stands.
func (s *session) greet() error {
	line, err := s.line()
	if err != nil {
		return err
	}
	verb, args := cutVerb(line)
	if string(verb) == "-ERR" {
		return s.refused(args)
	}
	var hello info
	if string(verb) != "INFO" || json.Unmarshal(args, &hello) != nil {
		return fmt.Errorf("what answers at %s is no NATS server", s.address)
	}
	switch {
	case hello.TLSRequired:
		return fmt.Errorf("%s wants TLS, which this client does not speak", s.address)
	case hello.AuthRequired:
		return fmt.Errorf("%s wants a user, which this client cannot be", s.address)
	}
	s.maxMessage = maxMessage
	if hello.MaxPayload > 0 {
		s.maxMessage = min(hello.MaxPayload, maxMessage)
	}
	connect, err := json.Marshal(map[string]any{
		"verbose": false, "pedantic": false, "headers": true, "no_responders": true,
		"protocol": 1, "lang": "go", "name": s.Name,
	})
	if err != nil {
		return fmt.Errorf("describe this client: %v", err)
	}
	subscribe := "SUB " + s.Subject + " " + sid
	if s.Queue != "" {
		subscribe = "SUB " + s.Subject + " " + s.Queue + " " + sid
	}
	if s.Count > 0 {
		subscribe += fmt.Sprintf("\r\nUNSUB %s %d", sid, s.Count)
	}
	s.unanswered++
	if err := s.send(fmt.Sprintf("CONNECT %s\r\n%s\r\nPING\r\n", connect, subscribe)); err != nil {
		return err
	}
	return s.note(hello)
}

// note takes the news of an INFO. A server that is going sends only what is on
// its way already: the session ends when that is printed and confirmed.
func (s *session) note(i info) error {
	if !i.LameDuck || s.lameDuck {
		return nil
	}
	s.lameDuck = true
	fmt.Fprintln(s.Err, "server is going (lame duck)")
	if s.farewells > 0 {
		return nil
	}
	return s.bow()
}

func cutVerb(line []byte) (verb, args []byte) {
	verb, args, _ = bytes.Cut(line, []byte(" "))
	return verb, args
}

// handle does what one line asks for; done means that nothing is left to do.
func (s *session) handle(line []byte) (done bool, err error) {
	switch verb, args := cutVerb(line); string(verb) {
	case "MSG", "HMSG":
		return false, s.item(string(verb) == "HMSG", args)
	case "PING":
		if err := s.out.Flush(); err != nil {
			return false, &outputError{err}
		}
		return false, s.send("PONG\r\n")
	case "PONG":
		return s.pong()
	case "INFO":
		var news info
		if err := json.Unmarshal(args, &news); err != nil {
			return false, s.garbled("INFO")
		}
		return false, s.note(news)
	case "-ERR":
		return false, s.refused(args)
	case "+OK":
		return false, nil
	default:
		return false, s.garbled("a line")
	}
}

// item reads and prints the message that a MSG or HMSG line announces:
//
//	MSG <subject> <sid> [reply] <size>
//	HMSG <subject> <sid> [reply] <header size> <size>
func (s *session) item(headers bool, args []byte) error {
	fields, verb, sizes := bytes.Fields(args), "MSG", 1
	if headers {
		verb, sizes = "HMSG", 2
	}
	n := len(fields) - sizes
	if n != 2 && n != 3 {
		return s.garbled(verb)
	}
	subject := string(fields[0]) // the line is gone after the next read
	size, err := strconv.ParseUint(string(fields[len(fields)-1]), 10, 31)
	if err != nil {
		return s.garbled(verb)
	}
	headerSize := uint64(0)
	if headers {
		headerSize, err = strconv.ParseUint(string(fields[n]), 10, 31)
		if err != nil || headerSize > size {
			return s.garbled(verb)
		}
	}
	if size > uint64(s.maxMessage) {
		return fmt.Errorf("%s sends a message of %d bytes, more than the %d it announced or this client takes", s.address, size, s.maxMessage)
	}

	if need := int(size) + 2; cap(s.message) < need {
		s.message = make([]byte, need)
	}
	message := s.message[:size+2]
	if _, err := io.ReadFull(s.in, message); err != nil {
		return s.broken(err)
	}
	if !bytes.HasSuffix(message, []byte("\r\n")) {
		return s.garbled(verb)
	}
	if s.Count > 0 && s.received == s.Count {
		// Sent before the server read our UNSUB. It isn't waiting for a
		// confirmation of these.
		return nil
	}
	s.print(subject, message[:headerSize], message[headerSize:size])
	s.received++
	if s.received == s.Count {
		return s.bow()
	}
	if s.farewells > 0 {
		s.farewells = 3 // the round trip under way, and two behind this item
	}
	if s.Timeout > 0 && s.unanswered == 0 && s.farewells == 0 {
		s.watch(s.Timeout, errIdle)
	}
	return nil
}

// print writes an item's line; out keeps the error, if any, until it is flushed.
func (s *session) print(subject string, headers, payload []byte) {
	s.out.WriteString(subject)
	s.out.WriteByte(' ')
	if len(headers) > 0 {
		s.out.WriteString(strconv.Quote(string(headers)))
		s.out.WriteByte(' ')
	}
	if isPrintable(payload) {
		s.out.Write(payload)
	} else {
		s.out.WriteString(strconv.Quote(string(payload)))
	}
	s.out.WriteByte('\n')
}

func isPrintable(text []byte) bool {
	return utf8.Valid(text) && bytes.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// bow begins the farewell: two round trips. Before the PONG of the first comes
// the server's PING behind the last item; the PONG of the second says that the
// server has read our answer to it, so that closing cannot overtake it. An item
// that comes in between makes them begin anew.
func (s *session) bow() error {
	s.farewells = 2
	s.watch(answerTimeout, errSilent)
	return s.ping()
}

func (s *session) pong() (done bool, err error) {
	if s.unanswered > 0 {
		s.unanswered--
	}
	switch {
	case s.unanswered > 0:
		return false, nil
	case s.farewells > 0:
		if s.farewells--; s.farewells == 0 {
			if s.received < s.Count {
				return true, fmt.Errorf("%s is going: %d of %d items came", s.address, s.received, s.Count)
			}
			return true, nil
		}
		return false, s.ping()
	case s.Timeout > 0:
		s.watch(s.Timeout, errIdle)
	default:
		s.watchdog.Stop()
	}
	return false, nil
}

func (s *session) ping() error {
	s.unanswered++
	return s.send("PING\r\n")
}

// line returns the next line without its end; it is valid until the next read.
func (s *session) line() ([]byte, error) {
	line, err := s.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("%s sends a line of more than %d bytes: this is not the NATS protocol", s.address, maxLine)
	case err != nil:
		return nil, s.broken(err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func (s *session) send(text string) error {
	if _, err := io.WriteString(s.conn, text); err != nil {
		return s.broken(err)
	}
	return nil
}

func (s *session) broken(err error) error {
	var output *outputError
	switch {
	case errors.As(err, &output):
		return output
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s closed the connection", s.address)
	default:
		return fmt.Errorf("the connection to %s broke: %v", s.address, err)
	}
}

func (s *session) refused(args []byte) error {
	return fmt.Errorf("%s refuses: %s", s.address, strings.Trim(string(args), "' "))
}

func (s *session) garbled(what string) error {
	return fmt.Errorf("%s sends %s that cannot be read: this is not the NATS protocol", s.address, what)
}
