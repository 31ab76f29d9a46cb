package ledger

import (
	"crypto/sha1"
	"encoding/hex"
	"strconv"
	"strings"
)

// markEnd is how many bytes of each end of a large item count for its mark.
const markEnd = 512

// Mark is enough of an item to recognize it inside Redis: "size:sum", the sum being
// SHA-1 in hex. For items longer than two markEnds it is the sum of the two ends.
// The empty Mark is that of no item: the list ends before it.
type Mark string

// MarkOf returns an item's mark.
func MarkOf(item []byte) Mark {
	if len(item) <= 2*markEnd {
		return newMark(len(item), sha1.Sum(item))
	}
	var m Marker
	m.Add(item)
	return m.Mark()
}

// Size is the item's size in bytes.
func (m Mark) Size() int {
	digits, _, _ := strings.Cut(string(m), ":")
	size, _ := strconv.Atoi(digits)
	return size
}

func newMark(size int, sum [sha1.Size]byte) Mark {
	var room [20 + 1 + 2*sha1.Size]byte
	b := append(strconv.AppendInt(room[:0], int64(size), 10), ':')
	return Mark(hex.AppendEncode(b, sum[:]))
}

// Marker makes the mark of an item whose bytes arrive in pieces. It keeps only the
// two ends.
type Marker struct {
	size       int
	head, tail []byte
}

// Add adds the next piece.
func (m *Marker) Add(p []byte) {
	m.size += len(p)
	if free := min(markEnd-len(m.head), len(p)); free > 0 {
		m.head = append(m.head, p[:free]...)
		p = p[free:]
	}

	m.tail = append(m.tail, p[max(0, len(p)-markEnd):]...)
	if over := len(m.tail) - markEnd; over > 0 {
		m.tail = append(m.tail[:0], m.tail[over:]...)
	}
}

// Mark is the mark of the pieces.
func (m *Marker) Mark() Mark {
	return newMark(m.size, sha1.Sum(append(m.head[:len(m.head):len(m.head)], m.tail...)))
}
