package redis

import (
	"bytes"
	"strconv"
	"strings"
)

// status and replyError are replies that are not strings.
type (
	status     string
	replyError string
)

// The following append replies to c.out. mu is held.

func (c *client) status(s string) { c.line('+', s) }
func (c *client) error(s string)  { c.line('-', lineEnds.Replace(s)) }
func (c *client) integer(n int64) { c.number(':', n) }
func (c *client) array(n int)     { c.number('*', int64(n)) }
func (c *client) null()           { c.out.WriteString("$-1\r\n") }

func (c *client) bulk(s string) {
	c.number('$', int64(len(s)))
	c.out.WriteString(s)
	c.out.WriteString("\r\n")
}

func (c *client) number(kind byte, n int64) {
	c.out.WriteByte(kind)
	c.out.Write(strconv.AppendInt(c.out.AvailableBuffer(), n, 10))
	c.out.WriteString("\r\n")
}

func (c *client) line(kind byte, s string) {
	c.out.WriteByte(kind)
	c.out.WriteString(s)
	c.out.WriteString("\r\n")
}

var lineEnds = strings.NewReplacer("\r", " ", "\n", " ")

// parseReply parses a reply of this server, which is well formed: a string, status,
// replyError, int64, nil, or a []any of these. It returns the bytes after it too.
func parseReply(b []byte) (reply any, rest []byte) {
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	kind, text := line[0], string(line[1:])
	switch kind {
	case '+':
		return status(text), rest
	case '-':
		return replyError(text), rest
	}

	n, err := strconv.Atoi(text)
	if err != nil {
		panic("redis: " + strconv.Quote(string(line)) + " is not a reply")
	}
	switch {
	case kind == ':':
		return int64(n), rest
	case n < 0:
		return nil, rest
	case kind == '$':
		return string(rest[:n]), rest[n+2:]
	}
	all := make([]any, n)
	for i := range all {
		all[i], rest = parseReply(rest)
	}
	return all, rest
}
