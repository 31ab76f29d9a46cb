package poller

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisOptions say where Redis is.
type RedisOptions struct {
	Address  string          // host:port, or unix:///path
	Cluster  []string        // in its place, addresses of some nodes of a cluster; the lists' masters are found from there
	Sentinel SentinelOptions // in its place, how to find the master
	Username string
	Password string
	DB       int           // 0 in a cluster
	TLS      *tls.Config   // nil: none
	Timeout  time.Duration // for one round trip, and for connecting
}

// where says in words where Redis is.
func (o RedisOptions) where() string {
	switch {
	case len(o.Cluster) > 0:
		return strings.Join(o.Cluster, ", ")
	case len(o.Sentinel.Addresses) > 0:
		return "the address of the master " + o.Sentinel.Master
	}
	return o.Address
}

// clientOptions are those both connections share. go-redis must not send a
// command again by itself: after a lost reply it can't know whether the first
// one was carried out, and a trim must not happen twice.
func (o RedisOptions) clientOptions(address string) *redis.Options {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, address = "unix", path
	}
	options := &redis.Options{
		Network:               network,
		Addr:                  address,
		Username:              o.Username,
		Password:              o.Password,
		DB:                    o.DB,
		TLSConfig:             o.TLS,
		Protocol:              2, // pushed messages come to the connection that subscribed
		MaxRetries:            -1,
		DialTimeout:           o.Timeout,
		DialerRetries:         1,
		ReadTimeout:           o.Timeout,
		WriteTimeout:          o.Timeout,
		ContextTimeoutEnabled: true,
		PoolSize:              1,
		MaxActiveConns:        1,
		PipelinePoolSize:      -1,
		DisableIdentity:       true,
	}
	if address == "" {
		options.Dialer = func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: errNobodyAsked} // what is to be sent is not sent
		}
	}
	return options
}

// connection is the one connection to a Redis server. The loop's have hints: on
// every new one it asks for them to be sent to the hint connection, so that no
// list is read without. Owned by the one goroutine that uses it; OnConnect runs
// in its calls.
type connection struct {
	address   string
	users     int // see nodes
	options   *redis.Options
	client    *redis.Client
	last      net.Conn // that the client has used
	wire      *wire    // on it; nil while that is not known to work
	hints     *hints   // nil: none are asked for
	stopHints context.CancelFunc
	tracked   int64  // the client ID that hints go to
	refused   string // why the server gives no hints
	breaks    int    // how often the connection broke
	made      int    // breaks when it was made, plus one; 0 before
}

// errBroken is what a call meets that finds its connection closed: what Redis
// holds may have changed with it, so nothing is sent on another one before those
// who use it have heard of that.
var errBroken = fmt.Errorf("the connection was closed: %w", io.EOF)

func dial(opts RedisOptions, address string, changed func(key string)) *connection {
	c := &connection{address: address, hints: newHints(opts, address, changed), stopHints: func() {}}
	o := opts.clientOptions(address)
	block(o)
	follow(o, &c.last)
	o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		if c.made == c.breaks+1 {
			return errBroken
		}
		c.made = c.breaks + 1
		c.tracked = 0
		return c.track(ctx, conn.Process)
	}
	o.ConnMaxIdleTime = -1 // go-redis does not know when it was used
	c.options = o
	c.client = redis.NewClient(o)
	return c
}

// open makes the connection, where there is none. key is one that the user may
// read: go-redis connects when something is asked.
func (c *connection) open(ctx context.Context, key string) (*wire, error) {
	if c.wire == nil {
		if err := c.client.LLen(ctx, key).Err(); err != nil {
			return nil, err
		}
		c.wire = &wire{conn: c.last, timeout: c.options.ReadTimeout}
	}
	c.wire.out = c.wire.out[:0]
	return c.wire, nil
}

// follow notes in last the connection that a client of go-redis has used, which is
// not always the one that it has made last.
func follow(o *redis.Options, last *net.Conn) {
	connect := dialer(o)
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return dialed{conn, last}, nil
	}
}

// dialer is what a client of go-redis connects with.
func dialer(o *redis.Options) func(ctx context.Context, network, address string) (net.Conn, error) {
	if o.Dialer != nil {
		return o.Dialer
	}
	return redis.NewDialer(o)
}

// dialed is a connection that go-redis has made.
type dialed struct {
	net.Conn
	last *net.Conn
}

func (d dialed) Write(p []byte) (int, error) {
	*d.last = d.Conn
	return d.Conn.Write(p)
}

// settle receives what is under way, until no more than left round trips are. Before
// go-redis uses the connection nothing may be.
func (c *connection) settle(left int) {
	if c.wire != nil {
		c.wire.settle(left)
	}
}

