package poller

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"
)

// block makes the connections of a client of go-redis blocking ones, but those with
// TLS. What the loop asks Redis comes within microseconds, and it waits for nothing
// else meanwhile: then a thread that waits in the kernel costs less than Go's poller,
// which takes a failed read, two calls of epoll and, on a Unix socket, a wake-up each
// time that Redis reads.
func block(o *redis.Options) {
	connect := dialer(o)
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if _, ok := conn.(syscall.Conn); !ok {
			return conn, nil
		}
		defer conn.Close()
		return newBlocking(conn)
	}
}

// blocking is a connection whose reads and writes block their thread, for one
// goroutine at a time. Close does not end a read; deadlines do, up to tick late.
type blocking struct {
	file          *os.File
	local, remote net.Addr
	readBy        time.Time // zero: no deadline
	writeBy       time.Time
}

// tick is how often a blocked call looks at its deadline.
const tick = 20 * time.Millisecond

// piece is how many bytes are written between two looks: a write that goes on in
// steps, however small, is not interrupted. A Unix socket takes so many in one.
const piece = 32 << 10

// newBlocking makes one of conn, which is to be closed then.
func newBlocking(conn net.Conn) (*blocking, error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	// A copy of the descriptor is one that Go's poller does not know.
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

// said gives an error the look that those of package net have.
func (b *blocking) said(op string, err error) error {
	var path *os.PathError
	if err == nil || err == io.EOF || !errors.As(err, &path) {
		return err
	}
	return &net.OpError{Op: op, Net: b.remote.Network(), Addr: b.remote, Err: os.NewSyscallError(op, path.Err)}
}

func (b *blocking) Close() error { return b.file.Close() }

func (b *blocking) LocalAddr() net.Addr  { return b.local }
func (b *blocking) RemoteAddr() net.Addr { return b.remote }

func (b *blocking) SetDeadline(t time.Time) error      { b.readBy, b.writeBy = t, t; return nil }
func (b *blocking) SetReadDeadline(t time.Time) error  { b.readBy = t; return nil }
func (b *blocking) SetWriteDeadline(t time.Time) error { b.writeBy = t; return nil }
