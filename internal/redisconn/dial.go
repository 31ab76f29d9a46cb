package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"strings"
	"syscall"
)

// dial connects to the server at address and logs in. Errors keep Redis's own words if it gave any
// before it closed the connection: too many clients, protected mode, a wrong password. If blocks is
// set, the connection is a blocking one if possible.
func (o *Options) dial(ctx context.Context, address string, blocks bool, progress func()) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	conn, err := o.connect(ctx, address, blocks)
	if err != nil {
		return nil, err
	}
	c := NewConn(conn, o.Timeout, progress)
	current := o.current()
	if err := c.logIn(ctx, &current); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// connect makes the connection, with TLS if it is configured.
func (o *Options) connect(ctx context.Context, address string, blocks bool) (net.Conn, error) {
	if address == "" { // the Sentinels must be asked first
		return nil, &net.OpError{Op: "dial", Err: errNotAsked}
	}
	network, path := network(address)
	dial := o.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, path)
	if err != nil {
		return nil, err
	}

	if config := o.current().TLS; config != nil {
		return secure(ctx, conn, config, path)
	}

	if _, ok := conn.(syscall.Conn); ok && blocks {
		defer conn.Close()
		return newBlocking(conn)
	}
	return conn, nil
}

// secure turns conn into a TLS connection to the host in address.
func secure(ctx context.Context, conn net.Conn, config *tls.Config, address string) (net.Conn, error) {
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		config = config.Clone()
		config.ServerName = host
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// logIn sends HELLO, logs in, and selects the database. Redis before version 6 does not know HELLO,
// and does not report a client ID. https://redis.io/docs/latest/commands/hello/
func (c *Conn) logIn(ctx context.Context, o *Options) error {
	hello := []any{"HELLO", 2}
	if o.Password != "" {
		hello = append(hello, "AUTH", cmp.Or(o.Username, "default"), o.Password)
	}

	reply, err := c.Do(ctx, hello...)
	switch {
	case err == nil:
		c.id = clientID(reply)
	case Says(err, "ERR"):
		if again := c.logInWithoutHello(ctx, o); again != nil {
			if IsReply(again) {
				err = again
			}
			return err
		}
	case IsReply(err):
		return err
	default:
		return c.lastWords(err)
	}

	if o.DB == 0 {
		return nil
	}
	_, err = c.Do(ctx, "SELECT", o.DB)
	return err
}

func (c *Conn) logInWithoutHello(ctx context.Context, o *Options) error {
	words := []any{"PING"}
	switch {
	case o.Password != "" && o.Username != "":
		words = []any{"AUTH", o.Username, o.Password}
	case o.Password != "":
		words = []any{"AUTH", o.Password}
	}
	_, err := c.Do(ctx, words...)
	return err
}

// clientID finds the connection's ID in the reply to HELLO.
func clientID(hello any) int64 {
	fields, _ := hello.([]any)
	for i := 0; i+1 < len(fields); i += 2 {
		if name, _ := fields[i].(string); strings.EqualFold(name, "id") {
			id, _ := fields[i+1].(int64)
			return id
		}
	}
	return 0
}
