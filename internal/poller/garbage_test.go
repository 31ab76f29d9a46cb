package poller

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/redistest"
)

// answering is a server that gives the same reply to each script, and a plausible one to
// everything else.
func answering(t *testing.T, script string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					name, err := readCommand(r)
					if err != nil {
						return
					}
					reply := map[string]string{
						"EVALSHA": script, "HELLO": "*0\r\n", "LLEN": ":5\r\n", "LRANGE": "*1\r\n$1\r\na\r\n", "GET": "$-1\r\n", "HMGET": "*2\r\n$-1\r\n$-1\r\n",
					}[name]
					if reply == "" {
						reply = "+OK\r\n"
					}
					io.WriteString(conn, reply)
				}
			})
		}
	})
	return l.Addr().String()
}

// readCommand reads a command, and returns its first word.
func readCommand(r *bufio.Reader) (name string, err error) {
	var words, size int
	if _, err := fmt.Fscanf(r, "*%d\r\n", &words); err != nil {
		return "", err
	}
	for i := range words {
		if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
			return "", err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return "", err
		}
		if i == 0 {
			name = string(word[:size])
		}
	}
	return name, nil
}

func TestGarbageInPlaceOfAScriptsResultIsAFaultAndNothingElse(t *testing.T) {
	t.Parallel()
	bulk := func(words ...string) (raw string) {
		for _, word := range words {
			raw += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
		}
		return raw
	}
	ok := func(length, first string) string {
		return "*5\r\n" + bulk("ok") + ":" + length + "\r\n" + bulk("", "0", first)
	}
	for name, script := range map[string]string{
		"a claim without a state": ok("5", "0"), "a negative length": ok("-5", "0"), "a huge length": ok("9223372036854775807", "18446744073709551615"),
		"a huge number": ok("5", "18446744073709551615"), "integers": "*5\r\n" + strings.Repeat(":1\r\n", 5),
		"empty states": "*11\r\n" + bulk("ok") + ":5\r\n" + bulk("", "0", "0") + strings.Repeat("*0\r\n", 6),
		"flags": "*11\r\n" + bulk("ok") + ":5\r\n" + bulk("", "0", "0") + "*6\r\n:0\r\n:0\r\n:0\r\n" + bulk("18446744073709551615", "18446744073709551615") + ":0\r\n" +
			"*2\r\n" + bulk("grace", "18446744073709551615") + strings.Repeat("*0\r\n", 4),
		"nothing": "*-1\r\n", "a string": bulk("ok"), "another's lease": "*6\r\n" + bulk("standby") + ":5\r\n" + bulk("x/1", "0", "0", "18446744073709551615"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t, answering(t, script), func(o *setup) { o.PollInterval, o.Lease = 10*time.Millisecond, 300*time.Millisecond })
			l.join(0, false)
			redistest.Eventually(t, "it is looked at", func() bool { return l.status("a").State != Starting })
			for range 50 {
				l.round()
			}
		})
	}
}
