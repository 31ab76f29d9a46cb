package uds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"edged/internal/nearest"
)

// Answer is the answer to a command. Text writes it as lines for people; no line is "OK" or begins
// with "ERR ". encoding/json makes one object of the same value. Payloads and all other external
// strings are written quoted.
type Answer interface {
	Text(w io.Writer)
}

// Command is an entry of the command table.
type Command struct {
	Name    string // "pause"; lower case
	Args    string // "LIST|all", for help
	Summary string // one line; help combines consecutive commands with the same summary
	Example string // shown by "help COMMAND", ready to paste; Name if empty
	Level   Level  // the least level that the client needs

	MinArgs, MaxArgs int

	// Run executes the command. The goroutines of several connections may call it at once. The
	// first byte of an answer is promised within 100 ms, so Run takes a snapshot and waits for
	// nothing. It must return once ctx is done, which is when a shutdown no longer waits for it,
	// and must not call Shutdown. A nil Answer says just OK. An Answer that comes with an error is
	// sent too: in text its lines precede the error, in JSON its object replaces the error.
	Run func(ctx context.Context, args []string) (Answer, error)

	// Stream replaces Run for a command that answers in parts. Each part is sent at once, the first
	// within 100 ms. Its calls of send fail when the client is gone or has not read for a while;
	// then it returns. Until it returns the connection's other commands wait.
	Stream func(ctx context.Context, args []string, send func(Answer) error) error
}

// usage returns the command's name and arguments.
func (c *Command) usage() string {
	return strings.TrimSpace(c.Name + " " + c.Args)
}

// Codes of errors. NotFound is for commands, this package uses the rest. Commands may use them too,
// and codes of their own.
const (
	BadArgument        = "BadArgument"
	BadInput           = "BadInput"
	Forbidden          = "Forbidden"
	Internal           = "Internal"
	LineTooLong        = "LineTooLong"
	NotFound           = "NotFound"
	ShuttingDown       = "ShuttingDown"
	TooManyConnections = "TooManyConnections"
	UnknownCommand     = "UnknownCommand"
)

// Error is an error that is sent to the client with a code of its own. Any other error of a command
// is sent with the code Internal.
type Error struct {
	Code    string `json:"code"` // one word
	Message string `json:"message"`
}

// Errorf makes an Error. Arguments that come from the input must be formatted with %q.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// table holds the commands by name, and in the order in which help shows them.
type table struct {
	list   []*Command
	byName map[string]*Command
	path   string // of the socket, for examples
}

// newTable makes the table of help and the given commands. It panics if two have the same name,
// which is a programming error.
func newTable(commands []Command, path string) *table {
	t := &table{byName: make(map[string]*Command), path: path}
	help := Command{
		Name:    "help",
		Args:    "[COMMAND]",
		Summary: "list the commands, or explain one",
		Example: "help status",
		MaxArgs: 1,
		Run:     t.help,
	}
	for _, c := range append([]Command{help}, commands...) {
		if t.byName[c.Name] != nil {
			panic("uds: two commands are named " + c.Name)
		}
		t.byName[c.Name] = &c
		t.list = append(t.list, &c)
	}

	return t
}

// admit returns the command of a request, if a client of that level may run it. If the command
// exists, it is returned with the error.
func (t *table) admit(req request, level Level) (*Command, error) {
	if req.err != nil {
		return nil, req.err
	}
	c, err := t.find(req.name)
	if err != nil {
		return nil, err
	}
	if level < c.Level {
		return c, Errorf(Forbidden, "%s needs the level %s, and you have the level %s here", c.Name, c.Level, level)
	}
	if n := len(req.args); n < c.MinArgs || n > c.MaxArgs {
		return c, Errorf(BadArgument, "%s takes %s, not %d; usage: %s", c.Name, argCount(c), n, c.usage())
	}
	return c, nil
}

// find returns the command of that name, in upper or lower case, or an error with the nearest
// command.
func (t *table) find(name string) (*Command, error) {
	lower := strings.ToLower(name)
	if c := t.byName[lower]; c != nil {
		return c, nil
	}

	names := make([]string, len(t.list))
	for i, c := range t.list {
		names[i] = c.Name
	}
	hint := ""
	if meant := nearest.Name(lower, names); meant != "" {
		hint = fmt.Sprintf("did you mean %q? ", meant)
	}
	return nil, Errorf(UnknownCommand, "there is no command %.40q; %s\"help\" lists the commands", name, hint)
}

func argCount(c *Command) string {
	switch {
	case c.MaxArgs == 0:
		return "no arguments"
	case c.MinArgs == c.MaxArgs && c.MinArgs == 1:
		return "1 argument"
	case c.MinArgs == c.MaxArgs:
		return fmt.Sprintf("%d arguments", c.MinArgs)
	case c.MinArgs == 0 && c.MaxArgs == 1:
		return "at most 1 argument"
	default:
		return fmt.Sprintf("%d to %d arguments", c.MinArgs, c.MaxArgs)
	}
}