// failed notes an error of a call. What had an error that is no reply is closed.
func (c *connection) failed(err error) {
	var reply redis.Error
	if !errors.As(err, &reply) && !errors.Is(err, errNoScript) {
		c.breaks++
		if w := c.wire; w != nil { // go-redis may not know
			c.wire = nil
			c.client.Close()
			c.client = redis.NewClient(c.options)
			w.dead = err
			w.settle(0)
		}
	}
}

func (c *connection) close() {
	c.client.Close()
	if c.hints != nil {
		c.stopHints()
	}
}

func (c *connection) loadScripts(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for _, script := range []script{guard, bury, release, settle, takeFull, giveBack, reclaim, requeue, peek} {
		if err := c.client.ScriptLoad(ctx, script.text).Err(); err != nil {
			return err
		}
	}
	return nil
}

// followHints redirects the hints when the hint connection has been replaced.
func (c *connection) followHints(ctx context.Context) {
	if c.tracked != c.hints.id.Load() {
		c.settle(0)
		if err := c.track(ctx, c.client.Process); err != nil {
			c.failed(err)
		}
	}
}

// track turns client tracking on. In its default mode Redis sends one message
// per key that was read and has then changed, so a busy producer can't flood the
// hint connection; NOLOOP leaves out this connection's own trims.
// https://redis.io/docs/latest/develop/reference/client-side-caching/
//
// It fails where the reply did not come: then this connection is not to be used,
// since the reply may yet come and be taken for another's.
func (c *connection) track(ctx context.Context, process func(context.Context, redis.Cmder) error) error {
	id := c.hints.id.Load()
	if id == 0 {
		return nil
	}
	err := process(ctx, redis.NewStatusCmd(ctx, "CLIENT", "TRACKING", "ON", "REDIRECT", id, "NOLOOP"))
	var reply redis.Error
	switch {
	case err == nil:
		c.tracked, c.refused = id, ""
	case errors.As(err, &reply) && strings.Contains(err.Error(), "does not exist"):
		// The hint connection is on its way out; it will have a new ID.
	case errors.As(err, &reply):
		c.tracked, c.refused = id, err.Error()
	default:
		return err
	}
	return nil
}

// hinted tells whether Redis says by itself that a list has changed.
func (c *connection) hinted() bool {
	return c.tracked != 0 && c.tracked == c.hints.id.Load() && c.refused == ""
}

// explain says what an error means to the person who runs the box.
func explain(err error, address string) string {
	text := err.Error()
	has := func(s string) bool { return strings.Contains(text, s) }
	var netErr net.Error
	var certErr *tls.CertificateVerificationError
	var lost noMaster
	switch {
	case errors.As(err, &lost):
		return text
	case errors.As(err, &certErr):
		return "the certificate of Redis at " + address + " is not trusted; check redis.tls.ca_file and redis.tls.server_name: " + certErr.Err.Error()
	case has("remote error: tls"):
		return "Redis at " + address + " refuses the TLS connection; check redis.tls.cert_file: " + text
	case strings.HasPrefix(text, "WRONGTYPE"):
		return "the key holds no list; rename it, or correct the configuration"
	case strings.HasPrefix(text, "LOADING"):
		return "Redis is loading its data"
	case saysRedis(err, "READONLY"):
		return "Redis is a read-only replica at " + address + "; connect to the master"
	case saysRedis(err, "MOVED"):
		return "Redis at " + address + " says that the list is on another node of the cluster: " + text
	case saysRedis(err, "ASK", "TRYAGAIN"):
		return "the list's slot is being moved from " + address + " to another node of the cluster; waiting until it is there"
	case saysRedis(err, "CLUSTERDOWN"):
		return "the cluster does not serve the list's slot, says " + address + ": " + text
	case saysRedis(err, "CROSSSLOT"):
		return "the keys beside the list are in another slot: " + text
	case saysRedis(err, "MASTERDOWN", "MISCONF", "NOREPLICAS"):
		return "Redis refuses writes: " + text
	case strings.HasPrefix(text, "NOAUTH"), strings.HasPrefix(text, "WRONGPASS"), has("AUTH failed"), has("AUTH <password> called"):
		return "Redis refuses the credentials; check redis.username and redis.password_file: " + text
	case strings.HasPrefix(text, "NOPERM"), has("The user executing the script can't"), has("ACL failure in script"):
		return "the Redis user lacks a right: " + text
	case strings.HasPrefix(text, "OOM"):
		return "Redis is at its maxmemory: " + text
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "no answer from Redis at " + address
	case errors.Is(err, io.EOF), has("connection reset"), has("broken pipe"):
		return "Redis at " + address + " closed the connection"
	case has("connection refused"), has("no such file or directory"):
		return "nobody listens at " + address + "; is Redis running?"
	}
	return fmt.Sprintf("Redis at %s: %s", address, text)
}
