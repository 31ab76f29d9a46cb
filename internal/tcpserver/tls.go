package tcpserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"edged/internal/auth"
)

// maxWaiting bounds the records that wait while none are collected, in bytes. They are TLS's own:
// answers to a client that changes its keys.
const maxWaiting = 16 << 10

var errTooManyRecords = errors.New("the client makes TLS say more than it reads")

// freeRecords is the number of bytes that a client can send, at no charge, before TLS returns any.
// A usual handshake is smaller.
const freeRecords = 8 << 10

// tlsConn is TLS over a client's connection. Only the client's own goroutines use it. Deadlines are
// set on the connection below, and other goroutines close only that one.
type tlsConn struct {
	*tls.Conn
	out    *records
	first  bool           // INFO comes after the handshake
	verify bool           // the client must show a certificate
	by     *x509.CertPool // authorities of the client's certificate
	ready  chan struct{}  // closed when the handshake has succeeded or failed
}

func newTLS(c *client, sec *auth.Security) *tlsConn {
	out := &records{Conn: c.conn, client: c}
	return &tlsConn{Conn: tls.Server(out, sec.TLS), out: out, first: sec.TLSFirst,
		verify: verifies(sec.TLS), by: sec.TLS.ClientCAs, ready: make(chan struct{})}
}

// verifies reports whether clients must show certificates.
func verifies(config *tls.Config) bool {
	return config.ClientAuth == tls.RequireAndVerifyClientCert
}

// suffices reports whether the connection is as sec requires of a new one. If the authorities have
// changed it is not: certificates are not checked again, and a client with a valid one reconnects.
func (t *tlsConn) suffices(sec *auth.Security) bool {
	switch {
	case sec.TLS == nil:
		return true
	case t == nil:
		return false
	default:
		return !verifies(sec.TLS) || t.verify && t.by.Equal(sec.TLS.ClientCAs)
	}
}

// handshake does the TLS handshake, after INFO if that comes first. The writer waits for ready,
// which the caller must close.
func (c *client) handshake() error {
	c.conn.SetDeadline(c.since.Add(c.server.limits.Load().ConnectTimeout))
	if !c.tls.first {
		if _, err := c.conn.Write(c.infoLine(false)); err != nil {
			return err
		}
	}

	err := c.tls.Handshake()
	c.tls.out.endTurn()
	c.tls.out.kept, c.tls.out.unread = c.tls.out.held, 0
	if err != nil {
		return err
	}
	c.tls.out.collect = true
	state := c.tls.ConnectionState()
	c.mu.Lock()
	if !c.ended.Load() {
		c.conn.SetWriteDeadline(time.Time{})
	}

	c.secured = secured{
		version: strings.TrimPrefix(tls.VersionName(state.Version), "TLS "),
		cipher:  tls.CipherSuiteName(state.CipherSuite),
	}
	c.mu.Unlock()
	return nil
}

// secured is the outcome of the TLS handshake, in nats-server's words.
type secured struct{ version, cipher string }

// seal makes records of the first most bytes of bufs, after those that wait already, and removes
// the bytes from bufs. It uses the memory of into.
func (t *tlsConn) seal(bufs *net.Buffers, most int, into []byte) ([]byte, error) {
	t.out.lend(into)
	for most > 0 && len(*bufs) > 0 {
		n := min(most, len((*bufs)[0]))
		if _, err := t.Write((*bufs)[0][:n]); err != nil {
			return nil, err
		}
		consume(bufs, n)
		most -= n
	}
	return t.out.take(), nil
}

// Read reads the bytes that the client has sent. Until TLS returns bytes, the client is charged for
// those that TLS holds.
func (t *tlsConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.out.hold(0)
	return n, err
}

// records is the connection that TLS reads from and writes to. The steps of the handshake that need
// a processor follow a read, and end with a write or with the next read. They are done in turns;
// edged holds no turn while it waits for the client. After the handshake records collects the TLS
// records, and the caller of take writes them. So many go out in one system call, and a write by
// TLS never meets a deadline, which TLS would not survive.
type records struct {
	net.Conn
	client  *client
	turn    bool // the client has its turn, in the handshake; owned by its reader
	collect bool // set once, by the handshake

	// Owned by the client's reader.
	unread int // bytes read since TLS last returned any
	held   int // of the client's memory
	kept   int // of this, after the handshake: TLS's buffer and the client's certificates

	// Guarded by mu.
	mu      sync.Mutex
	waiting []byte
	lent    bool // between lend and take
}

func (r *records) Read(p []byte) (int, error) {
	if !r.collect {
		r.endTurn()
	}
	n, err := r.Conn.Read(p)
	r.hold(r.unread + n)
	if err != nil || r.collect {
		return n, err
	}
	if err := r.client.beginTurn(r.client.server.opts.Gate.Handshakes); err != nil {
		return 0, err
	}
	r.turn = true
	return n, nil
}

// hold charges the client for bytes that TLS holds. The buffer doubles as it grows.
func (r *records) hold(unread int) {
	r.unread = unread
	now := max(r.kept, 2*(unread-freeRecords))
	r.client.memory.Take(now - r.held).Cut()
	r.held = now
}

// endTurn ends the client's turn, if it has it.
func (r *records) endTurn() {
	if r.turn {
		r.turn = false
		r.client.endTurn(r.client.server.opts.Gate.Handshakes)
	}
}

func (r *records) Write(p []byte) (int, error) {
	if !r.collect {
		r.endTurn()
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

// lend provides memory for the records to be collected.
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

// Close writes the records that wait, TLS's close_notify, for at most flushTimeout.
func (r *records) Close() error {
	if rest := r.take(); len(rest) > 0 {
		r.Conn.SetWriteDeadline(time.Now().Add(flushTimeout))
		r.Conn.Write(rest)
	}
	return r.Conn.Close()
}
