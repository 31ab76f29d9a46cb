package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// redisConn is a connection to Redis for commands in a pipeline: send any number, flush, and skip
// as many replies. As the floor of a measurement it costs next to nothing, because it inspects no
// reply.
type redisConn struct {
	net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

func dialRedis(socket string) (*redisConn, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	return &redisConn{conn, bufio.NewReaderSize(conn, 256<<10), bufio.NewWriterSize(conn, 256<<10)}, nil
}

// send appends a command to the buffer.
func (c *redisConn) send(args ...string) {
	c.out.WriteByte('*')
	c.out.WriteString(strconv.Itoa(len(args)))
	for _, arg := range args {
		c.out.WriteString("\r\n$")
		c.out.WriteString(strconv.Itoa(len(arg)))
		c.out.WriteString("\r\n")
		c.out.WriteString(arg)
	}
	c.out.WriteString("\r\n")
}

// skip reads n replies and returns the number of strings in them, including those in arrays. A nil
// does not count.
func (c *redisConn) skip(n int) (strings int, err error) {
	for ; n > 0; n-- {
		kind, value, err := c.header()
		if err != nil {
			return strings, err
		}
		switch {
		case kind == '*':
			n += max(value, 0)
		case kind == '$' && value >= 0:
			strings++
			if _, err := c.in.Discard(value + 2); err != nil {
				return strings, err
			}
		}
	}

	return strings, nil
}

// header reads the first line of a reply: its kind, and the number in it.
func (c *redisConn) header() (kind byte, value int, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	text := strings.TrimSuffix(string(line), "\r\n")
	if len(text) == 0 || text[0] == '-' {
		return 0, 0, fmt.Errorf("the answer of Redis is %q", text)
	}
	if kind = text[0]; kind != '+' {
		value, err = strconv.Atoi(text[1:])
	}
	return kind, value, err
}

// ok sends one command, and waits until Redis has carried it out.
func (c *redisConn) ok(args ...string) error {
	_, err := c.text(args...)
	if err != nil {
		return fmt.Errorf("%s: %v", args[0], err)
	}
	return nil
}

// text sends one command, and returns its reply if that is a string, or the last string of an
// array.
func (c *redisConn) text(args ...string) (string, error) {
	c.send(args...)
	if err := c.out.Flush(); err != nil {
		return "", err
	}
	last := ""
	err := c.each(func(text []byte) error { last = string(text); return nil })
	return last, err
}

// each reads a reply, and calls f for each string in it, at any depth.
func (c *redisConn) each(f func([]byte) error) error {
	for n := 1; n > 0; n-- {
		kind, value, err := c.header()
		switch {
		case err != nil:
			return err
		case kind == '*':
			n += max(value, 0)
		case kind == '$' && value >= 0:
			text := make([]byte, value+2)
			if _, err := io.ReadFull(c.in, text); err != nil {
				return err
			}
			if err := f(text[:value]); err != nil {
				return err
			}
		}
	}

	return nil
}

// number sends one command that returns a number, and returns it.
func (c *redisConn) number(args ...string) (int, error) {
	c.send(args...)
	if err := c.out.Flush(); err != nil {
		return 0, err
	}
	_, n, err := c.header()
	return n, err
}

// stat returns a number of Redis's INFO stats.
func (c *redisConn) stat(name string) (int, error) {
	text, err := c.text("INFO", "stats")
	if err != nil {
		return 0, err
	}
	_, text, ok := strings.Cut(text, "\n"+name+":")
	if !ok {
		return 0, fmt.Errorf("the INFO of Redis has no %s", name)
	}
	text, _, _ = strings.Cut(text, "\r\n")
	return strconv.Atoi(text)
}

// monitor counts the commands that Redis receives from now on until a moment, without those that
// scripts carry out.
func (c *redisConn) monitor(until time.Time) (n int, err error) {
	if err := c.ok("MONITOR"); err != nil {
		return 0, err
	}

	if err := c.SetReadDeadline(until); err != nil {
		return 0, err
	}

	for {
		line, err := c.in.ReadSlice('\n')
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if !bytes.Contains(line, []byte(" lua] ")) {
			n++
		}
	}
}
