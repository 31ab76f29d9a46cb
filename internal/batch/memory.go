package batch

import (
	"math/bits"
	"slices"
	"sync"
)

// Memory holds bytes, and where in them items stand.
type Memory struct {
	Data  []byte
	Spans []Span
	pool  *Pool // nil: it came from none
}

// Span is a place in Memory.Data: from From (included) to To (excluded).
type Span struct{ From, To int32 }

// Len is the number of bytes.
func (s Span) Len() int { return int(s.To - s.From) }

// Bytes returns what stands in span i.
func (m *Memory) Bytes(i int) []byte {
	s := m.Spans[i]
	return m.Data[s.From:s.To:s.To]
}

// line is Bytes with the CR LF behind it.
func (m *Memory) line(i int) []byte {
	s := m.Spans[i]
	return m.Data[s.From : s.To+2 : s.To+2]
}

// Add appends an item, with CR LF behind it.
func (m *Memory) Add(item []byte) {
	from := len(m.Data)
	m.Data = append(m.Data, item...)
	m.Mark(from)
	m.Data = append(m.Data, "\r\n"...)
}

// Mark appends a span that begins at from and ends where Data ends.
func (m *Memory) Mark(from int) {
	m.Spans = append(m.Spans, Span{int32(from), int32(len(m.Data))})
}

// Pool keeps memory that is not used at the moment; under pressure, and after a
// while, the garbage collector takes it. The zero Pool is ready, and the nil one
// keeps nothing. Its methods may be called from any goroutine.
type Pool struct{ classes [classes]sync.Pool }

// There are four sizes from each power of two to the next, so that at most a fifth
// of the memory is to spare.
const (
	smallest     = 8 // the power of two of the smallest size
	smallestSize = 1 << smallest
	largest      = 26 // the power of two of the largest size that is kept
	classes      = (largest - smallest) * 4
)

// class returns the number of the least size that size bytes fit into, and the size.
func class(size int) (number, bytes int) {
	size = max(size, smallestSize)
	power := bits.Len(uint(size-1)) - 1
	if power < smallest {
		power = smallest
	}
	step := 1 << (power - 2)
	quarter := (size - 1<<power + step - 1) / step
	return (power-smallest)*4 + quarter, 1<<power + quarter*step
}

// Get returns memory with room for size bytes and n spans.
func (p *Pool) Get(size, n int) *Memory {
	number, bytes := class(size)
	if p == nil || number >= classes {
		return &Memory{Data: make([]byte, 0, size), Spans: make([]Span, 0, n)}
	}
	m, ok := p.classes[number].Get().(*Memory)
	if !ok {
		m = &Memory{Data: make([]byte, 0, bytes), pool: p}
	}
	m.Spans = slices.Grow(m.Spans, n)
	return m
}

// Grow makes room for n more bytes in Data.
func (m *Memory) Grow(n int) {
	if cap(m.Data)-len(m.Data) >= n {
		return
	}
	_, bytes := class(max(len(m.Data)+n, 2*cap(m.Data)))
	bigger := make([]byte, len(m.Data), bytes)
	copy(bigger, m.Data)
	m.Data = bigger
}

// Free gives the memory back to its Pool. What a batch is made of the batch frees.
func (m *Memory) Free() {
	if m.pool == nil {
		return
	}
	number, bytes := class(cap(m.Data))
	if number >= classes || bytes != cap(m.Data) {
		return
	}
	if poisons {
		all := m.Data[:cap(m.Data)]
		for i := range all {
			all[i] = 0xdb
		}
	}
	m.Data, m.Spans = m.Data[:0], m.Spans[:0]
	m.pool.classes[number].Put(m)
}