func (t *table) help(_ context.Context, args []string) (Answer, error) {
	if len(args) == 0 {
		var all commandList
		for _, c := range t.list {
			all.Commands = append(all.Commands, t.describe(c))
		}
		return all, nil
	}
	c, err := t.find(args[0])
	if err != nil {
		return nil, err
	}
	return t.describe(c), nil
}

// description is the answer to "help COMMAND".
type description struct {
	Name    string `json:"name"`
	Usage   string `json:"usage"`
	Summary string `json:"summary"`
	Level   string `json:"level"`
	Example string `json:"example"`
}

func (t *table) describe(c *Command) description {
	example := c.Example
	if example == "" {
		example = c.Name
	}
	socat := "socat"
	if c.Stream != nil {
		socat = "socat -t99" // otherwise it leaves after half a second without a line
	}
	return description{c.Name, c.usage(), c.Summary, c.Level.String(), fmt.Sprintf("echo '%s' | %s - UNIX-CONNECT:%s", example, socat, t.path)}
}

func (d description) Text(w io.Writer) {
	fmt.Fprintf(w, "usage:   %s [json]\n         %s\nlevel:   %s\nexample:\n  %s\n", d.Usage, d.Summary, d.Level, d.Example)
}

// commandList is the answer to "help".
type commandList struct {
	Commands []description `json:"commands"`
}

func (l commandList) Text(w io.Writer) {
	width, lines := 0, l.lines()
	for _, d := range lines {
		width = max(width, len(d.Usage))
	}
	for _, d := range lines {
		fmt.Fprintf(w, "%-*s  %s\n", width, d.Usage, d.Summary)
	}
	fmt.Fprintln(w, `"help COMMAND" shows an example; "COMMAND json" is JSON; ";" separates commands`)
}

// lines returns the commands except help, which the last line explains. Consecutive commands that
// share a summary are combined: "pause|resume".
func (l commandList) lines() (all []description) {
	for _, d := range l.Commands {
		if d.Name == "help" {
			continue
		}
		if last := len(all) - 1; last >= 0 && all[last].Summary == d.Summary {
			all[last].Name += "|" + d.Name
			all[last].Usage = all[last].Name + strings.TrimPrefix(d.Usage, d.Name)
			continue
		}
		all = append(all, d)
	}
	return all
}

// render returns an answer in the form that is sent to the client.
func render(a Answer, err error, asJSON bool) []byte {
	var buf bytes.Buffer
	if asJSON {
		if err == nil || a != nil {
			err = marshal(&buf, a)
		}
		if err != nil {
			buf.Reset()
			failure := map[string]*Error{"error": clean(err)}
			_ = encoder(&buf).Encode(failure) // two strings into memory: cannot fail
		}
		return buf.Bytes()
	}

	if a != nil {
		writeText(&buf, a)
	}

	if err != nil {
		e := clean(err)
		fmt.Fprintf(&buf, "ERR %s %s\n", e.Code, e.Message)
	} else {
		buf.WriteString("OK\n")
	}
	return buf.Bytes()
}

// renderPart returns a part of an answer, without an OK after it.
func renderPart(a Answer, asJSON bool) ([]byte, error) {
	var buf bytes.Buffer
	if asJSON {
		err := marshal(&buf, a)
		return buf.Bytes(), err
	}
	writeText(&buf, a)
	return buf.Bytes(), nil
}

// writeText writes an answer's lines, and a newline if the last line lacks it.
func writeText(buf *bytes.Buffer, a Answer) {
	a.Text(buf)
	if b := buf.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
		buf.WriteByte('\n')
	}
}

// marshal writes a as one JSON object on one line.
func marshal(buf *bytes.Buffer, a Answer) error {
	if a == nil {
		buf.WriteString("{\"ok\":true}\n")
		return nil
	}
	if err := encoder(buf).Encode(a); err != nil {
		return fmt.Errorf("the answer has no JSON form: %v", err)
	}
	if buf.Bytes()[0] != '{' {
		return errors.New("the answer has no JSON form: it is not an object")
	}
	return nil
}

func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

// clean returns the error as it is sent: with a code, and on one printable line.
func clean(err error) *Error {
	e := &Error{Code: Internal, Message: err.Error()}
	if coded, ok := errors.AsType[*Error](err); ok {
		e.Code, e.Message = coded.Code, coded.Message
	}
	e.Message = printable(e.Message)
	return e
}

// printable escapes characters that would break the line or control a terminal.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
