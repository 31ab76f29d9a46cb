package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"edged/internal/password"
	"edged/internal/signals"
)

const passwdUsage = `usage: edged passwd

Asks for a password twice, without showing it, and prints its bcrypt hash for a
[[tcp.user]]. If standard input is no terminal, its first line is the password:
edged passwd < FILE. At most 72 bytes of a password count, so it takes no more.
`

func runPasswd(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := newFlags("edged passwd", passwdUsage, stdout, stderr)
	if code, done := parse(flags, args, 0, 0); done {
		return code
	}

	line, err := readPassword(stdin, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "edged passwd: %v\n", err)
		return exitFailed
	}
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

// readPassword asks for a password on a terminal, or reads the first line of anything else.
func readPassword(stdin io.Reader, prompts io.Writer) (string, error) {
	in := bufio.NewReader(stdin)
	if tty, ok := stdin.(*os.File); ok {
		lines, err := askHidden(tty, in, prompts, "password: ", "once more: ")
		switch {
		case errors.Is(err, errNoTerminal):
		case err != nil:
			return "", err
		case lines[0] != lines[1]:
			return "", errors.New("the two passwords differ: begin again")
		default:
			return lines[0], nil
		}
	}
	return readLine(in)
}

var errNoTerminal = errors.New("this is no terminal")

// askHidden asks for a line after each prompt, without showing the input. If a signal ends it with
// an error, its reading goroutine stays: a read from a terminal cannot be cancelled.
func askHidden(tty *os.File, in *bufio.Reader, out io.Writer, prompts ...string) (lines []string, err error) {
	watcher := signals.New()
	defer watcher.Stop()
	show, err := hideInput(tty)
	if err != nil {
		return nil, errNoTerminal
	}
	defer show()

	type answer struct {
		line string
		err  error
	}
	for _, prompt := range prompts {
		fmt.Fprint(out, prompt)
		answers := make(chan answer, 1)
		go func() {
			line, err := readLine(in)
			answers <- answer{line, err}
		}()
		select {
		case s := <-watcher.C:
			fmt.Fprintln(out)
			return nil, fmt.Errorf("no password was read: %s", signals.Name(s))
		case a := <-answers:
			if a.err != nil {
				return nil, a.err
			}
			lines = append(lines, a.line)
		}
	}
	return lines, nil
}

// readLine returns a line without its end; the last line may lack the end.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}
