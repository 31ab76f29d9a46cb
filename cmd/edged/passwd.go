package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"edged/internal/password"
)

const passwdUsage = `usage: edged passwd < FILE

Prints the bcrypt hash of the first line of its standard input, for the password
of a [[tcp.user]]. At most 72 bytes of a password count, so it takes no more.
`

func runPasswd(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := newFlags("edged passwd", passwdUsage, stdout, stderr)
	if code, done := parse(flags, args, 0, 0); done {
		return code
	}
	line, err := bufio.NewReader(stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		fmt.Fprintf(stderr, "edged passwd: %v\n", err)
		return exitFailed
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		fmt.Fprint(stderr, "edged passwd: there is no password on standard input\n")
		return exitUsage
	}
	hash, err := password.Hash(line)
	if err != nil {
		fmt.Fprintf(stderr, "edged passwd: %v\n", err)
		return exitFailed
	}
	fmt.Fprintf(stdout, "%s\n", hash)
	return exitOK
}
