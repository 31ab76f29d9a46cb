package redisconn

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
)

// FuzzReplies reads the same bytes in each way in which edged reads replies. No way may panic, or
// take memory for bytes that did not arrive, however they are split.
func FuzzReplies(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		for name, read := range map[string]func(*testing.T, io.Reader) string{
			"value": fuzzValue, "items": fuzzItems, "around": fuzzAround, "hints": fuzzHints, "go-redis": fuzzChecked,
		} {
			want := read(t, bytes.NewReader(raw))
			for cut, r := range map[string]io.Reader{
				"byte wise": iotest.OneByteReader(bytes.NewReader(raw)), "in halves": iotest.HalfReader(bytes.NewReader(raw)),
				"with EOF": iotest.DataErrReader(bytes.NewReader(raw)),
			} {
				if got := read(t, r); got != want {
					t.Errorf("%s %s: %s, at once %s", name, cut, got, want)
				}
			}
		}
	})
}

// most bounds the memory of a reply that is not kept.
const most = 2 * maxValue

func fuzzValue(t *testing.T, r io.Reader) string {
	c := reading(r)
	v, err := c.Value()
	if got := cap(c.own.Data); got > most {
		t.Errorf("%d bytes of memory", got)
	}
	return fmt.Sprintf("%q %v", v, err)
}

func fuzzItems(t *testing.T, r io.Reader) string {
	c := reading(r)
	k := &kept{c: c, most: 1 << 10}
	err := c.Items(k, 100)
	if got := cap(c.own.Data); got > most {
		t.Errorf("%d bytes of memory", got)
	}
	return fmt.Sprintf("%q %v %v", k.items, k.sizes, err)
}

func fuzzAround(_ *testing.T, r io.Reader) string {
	c := reading(r)
	k := &kept{c: c, most: 1 << 10}
	before, after, _ := c.Around(k, 100) // the error quotes the bytes after it that have arrived
	return fmt.Sprintf("%q %v %q %v %q", before.Value, before.Err, after.Value, after.Err, k.items)
}

// fuzzHints reads messages until the connection ends.
func fuzzHints(_ *testing.T, r io.Reader) string {
	var keys []string
	h := newHints(&Options{}, "", func(key string) { keys = append(keys, key) })
	c := reading(r)
	for {
		message, err := c.Value()
		if err != nil {
			return fmt.Sprintf("%q %v", keys, err)
		}
		h.heed(message)
	}
}

// fuzzChecked reads as go-redis does, which sees only checked bytes.
func fuzzChecked(t *testing.T, r io.Reader) string {
	c := newChecked(&scripted{Reader: r})
	got, err := io.ReadAll(c)
	if len(c.line) > maxLine || len(c.left) > maxNested {
		t.Errorf("%d bytes of a line, %d levels", len(c.line), len(c.left))
	}
	// The amount passed on before the fault depends on how the bytes were split.
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%q %v %v", got, c.left, c.skip)
}
