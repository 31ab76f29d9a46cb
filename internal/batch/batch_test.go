package batch

import (
	"bytes"
	"testing"
)

func TestItemsAreFoundAgain(t *testing.T) {
	items := [][]byte{[]byte("one"), {}, []byte("\r\nthree\x00"), {}}
	b := Of("s", 7, items...)
	if b.Len() != 4 || b.First() != 7 || b.Next() != 11 || b.Size() != 11 || b.Subject() != "s" {
		t.Fatalf("len %d, first %d, next %d, size %d", b.Len(), b.First(), b.Next(), b.Size())
	}
	for i, want := range items {
		if got := b.Item(i); !bytes.Equal(got, want) {
			t.Errorf("item %d is %q, want %q", i, got, want)
		}
		if cap(b.Item(i)) != len(want) {
			t.Errorf("item %d can be appended to, over its neighbour", i)
		}
	}
}

func TestAnEncodingIsMadeOnceForAKey(t *testing.T) {
	b := Of("s", 0, []byte("a"), []byte("bc"))
	made := 0
	encode := func(b *Batch) *Encoding {
		made++
		return &Encoding{Data: []byte("<a><bc>"), Ends: []int{3, 7}}
	}
	first := b.Encoded("1", encode)
	if b.Encoded("1", encode) != first || made != 1 {
		t.Errorf("made %d times for one key", made)
	}
	if b.Encoded("2", encode) == first || made != 2 {
		t.Errorf("made %d times for two keys", made)
	}
	if got := string(first.Span(0, 1)) + string(first.Span(1, 2)) + string(first.Span(0, 2)); got != "<a><bc><a><bc>" {
		t.Errorf("spans are %s", got)
	}
}
