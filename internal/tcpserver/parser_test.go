package tcpserver

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var testLimits = limits{controlLine: 64, payload: 32}

// parseAll parses input that arrives in pieces of the given sizes, repeatedly, as a client's reader
// does. It returns a line per command.
func parseAll(input []byte, sizes []int) (ops []string, err error) {
	var buf []byte
	need := 1
	for i := 0; len(input) > 0; i++ {
		n := len(input)
		if len(sizes) > 0 {
			n = min(n, max(1, sizes[i%len(sizes)]))
		}
		buf = append(buf, input[:n]...)
		input = input[n:]
		for len(buf) >= need {
			cmd, length, more, err := parse(buf, testLimits)
			if err != nil {
				return ops, err
			}
			if length == 0 {
				if more <= len(buf) {
					return ops, errors.New("wants no more than it has")
				}
				need = more
				break
			}
			ops = append(ops, describe(cmd))
			buf, need = buf[length:], 1
		}
	}

	return ops, nil
}

func describe(cmd command) string {
	return fmt.Sprintf("%d %q %q %q %q %d %v %q %q %q", cmd.op, cmd.subject, cmd.reply, cmd.queue, cmd.sid,
		cmd.max, cmd.isHPub, cmd.header, cmd.payload, cmd.options)
}

var lineForm = regexp.MustCompile(`(?is)^(?:(CONNECT)(.*)|(PUB|HPUB|SUB|UNSUB|PING|PONG)((?:[ \t].*)?))$`)

// parseSimply is the protocol written down as simply as possible, for whole input.
func parseSimply(input string) (ops []string, err error) {
	for {
		line, rest, whole := strings.Cut(input, "\n")
		if !whole {
			return ops, nil // incomplete: undefined here
		}

		line = strings.TrimSuffix(line, "\r")
		m := lineForm.FindStringSubmatch(line)
		if m == nil {
			return ops, errors.New("bad line")
		}

		verb := strings.ToUpper(m[1] + m[3])
		if len(line)-len(verb)-1 > testLimits.controlLine {
			return ops, errors.New("long line")
		}

		args := strings.FieldsFunc(m[4], func(r rune) bool { return r == ' ' || r == '\t' })
		var cmd command
		switch n := len(args); {
		case verb == "CONNECT":
			cmd = command{op: opConnect, options: []byte(m[2])}
		case verb == "PING":
			cmd.op = opPing
		case verb == "PONG":
			cmd.op = opPong
		case verb == "SUB" && (n == 2 || n == 3):
			cmd = command{op: opSub, subject: []byte(args[0]), sid: []byte(args[n-1])}
			cmd.queue = []byte(strings.Join(args[1:n-1], ""))
		case verb == "UNSUB" && n == 1:
			cmd = command{op: opUnsub, sid: []byte(args[0])}
		case verb == "UNSUB" && n == 2:
			cmd = command{op: opUnsub, sid: []byte(args[0])}
			cmd.max, _ = size(args[1])
		case verb == "PUB" && (n == 2 || n == 3), verb == "HPUB" && (n == 3 || n == 4):
			whole := false
			if cmd, rest, whole, err = pubSimply(verb, args, rest); err != nil || !whole {
				return ops, err
			}
		default:
			return ops, errors.New("bad arguments")
		}

		ops = append(ops, describe(cmd))
		input = rest
	}
}

// pubSimply parses a PUB or HPUB whose payload is at the beginning of input. whole is false if the
// payload is incomplete.
func pubSimply(verb string, args []string, input string) (cmd command, rest string, whole bool, err error) {
	n := len(args)
	cmd = command{op: opPub, isHPub: verb == "HPUB", subject: []byte(args[0])}
	total, ok := size(args[n-1])
	header, names := 0, args[1:n-1]
	if cmd.isHPub && ok {
		header, ok = size(args[n-2])
		names = args[1 : n-2]
	}
	cmd.reply = []byte(strings.Join(names, ""))
	if !ok || total > testLimits.payload || header > total {
		return cmd, "", false, errors.New("bad length")
	}

	if len(input) < total+2 {
		return cmd, "", false, nil
	}
	if input[total:total+2] != crlf {
		return cmd, "", false, errors.New("bad end")
	}
	cmd.header, cmd.payload = []byte(input[:header]), []byte(input[header:total])
	return cmd, input[total+2:], true, nil
}

// size parses a number; one that is too large becomes the largest.
func size(s string) (int, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) {
		n = math.MaxInt
	}
	return n, true
}

func FuzzParser(f *testing.F) {
	for _, seed := range []string{
		"CONNECT {\"verbose\":false}\r\nPING\r\nPONG\r\n",
		"SUB foo 1\r\nSUB foo q 2\nUNSUB 1\r\nUNSUB 2 5\r\nunsub 2 x\r\n",
		"PUB foo 2\r\nhi\r\nPUB foo bar 2\r\n\r\n\r\nping\r\n",
		"HPUB foo 12 14\r\nNATS/1.0\r\n\r\nhi\r\nHPUB a b 0 0\r\n\r\n",
		"PUB foo 33\r\n", "PUB foo 99999999999999999999\r\n", "PUB foo 2\r\nhiX", "PUB foo 1 \t\r\n\r\r\n",
		"GET / HTTP/1.1\r\n", "\r\n", "P", "PINGPONG\r\n", "CONNECT" + strings.Repeat(" ", 70) + "\r\n",
		"SUB " + strings.Repeat("a", 64) + "\r\r\n",
	} {
		f.Add([]byte(seed), []byte{1})
		f.Add([]byte(seed), []byte{5, 2, 9})
	}

	f.Fuzz(func(t *testing.T, input, split []byte) {
		sizes := make([]int, len(split))
		for i, b := range split {
			sizes[i] = int(b)
		}
		whole, wholeErr := parseAll(input, nil)
		cut, cutErr := parseAll(input, sizes)
		if fmt.Sprint(whole, wholeErr) != fmt.Sprint(cut, cutErr) {
			t.Fatalf("in one piece:\n%q %v\nin pieces:\n%q %v", whole, wholeErr, cut, cutErr)
		}
		simple, simpleErr := parseSimply(string(input))
		if fmt.Sprint(whole) != fmt.Sprint(simple) {
			t.Fatalf("got\n%q\nwant\n%q", whole, simple)
		}
		if simpleErr != nil && wholeErr == nil {
			t.Fatalf("no error, want %v", simpleErr)
		}
	})
}
