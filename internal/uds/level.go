package uds

import (
	"net"
	"os"
	"os/user"
	"strconv"
)

// Level is the extent of a client's rights. The zero value is the lowest.
type Level int

const (
	User     Level = iota // reads numbers
	Operator              // reads payloads; pauses, kicks, requeues
	Admin                 // ends the daemon
)

func (l Level) String() string { return [...]string{"user", "operator", "admin"}[l] }

// peer is the process at the other end of a connection.
type peer struct {
	pid, uid int // -1 if the kernel does not tell
	level    Level
}

// Credentialed is a connection that knows the process at its other end, such as one in memory. For
// Unix sockets the kernel is asked.
type Credentialed interface {
	net.Conn
	Credentials() (pid, uid int)
}

// peerOf returns the process at the other end of a connection. Root and the daemon's own user are
// Admin, all other users Operator, unknown ones User; the ceiling bounds them all.
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

// levelOf returns the level of a user in a daemon that runs as the user own. In a user namespace
// (systemd's PrivateUsers=) all other users have the number 65534, user_namespaces(7). They are
// Operators, because the socket's mode has admitted them.
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
