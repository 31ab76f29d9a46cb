package uds

import (
	"net"
	"os"
	"os/user"
	"strconv"
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

// Credentialed is a connection that knows the process at its other end, as one in
// memory does. For Unix sockets the kernel is asked.
type Credentialed interface {
	net.Conn
	Credentials() (pid, uid int)
}

// peerOf returns the process at the other end of a connection. Root and the
// daemon's own user are Admin, other users Operator, unknown ones User; the ceiling
// bounds them all.
func peerOf(c net.Conn, ceiling Level) peer {
	unknown := peer{pid: -1, uid: -1}
	if conn, ok := c.(Credentialed); ok {
		pid, uid := conn.Credentials()
		return peer{pid: pid, uid: uid, level: min(levelOf(uid, os.Geteuid()), ceiling)}
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return unknown
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return unknown
	}

	var pid, uid int
	var known bool
	err = raw.Control(func(fd uintptr) { pid, uid, known = credentials(fd) })
	if err != nil || !known {
		return unknown
	}
	return peer{pid: pid, uid: uid, level: min(levelOf(uid, os.Geteuid()), ceiling)}
}

// levelOf is the level of a user to a daemon that runs as the user own. In a user
// namespace (systemd's PrivateUsers=) the others all have the number 65534,
// user_namespaces(7): that the socket's mode let them in is what counts.
func levelOf(uid, own int) Level {
	if uid == 0 || uid == own {
		return Admin
	}
	return Operator
}

// userName returns the name of a user, or the number if there is no name.
func userName(uid int) string {
	number := strconv.Itoa(uid)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}
