package edgedtest

import (
	"net"
	"strconv"
	"syscall"
)

// Reserve returns a loopback address that belongs to the caller until it calls release, even while
// no process listens there. Until then the system gives its port to no program that asks for any
// port, and a server that restarts finds it free.
func Reserve() (address string, release func(), err error) {
	// A socket that is bound but does not listen holds the port, and lets a listener
	// with SO_REUSEADDR, which Go's listeners set, bind to the same one.
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", nil, err
	}

	loopback := [4]byte{127, 0, 0, 1}
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback})
	}
	var bound syscall.Sockaddr
	if err == nil {
		bound, err = syscall.Getsockname(fd)
	}
	if err != nil {
		syscall.Close(fd)
		return "", nil, err
	}
	port := bound.(*syscall.SockaddrInet4).Port
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), func() { syscall.Close(fd) }, nil
}
