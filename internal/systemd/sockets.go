package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"
)

// HoldsSockets reports whether the service manager holds sockets for this process.
func HoldsSockets() bool {
	return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") > "0"
}

// Sockets returns the listening sockets that the service manager opened for this process, by the
// names that FileDescriptorName= gives them in the .socket units, or nil if there are none:
// sd_listen_fds(3). The caller closes them. They stay open in the service manager, so that a client
// that connects while no process serves them waits instead of being refused. Closing one here
// removes no socket file.
//
// It takes over the file descriptors, and so may be called only once.
func Sockets() (map[string]net.Listener, error) {
	files := activation.Files(false)
	if len(files) == 0 {
		return nil, nil
	}
	sockets := make(map[string]net.Listener, len(files))
	var problem error
	for _, f := range files {
		ln, err := net.FileListener(f) // a duplicate
		_ = f.Close()
		switch {
		case err != nil:
			problem = fmt.Errorf("the socket that systemd passed as %q is none to accept connections on (%v): its unit needs ListenStream= and Accept=no", f.Name(), err)
		case sockets[f.Name()] != nil:
			_ = ln.Close()
			problem = fmt.Errorf("systemd passed two sockets named %q: one ListenStream= for each FileDescriptorName=", f.Name())
		default:
			sockets[f.Name()] = ln
		}
	}

	if problem != nil {
		for _, ln := range sockets {
			_ = ln.Close()
		}
		return nil, problem
	}

	return sockets, nil
}
