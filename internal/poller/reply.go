package poller

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strconv"
)

// listReply reads the reply to LRANGE as it comes from the connection: go-redis
// writes the raw reply to it (redis.NewRawWriteToCmd), and it hands the items'
// bytes to a sink without a copy in between and without an allocation an item.
type listReply struct {
	sink itemSink
	err  error // the server's error reply

	line    []byte   // header line in the making
	left    int      // bytes to come of the current item
	crlf    int      // bytes to come of the CRLF behind it
	started bool     // the array header was read; set from outside for items without one
	nils    int      // nil replies, where an item was asked for and there is none
	behind  [16]byte // what ReadFrom reads behind an item: its CRLF
}

// itemSink takes the items of a reply one after the other.
type itemSink interface {
	begin(size int)     // an item of size bytes follows
	space(n int) []byte // where its next bytes shall go: 1 to n of them
	filled(p []byte)    // they are there
	end()               // the item is whole
}

var errReply = errors.New("unexpected reply to LRANGE")

// Write takes the next bytes of the raw reply, however they are cut.
func (r *listReply) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		switch {
		case r.left > 0:
			k := copy(r.sink.space(min(r.left, len(p))), p)
			r.took(p[:k])
			p = p[k:]
		case r.crlf > 0:
			k := min(r.crlf, len(p))
			r.crlf -= k
			p = p[k:]
		default:
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				r.line = append(r.line, p...)
				return n, nil
			}
			r.line = append(r.line, p[:i]...)
			p = p[i+1:]
			err := r.header(bytes.TrimSuffix(r.line, []byte("\r")))
			r.line = r.line[:0]
			if err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// ReadFrom takes the next bytes of the raw reply until src ends, and reads those
