package poller

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"edged/internal/batch"
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
func readReply(tb testing.TB, raw []byte, w *wire, memory *batch.Memory) {
	memory.Data, memory.Spans = memory.Data[:0], memory.Spans[:0]
	g := gather{maxBytes: 1 << 20, maxItem: 1 << 20, memory: memory}
	w.conn.(*replies).Reader.(*bytes.Reader).Reset(raw)
	if err := w.send(context.Background()); err != nil {
		tb.Fatal(err)
	}
	w.receive(memory)
	if err := w.finish(w.items(&g)); err != nil {
		tb.Fatal(err)
	}
	if g.cut {
		tb.Fatal("items were left out")
	}
}

func newReplies() *wire { return &wire{conn: &replies{Reader: bytes.NewReader(nil)}} }

// BenchmarkReply reads a batch of 500 items.
func BenchmarkReply(b *testing.B) {
	raw := replyOf(500)
	w, memory := newReplies(), &batch.Memory{Data: make([]byte, 0, 160<<10)}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		readReply(b, raw, w, memory)
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
	w, memory := newReplies(), &batch.Memory{Data: make([]byte, 0, 160<<10)}
	count := func(items int) float64 {
		raw := replyOf(items)
		return testing.AllocsPerRun(20, func() { readReply(t, raw, w, memory) })
	}
	if few, many := count(100), count(400); many > few {
		t.Errorf("%v allocations for 400 items, %v for 100", many, few)
	}
}
