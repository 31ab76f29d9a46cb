package tcpserver

import (
	"bytes"
	"math"
)

// op is the operation of a command.
type op byte

const (
	opConnect op = iota + 1
	opPub        // PUB and HPUB
	opSub
	opUnsub
	opPing
	opPong
)

// command is one protocol operation. Its slices point into the parsed input.
type command struct {
	op      op
	subject []byte
	reply   []byte // opPub; empty for none
	queue   []byte // opSub; empty for none
	sid     []byte // opSub, opUnsub
	max     int    // opUnsub: messages after which it counts; 0 means at once
	isHPub  bool   // opPub
	header  []byte // opPub: the header block of an HPUB
	payload []byte // opPub
	options []byte // opConnect: a JSON object
}

// limits bound the commands of a client, in bytes.
type limits struct {
	controlLine int // the arguments of a command
	payload     int // header block and payload together
}

// verbs are the verbs of clients' commands. No verb is a prefix of another.
var verbs = []struct {
	name string
	op   op
}{
	{"PUB", opPub}, {"HPUB", opPub}, {"SUB", opSub}, {"UNSUB", opUnsub},
	{"PING", opPing}, {"PONG", opPong}, {"CONNECT", opConnect},
}

// parse parses the command at the start of in. n is its length; 0 means that it is incomplete, and
// stays so until in has need bytes. However the input is split, the commands and the error are the
// same.
func parse(in []byte, lim limits) (cmd command, n, need int, err error) {
	verb, kind, ok := findVerb(in)
	if !ok {
		return cmd, 0, 0, errUnknownOperation
	}

	end := bytes.IndexByte(in, '\n')
	line := in
	if end >= 0 {
		line = in[:end]
	}
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}

	// One byte between verb and arguments is free, so that edged takes every line that nats-server
	// takes.
	if len(line)-verb-1 > lim.controlLine {
		return cmd, 0, 0, errControlLine
	}
	if end < 0 {
		return cmd, 0, len(in) + 1, nil
	}

	args := line[verb:]
	if kind != opConnect && len(args) > 0 && !blank(args[0]) {
		return cmd, 0, 0, errUnknownOperation
	}

	cmd.op = kind
	switch kind {
	case opConnect:
		cmd.options = args
	case opPub:
		cmd.isHPub = verb == len("HPUB")
		return parsePub(cmd, in, args, end+1, lim)
	case opSub:
		var f [3][]byte
		switch fields(args, f[:]) {
		case 2:
			cmd.subject, cmd.sid = f[0], f[1]
		case 3:
			cmd.subject, cmd.queue, cmd.sid = f[0], f[1], f[2]
		default:
			return cmd, 0, 0, errUnknownOperation
		}
	case opUnsub:
		var f [2][]byte
		if n := fields(args, f[:]); n < 1 || n > 2 {
			return cmd, 0, 0, errUnknownOperation
		}
		cmd.sid = f[0]
		cmd.max, _ = number(f[1]) // a missing number means at once, as in nats-server
	}

	return cmd, end + 1, 0, nil
}

// parsePub parses the arguments of PUB or HPUB and, from body on, the payload.
func parsePub(cmd command, in, args []byte, body int, lim limits) (_ command, n, need int, err error) {
	lengths := 1
	if cmd.isHPub {
		lengths = 2
	}

	var f [4][]byte
	got := fields(args, f[:])
	switch got {
	case 1 + lengths:
		cmd.subject = f[0]
	case 2 + lengths:
		cmd.subject, cmd.reply = f[0], f[1]
	default:
		return cmd, 0, 0, errUnknownOperation
	}

	total, ok := number(f[got-1])
	header := 0
	if ok && cmd.isHPub {
		header, ok = number(f[got-2])
	}

	switch {
	case !ok:
		return cmd, 0, 0, errUnknownOperation
	case total > lim.payload:
		return cmd, 0, 0, errPayload
	case header > total:
		return cmd, 0, 0, errUnknownOperation
	}

	end := body + total
	if len(in) < end+len(crlf) {
		return cmd, 0, end + len(crlf), nil
	}
	if string(in[end:end+len(crlf)]) != crlf {
		return cmd, 0, 0, errUnknownOperation
	}
	cmd.header = in[body : body+header]
	cmd.payload = in[body+header : end]
	return cmd, end + len(crlf), 0, nil
}

// findVerb returns the verb that in starts with, and its length. If in is only a prefix of a verb,
// kind is 0; if it cannot become a verb, ok is false.
func findVerb(in []byte) (length int, kind op, ok bool) {
	for _, v := range verbs {
		n := min(len(in), len(v.name))
		if !foldEqual(in[:n], v.name[:n]) {
			continue
		}
		if n == len(v.name) {
			return n, v.op, true
		}
		ok = true
	}
	return 0, 0, ok
}

// foldEqual compares with upper, ignoring the case of ASCII letters.
func foldEqual(b []byte, upper string) bool {
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// fields splits args at blanks into f and returns their number, at most one more than f holds.
func fields(args []byte, f [][]byte) int {
	count := 0
	for i := 0; i < len(args); {
		if blank(args[i]) {
			i++
			continue
		}
		start := i
		for i < len(args) && !blank(args[i]) {
			i++
		}
		if count == len(f) {
			return count + 1
		}
		f[count] = args[start:i]
		count++
	}

	return count
}

// number parses digits. A number that is too large for an int becomes the largest int.
func number(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n > (math.MaxInt-9)/10 {
			n = math.MaxInt
		} else {
			n = n*10 + int(c-'0')
		}
	}
	return n, len(b) > 0
}
