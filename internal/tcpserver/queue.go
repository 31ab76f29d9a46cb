package tcpserver

import "edged/internal/batch"

// chunkSize is the size of the buffers that hold the bytes queued for a client.
const chunkSize = 16 << 10

const crlf = "\r\n"

// queue holds the bytes and items to be written to a client, in order. The client's mu
// guards it.
type queue struct {
	segments []segment
	bytes    int // in chunks, including those being written
	chunks   int // the same
}

// segment is a piece of the queue: either bytes in a chunk or items of a list.
type segment struct {
	chunk *[chunkSize]byte // nil for items
	used  int              // bytes of the chunk

	delivery
	batch    *batch.Batch
	from, to int
}

// delivery is a client's debt for items.
type delivery struct {
	member  *member
	items   int
	receipt batch.Receipt
}

// size returns the approximate number of bytes to write.
func (q *queue) size() (n int) {
	for _, seg := range q.segments {
		if n += seg.used; seg.batch != nil {
			n += seg.batch.Size()
		}
	}
	return n
}

// put queues bytes. It copies them into spare chunks of s.
func put[T []byte | string](s *Server, q *queue, p T) {
	q.bytes += len(p)
	for len(p) > 0 {
		last := len(q.segments) - 1
		if last < 0 || q.segments[last].chunk == nil || q.segments[last].used == chunkSize {
			q.chunks++
			q.segments = append(q.segments, segment{chunk: s.chunks.Get().(*[chunkSize]byte)})
			last++
		}
		seg := &q.segments[last]
		n := copy(seg.chunk[seg.used:], p)
		seg.used += n
		p = p[n:]
	}
}
