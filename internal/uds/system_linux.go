package uds

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// maxPath is the maximum length of a socket's path, in bytes: sun_path of unix(7) without its final
// NUL.
const maxPath = 107

// limitMode sets the permission bits of a socket that is not bound yet: bind gives the file these
// bits, less the umask.
func limitMode(fd uintptr, mode fs.FileMode) error { return unix.Fchmod(int(fd), uint32(mode.Perm())) }

// credentials asks the kernel for the process at the other end of a socket
// (SO_PEERCRED, unix(7)).
func credentials(fd uintptr) (pid, uid int, known bool) {
	cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return -1, -1, false
	}
	return int(cred.Pid), int(cred.Uid), true
}
