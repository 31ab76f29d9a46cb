package uds

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Level is how much somebody may do. The zero value is the lowest.
type Level int

const (
	User     Level = iota // looks at numbers
	Operator              // sees payloads; pauses, kicks, requeues
	Admin                 // ends the daemon
)

func (l Level) String() string { return [...]string{"user", "operator", "admin"}[l] }

// peer is who is at the other end of a connection.
type peer struct {
	pid, uid int // -1 where the kernel does not say
	level    Level
}

// peerOf asks the kernel (SO_PEERCRED, unix(7)) who connected. Root and the
// daemon's own user are Admin, others Operator, where the kernel says nothing
// User; nobody is above the ceiling.
func peerOf(c net.Conn, ceiling Level) peer {
	unknown := peer{pid: -1, uid: -1}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return unknown
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return unknown
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}) != nil || err != nil {
		return unknown
	}
	return peer{pid: int(cred.Pid), uid: int(cred.Uid), level: min(levelOf(cred.Uid, uint32(os.Geteuid())), ceiling)}
}

// levelOf is the level of a user to a daemon that runs as the user own. In a user
// namespace (systemd's PrivateUsers=) the others all have the number 65534,
// user_namespaces(7): that the socket's mode let them in is what counts.
func levelOf(uid, own uint32) Level {
	if uid == 0 || uid == own {
		return Admin
	}
	return Operator
}
