package daemon

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/uds"
	"edged/internal/watchdog"
)

// The names of the sockets in deploy/systemd/*.socket (FileDescriptorName=), and
// the network that each is of.
const (
	TCPSocket     = "tcp"
	ControlSocket = "control"
	StatusSocket  = "status"
	HTTPSocket    = "http"
)

var socketNetworks = map[string]string{TCPSocket: "tcp", ControlSocket: "unix", StatusSocket: "unix", HTTPSocket: "tcp"}

// controlGroup is the group whose members may use the control socket.
const controlGroup = "edged"

// sockets are the listeners of the daemon.
type sockets struct {
	tcp       *watchdog.Listener
	operators *watchdog.Listener
	monitors  *watchdog.Listener // nil if there is no status socket
	web       net.Listener       // nil if HTTP is off
	passed    passed
}

// listen takes over the sockets that were passed, or opens some. If that fails, the
// log says why, and there is an exit code instead.
func (d *daemon) listen() (s *sockets, code int) {
	cfg := d.served.config()
	s = &sockets{passed: d.options.Sockets}
	if err := s.passed.check(cfg, d.log.Logger); err != nil {
		d.log.Error("can't use the sockets that systemd passed", zap.Error(err))
		s.close()
		return nil, ExitFailed
	}

	tcp, err := s.passed.or(TCPSocket, func() (net.Listener, error) { return net.Listen("tcp", cfg.TCP.Listen) })
	if err != nil {
		d.log.Error("can't listen for clients; is another edged or NATS server running?",
			place(cfg, "tcp.listen"), zap.String("address", cfg.TCP.Listen), zap.Error(err))
		s.close()
		return nil, ExitFailed
	}
	s.tcp = d.watchdog.Listener(TCPSocket, breakable(TCPSocket, tcp))
	d.address = tcp.Addr()

	operators, err := s.passed.or(ControlSocket, func() (net.Listener, error) { return uds.Listen(cfg.Control.Socket, 0o660, controlGroup) })
	if err != nil {
		logNoOperators(cfg, d.log.Logger, err)
		s.close()
		return nil, ExitFailed
	}
	s.operators = d.watchdog.Listener(ControlSocket, breakable(ControlSocket, operators))

	if monitors := listenForMonitors(cfg, s.passed, d.log.Logger); monitors != nil {
		s.monitors = d.watchdog.Listener(StatusSocket, monitors)
	}
	if d.http != nil {
		if s.web, err = s.passed.or(HTTPSocket, func() (net.Listener, error) { return net.Listen("tcp", cfg.HTTP.Listen) }); err != nil {
			d.log.Error("can't listen for HTTP", place(cfg, "http.listen"), zap.String("address", cfg.HTTP.Listen), zap.Error(err))
			s.close()
			return nil, ExitFailed
		}
	}
	warnIfOpen(cfg, d.address, d.log.Logger)
	return s, 0
}

// listenForMonitors returns nil if there is no path, or if the socket cannot be had:
// items are relayed without it too.
func listenForMonitors(cfg *config.Config, passed passed, log *zap.Logger) net.Listener {
	path := cfg.Control.StatusSocket
	if path == "" {
		return nil
	}
	ln, err := passed.or(StatusSocket, func() (net.Listener, error) { return uds.Listen(path, 0o666, "") })
	if err != nil {
		logNoMonitors(cfg, log, err)
		return nil
	}
	return ln
}

func logNoOperators(cfg *config.Config, log *zap.Logger, err error) {
	log.Error("can't listen for operators", place(cfg, "control.socket"), zap.Error(err))
}

func logNoMonitors(cfg *config.Config, log *zap.Logger, err error) {
	log.Warn("can't listen for monitors; serving without", place(cfg, "control.status_socket"), zap.Error(err))
}

// close closes the sockets; systemd keeps those open that it passed.
func (s *sockets) close() {
	for _, l := range []*watchdog.Listener{s.monitors, s.operators, s.tcp} {
		if l != nil {
			l.Close()
		}
	}
	if s.web != nil {
		s.web.Close()
	}
	for _, ln := range s.passed {
		ln.Close()
	}
}

// passed are the listening sockets that systemd passed, by name; nil if it passed
// none. They must be all that the configuration asks for, or none: a daemon that
// serves on some of them only would be hard to reach. The one for HTTP counts for itself, with
// the others or alone: if it is passed, HTTP is on.
type passed map[string]net.Listener

// check compares the sockets with the configuration.
func (p passed) check(cfg *config.Config, log *zap.Logger) error {
	if p == nil {
		return nil
	}
	configured := map[string]string{TCPSocket: cfg.TCP.Listen, ControlSocket: cfg.Control.Socket}
	if cfg.Control.StatusSocket != "" {
		configured[StatusSocket] = cfg.Control.StatusSocket
	}
	if err := p.checkNames(slices.Sorted(maps.Keys(configured))); err != nil {
		return err
	}
	for name, configured := range configured {
		if p[name] == nil {
			continue // so are all of them
		}
		if at := p[name].Addr().String(); at != configured {
			log.Info("systemd listens elsewhere than the configuration says, and that is what counts",
				zap.String("socket", name), zap.String("address", at), zap.String("configured", configured))
		}
	}
	return nil
}

// checkNames wants the sockets with these names, all or none, and no others except the one for HTTP.
func (p passed) checkNames(names []string) error {
	for name, ln := range p {
		if name != HTTPSocket && !slices.Contains(names, name) {
			return fmt.Errorf("systemd passed a socket named %q, and the configuration asks for none of that name: see FileDescriptorName= in the .socket units of edged.service (it asks for %s)", name, strings.Join(names, ", "))
		}
		if want := socketNetworks[name]; ln.Addr().Network() != want {
			return fmt.Errorf("the socket %q that systemd passed is of the network %s, not %s: see ListenStream= in its .socket unit", name, ln.Addr().Network(), want)
		}
	}
	if _, alone := p[HTTPSocket]; alone && len(p) == 1 {
		return nil
	}
	for _, name := range names {
		if p[name] == nil {
			return fmt.Errorf("systemd passed sockets, but none named %q: start its .socket unit too, or stop all of them and edged opens its own", name)
		}
	}
	return nil
}

// or returns the socket that was passed; if none was, the one that open opens.
func (p passed) or(name string, open func() (net.Listener, error)) (net.Listener, error) {
	if ln := p[name]; ln != nil {
		return ln, nil
	}
	return open()
}
