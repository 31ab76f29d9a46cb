package compat

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
)

// rawScenarios are bytes that a client sends after its first PONG, with the answers. Libraries do
// not send such bytes, but people and broken programs do.
var rawScenarios = []struct {
	name    string
	connect string // options instead of the usual ones
	send    string
	ends    bool // the connection ends
	differs *difference
}{
	{name: "an unknown verb", send: "EHLO box\r\n", ends: true},
	{name: "an HTTP request", send: "GET / HTTP/1.1\r\nHost: box\r\n\r\n", ends: true},
	{name: "an empty line", send: "\r\n", ends: true},
	{name: "SUB without an ID", send: "SUB a\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "SUB with too much", send: "SUB a b c d\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "PUB without a length", send: "PUB a\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "a negative length", send: "PUB a -1\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "no number", send: "PUB a x\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "a payload that goes on", send: "PUB a 2\r\nabcd\r\n", ends: true},
	{name: "a header longer than all", send: "HPUB a 20 10\r\nNATS/1.0\r\n\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "a header where none was agreed", connect: `{"headers":false}`, send: "HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", ends: true,
		differs: saysWhy("message headers not supported")},
	{name: "max payload", send: "PUB a 1048577\r\n", ends: true},
	{name: "max control line", send: "SUB " + strings.Repeat("a", 5000) + " 1\r\n", ends: true},
	{name: "no JSON", send: "CONNECT {\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "no responders without headers", send: "CONNECT {\"no_responders\":true,\"headers\":false}\r\n", ends: true},
	{name: "an unknown protocol", send: "CONNECT {\"protocol\":7}\r\n", ends: true},
	{name: "subjects that are none", send: "SUB a..b 1\r\nSUB .a 2\r\nSUB a. 3\r\nSUB a.>.b 4\r\n"},
	{name: "the same in verbose", connect: `{"verbose":true,"pedantic":false}`, send: "SUB a..b 1\r\nUNSUB 1\r\nUNSUB 1\r\n"},
	{name: "publishing to subjects that are none, pedantic", connect: `{"verbose":false,"pedantic":true}`, send: "PUB a..b 0\r\n\r\nPUB a.> 0\r\n\r\n"},
	{name: "the same in verbose and not pedantic", connect: `{"verbose":true,"pedantic":false}`, send: "PUB a..b 0\r\n\r\nPUB a 0\r\n\r\n"},
	{name: "an ID that is taken", send: "SUB a 1\r\nSUB b 1\r\nPUB a 0\r\n\r\nPUB b 0\r\n\r\n"},
	{name: "UNSUB with no number", send: "SUB a 1\r\nUNSUB 1 x\r\nPUB a 0\r\n\r\n"},
	{name: "CONNECT again", send: "SUB a 1\r\nCONNECT {\"verbose\":true,\"pedantic\":false,\"echo\":false}\r\nPUB a 0\r\n\r\n"},
	{name: "PING with more", send: "PING me\r\nSUB a 1\r\nPUB a 0\r\n\r\n"},
	{name: "verbs that only servers send", send: "MSG a 1 0\r\n\r\n", ends: true},
	{name: "+OK from a client", send: "+OK\r\n", differs: &difference{
		saw:     `["-ERR 'Unknown Protocol Operation'"], closed`,
		because: "clients have nothing to say it to, and no library does",
	}},
	{name: "-ERR from a client", send: "-ERR 'no'\r\n", ends: true, differs: saysWhy("Unknown Protocol Operation")},
	{name: "INFO from a client", send: "INFO {}\r\n", differs: &difference{
		saw:     `["-ERR 'Unknown Protocol Operation'"], closed`,
		because: "only servers and their routes send it",
	}},
	{name: "publishing to a pattern", send: "SUB a.* 1\r\nPUB a.* 0\r\n\r\n", differs: &difference{
		saw:     `[]`,
		because: "a message has one subject; it is counted as denied",
	}},
	{name: "publishing to a..b", send: "SUB > 1\r\nPUB a..b 0\r\n\r\n"},
	{name: "a subject that is no UTF-8", send: "SUB \xff 1\r\n", differs: &difference{
		saw:     `["-ERR 'Invalid Subject'"]`,
		because: "subjects are shown on the control socket and in the log",
	}},
	{name: "options that CONNECT leaves out", connect: "{}", send: "SUB a 1\r\n", differs: &difference{
		saw:     `[]`,
		because: "a person who types CONNECT {} does not want an answer to each line; nats-server takes verbose and pedantic to be meant",
	}},
	{name: "503 and a limit", send: "SUB re 1\r\nUNSUB 1 1\r\nPUB nobody re 0\r\n\r\nPUB re 2\r\nhi\r\n", differs: &difference{
		saw:     `["HMSG re 1 38 38" "NATS/1.0 503" "Nats-Subject: nobody" "" ""]`,
		because: "the client counts the 503, and the subscription would never end",
	}},
}

// saysWhy is a difference if nats-server closes the connection without a message.
func saysWhy(text string) *difference {
	return &difference{
		saw:     fmt.Sprintf("%q, closed", "-ERR '"+text+"'\r\n"),
		because: "a person who types commands learns the reason",
	}
}

func TestRawBytesGetTheSameAnswers(t *testing.T) {
	t.Parallel()
	servers := map[kind]*server{edged: start(t, edged, settings{}), natsServer: start(t, natsServer, settings{})}
	for _, sc := range rawScenarios {
		t.Run(sc.name, func(t *testing.T) {
			saw := make(map[kind]string)
			for k, s := range servers {
				saw[k] = answersTo(t, s, sc.connect, sc.send, sc.ends)
			}
			compare(t, saw, sc.differs)
		})
	}
}

// answersTo returns the answer after the first PONG.
func answersTo(t *testing.T, s *server, connect, send string, ends bool) string {
	c := dialRaw(t, s.tcp)
	defer c.Close()
	connect = cmp.Or(connect, `{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}`)
	c.send(fmt.Appendf(nil, "CONNECT %s\r\nPING\r\n", connect))
	for c.line() != "PONG" {
	}
	if ends {
		c.send([]byte(send))
		all, err := io.ReadAll(c.r)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) { // it did not read everything
			t.Errorf("%s does not close the connection: %v", s.kind, err)
		}
		return fmt.Sprintf("%q, closed", all)
	}

	c.send([]byte(send + "PING\r\nPING\r\n"))
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if line = strings.TrimSuffix(line, "\r\n"); err != nil {
			return fmt.Sprintf("%q, closed", lines)
		}
		if line == "PONG" && len(lines) > 0 && lines[len(lines)-1] == "PONG" {
			return fmt.Sprintf("%q", lines[:len(lines)-1])
		}
		lines = append(lines, line)
	}
}
