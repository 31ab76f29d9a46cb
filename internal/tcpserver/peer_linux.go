package tcpserver

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerOf asks the kernel about the other side of a connection (poll(2)).
func peerOf(conn net.Conn) (p peer) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return peer{}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return peer{}
	}

	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		if _, err := unix.Poll(fds, 0); err != nil {
			return
		}
		p.gone = fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
		p.closed = fds[0].Revents&unix.POLLRDHUP != 0
		p.unread = fds[0].Revents&unix.POLLIN != 0
	})
	if err != nil { // this side is closed
		p.gone = true
	}
	return p
}
