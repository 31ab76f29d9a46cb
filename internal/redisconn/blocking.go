package redisconn

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// blocking is a connection whose reads and writes block their thread, for one goroutine at a time.
// Close does not end a read; deadlines do, up to tick late.
//
// Redis answers a round trip within microseconds, and its caller waits for nothing else meanwhile.
// Then a thread that waits in the kernel costs less than Go's poller, which needs a failed read,
// two calls of epoll and, on a Unix socket, a wake-up each time that Redis reads.
type blocking struct {
	file          *os.File
	local, remote net.Addr
	readBy        time.Time // zero: no deadline
	writeBy       time.Time
}

// tick is how often a blocked call checks its deadline.
const tick = 20 * time.Millisecond

// piece is the number of bytes written between two checks: a write that makes progress, however
// slowly, is not interrupted. A Unix socket takes this much at once.
const piece = 32 << 10

// newBlocking makes a blocking connection from conn, which the caller closes afterwards.
func newBlocking(conn net.Conn) (*blocking, error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}

	// Go's poller does not know a copy of the descriptor.
	var fd int
	var failed error
	if err := raw.Control(func(old uintptr) {
		fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || failed != nil {
		return nil, errors.Join(err, os.NewSyscallError("fcntl", failed))
	}
	every := unix.NsecToTimeval(int64(tick))
	if err := errors.Join(
		os.NewSyscallError("fcntl", unix.SetNonblock(fd, false)),
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &every)),
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &every)),
	); err != nil {
		unix.Close(fd)
		return nil, err
	}

	return &blocking{file: os.NewFile(uintptr(fd), "redis"), local: conn.LocalAddr(), remote: conn.RemoteAddr()}, nil
}

func (b *blocking) Read(p []byte) (int, error) {
	for {
		if late(b.readBy) {
			return 0, os.ErrDeadlineExceeded
		}
		if n, err := b.file.Read(p); !errors.Is(err, syscall.EAGAIN) {
			return n, b.said("read", err)
		}
	}
}

func (b *blocking) Write(p []byte) (done int, err error) {
	for {
		if late(b.writeBy) {
			return done, os.ErrDeadlineExceeded
		}
		n, err := b.file.Write(p[done:min(done+piece, len(p))])
		done += n
		if err == nil && done == len(p) || err != nil && !errors.Is(err, syscall.EAGAIN) {
			return done, b.said("write", err)
		}
	}
}

func late(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }

// said makes an error look like those of package net.
func (b *blocking) said(op string, err error) error {
	var path *os.PathError
	if err == nil || err == io.EOF || !errors.As(err, &path) {
		return err
	}
	return &net.OpError{Op: op, Net: b.remote.Network(), Addr: b.remote, Err: os.NewSyscallError(op, path.Err)}
}

// SyscallConn is needed by onClose.
func (b *blocking) SyscallConn() (syscall.RawConn, error) { return b.file.SyscallConn() }

func (b *blocking) Close() error { return b.file.Close() }

func (b *blocking) LocalAddr() net.Addr  { return b.local }
func (b *blocking) RemoteAddr() net.Addr { return b.remote }

func (b *blocking) SetDeadline(t time.Time) error      { b.readBy, b.writeBy = t, t; return nil }
func (b *blocking) SetReadDeadline(t time.Time) error  { b.readBy = t; return nil }
func (b *blocking) SetWriteDeadline(t time.Time) error { b.writeBy = t; return nil }
