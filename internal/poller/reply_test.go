package poller

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"testing"
	"testing/iotest"
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

func gathered(g *gather) (items []string) {
	start := 0
	for _, end := range g.ends {
		items = append(items, string(g.data[start:end]))
		start = end
	}
	return items
}

// feeds are ways in which the same bytes may come.
var feeds = map[string]func(r *listReply, raw []byte) error{
	"at once":   func(r *listReply, raw []byte) error { _, err := r.Write(raw); return err },
	"byte wise": func(r *listReply, raw []byte) error { return feedBy(r, raw, 1) },
	"by sevens": func(r *listReply, raw []byte) error { return feedBy(r, raw, 7) },
	"as go-redis": func(r *listReply, raw []byte) error {
		for len(raw) > 0 { // header lines by Write, then ReadFrom
			i := bytes.IndexByte(raw, '\n') + 1
			if i == 0 {
				i = len(raw)
			}
			if _, err := r.Write(raw[:i]); err != nil {
				return err
			}
			raw = raw[i:]
			if n := r.left + r.crlf; n > 0 {
				n = min(n, len(raw))
				if _, err := r.ReadFrom(iotest.HalfReader(bytes.NewReader(raw[:n]))); err != nil {
					return err
				}
				raw = raw[n:]
			}
		}
		return nil
	},
}

func feedBy(r *listReply, raw []byte, n int) error {
	for len(raw) > 0 {
		k := min(n, len(raw))
		if _, err := r.Write(raw[:k]); err != nil {
			return err
		}
		raw = raw[k:]
	}
	return nil
}

func TestAReplyIsReadHoweverItIsCut(t *testing.T) {
	items := []string{"", "a", "\r\n", "$3\r\nabc\r\n", strings.Repeat("x", 1000), ""}
	for name, feed := range feeds {
		g := gather{maxBytes: 1 << 20, maxItem: 1 << 20}
		if err := feed(&listReply{sink: &g}, encode(items...)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := gathered(&g); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", items) || g.cut || g.most != 1000 {
			t.Errorf("%s: %q, cut %v, most %d", name, got, g.cut, g.most)
		}
	}
}

func TestWhatIsKeptOfAReplyIsBounded(t *testing.T) {
	for name, feed := range feeds {
		g := gather{maxBytes: 5, maxItem: 100}
		feed(&listReply{sink: &g}, encode("abc", "d", "efg", "h"))
		if got := gathered(&g); fmt.Sprint(got) != "[abc d]" || !g.cut || g.total != 4 {
			t.Errorf("%s: %q of %d, cut %v", name, got, g.total, g.cut)
		}
		g = gather{maxBytes: 5, maxItem: 100}
		feed(&listReply{sink: &g}, encode("larger than five", "x"))
		if got := gathered(&g); len(got) != 1 || !g.cut {
			t.Errorf("%s: the first item must be kept whatever its size: %q", name, got)
		}
	}
}

func TestOfAnItemTooLargeOnlyItsMarkIsKept(t *testing.T) {
	large := strings.Repeat("abcdefghij", 10000)
	for name, feed := range feeds {
		g := gather{maxBytes: 1 << 20, maxItem: 100}
		feed(&listReply{sink: &g}, encode("small", large, "behind"))
		if got := gathered(&g); fmt.Sprint(got) != "[small]" || !g.cut {
			t.Errorf("%s: kept %q", name, got)
		}
		if want := markOf([]byte(large)); g.large == nil || *g.large != want {
			t.Errorf("%s: mark %+v, want %+v", name, g.large, want)
		}
	}
}

func TestAnErrorReplyIsAnError(t *testing.T) {
	r := listReply{sink: &gather{}}
	if _, err := io.WriteString(&r, "-WRONGTYPE no list\r\n"); err != nil || r.err == nil || r.err.Error() != "WRONGTYPE no list" {
		t.Errorf("%v, %v", err, r.err)
	}
}

// Whatever comes, and however it is cut, the outcome is the same and nothing panics.
func FuzzReply(f *testing.F) {
	f.Add(encode("a", "", "bc\r\n"))
	f.Add([]byte("-ERR x\r\n"))
	f.Add([]byte("*1\r\n$-1\r\n"))
	f.Add([]byte("*2\r\n$1\r\na\r\n:5\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		outcome := func(feed func(*listReply, []byte) error) string {
			g := gather{maxBytes: 64, maxItem: 32}
			r := listReply{sink: &g}
			err := feed(&r, raw)
			return fmt.Sprintf("%q %v %v %v %v %v", gathered(&g), g.cut, g.total, g.large != nil, r.err, err != nil)
		}
		want := outcome(feeds["at once"])
		for name, feed := range feeds {
			if got := outcome(feed); got != want {
				t.Errorf("%s: %s, at once: %s", name, got, want)
			}
		}
		p := newPrints(maphash.MakeSeed(), 1<<20)
		(&listReply{sink: p}).Write(raw)
	})
}
