package daemon

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/systemd"
)

// The names of the sockets in deploy/systemd/*.socket (FileDescriptorName=), and
// the network that each is of.
const (
	TCPSocket     = "tcp"
	ControlSocket = "control"
	StatusSocket  = "status"
)

var socketNetworks = map[string]string{TCPSocket: "tcp", ControlSocket: "unix", StatusSocket: "unix"}

// sockets are the listening sockets that systemd passed, by name; nil where it
// passed none. It passes all that the configuration asks for or none at all: with
// some of them missing nobody would know where the daemon can be reached.
type sockets map[string]net.Listener

// passedSockets takes over what systemd passed and holds it against the
// configuration.
func passedSockets(cfg *config.Config, log *zap.Logger) (sockets, error) {
	passed, err := systemd.Sockets()
	if err != nil || passed == nil {
		return nil, err
	}
	configured := map[string]string{TCPSocket: cfg.TCP.Listen, ControlSocket: cfg.Control.Socket}
	if cfg.Control.StatusSocket != "" {
		configured[StatusSocket] = cfg.Control.StatusSocket
	}
	if err := checkSockets(passed, slices.Sorted(maps.Keys(configured))); err != nil {
		sockets(passed).close()
		return nil, err
	}
	for name, configured := range configured {
		if at := passed[name].Addr().String(); at != configured {
			log.Info("systemd listens elsewhere than the configuration says, and that is what counts",
				zap.String("socket", name), zap.String("address", at), zap.String("configured", configured))
		}
	}
	return passed, nil
}

// checkSockets wants exactly the sockets with these names.
func checkSockets(passed sockets, names []string) error {
	for name, ln := range passed {
		if !slices.Contains(names, name) {
			return fmt.Errorf("systemd passed a socket named %q, and the configuration asks for none of that name: see FileDescriptorName= in the .socket units of edged.service (it asks for %s)", name, strings.Join(names, ", "))
		}
		if want := socketNetworks[name]; ln.Addr().Network() != want {
			return fmt.Errorf("the socket %q that systemd passed is of the network %s, not %s: see ListenStream= in its .socket unit", name, ln.Addr().Network(), want)
		}
	}
	for _, name := range names {
		if passed[name] == nil {
			return fmt.Errorf("systemd passed sockets, but none named %q: start its .socket unit too, or stop all of them and edged opens its own", name)
		}
	}
	return nil
}

// or returns the socket that was passed; where none was, the one that open opens.
func (s sockets) or(name string, open func() (net.Listener, error)) (net.Listener, error) {
	if s != nil {
		return s[name], nil
	}
	return open()
}

// close closes the sockets here; systemd keeps them open.
func (s sockets) close() {
	for _, ln := range s {
		ln.Close()
	}
}
