package poller

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"edged/internal/batch"
	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// encode makes the raw reply to LRANGE.
func encode(items ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(items))
	for _, item := range items {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(item), item)
	}
	return b.Bytes()
}

// replies is a connection on which replies come.
type replies struct {
	net.Conn
	io.Reader
}

// newReplies is a connection to read the replies in r from.
func newReplies(r io.Reader) *redisconn.Conn {
	return redisconn.NewConn(&replies{Reader: r}, time.Minute, nil)
}

func (c *replies) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *replies) Write(p []byte) (int, error) { return len(p), nil }
func (c *replies) SetDeadline(time.Time) error { return nil }

// ways in which the same bytes may come.
var ways = map[string]func([]byte) io.Reader{
	"at once":   func(raw []byte) io.Reader { return bytes.NewReader(raw) },
	"byte wise": func(raw []byte) io.Reader { return iotest.OneByteReader(bytes.NewReader(raw)) },
	"in halves": func(raw []byte) io.Reader { return iotest.HalfReader(bytes.NewReader(raw)) },
	"with EOF":  func(raw []byte) io.Reader { return iotest.DataErrReader(bytes.NewReader(raw)) },
}

// read reads a list of items, and what stands behind it.
func read(r io.Reader, g *gather) (behind any, _ error) {
	c := newReplies(r)
	behind, err := readOn(c, g)
	if err := c.Finish(err); err != nil {
		return nil, err
	}
	return behind, err
}

// readOn is read, whatever comes behind that.
func readOn(c *redisconn.Conn, g *gather) (behind any, _ error) {
	if g.memory == nil {
		g.memory = new(batch.Memory)
	}
	if err := c.Send(context.Background()); err != nil {
		return nil, err
	}
	c.Receive(g.memory)
	if err := c.Items(g, 1<<20); err != nil {
		return nil, err
	}
	return c.Value()
}

func gathered(g *gather) (items []string) {
	for i := range g.memory.Spans {
		items = append(items, string(g.memory.Bytes(i)))
	}
	return items
}

func TestAReplyIsReadHoweverItIsCut(t *testing.T) {
	t.Parallel()
	items := []string{"", "a", "\r\n", "$3\r\nabc\r\n", strings.Repeat("x", 1000), ""}
	for name, way := range ways {
		g := gather{maxBytes: 1 << 20, maxItem: 1 << 20}
		behind, err := read(way(append(encode(items...), ":7\r\n"...)), &g)
		if err != nil || behind != int64(7) {
			t.Fatalf("%s: %v, %v behind", name, err, behind)
		}
		if got := gathered(&g); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", items) || g.cut || g.most != 1000 {
			t.Errorf("%s: %q, cut %v, most %d", name, got, g.cut, g.most)
		}
		for _, s := range g.memory.Spans { // batch.New asks for it
			if got := string(g.memory.Data[s.To : s.To+2]); got != "\r\n" {
				t.Errorf("%s: %q behind an item", name, got)
			}
		}
	}
}

func TestWhatIsKeptOfAReplyIsBounded(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		g := gather{maxBytes: 5, maxLarge: 5, maxItem: 100}
		read(way(append(encode("abc", "d", "efg", "h"), "+\r\n"...)), &g)
		if got := gathered(&g); fmt.Sprint(got) != "[abc d]" || !g.cut || g.total != 4 {
			t.Errorf("%s: %q of %d, cut %v", name, got, g.total, g.cut)
		}
		g = gather{maxBytes: 5, maxLarge: 5, maxItem: 100}
		read(way(append(encode("larger than five", "x"), "+\r\n"...)), &g)
		if got := gathered(&g); len(got) != 1 || !g.cut {
			t.Errorf("%s: the first item must be kept whatever its size: %q", name, got)
		}
		g = gather{maxBytes: 5, maxLarge: 5, maxItem: 100, memory: new(batch.Memory)}
		huge := strings.Repeat("x", 10<<20)
		if _, err := read(way(append(encode("small", huge), "+\r\n"...)), &g); err != nil || cap(g.memory.Data) > 1<<20 {
			t.Errorf("%s: %v; %d bytes of memory for what is not kept", name, err, cap(g.memory.Data))
		}
	}
}

func TestLargeItemsHaveABoundOfTheirOwn(t *testing.T) {
	t.Parallel()
	item := strings.Repeat("x", 64<<10)
	g := gather{maxBytes: 100 << 10, maxLarge: 200 << 10, maxItem: 1 << 20}
	if _, err := read(bytes.NewReader(append(encode(item, item, item, item), "+\r\n"...)), &g); err != nil || len(gathered(&g)) != 3 {
		t.Errorf("kept %d, %v", len(gathered(&g)), err)
	}
}

func TestOfAnItemTooLargeOnlyItsMarkIsKept(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("abcdefghij", 10000)
	for name, way := range ways {
		g := gather{maxBytes: 1 << 20, maxItem: 100}
		read(way(append(encode("small", large, "behind"), "+\r\n"...)), &g)
		if got := gathered(&g); fmt.Sprint(got) != "[small]" || !g.cut {
			t.Errorf("%s: kept %q", name, got)
		}
		if want := (tooLarge{len(large), ledger.MarkOf([]byte(large))}); g.large == nil || *g.large != want {
			t.Errorf("%s: mark %+v, want %+v", name, g.large, want)
		}
	}
}

// Whatever comes, and however it is cut, the outcome is the same and nothing panics.
func FuzzReply(f *testing.F) {
	f.Add(append(encode("a", "", "bc\r\n"), "+x\r\n"...))
	f.Add([]byte("-ERR x\r\n"))
	f.Add([]byte("*1\r\n$-1\r\n"))
	f.Add([]byte("*2\r\n$1\r\na\r\n:5\r\n"))
	f.Add([]byte("*0\r\n*4\r\n$2\r\nok\r\n:3\r\n$-1\r\n-ERR\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		outcome := func(r io.Reader) string {
			g := gather{maxBytes: 64, maxLarge: 64, maxItem: 32}
			behind, err := readOn(newReplies(r), &g)
			return fmt.Sprintf("%q %v %v %v %v %v", gathered(&g), g.cut, g.total, g.large != nil, behind, err != nil)
		}
		want := outcome(bytes.NewReader(raw))
		for name, way := range ways {
			if got := outcome(way(raw)); got != want {
				t.Errorf("%s: %s, at once: %s", name, got, want)
			}
		}
		c := newReplies(bytes.NewReader(raw))
		c.Receive(nil)
		c.Items(&prober{seed: maphash.MakeSeed()}, 1<<20)
	})
}

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
