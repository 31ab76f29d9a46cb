package redis

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// guardScript returns the script that edged calls in each round trip of delivery.
func guardScript(tb testing.TB) string {
	tb.Helper()
	source, err := os.ReadFile("../../../internal/poller/guard.go")
	if err != nil {
		tb.Fatal(err)
	}
	var script strings.Builder
	for _, part := range []string{"const isItem = `", "const before = `", "local function lease()", "var guard = redisconn.NewScript(isItem + lease + `"} {
		_, text, ok := strings.Cut(string(source), part)
		if !ok {
			tb.Skipf("guard.go has no %q", part)
		}
		text, _, _ = strings.Cut(text, "`")
		if strings.HasPrefix(part, "local") {
			text = part + text
		}
		script.WriteString(text)
	}
	return script.String()
}

var shaOf = regexp.MustCompile(`[0-9a-f]{40}`)

// BenchmarkCommand measures commands through a connection in memory.
func BenchmarkCommand(b *testing.B) {
	script := guardScript(b)
	item := strings.Repeat("x", 100)
	for _, bench := range []struct {
		name  string
		words func(sha string) []string
	}{
		{"PING", func(string) []string { return []string{"PING"} }},
		{"LRANGE", func(string) []string { return []string{"LRANGE", "list", "0", "9"} }},
		{"LTRIM", func(string) []string { return []string{"LTRIM", "list", "0", "-1"} }},
		{"guard", func(sha string) []string {
			return []string{"EVALSHA", sha, "2", "list", "lease", "me/1", "", "30000", "0", "0", "L", "1", "2", "512"}
		}},
		{"guard-marks", func(sha string) []string {
			return []string{"EVALSHA", sha, "2", "list", "lease", "me/1", "", "30000", "0", "0", "L", "1", "2", "512", "0", "100", sha1Hex(item)}
		}},
	} {
		for _, kind := range []string{"sim", "miniredis"} {
			b.Run(bench.name+"/"+kind, func(b *testing.B) {
				var c *conn
				if kind == "sim" {
					r := New()
					defer r.Close()
					c = dial(b, r)
				} else {
					m := miniredis.NewMiniRedis()
					defer m.Close()
					m.Dial()
					here, there := pipe()
					m.Server().ServeConn(there)
					c = newConn(b, here)
				}
				defer c.conn.Close()
				for range 10 {
					c.do("RPUSH", "list", item)
				}
				c.do("SET", "lease", "me/1 1")
				sha := shaOf.FindString(c.do("SCRIPT", "LOAD", script))
				measure(b, c, bench.words(sha))
			})
		}
	}
}

// measure sends a command again and again, whose reply is always as long.
func measure(b *testing.B, c *conn, words []string) {
	reply := []byte(c.do(words...))
	if reply[0] == '-' {
		b.Fatalf("%s", reply)
	}
	request := []byte(wire(words))
	b.ReportAllocs()
	for b.Loop() {
		c.conn.Write(request)
		if _, err := io.ReadFull(c.in, reply); err != nil {
			b.Fatal(err)
		}
	}
}
