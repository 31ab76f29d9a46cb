package redisconn

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Options are the addresses of Redis and the login.
type Options struct {
	Address  string          // host:port, or unix:///path
	Cluster  []string        // instead of Address: addresses of some nodes of a cluster
	Sentinel SentinelOptions // instead of Address: how to find the master
	Username string
	Password string
	DB       int           // 0 in a cluster
	TLS      *tls.Config   // nil: none
	Timeout  time.Duration // for connecting, and for progress in a round trip

	// Secrets hold the credentials and certificates that replaced those here; nil: they were not
	// replaced.
	Secrets *Secrets

	// Dial connects to a server, without TLS; nil: net.Dialer.DialContext.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Random returns a number below n, for jitter; nil: rand.Uint64N.
	Random func(n uint64) uint64
}

// SentinelOptions say how to find the master that Sentinels watch.
type SentinelOptions struct {
	Addresses []string // host:port of the Sentinels; empty: Redis is found without them
	Master    string   // the name under which they watch it
	Username  string
	Password  string
}

// Secrets are credentials and certificates that can be renewed. Options that share them use the
// current ones for each new connection; existing connections keep theirs. The methods may be called
// from any goroutine.
type Secrets struct{ now atomic.Pointer[Options] }

// Renew takes usernames, passwords and certificates from o.
func (s *Secrets) Renew(o Options) { s.now.Store(&o) }

// current returns o with the current credentials and certificates.
func (o Options) current() Options {
	if o.Secrets == nil {
		return o
	}
	if now := o.Secrets.now.Load(); now != nil {
		o.Username, o.Password, o.TLS = now.Username, now.Password, now.TLS
		o.Sentinel.Username, o.Sentinel.Password = now.Sentinel.Username, now.Sentinel.Password
	}
	return o
}

// Where describes the place of Redis in words.
func (o Options) Where() string {
	switch {
	case len(o.Cluster) > 0:
		return strings.Join(o.Cluster, ", ")
	case len(o.Sentinel.Addresses) > 0:
		return "the address of the master " + o.Sentinel.Master
	}
	return o.Address
}

// Backoff makes a Backoff with the jitter of these options.
func (o Options) Backoff() *Backoff {
	if o.Random == nil {
		return newBackoff(rand.Uint64N)
	}
	return newBackoff(o.Random)
}

// network splits an address into the arguments of net.Dial.
func network(address string) (network, path string) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return "unix", path
	}
	return "tcp", address
}
