// Package network is a network in memory for the hosts of a simulation. Its
// connections have no descriptors, wait only as testing/synctest knows it, and
// have bad luck on demand: delay, little bandwidth, cuts at a byte, silence.
//
// A write never blocks, except towards a host that was made with a Window. All
// methods may be called from any goroutine.
package network

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Network connects hosts.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*Host
	links []*Link // open at one end at least
	rules map[[2]string]Rules
	still map[string]bool // hosts that are frozen
	ports int
}

// New returns a network without hosts.
func New() *Network {
	return &Network{hosts: map[string]*Host{}, rules: map[[2]string]Rules{}, still: map[string]bool{}}
}

// Rules are the conditions between two hosts, in both directions.
type Rules struct {
	Delay  time.Duration // of each byte
	Rate   int           // bytes per second; 0 is no bound
	Refuse bool          // new connections are refused
	Drop   bool          // the packets of new connections are lost: they time out
}

// Host is a process with an address. A process that is started again is another
// Host of the same name.
type Host struct {
	Name   string
	Window int // bytes that may be on their way to it on a connection before a write waits; 0 is no bound

	network   *Network
	ip        net.IP
	listeners map[string]*Listener // guarded by Network.mu
	dead      bool                 // guarded by Network.mu
}

// Host makes a host, in place of the one that had the name before.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	ip := net.IPv4(10, 0, byte(len(n.hosts)>>8), byte(len(n.hosts)))
	if old := n.hosts[name]; old != nil {
		ip = old.ip
	}
	h := &Host{Name: name, network: n, ip: ip, listeners: map[string]*Listener{}}
	n.hosts[name] = h
	return h
}

// Set changes the conditions between two hosts, by their names.
func (n *Network) Set(client, server string, r Rules) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[[2]string{client, server}] = r
	for _, l := range n.links {
		if l.Client == client && l.Server == server {
			l.up.follow(r)
			l.down.follow(r)
		}
	}
}

// Calm takes all conditions back and thaws all hosts.
func (n *Network) Calm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.rules)
	clear(n.still)
	for _, l := range n.links {
		for _, s := range []*stream{l.up, l.down} {
			s.follow(Rules{})
			s.freeze(false)
		}
	}
}

// Links returns the open connections between two hosts, the oldest first.
func (n *Network) Links(client, server string) []*Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*Link
	for _, l := range n.links {
		if l.Client == client && l.Server == server {
			found = append(found, l)
		}
	}
	return found
}

// InVain returns the most bytes that a server has written to a client that is gone without a word,
// of the connections that it has not closed.
func (n *Network) InVain(server string) (bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		if l.Server == server {
			l.down.mu.Lock()
			if l.down.lost && !l.down.unwritten {
				bytes = max(bytes, l.down.vain)
			}
			l.down.mu.Unlock()
		}
	}
	return bytes
}

// Freeze lets all connections of a host stand still in both directions, or go on.
func (n *Network) Freeze(host string, frozen bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.still[host] = frozen
	for _, l := range n.links {
		if l.Client == host || l.Server == host {
			l.up.freeze(frozen)
			l.down.freeze(frozen)
		}
	}
}

// remove forgets a link when its second end is closed.
func (n *Network) remove(l *Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.closed++; l.closed < 2 {
		return
	}
	if i := slices.Index(n.links, l); i >= 0 {
		n.links = slices.Delete(n.links, i, i+1)
	}
}

// Kill ends a process: its connections end at once, for its peers after keep more
// of the bytes that are on their way to them. Whatever it does afterwards fails. If
// silent is set, peers are not told.
func (h *Host) Kill(keep int, silent bool) {
	n := h.network
	n.mu.Lock()
	h.dead = true
	listeners := h.listeners
	h.listeners = map[string]*Listener{}
	var links []*Link
	for _, l := range n.links {
		if l.client == h || l.server == h {
			links = append(links, l)
		}
	}
	n.mu.Unlock()

	for _, l := range listeners {
		l.Close()
	}
	for _, l := range links {
		l.kill(h, keep, silent)
	}
}

// Listen opens a listener for the connections to a service of h, such as "tcp".
func (h *Host) Listen(service string) *Listener {
	l := &Listener{host: h, service: service, wake: make(chan struct{}, 1)}
	h.network.mu.Lock()
	h.listeners[service] = l
	h.network.mu.Unlock()
	return l
}

