package poller

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"edged/internal/batch"
	"edged/internal/redisconn"
)

// replyOf is the raw reply to LRANGE with n items of 256 bytes.
func replyOf(n int) []byte {
	items := make([]string, n)
	for i := range items {
		items[i] = strings.Repeat("x", 256)
	}
	return encode(items...)
}

// readReply reads a reply into memory.
func readReply(tb testing.TB, raw []byte, r *bytes.Reader, c *redisconn.Conn, memory *batch.Memory) {
	memory.Data, memory.Spans = memory.Data[:0], memory.Spans[:0]
	g := gather{maxBytes: 1 << 20, maxItem: 1 << 20, memory: memory}
	r.Reset(raw)
	if err := c.Send(context.Background()); err != nil {
		tb.Fatal(err)
	}
	c.Receive(memory)
	if err := c.Finish(c.Items(&g, 1000)); err != nil {
		tb.Fatal(err)
	}
	if g.cut {
		tb.Fatal("items were left out")
	}
}

// BenchmarkReply reads a batch of 500 items.
func BenchmarkReply(b *testing.B) {
	raw := replyOf(500)
	r, memory := bytes.NewReader(nil), &batch.Memory{Data: make([]byte, 0, 160<<10)}
	c := newReplies(r)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		readReply(b, raw, r, c, memory)
	}
}

func TestReadingAnItemCostsNoAllocation(t *testing.T) {
	r, memory := bytes.NewReader(nil), &batch.Memory{Data: make([]byte, 0, 160<<10)}
	c := newReplies(r)
	count := func(items int) float64 {
		raw := replyOf(items)
		return testing.AllocsPerRun(20, func() { readReply(t, raw, r, c, memory) })
	}
	if few, many := count(100), count(400); many > few {
		t.Errorf("%v allocations for 400 items, %v for 100", many, few)
	}
}
