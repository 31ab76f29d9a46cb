package tcpserver

import (
	"bytes"
	"io"
	"net"
	"sync"
	"syscall"

	"edged/internal/budget"
)

// A client that only takes items sends little, so its bytes are read into a small buffer first, and
// into a large one when they fill that. Both in bytes.
const (
	smallInput = 512
	largeInput = 32 << 10
	// freeInput is the part of an unfinished command that is not charged, since each client may
	// have one.
	freeInput = 4 << 10
)

// inputs are pools of unused buffers.
type inputs struct {
	small sync.Pool // of *[smallInput]byte
	large sync.Pool // of *[largeInput]byte
}

// input holds the bytes of a client that are not executed yet. Up to largeInput it holds no more
// memory than that while it waits for more. Under TLS it does, for one read after it has filled its
// buffer.
type input struct {
	spare  *inputs
	memory *budget.Holder
	raw    syscall.RawConn       // nil: bytes are read from from
	tried  func(fd uintptr) bool // try, made once
	from   io.Reader

	buf  []byte
	have int              // bytes in buf
	need int              // bytes of these that are needed to go on
	held int              // of memory
	over budget.Condemned // not cut off yet
	n    int              // bytes of these that the last fill read
	err  error            // of the last fill
}

// newInput reads from from, which is conn or a layer over it.
func newInput(spare *inputs, memory *budget.Holder, conn net.Conn, from io.Reader) *input {
	in := &input{spare: spare, memory: memory, from: from, need: 1}
	in.tried = in.try
	if socket, ok := conn.(syscall.Conn); ok && from == io.Reader(conn) {
		in.raw, _ = socket.SyscallConn()
	}
	return in
}

// fill reads once, and appends the bytes to buf.
func (in *input) fill() error {
	for {
		err := in.read()
		if in.over == nil {
			return err
		}
		in.over.Cut()
		in.over = nil
		if err != syscall.EAGAIN {
			return err
		}
	}
}

// read is fill, except that it returns EAGAIN before it waits if clients are to be cut off. That
// must not happen within raw.Read, because closing the connection waits for its end.
func (in *input) read() error {
	if in.raw == nil {
		if in.makeRoom(); in.over != nil {
			return syscall.EAGAIN
		}
		in.n, in.err = in.from.Read(in.buf[in.have:])
	} else if err := in.raw.Read(in.tried); err != nil {
		return err
	} else if in.n == 0 && in.err == nil {
		in.err = io.EOF
	}
	in.have += max(in.n, 0)
	return in.err
}

// try reads if there are bytes. It reports whether there were.
func (in *input) try(fd uintptr) (done bool) {
	in.makeRoom()
	for {
		in.n, in.err = syscall.Read(int(fd), in.buf[in.have:])
		switch in.err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			if len(in.buf) <= largeInput {
				in.trim()
			}
			return in.over != nil
		default:
			return true
		}
	}
}

// trim makes the buffer as small as its contents.
func (in *input) trim() {
	in.keep(bytes.Clone(in.buf[:in.have]))
	in.hold(in.have)
}

// hold reports the memory that is held while the input waits to the budget. fill cuts off the
// holders over it.
func (in *input) hold(size int) {
	now := max(0, size-freeInput)
	in.over = append(in.over, in.memory.Take(now-in.held)...)
	in.held = now
}

// drop removes the first n bytes, whose commands have been executed.
func (in *input) drop(n int) {
	full := in.have == len(in.buf)
	in.have = copy(in.buf, in.buf[n:in.have])

	tls := in.raw == nil // try, which calls trim, is not called
	switch {
	case in.have == 0 && len(in.buf) > largeInput: // a large message has passed
		in.release()
	case full && len(in.buf) < largeInput:
		in.enlarge()
		if tls {
			in.hold(largeInput)
		}
	case tls && len(in.buf) == largeInput && !full:
		in.trim()
	case in.have == 0:
		in.hold(0)
	}
}

// release gives the buffer back.
func (in *input) release() {
	in.have = 0
	in.keep(nil)
	in.hold(0)
}

// makeRoom enlarges a full buffer. The size follows the bytes that have arrived, not those that
// were announced.
func (in *input) makeRoom() {
	switch {
	case in.have < len(in.buf):
		return
	case in.have < smallInput:
		buf := in.spare.small.Get().(*[smallInput]byte)[:]
		copy(buf, in.buf)
		in.buf = buf
	case in.have < largeInput:
		in.enlarge()
	default:
		size := min(2*len(in.buf), max(in.need, len(in.buf)+largeInput))
		in.hold(size)
		buf := make([]byte, size)
		copy(buf, in.buf)
		in.keep(buf)
	}
}

// enlarge replaces the buffer by a large one.
func (in *input) enlarge() {
	buf := in.spare.large.Get().(*[largeInput]byte)[:]
	copy(buf, in.buf[:in.have])
	in.keep(buf)
}

// keep replaces the buffer by buf, which has its content.
func (in *input) keep(buf []byte) {
	switch len(in.buf) {
	case smallInput:
		in.spare.small.Put((*[smallInput]byte)(in.buf))
	case largeInput:
		in.spare.large.Put((*[largeInput]byte)(in.buf))
	}
	in.buf = buf
}
