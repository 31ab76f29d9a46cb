package batch

import (
	"bytes"
	"fmt"
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
		return NewEncoding(b, &Memory{Data: []byte("<a><bc>"), Spans: []Span{{0, 3}, {3, 7}}})
	}
	first := b.Encoded("1", encode)
	if b.Encoded("1", encode) != first || made != 1 {
		t.Errorf("made %d times for one key", made)
	}
	if b.Encoded("2", encode) == first || made != 2 {
		t.Errorf("made %d times for two keys", made)
	}
	if got := frames(first, 0, 1) + frames(first, 1, 2) + frames(first, 0, 2); got != "<a><bc><a><bc>" {
		t.Errorf("frames are %s", got)
	}
}

// frames are those that Append appends.
func frames(e *Encoding, from, to int) string {
	bufs, size := e.Append(nil, from, to)
	all := bytes.Join(bufs, nil)
	if size != len(all) {
		return fmt.Sprintf("%q, said to be %d bytes", all, size)
	}
	return string(all)
}

func TestLargeItemsAreNotCopied(t *testing.T) {
	one, two := bytes.Repeat([]byte("1"), largeItem), bytes.Repeat([]byte("2"), 2*largeItem)
	b := Of("s", 0, one, two)
	if !b.Large() {
		t.Fatal("they are not Large")
	}
	e := NewEncoding(b, &Memory{Data: []byte("<1><2>"), Spans: []Span{{0, 3}, {3, 6}}})
	if want := "<1>" + string(one) + "\r\n<2>" + string(two) + "\r\n"; frames(e, 0, 2) != want || frames(e, 1, 2) != want[largeItem+5:] {
		t.Error("the frames are not what they should be")
	}
	if bufs, _ := e.Append(nil, 0, 2); len(bufs) != 4 || &bufs[1][0] != &b.Item(0)[0] {
		t.Error("they are copied")
	}
	if b.Held(10) > 3*largeItem+20*largeHeader || Of("s", 0, one[1:]).Large() {
		t.Errorf("%d bytes held", b.Held(10))
	}
}

func TestTheLastReleaseGivesTheMemoryBack(t *testing.T) {
	pool := new(Pool)
	m := pool.Get(10, 1)
	m.Add([]byte("item"))
	b := New("s", 0, m)
	e := b.Encoded("1", func(b *Batch) *Encoding {
		m := b.Memory(10)
		m.Data = append(m.Data, "<item>"...)
		m.Mark(0)
		return NewEncoding(b, m)
	})
	again := b.Again(0, 2, 0)
	b.Release()
	if got := frames(e, 0, 1); got != "<item>" {
		t.Errorf("a reference is still held, but the frames are %s", got)
	}
	if got := string(again.Item(0)); got != "item" {
		t.Errorf("again has %q", got)
	}
	again.Release()
	if b.memory != nil || len(m.Data) != 0 || len(m.Spans) != 0 {
		t.Error("the memory was not given back")
	}
	defer func() {
		if recover() == nil {
			t.Error("it can be released again")
		}
	}()
	b.Release()
}

func TestMemoryHasRoom(t *testing.T) {
	pool := new(Pool)
	for _, size := range []int{0, 1, 4096, 4097, 5120, 5121, 8191, 8192, 8193, 100_000, 1<<20 + 1, 1 << 26, 1<<26 + 1} {
		m := pool.Get(size, 0)
		if cap(m.Data) < size || cap(m.Data) > max(smallestSize, size+size/4) || len(m.Data) != 0 {
			t.Errorf("%d bytes for %d", cap(m.Data), size)
		}
		m.Data = append(m.Data, make([]byte, size)...)
		m.Grow(1)
		if cap(m.Data) <= size || len(m.Data) != size {
			t.Errorf("grown from %d to %d", size, cap(m.Data))
		}
		m.Free()
	}
}
