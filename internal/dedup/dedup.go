// Package dedup recognizes items that repeat an earlier one of their list: those that
// have its bytes, or its value of a JSON field.
//
// A Window holds the keys of consecutive items, 128 bits each, whose chance of being equal
// for different items is nil in practice. An item is a duplicate if one of so many items
// before it has its key, no matter if that one is a duplicate too. So the verdict depends on
// the items alone, and on their order: whoever looks again sees the same.
//
// The package does no I/O and has no lock: one goroutine uses a Window.
package dedup

import (
	"bytes"
	"fmt"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
	"github.com/zeebo/xxh3"
)

// KeySize is how many bytes a key takes as text.
const KeySize = 16

// Key stands for the bytes of an item, or for the value of its field. The zero Key is that
// of an item which is never a duplicate.
type Key [KeySize]byte

// By says which part of an item counts. The zero By is that no item is a duplicate.
type By struct {
	text string
	path string // of a field; empty: the whole item
}

// ParseBy reads "payload" or "json:PATH", where PATH names a field as gjson does: "id",
// "sensor.id". The empty text is the zero By.
func ParseBy(text string) (By, error) {
	path, isJSON := strings.CutPrefix(text, "json:")
	switch {
	case text == "", text == "payload":
		return By{text: text}, nil
	case !isJSON:
		return By{}, fmt.Errorf(`%q is neither "payload" nor "json:PATH"`, text)
	case path == "", strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return By{}, fmt.Errorf(`%q names no field: write "json:id", or "json:sensor.id"`, text)
	case strings.ContainsAny(path, "*?#@|!{}[]()"):
		return By{}, fmt.Errorf(`%q is more than the path of a field: use names and dots only`, text)
	}
	return By{text, path}, nil
}

// String is the text that ParseBy reads.
func (b By) String() string { return b.text }

// IsZero reports whether no item is a duplicate.
func (b By) IsZero() bool { return b.text == "" }

// Key returns the key of an item. One that is no JSON object at first sight, or whose field is missing
// or null, has the zero Key.
func (b By) Key(item []byte) Key {
	if b.path != "" {
		item = bytes.TrimSpace(item)
		if len(item) < 2 || item[0] != '{' || item[len(item)-1] != '}' {
			return Key{}
		}
	}
	text := unsafe.String(unsafe.SliceData(item), len(item)) // kept by none of the calls below
	if b.path != "" {
		field := gjson.Get(text, b.path)
		if field.Type == gjson.Null {
			return Key{}
		}
		text = field.Raw
	}
	sum := xxh3.HashString128(text)
	if sum.Hi == 0 && sum.Lo == 0 {
		sum.Lo = 1
	}
	return sum.Bytes()
}

// Allows reports whether an item may be a duplicate, its key apart: an item that is no JSON has no field. It takes
// longer than Key, so it is for items whose key was found.
func (b By) Allows(item []byte) bool { return b.path == "" || gjson.ValidBytes(item) }
