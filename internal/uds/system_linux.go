package uds

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a socket, in bytes: sun_path of unix(7) with
// its closing NUL.
const maxPath = 107

// limitMode gives a socket that is not bound yet its permission bits: bind takes
// those of the file from them, less the umask.
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
