package tcpserver

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// tlsConn is TLS over a client's connection. The client's own two goroutines use
// it; deadlines, and being closed by others, are the business of the connection
// below.
type tlsConn struct {
	*tls.Conn
	out    *records
	first  bool          // INFO comes behind the handshake
	verify bool          // the client has to show a certificate
	ready  chan struct{} // closed when the handshake is over, well or not
}

func newTLS(conn net.Conn, sec *Security) *tlsConn {
	out := &records{Conn: conn}
	return &tlsConn{Conn: tls.Server(out, sec.TLS), out: out, first: sec.TLSFirst,
		verify: sec.TLS.ClientAuth == tls.RequireAndVerifyClientCert, ready: make(chan struct{})}
}

// shake does the handshake, behind INFO where that comes first. The writer waits
// for ready, which is the caller's to close.
func (c *client) shake() error {
	c.conn.SetDeadline(c.since.Add(c.server.opts.ConnectTimeout))
	if !c.tls.first {
		if _, err := c.conn.Write(c.infoLine(false)); err != nil {
			return err
		}
	}
	if err := c.tls.Handshake(); err != nil {
		return err
	}
	c.tls.out.collect = true
	c.mu.Lock()
	if !c.ended.Load() {
		c.conn.SetWriteDeadline(time.Time{})
	}
	c.mu.Unlock()
	return nil
}

// seal makes records of bufs, behind those that wait already. It uses the memory
// of into.
func (t *tlsConn) seal(bufs [][]byte, into []byte) ([]byte, error) {
	t.out.lend(into)
	for _, b := range bufs {
		if _, err := t.Write(b); err != nil {
			return nil, err
		}
	}
	return t.out.take(), nil
}

// records takes what TLS writes to a connection. Behind the handshake it collects
// them, to be written by whoever takes them: so many go out in one system call,
// and a deadline, which TLS would not survive, never hits it.
type records struct {
	net.Conn
	collect bool // set once, by the handshake

	mu      sync.Mutex
	waiting []byte // guarded by mu
}

func (r *records) Write(p []byte) (int, error) {
	if !r.collect {
		return r.Conn.Write(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, p...)
	return len(p), nil
}

// lend gives memory for what is to be collected.
func (r *records) lend(memory []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(memory[:0], r.waiting...)
}

func (r *records) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.waiting
	r.waiting = nil
	return all
}

// Close writes what waits, which is TLS's goodbye, for flushTimeout at most.
func (r *records) Close() error {
	if rest := r.take(); len(rest) > 0 {
		r.Conn.SetWriteDeadline(time.Now().Add(flushTimeout))
		r.Conn.Write(rest)
	}
	return r.Conn.Close()
}
