package redisconn

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// onClose calls closed when the other side has closed conn, from a goroutine that stop ends and
// waits for. It reads nothing. If the kernel cannot tell, closed is never called: the next use of
// the connection detects the close.
//
// An epoll instance that waits for the close alone stands between the connection and Go's poller,
// so that bytes arriving on the connection wake no goroutine.
func onClose(conn net.Conn, closed func()) (stop func()) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	watched, ok := conn.(syscall.Conn)
	if !ok {
		return func() {}
	}
	epoll, err := epollForClose(watched)
	if err != nil {
		return func() {}
	}

	raw, err := epoll.SyscallConn()
	if err != nil {
		epoll.Close()
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var events [1]unix.EpollEvent
		err := raw.Read(func(fd uintptr) bool {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err == nil {
			closed()
		}
	}()
	return func() {
		epoll.Close()
		<-done
	}
}

// epollForClose returns an epoll instance that becomes readable when the other
// side has closed conn.
func epollForClose(conn syscall.Conn) (*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}

	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}

	var failed error
	err = raw.Control(func(watched uintptr) {
		failed = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, int(watched), &unix.EpollEvent{Events: unix.EPOLLRDHUP})
	})
	if err == nil {
		err = failed
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // lets os.NewFile add it to Go's poller
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "epoll"), nil
}
