package edgedtest

import "syscall"

// attributes keep Ctrl-C for this process alone, which then ends the new process
// with it. The thread that starts the process must not end before.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
