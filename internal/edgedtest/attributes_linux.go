package edgedtest

import "syscall"

// attributes keep Ctrl-C for this process alone; the new process then ends with it. The thread that
// starts the process must not end earlier.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
