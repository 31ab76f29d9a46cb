package redisconn

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
)

// Callbacks are the functions that a Servers calls.
type Callbacks struct {
	Changed  func(key string) // a key has changed; "" means any. Called from the hints' goroutines
	Closed   func()           // an idle connection was closed, so Heed is due. Called from any goroutine
	Progress func()           // a slow round trip makes progress. Called from the owner's goroutine; may be nil
	Scripts  []*Script        // loaded by LoadScripts
}

// Servers are the Redis servers in use: one, except in a cluster whose lists are on several
// masters. A server is connected when it is first needed, and closed when no route leads to it any
// more.
type Servers struct {
	opts      Options
	callbacks Callbacks
	first     string // the address that is tried first for a key
	open      map[string]*Server
	all       []*Server // in use: those in open, and those that were retired

	watching context.Context // nil: no hints are received
	hinting  sync.WaitGroup  // their goroutines
}

// NewServers makes Servers without connecting.
func NewServers(o Options, callbacks Callbacks) *Servers {
	s := &Servers{opts: o, callbacks: callbacks, first: o.Address, open: map[string]*Server{}}
	switch {
	case len(o.Cluster) > 0:
		s.first = o.Cluster[0]
	case len(o.Sentinel.Addresses) > 0:
		s.first = "" // the Sentinels were not asked yet
	}
	return s
}

// Watch receives hints from all servers, present and future, until ctx is done.
func (s *Servers) Watch(ctx context.Context) {
	s.watching = ctx
	for _, server := range s.all {
		s.watch(server)
	}
}

func (s *Servers) watch(server *Server) {
	if s.watching == nil {
		return
	}
	ctx, cancel := context.WithCancel(s.watching)
	server.hints.end = cancel
	s.hinting.Go(func() { server.hints.run(ctx) })
}

// Close closes all connections and waits for all goroutines.
func (s *Servers) Close() {
	for _, server := range s.all {
		server.close()
	}
	s.all, s.open = nil, map[string]*Server{}
	s.hinting.Wait()
}

// All returns the servers in use. The slice is valid until the next call of a
// method of a Route or of Servers.
func (s *Servers) All() []*Server { return s.all }

// use returns the server at address, for one more route.
func (s *Servers) use(address string) *Server {
	server := s.open[address]
	if server == nil {
		server = newServer(s, address)
		s.open[address] = server
		s.all = append(slices.Clip(s.all), server)
		s.watch(server)
	}
	server.users++
	return server
}

// leave is called when a route no longer leads to a server; the last one closes the server.
func (s *Servers) leave(server *Server) {
	if server.users--; server.users > 0 {
		return
	}
	s.retire(server)
	s.all = slices.DeleteFunc(slices.Clone(s.all), func(x *Server) bool { return x == server })
	server.close()
}

// retire leaves a server to the routes that still lead to it; the next use of its address makes a
// new one.
func (s *Servers) retire(server *Server) {
	if s.open[server.Address] == server {
		delete(s.open, server.Address)
	}
}

// Route leads to the server that has a list and its other keys.
type Route struct {
	Server *Server // changed by Detour

	servers *Servers
	seed    int  // index in Options.Cluster of the address that was tried last
	again   bool // Detour has changed the server; until Reached, further attempts come with a pause
}

// Route returns a route to the first address in Options.
func (s *Servers) Route() *Route { return &Route{servers: s, Server: s.use(s.first)} }

// Leave ends the use of the route.
func (r *Route) Leave() { r.servers.leave(r.Server) }

// Detour looks for the list elsewhere after an error, if that may help: at the address in the
// error, at the next one of the cluster, or at the one that the Sentinels name. It reports whether
// to retry at once, which is so only at a different address and for the first time since Reached.
// Otherwise it returns the error to report.
func (r *Route) Detour(err error) (atOnce bool, _ error) {
	s := r.servers
	var there string
	switch moved := movedTo(err, r.Server.Address); {
	case moved != "":
		there = moved
	case !astray(err):
		return false, err
	case len(s.opts.Sentinel.Addresses) > 0:
		master, askErr := s.opts.askSentinels()
		if askErr != nil {
			return false, askErr
		}
		there = master
	case len(s.opts.Cluster) > 0:
		r.seed = (r.seed + 1) % len(s.opts.Cluster)
		there = s.opts.Cluster[r.seed]
	default:
		there = s.opts.Address
	}
	if Says(err, "READONLY") {
		s.retire(r.Server) // the name may now mean another server
	}
	if s.open[there] == r.Server {
		return false, err
	}

	left := r.Server
	r.Server = s.use(there)
	s.leave(left)
	if left.Address != there {
		atOnce = !r.again
		r.again = true
	}
	return atOnce, err
}

// Reached must be called when the list was found at the server.
func (r *Route) Reached() { r.again = false }

// movedTo returns the address in a cluster's redirection, "MOVED 3999 host:port"; it is empty for
// any other error. Without a host it is the one of asked.
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#moved-redirection
func movedTo(err error, asked string) string {
	if !Says(err, "MOVED") {
		return ""
	}
	address := err.Error()[strings.LastIndexByte(err.Error(), ' ')+1:]
	i := strings.LastIndexByte(address, ':')
	if i < 0 || address[:i] == "?" {
		return ""
	}
	host, port := address[:i], address[i+1:]
	if host == "" {
		if host, _, err = net.SplitHostPort(asked); err != nil {
			return ""
		}
	}
	return net.JoinHostPort(host, port) // IPv6 comes without brackets
}

// astray reports whether another server may have the list: this one is unreachable, is not a
// master, or has lost its cluster. If the list's slot is being moved (ASK, TRYAGAIN), edged waits
// for it at the old server.
func astray(err error) bool {
	return !IsReply(err) || Says(err, "READONLY", "CLUSTERDOWN", "LOADING", "MASTERDOWN")
}
