package tcpserver

import (
	"bytes"
	"io"
	"net"
	"sync"
	"syscall"
)

// A client that only takes items sends little, so its bytes are read into a small buffer
// first, and into a large one when they fill that. Both in bytes.
const (
	smallInput = 512
	largeInput = 32 << 10
)

// inputs are the buffers that are not in use.
type inputs struct {
	small sync.Pool // of *[smallInput]byte
	large sync.Pool // of *[largeInput]byte
}

// input is what has come from a client and is not executed yet. Without TLS, it holds no
// more memory than that while it waits for more.
type input struct {
	spare *inputs
	raw   syscall.RawConn       // nil: from is read
	tried func(fd uintptr) bool // try, made once
	from  io.Reader

	buf  []byte
	have int   // bytes in buf
	n    int   // of these, the bytes that the last fill read
	err  error // of the last fill
}

// newInput reads from, which is conn or lies over it.
func newInput(spare *inputs, conn net.Conn, from io.Reader) *input {
	in := &input{spare: spare, from: from}
	in.tried = in.try
	if socket, ok := conn.(syscall.Conn); ok && from == io.Reader(conn) {
		in.raw, _ = socket.SyscallConn()
	}
	return in
}

// fill reads once, and appends the bytes to buf.
func (in *input) fill() error {
	if in.raw == nil {
		in.makeRoom()
		in.n, in.err = in.from.Read(in.buf[in.have:])
	} else if err := in.raw.Read(in.tried); err != nil {
		return err
	} else if in.n == 0 && in.err == nil {
		in.err = io.EOF
	}
	in.have += max(in.n, 0)
	return in.err
}

// try reads if there is something to read. It reports whether there was.
func (in *input) try(fd uintptr) (done bool) {
	in.makeRoom()
	for {
		in.n, in.err = syscall.Read(int(fd), in.buf[in.have:])
		switch in.err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			if len(in.buf) <= largeInput {
				in.keep(bytes.Clone(in.buf[:in.have]))
			}
			return false
		default:
			return true
		}
	}
}

// drop removes the first n bytes, whose commands are executed.
func (in *input) drop(n int) {
	full := in.have == len(in.buf)
	in.have = copy(in.buf, in.buf[n:in.have])
	switch {
	case in.have == 0 && len(in.buf) > largeInput: // a large message has passed
		in.keep(nil)
	case full && len(in.buf) < largeInput:
		buf := in.spare.large.Get().(*[largeInput]byte)[:]
		copy(buf, in.buf[:in.have])
		in.keep(buf)
	}
}

// makeRoom enlarges a buffer that is full. The size follows what has come, not what
// was announced.
func (in *input) makeRoom() {
	switch {
	case in.have < len(in.buf):
		return
	case in.have < smallInput:
		buf := in.spare.small.Get().(*[smallInput]byte)[:]
		copy(buf, in.buf)
		in.buf = buf
	case in.have < largeInput:
		buf := in.spare.large.Get().(*[largeInput]byte)[:]
		copy(buf, in.buf)
		in.keep(buf)
	default:
		in.buf = append(in.buf, make([]byte, len(in.buf))...)
	}
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