// Dial connects to a service of the host with the name. It waits only if packets
// are lost, until ctx is done.
func (h *Host) Dial(ctx context.Context, name, service string) (net.Conn, error) {
	failed := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: address(service, net.IPv4zero, 0), Err: err}
	}
	n := h.network
	n.mu.Lock()
	rules := n.rules[[2]string{h.Name, name}]
	to := n.hosts[name]
	var listener *Listener
	if to != nil {
		listener = to.listeners[service]
	}
	dead := h.dead
	n.mu.Unlock()

	switch {
	case dead:
		return failed(syscall.ENETDOWN)
	case rules.Drop:
		<-ctx.Done()
		return failed(context.Cause(ctx))
	case rules.Refuse || listener == nil:
		return failed(syscall.ECONNREFUSED)
	}
	l := newLink(h, to, service, rules)
	if !listener.offer(l.ends[1]) {
		return failed(syscall.ECONNREFUSED)
	}
	return l.ends[0], nil
}

// address is a TCP address, or a path for the services that are Unix sockets.
func address(service string, ip net.IP, port int) net.Addr {
	if service == "tcp" {
		return &net.TCPAddr{IP: ip, Port: port}
	}
	return &net.UnixAddr{Name: "/run/" + service, Net: "unix"}
}

// Listener accepts the connections to a service.
type Listener struct {
	host    *Host
	service string
	wake    chan struct{} // capacity 1

	mu       sync.Mutex
	waiting  []*Conn
	closed   bool
	deadline time.Time
}

func (l *Listener) offer(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.waiting = append(l.waiting, c)
	signal(l.wake)
	return true
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		deadline := l.deadline
		switch {
		case l.closed:
			l.mu.Unlock()
			return nil, net.ErrClosed
		case len(l.waiting) > 0:
			c := l.waiting[0]
			l.waiting = l.waiting[1:]
			l.mu.Unlock()
			return c, nil
		case passed(deadline):
			l.mu.Unlock()
			return nil, errTimeout
		}
		l.mu.Unlock()
		wait(l.wake, deadline)
	}
}

// Close ends Accept; connections that nothing has accepted are closed.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.waiting {
		c.Close()
	}
	l.waiting = nil
	signal(l.wake)
	return nil
}

// SetDeadline ends an Accept at t.
func (l *Listener) SetDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = t
	signal(l.wake)
	return nil
}

// Addr returns a TCP or Unix address.
func (l *Listener) Addr() net.Addr { return address(l.service, l.host.ip, 4222) }

// Link is a connection as the network sees it.
type Link struct {
	Client, Server string

	client, server *Host
	up, down       *stream // to the server, to the client
	ends           [2]*Conn
	closed         int // ends; guarded by Network.mu
}

func newLink(client, server *Host, service string, r Rules) *Link {
	n := client.network
	l := &Link{Client: client.Name, Server: server.Name, client: client, server: server}
	l.up, l.down = newStream(server.Window), newStream(client.Window)
	l.up.rules, l.down.rules = r, r
	n.mu.Lock()
	n.ports++
	from, to := address(service, client.ip, 1024+n.ports%60000), address(service, server.ip, 4222)
	n.links = append(n.links, l)
	if n.still[l.Client] || n.still[l.Server] {
		l.up.frozen, l.down.frozen = true, true
	}
	n.mu.Unlock()
	l.ends[0] = &Conn{link: l, in: l.down, out: l.up, local: from, remote: to}
	l.ends[1] = &Conn{link: l, in: l.up, out: l.down, local: to, remote: from}
	return l
}

// Direction is one of a link.
type Direction int

// The two directions.
const (
	Up   Direction = iota // to the server
	Down                  // to the client
)

func (d Direction) String() string { return [...]string{"up", "down"}[d] }

// Cut ends the link when more than after bytes are written in a direction; the first
// of them arrive. If silent is set, neither end is told: later bytes of both are lost.
func (l *Link) Cut(d Direction, after int, silent bool) {
	s := [...]*stream{l.up, l.down}[d]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut, s.silent = after, silent
}

// Hold lets bytes written to the server stand still, or go on; the replies come.
// Bytes that were held arrive later, though the client may have closed the link.
func (l *Link) Hold(held bool) { l.up.freeze(held) }

// Silence loses all later bytes of both directions, and neither end is told.
func (l *Link) Silence() {
	l.up.swallow()
	l.down.swallow()
}

// Reset ends both directions, as a packet with RST does.
func (l *Link) Reset() {
	l.up.end(syscall.ECONNRESET)
	l.down.end(syscall.ECONNRESET)
}

// kill ends the link for the process of h.
func (l *Link) kill(h *Host, keep int, silent bool) {
	in, out := l.up, l.down
	if l.client == h {
		in, out = l.down, l.up
	}
	out.truncate(keep)
	out.swallow()
	if !silent {
		out.end(syscall.ECONNRESET)
	}
	in.swallow()
	in.kill()
}

func (l *Link) String() string { return fmt.Sprintf("%s-%s", l.Client, l.Server) }