// of an item to where they belong.
func (r *listReply) ReadFrom(src io.Reader) (total int64, err error) {
	for r.left > 0 {
		space := r.sink.space(r.left)
		n, err := src.Read(space)
		r.took(space[:n])
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	for {
		n, err := src.Read(r.behind[:])
		total += int64(n)
		if _, err := r.Write(r.behind[:n]); err != nil {
			return total, err
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (r *listReply) took(p []byte) {
	r.sink.filled(p)
	if r.left -= len(p); r.left == 0 {
		r.sink.end()
	}
}

func (r *listReply) header(line []byte) error {
	if len(line) > 0 && line[0] == '-' {
		r.err = serverError(line[1:])
		return nil
	}
	if len(line) < 2 {
		return errReply
	}
	n, err := strconv.Atoi(string(line[1:]))
	switch {
	case err == nil && n == -1 && line[0] == '$' && r.started:
		r.nils++
	case err != nil || n < 0:
		return fmt.Errorf("%w: %.40q", errReply, line)
	case line[0] == '*' && !r.started:
		r.started = true
	case line[0] == '$' && r.started:
		r.left, r.crlf = n, 2
		r.sink.begin(n)
		if n == 0 {
			r.sink.end()
		}
	default:
		return fmt.Errorf("%w: %.40q", errReply, line)
	}
	return nil
}

// serverError is an error reply of Redis.
type serverError string

func (e serverError) Error() string { return string(e) }

// RedisError marks it as a reply for go-redis.
func (e serverError) RedisError() {}

// gather is the sink that keeps the items of a batch, in one buffer. Memory is
// bounded whatever Redis sends: behind maxBytes it keeps nothing more, and of an
// item over maxItem only its mark.
type gather struct {
	maxBytes int // of the items kept; one is always kept
	maxItem  int // bytes of one item

	data  []byte
	ends  []int
	large *mark // the first item over maxItem, where it directly follows what was kept
	cut   bool  // items were left out, from this one on
	total int   // items in the reply
	most  int   // bytes of the largest

	keep    bool    // the current item goes into data
	marking *marker // of the current item while that is the large one
	scratch [512]byte
}

func (g *gather) begin(size int) {
	g.total++
	g.most = max(g.most, size)
	g.keep, g.marking = false, nil
	switch {
	case g.cut:
	case size > g.maxItem:
		g.cut, g.marking = true, new(marker)
	case len(g.ends) > 0 && len(g.data)+size > g.maxBytes:
		g.cut = true
	default:
		g.keep = true
		if free := cap(g.data) - len(g.data); free < size {
			bigger := make([]byte, len(g.data), max(2*cap(g.data), len(g.data)+size))
			copy(bigger, g.data)
			g.data = bigger
		}
	}
}

func (g *gather) space(n int) []byte {
	if g.keep {
		return g.data[len(g.data) : len(g.data)+n]
	}
	return g.scratch[:min(n, len(g.scratch))]
}

func (g *gather) filled(p []byte) {
	if g.keep {
		g.data = g.data[:len(g.data)+len(p)]
	} else if g.marking != nil {
		g.marking.add(p)
	}
}

func (g *gather) end() {
	if g.keep {
		g.ends = append(g.ends, len(g.data))
	}
	if g.marking != nil {
		m := g.marking.mark()
		g.large = &m
	}
}

// reverse turns the items round, for lists whose head is the right end.
func (g *gather) reverse() {
	data := make([]byte, 0, len(g.data))
	ends := make([]int, 0, len(g.ends))
	for i := len(g.ends) - 1; i >= 0; i-- {
		start := 0
		if i > 0 {
			start = g.ends[i-1]
		}
		data = append(data, g.data[start:g.ends[i]]...)
		ends = append(ends, len(data))
	}
	g.data, g.ends = data, ends
}

// markEnd is how many bytes of either end count for the mark of a large item.
const markEnd = 512

// mark is enough of an item to know it again inside Redis: its length and its
// SHA-1, or where it is longer than two markEnds that of its ends.
type mark struct {
	size int
	sum  string // hex
}

func markOf(item []byte) mark {
	var m marker
	m.add(item)
	return m.mark()
}

// marker makes the mark of an item whose bytes come piece by piece.
type marker struct {
	size       int
	head, tail []byte
}

func (m *marker) add(p []byte) {
	m.size += len(p)
	if room := min(markEnd-len(m.head), len(p)); room > 0 {
		m.head = append(m.head, p[:room]...)
		p = p[room:]
	}
	m.tail = append(m.tail, p[max(0, len(p)-markEnd):]...)
	if over := len(m.tail) - markEnd; over > 0 {
		m.tail = append(m.tail[:0], m.tail[over:]...)
	}
}

func (m *marker) mark() mark {
	h := sha1.New()
	h.Write(m.head)
	h.Write(m.tail)
	return mark{size: m.size, sum: hex.EncodeToString(h.Sum(nil))}
}

// prints is the sink that keeps a hash of each item, to find out where in the
// list what was read before stands now.
type prints struct {
	seed    maphash.Seed
	maxItem int // of larger ones it is that of their mark
	hash    maphash.Hash
	marking *marker
	sums    []uint64
	scratch [4096]byte
}

func newPrints(seed maphash.Seed, maxItem int) *prints {
	p := &prints{seed: seed, maxItem: maxItem}
	p.hash.SetSeed(seed)
	return p
}

func (p *prints) begin(size int) {
	p.hash.Reset()
	p.marking = nil
	if size > p.maxItem {
		p.marking = new(marker)
	}
}

func (p *prints) space(n int) []byte { return p.scratch[:min(n, len(p.scratch))] }

func (p *prints) filled(b []byte) {
	if p.marking != nil {
		p.marking.add(b)
	} else {
		p.hash.Write(b)
	}
}

func (p *prints) end() {
	if p.marking != nil {
		p.sums = append(p.sums, p.marking.mark().hash(p.seed))
	} else {
		p.sums = append(p.sums, p.hash.Sum64())
	}
}

func (m mark) hash(seed maphash.Seed) uint64 { return maphash.Comparable(seed, m) }
