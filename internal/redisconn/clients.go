package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// client makes a client of go-redis for the server at address. go-redis must not resend a command
// by itself: after a lost reply it cannot know whether the first one was carried out.
func (o Options) client(address string) *redis.Client {
	return redis.NewClient(o.clientOptions(address))
}

func (o Options) clientOptions(address string) *redis.Options {
	network, path := network(address)
	options := &redis.Options{
		Network:               network,
		Addr:                  path,
		DB:                    o.DB,
		Protocol:              2,
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

	options.CredentialsProvider = func() (username, password string) {
		current := o.current()
		return current.Username, current.Password
	}

	options.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		conn, err := o.connect(ctx, address, false)
		if err != nil {
			return nil, err
		}
		if _, ok := conn.(syscall.Conn); !ok {
			return struct{ net.Conn }{newChecked(conn)}, nil
		}
		return newChecked(conn), nil
	}

	return options
}

// Clients returns for each key the client of its server. It belongs to one goroutine.
type Clients struct {
	servers *Servers
	keys    map[string]*Route
}

// NewClients makes Clients without connecting.
func (o Options) NewClients() *Clients {
	return &Clients{NewServers(o, Callbacks{}), map[string]*Route{}}
}

func (c *Clients) route(key string) *Route {
	if c.keys[key] == nil {
		c.keys[key] = c.servers.Route()
	}
	return c.keys[key]
}

// Client returns the client for a key; see Server.Client.
func (c *Clients) Client(key string) *redis.Client { return c.route(key).Server.Client() }

// Reached must be called when a command for the key was carried out.
func (c *Clients) Reached(key string) { c.route(key).Reached() }

// Failed must be called with the error of a command for the key. Client may return
// another client afterwards; Failed reports whether to try that at once.
func (c *Clients) Failed(key string, err error) (atOnce bool) {
	atOnce, _ = c.route(key).Detour(err)
	return atOnce
}

// Close closes all connections.
func (c *Clients) Close() { c.servers.Close() }

// SetLog sends the messages of go-redis to log. go-redis has one logger for the whole process, so
// main calls this once.
func SetLog(log *zap.Logger) { redis.SetLogger(redisLog{log}) }

type redisLog struct{ *zap.Logger }

func (l redisLog) Printf(_ context.Context, format string, v ...any) {
	l.Debug("go-redis: " + fmt.Sprintf(format, v...))
}

// maxReply is the largest reply to go-redis in bytes, far above the replies that edged requests
// with it.
const maxReply = 64 << 20

// checked is a connection for go-redis, which allocates as many bytes and elements as a reply
// announces. Read fails before go-redis sees a header beyond the bounds, or one that is not RESP2.
type checked struct {
	net.Conn
	line  []byte // of the incomplete header
	skip  int    // bytes of a string that are still missing, with its CR LF
	left  []int  // elements of the incomplete arrays that are still missing
	room  int    // bytes that the reply may still have
	wrong error
}

func newChecked(conn net.Conn) *checked { return &checked{Conn: conn, room: maxReply} }

// SyscallConn lets go-redis check whether the connection is still open. go-redis drops a connection
// that has the method but cannot tell.
func (c *checked) SyscallConn() (syscall.RawConn, error) {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return raw.SyscallConn()
}

func (c *checked) Read(p []byte) (int, error) {
	if c.wrong != nil {
		return 0, c.wrong
	}
	n, err := c.Conn.Read(p)
	if c.wrong = c.check(p[:n]); c.wrong != nil {
		return 0, c.wrong
	}
	return n, err
}

// check parses the next bytes of the replies.
func (c *checked) check(p []byte) error {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip, p = c.skip-n, p[n:]
			if c.skip == 0 {
				c.ended()
			}
			continue
		}
		c.line = append(c.line, p[0])
		p = p[1:]
		switch n := len(c.line); {
		case n > maxLine:
			return fmt.Errorf("%w: a line without an end", errReply)
		case c.line[n-1] == '\n':
			if err := c.header(c.line[:max(0, n-2)]); err != nil {
				return err
			}
			c.line = c.line[:0]
		}
	}

	return nil
}

// header checks a whole line that is not part of a string.
func (c *checked) header(line []byte) error {
	if len(line) == 0 {
		return errReply
	}

	if c.room -= len(line) + perValue; c.room < 0 {
		return fmt.Errorf("%w: over %d bytes", errReply, maxReply)
	}
	kind := line[0]
	if kind == '+' || kind == '-' || kind == ':' {
		c.ended()
		return nil
	}
	n, ok := length(line[1:])
	if !ok || kind != '$' && kind != '*' {
		return fmt.Errorf("%w: %.32q", errReply, line)
	}

	switch {
	case kind == '*' && (n*perValue > c.room || len(c.left) >= maxNested):
		return fmt.Errorf("%w: an array of %d elements, %d levels deep", errReply, n, len(c.left)+1)
	case kind == '*' && n > 0:
		c.left = append(c.left, n)
	case kind == '$' && n > c.room:
		return fmt.Errorf("%w: a string of %d bytes", errReply, n)
	case kind == '$' && n >= 0:
		c.room -= n
		c.skip = n + 2
	default:
		c.ended()
	}

	return nil
}

// ended notes that a value is complete, and possibly the arrays around it and the reply.
func (c *checked) ended() {
	for i := len(c.left) - 1; i >= 0; i-- {
		if c.left[i]--; c.left[i] > 0 {
			return
		}
		c.left = c.left[:i]
	}
	c.room = maxReply
}
