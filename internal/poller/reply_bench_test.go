package poller

import (
	"bytes"
	"strings"
	"testing"
)

// replyOf is the raw reply to LRANGE with n items of 256 bytes.
func replyOf(n int) []byte {
	items := make([]string, n)
	for i := range items {
		items[i] = strings.Repeat("x", 256)
	}
	return encode(items...)
}

// readReply reads a reply as go-redis hands it on.
func readReply(tb testing.TB, raw []byte, body *bytes.Reader, ends []int) {
	g := gather{maxBytes: 1 << 20, maxItem: 1 << 20, data: make([]byte, 0, 128<<10), ends: ends[:0]}
	r := listReply{sink: &g}
	for rest := raw; len(rest) > 0; {
		line := bytes.IndexByte(rest, '\n') + 1
		if _, err := r.Write(rest[:line]); err != nil {
			tb.Fatal(err)
		}
		rest = rest[line:]
		n := r.left + r.crlf
		body.Reset(rest[:n])
		if _, err := r.ReadFrom(body); err != nil {
			tb.Fatal(err)
		}
		rest = rest[n:]
	}
	if g.cut {
		tb.Fatal("items were left out")
	}
}

// BenchmarkReply reads a batch of 500 items.
func BenchmarkReply(b *testing.B) {
	raw, ends := replyOf(500), make([]int, 500)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for body := new(bytes.Reader); b.Loop(); {
		readReply(b, raw, body, ends)
	}
}

// BenchmarkMark makes the mark that an item is known by inside Redis.
func BenchmarkMark(b *testing.B) {
	item := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		markOf(item)
	}
}

func TestReadingAnItemCostsNoAllocation(t *testing.T) {
	body, ends := new(bytes.Reader), make([]int, 400)
	count := func(items int) float64 {
		raw := replyOf(items)
		return testing.AllocsPerRun(20, func() { readReply(t, raw, body, ends) })
	}
	if few, many := count(100), count(400); many > few {
		t.Errorf("%v allocations for 400 items, %v for 100", many, few)
	}
}
