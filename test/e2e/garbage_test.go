package e2e

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
)

func TestGarbageOnThePortDisturbsNoOtherClient(t *testing.T) {
	t.Parallel()
	const n = 100_000
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	garbage := map[string][]byte{
		"an HTTP request":             []byte("GET / HTTP/1.1\r\nHost: box\r\nUser-Agent: scanner\r\n\r\n"),
		"random bytes":                noise,
		"4 MiB without an end":        bytes.Repeat([]byte("PUB"), 4<<20/3),
		"an unknown verb":             []byte("CONNECT {}\r\nEHLO box\r\n"),
		"CONNECT without JSON":        []byte("CONNECT {\"verbose\":\r\n"),
		"a negative length":           []byte("CONNECT {}\r\nPUB a -1\r\n\r\n"),
		"a huge length":               []byte("CONNECT {}\r\nPUB a 99999999999999999999\r\n"),
		"a length over max_payload":   []byte("CONNECT {}\r\nPUB a 1048577\r\n"),
		"a payload without its end":   []byte("CONNECT {}\r\nPUB a 2\r\nabcd\r\n"),
		"too long a subject":          []byte("CONNECT {}\r\nSUB " + strings.Repeat("a", 8<<10) + " 1\r\n"),
		"headers longer than payload": []byte("CONNECT {\"headers\":true}\r\nHPUB a 20 10\r\nNATS/1.0\r\n\r\n"),
	}
	// These do not violate the protocol yet; they hold their connection until it is closed.
	half := map[string][]byte{
		"a half-sent PUB":        []byte("CONNECT {}\r\nPING\r\nPUB a 100\r\nhalf"),
		"a half-sent line":       []byte("CONNECT {}\r\nPING\r\nSU"),
		"bad subjects":           []byte("CONNECT {}\r\nPING\r\nSUB a..b 1\r\nSUB \xff\xfe\x00 2\r\nPUB a.* 1\r\nx\r\n"),
		"more SUBs than one may": append([]byte("CONNECT {}\r\nPING\r\n"), manySubs(3000)...),
		"PONGs without a PING":   append([]byte("CONNECT {}\r\nPING\r\n"), bytes.Repeat([]byte("PONG\r\n"), 10_000)...),
	}

	r := redistest.Start(t)
	d := startEdged(t, r)
	nc := connect(t, d)
	_, box := subscribe(t, nc, "events", "")
	r.Push("events", numbers(0, n)...)
	box.wait(t, 1)
	for name, bytes := range half {
		conn := dial(t, d)
		if _, err := conn.Write(bytes); err != nil {
			t.Errorf("%s: disconnected: %v", name, err)
		}
	}
	for name, bytes := range garbage {
		conn := dial(t, d)
		conn.Write(bytes) // may fail: the daemon need not read everything
		answer, err := io.ReadAll(conn)
		if err, ok := err.(net.Error); ok && err.Timeout() {
			t.Errorf("%s: not disconnected", name)
		}
		// If bytes are unread when a connection closes, the kernel drops the answer.
		if err == nil && !strings.Contains(string(answer), "\r\n-ERR '") {
			t.Errorf("%s: answered with %.200q, want an -ERR", name, answer)
		}
	}
	wantRun(t, box.wait(t, n), 0, n)
	waitEmpty(t, r, "events")
	redistest.Eventually(t, "each protocol error is counted", func() bool { return d.status().TCP.ProtocolErrors == len(garbage) })
	if nc.Stats().Reconnects != 0 {
		t.Error("the client had to reconnect")
	}
}

func dial(t *testing.T, d *daemon) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", d.Address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func manySubs(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		b.WriteString("SUB a.")
		b.WriteString(strings.Repeat("b", i%50+1))
		b.WriteString(" s")
		b.WriteString(strconv.Itoa(i))
		b.WriteString("\r\n")
	}
	return b.Bytes()
}
