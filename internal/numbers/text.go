package numbers

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bounds of a set's text.
const (
	MaxSpans = 65536
	MaxText  = 256 << 10 // bytes
)

// base is the base of gaps and lengths. In base 36, spans of up to 46,655 items, each
// after a gap of one, take four bytes, so MaxSpans of them fit into MaxText.
const base = 36

// AppendText appends the set's text to b: the floor, then each span as "+gap,length" or, if the gap
// before it is a single number, as "+length". The floor is in decimal, gaps and lengths in base 36.
//
// The highest spans are left out if the text would exceed MaxSpans or MaxText. So Parse always
// accepts it, and at worst some items count as not confirmed.
func (s *Set) AppendText(b []byte) []byte {
	most := len(b) + MaxText
	b = strconv.AppendUint(b, s.floor, 10)

	end := s.floor
	for _, p := range s.spans[:min(len(s.spans), MaxSpans)] {
		before := len(b)
		b = append(b, '+')
		if gap := p.From - end; gap > 1 {
			b = strconv.AppendUint(b, gap, base)
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, p.To-p.From, base)
		if len(b) > most {
			return b[:before]
		}
		end = p.To
	}
	return b
}

// String returns the set's text; see AppendText.
func (s *Set) String() string { return string(s.AppendText(nil)) }

var (
	errTooLong = fmt.Errorf("numbers: text of more than %d spans or %d bytes", MaxSpans, MaxText)
	errRange   = errors.New("numbers: a gap or span is empty or exceeds 64 bits")
)

// Parse reads a text that AppendText wrote.
func Parse(text string) (Set, error) {
	if len(text) > MaxText || strings.Count(text, "+") > MaxSpans {
		return Set{}, errTooLong
	}

	floor, rest, more := strings.Cut(text, "+")
	end, err := strconv.ParseUint(floor, 10, 64)
	if err != nil {
		return Set{}, fmt.Errorf("numbers: %w", err)
	}
	s := Set{floor: end, count: end}
	if more {
		s.spans = make([]Span, 0, 1+strings.Count(rest, "+"))
	}

	for more {
		var word string
		word, rest, more = strings.Cut(rest, "+")
		p, err := parseSpan(word, end)
		if err != nil {
			return Set{}, err
		}
		s.spans = append(s.spans, p)
		s.count += p.To - p.From
		end = p.To
	}
	return s, nil
}

// parseSpan reads a span, given the end of the one before it.
func parseSpan(word string, end uint64) (Span, error) {
	first, second, both := strings.Cut(word, ",")
	if !both {
		first, second = "1", first
	}
	gap, err := strconv.ParseUint(first, base, 64)
	if err != nil {
		return Span{}, fmt.Errorf("numbers: %w", err)
	}
	length, err := strconv.ParseUint(second, base, 64)
	if err != nil {
		return Span{}, fmt.Errorf("numbers: %w", err)
	}

	if gap == 0 || length == 0 || gap > math.MaxUint64-end || length > math.MaxUint64-end-gap {
		return Span{}, errRange
	}
	return Span{end + gap, end + gap + length}, nil
}
