package tcpserver

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendQueue returns the number of bytes that the kernel holds and the other side has not
// acknowledged (SIOCOUTQ, tcp(7)).
func sendQueue(conn net.Conn) (n int, known bool) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		var e error
		n, e = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		known = e == nil
	})
	return n, known && err == nil
}
