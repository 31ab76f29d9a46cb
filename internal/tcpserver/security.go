package tcpserver

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
)

// authDeadline returns when the client must be authenticated. It counts from accept, except if an
// authenticated client sends CONNECT again.
func (c *client) authDeadline() time.Time {
	from := c.since
	if c.connected {
		from = time.Now()
	}
	return from.Add(c.server.limits.Load().ConnectTimeout)
}

// authenticate finds the user that the options belong to; it is nil for a client with all rights.
// The error is errAuthorization if the client must not connect.
func (c *client) authenticate(sec *auth.Security, o connectOptions) (*auth.User, error) {
	if !sec.Closed() {
		return nil, nil
	}
	ctx, cancel := context.WithDeadline(context.Background(), c.authDeadline())
	defer cancel()
	c.working.Store(true)
	defer c.working.Store(false)

	with := auth.Credentials{User: o.User, Password: o.Password, Token: o.Token}
	u, err := c.server.opts.Gate.Authenticate(ctx, sec, with, c.peer())
	if errors.Is(err, auth.ErrRefused) {
		err = c.refuseLogin(o.User, err.Error())
	}
	return u, err
}

// beginTurn waits for the client's turn, which endTurn ends. The errors are those of auth.Turns.
func (c *client) beginTurn(t *auth.Turns) error {
	ctx, cancel := context.WithDeadline(context.Background(), c.authDeadline())
	defer cancel()
	c.working.Store(true)
	err := t.Begin(ctx, c.peer())
	if err != nil {
		c.working.Store(false)
	}
	return err
}

func (c *client) endTurn(t *auth.Turns) {
	c.working.Store(false)
	t.End()
}

// refuseLogin logs that a login was refused, and returns errAuthorization. tried is the user name
// of that login.
func (c *client) refuseLogin(tried, why string) error {
	c.log(zap.WarnLevel, "login refused", zap.String("event", "login-refused"),
		zap.String("user", auth.Tried(tried)), zap.String("reason", why))
	return errAuthorization
}

// Reload is called after the Gate's Security was replaced. A client stays if its credentials still
// give it the same rights, over a connection like its own. All other clients are disconnected;
// Reload returns their number. If the authorities have changed, this includes clients that may have
// shown a certificate of an old one.
func (s *Server) Reload() (disconnected int) {
	now := s.opts.Gate.Security()
	for _, c := range s.snapshot() {
		c.mu.Lock()
		stays := c.ended.Load() || c.tls.suffices(now) && (c.admitted == nil || now.Keeps(c.admitted, c.user))
		if stays && c.admitted != nil {
			c.admitted = now
		}
		c.mu.Unlock()
		if !stays {
			c.end(endReloaded)
			disconnected++
		}
	}
	return disconnected
}

// mayPublish reports whether the client may publish to a literal subject.
func (c *client) mayPublish(literal []byte) bool { return c.user.MayPublish(literal) }

// maySubscribe reports whether the client may subscribe to a subject, with
// wildcards or not.
func (c *client) maySubscribe(name string) bool { return c.user.MaySubscribe(name) }

// answersTo returns the only client that may get the daemon's answers to a reply subject of this
// client; nil if every subscriber may. Without this check a client that is not allowed to publish
// to a subject could make the daemon publish there.
func (c *client) answersTo(reply []byte) (only *client) {
	if c.mayPublish(reply) {
		return nil
	}
	return c
}
