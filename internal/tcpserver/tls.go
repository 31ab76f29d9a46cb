package tcpserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"
)

// maxWaiting bounds the records that wait while none are asked for, in bytes. They
// are TLS's own: answers to a client that changes its keys.
const maxWaiting = 16 << 10

var errTooManyRecords = errors.New("the client makes TLS say more than it reads")

// tlsConn is TLS over a client's connection. Only the client's own goroutines use it.
// Deadlines are set on the connection below, and other goroutines close only that one.
type tlsConn struct {
	*tls.Conn
	out    *records
	first  bool           // INFO comes after the handshake
	verify bool           // the client has to show a certificate
	by     *x509.CertPool // authorities of the client's certificate
	ready  chan struct{}  // closed when the handshake has succeeded or failed
}

func newTLS(conn net.Conn, sec *Security) *tlsConn {
	out := &records{Conn: conn}
	return &tlsConn{Conn: tls.Server(out, sec.TLS), out: out, first: sec.TLSFirst,
		verify: verifies(sec.TLS), by: sec.TLS.ClientCAs, ready: make(chan struct{})}
}

// verifies reports whether clients have to show certificates.
func verifies(config *tls.Config) bool {
	return config.ClientAuth == tls.RequireAndVerifyClientCert
}

// suffices reports whether the connection is as sec asks of a new one. If the authorities
// have changed it is not: certificates are not checked again, and a client with a good
// one reconnects.
func (t *tlsConn) suffices(sec *Security) bool {
	switch {
	case sec.TLS == nil:
		return true
	case t == nil:
		return false
	default:
		return !verifies(sec.TLS) || t.verify && t.by.Equal(sec.TLS.ClientCAs)
	}
}

// handshake does the TLS handshake, after INFO if that comes first. The writer waits
// for ready, which is the caller's to close.
func (c *client) handshake() error {
	c.conn.SetDeadline(c.since.Add(c.server.limits.Load().ConnectTimeout))
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

// seal makes records of bufs, after those that wait already. It uses the memory of into.
func (t *tlsConn) seal(bufs [][]byte, into []byte) ([]byte, error) {
	t.out.lend(into)
	for _, b := range bufs {
		if _, err := t.Write(b); err != nil {
			return nil, err
		}
	}
	return t.out.take(), nil
}

// records is the connection that TLS writes to. After the handshake it collects the
// records, and the caller of take writes them: so many go out in one system call, and
// a write that TLS makes never meets a deadline, which TLS would not survive.
type records struct {
	net.Conn
	collect bool // set once, by the handshake

	// Guarded by mu.
	mu      sync.Mutex
	waiting []byte
	lent    bool // between lend and take
}

func (r *records) Write(p []byte) (int, error) {
	if !r.collect {
		return r.Conn.Write(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lent && len(r.waiting)+len(p) > maxWaiting {
		return 0, errTooManyRecords
	}
	r.waiting = append(r.waiting, p...)
	return len(p), nil
}

// lend gives memory for the records to be collected.
func (r *records) lend(memory []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting, r.lent = append(memory[:0], r.waiting...), true
}

func (r *records) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.waiting
	r.waiting, r.lent = nil, false
	return all
}

// Close writes the records that wait, TLS's close_notify, for flushTimeout at most.
func (r *records) Close() error {
	if rest := r.take(); len(rest) > 0 {
		r.Conn.SetWriteDeadline(time.Now().Add(flushTimeout))
		r.Conn.Write(rest)
	}
	return r.Conn.Close()
}
