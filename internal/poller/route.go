package poller

import (
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// nodes are the connections to the Redis servers in use, one to each: one in all
// but in a cluster whose lists are on several masters. They are made when first
// needed and closed when no list uses them any more. Owned by one goroutine.
type nodes struct {
	opts  RedisOptions
	first string // the address at which a list is looked for at first
	dial  func(address string) *connection
	open  map[string]*connection // by address
}

func newNodes(opts RedisOptions, dial func(address string) *connection) *nodes {
	n := &nodes{opts: opts, first: opts.Address, dial: dial, open: map[string]*connection{}}
	switch {
	case len(opts.Cluster) > 0:
		n.first = opts.Cluster[0]
	case len(opts.Sentinel.Addresses) > 0:
		n.first = "" // nobody was asked yet
	}
	return n
}

// use returns the connection to the node at address, for one user more.
func (n *nodes) use(address string) *connection {
	c := n.open[address]
	if c == nil {
		c = n.dial(address)
		n.open[address] = c
	}
	c.users++
	return c
}

// leave is called by a user that goes; the last one closes the connection.
func (n *nodes) leave(c *connection) {
	if c.users--; c.users > 0 {
		return
	}
	if n.open[c.address] == c {
		delete(n.open, c.address)
	}
	c.close()
}

// retire leaves a connection to those who use it; who comes gets a new one.
func (n *nodes) retire(c *connection) {
	if n.open[c.address] == c {
		delete(n.open, c.address)
	}
}

// route is the way to the node that has a list and what lies beside it. It has
// the owner of nodes.
type route struct {
	nodes *nodes
	conn  *connection
	seed  int  // which of RedisOptions.Cluster was tried last
	again bool // a detour was taken; until the next success others are taken with a pause
}

func (n *nodes) route() route { return route{nodes: n, conn: n.use(n.first)} }

// detour looks for the list elsewhere after an error, where that may help: where
// the error says, at the next address of the cluster, or where the Sentinels say.
// It reports whether to try again at once, which is so only at another address and
// for the first time since reached was called, and else what is wrong.
func (r *route) detour(err error) (atOnce bool, _ error) {
	n := r.nodes
	var there string
	switch moved := movedTo(err, r.conn.address); {
	case moved != "":
		there = moved
	case !astray(err):
		return false, err
	case len(n.opts.Sentinel.Addresses) > 0:
		master, askErr := n.opts.askSentinels()
		if askErr != nil {
			return false, askErr
		}
		there = master
	case len(n.opts.Cluster) > 0:
		r.seed = (r.seed + 1) % len(n.opts.Cluster)
		there = n.opts.Cluster[r.seed]
	default:
		there = n.opts.Address
	}
	if saysRedis(err, "READONLY") {
		n.retire(r.conn) // the name may mean another server by now
	}
	if n.open[there] == r.conn {
		return false, err
	}
	left := r.conn
	r.conn = n.use(there)
	n.leave(left)
	if left.address != there {
		atOnce = !r.again
		r.again = true
	}
	return atOnce, err
}

// reached is called when the list was found where it was looked for.
func (r *route) reached() { r.again = false }

// movedTo returns the address in a cluster's redirection, "MOVED 3999 host:port";
// it is empty for another error. No host means the same as asked.
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#moved-redirection
func movedTo(err error, asked string) string {
	if !saysRedis(err, "MOVED") {
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

// astray tells whether another node may serve what this one does not: it is away,
// no master, or has lost its cluster. A list whose slot is on its way (ASK,
// TRYAGAIN) is waited for where it is.
func astray(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return !errors.Is(err, errNoScript)
	}
	return saysRedis(err, "READONLY", "CLUSTERDOWN", "LOADING", "MASTERDOWN")
}

// saysRedis tells whether an error is a reply of Redis that begins with one of
// these words. Redis 6 puts a script's error behind one of its own.
func saysRedis(err error, words ...string) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	for _, word := range words {
		if text := reply.Error(); strings.HasPrefix(text, word+" ") || strings.Contains(text, ": -"+word+" ") {
			return true
		}
	}
	return false
}

// Routes are connections to write through, for another goroutine than the loop's:
// each key has the one of the node that has it. Not for concurrent use.
type Routes struct {
	nodes *nodes
	keys  map[string]*route
}

// NewRoutes makes routes; they connect to nothing yet.
func (o RedisOptions) NewRoutes() *Routes {
	return &Routes{newNodes(o, func(address string) *connection {
		return &connection{address: address, client: redis.NewClient(o.clientOptions(address))}
	}), map[string]*route{}}
}

func (r *Routes) route(key string) *route {
	if r.keys[key] == nil {
		way := r.nodes.route()
		r.keys[key] = &way
	}
	return r.keys[key]
}

// Client returns the connection for a key. It never sends a command again by
// itself, bounds every round trip, and heeds the deadline of a context.
func (r *Routes) Client(key string) *redis.Client { return r.route(key).conn.client }

// Reached is to be called when a command for the key was carried out.
func (r *Routes) Reached(key string) { r.route(key).reached() }

// Failed is to be called with the error of a command for the key. Client may
// return another connection afterwards; where that is to be tried without a
// pause, Failed returns true.
func (r *Routes) Failed(key string, err error) (atOnce bool) {
	atOnce, _ = r.route(key).detour(err)
	return atOnce
}

// Close closes all connections.
func (r *Routes) Close() {
	for _, way := range r.keys {
		r.nodes.leave(way.conn)
	}
}
