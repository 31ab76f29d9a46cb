package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
)

// authTimeout is how long a client waits for the comparison of its password.
const authTimeout = 5 * time.Second

type userKey struct{}

// UserOf returns the user of a request to a Route; nil if that user has all rights.
func UserOf(r *http.Request) *auth.User {
	u, _ := r.Context().Value(userKey{}).(*auth.User)
	return u
}

// admit passes on the requests to a Route whose user has the rights.
func (s *Server) admit(route Route) http.Handler {
	if route.Open {
		return route.Handler
	}

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.authenticate(r)
		switch {
		case errors.Is(err, auth.ErrRefused):
			w.Header().Set("WWW-Authenticate", `Basic realm="edged", charset="UTF-8"`)
			http.Error(w, "give the name and password of a [[tcp.user]], or the token as a bearer", http.StatusUnauthorized)
		case err != nil:
			w.Header().Set("Retry-After", "5")
			http.Error(w, "the password was not compared: "+err.Error(), http.StatusServiceUnavailable)
		case route.Subject != "" && !user.MayPublish([]byte(route.Subject)):
			http.Error(w, "this user needs the right to publish to "+route.Subject, http.StatusForbidden)
		default:
			route.Handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
		}
	})
}

func (s *Server) authenticate(r *http.Request) (*auth.User, error) {
	ctx, cancel := context.WithTimeout(r.Context(), authTimeout)
	defer cancel()
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	with := credentials(r)
	user, err := s.users.Authenticate(ctx, s.opts.Gate.Security(), with, auth.Peer{Origin: auth.Origin(from.Addr())})
	if errors.Is(err, auth.ErrRefused) && with != (auth.Credentials{}) {
		s.opts.Log.Warn("login refused", zap.String("event", "login-refused"), zap.String("address", r.RemoteAddr),
			zap.String("user", auth.Tried(with.User)), zap.String("reason", err.Error()))
	}
	return user, err
}

// credentials returns those of a request: basic authentication, whose password is the token if
// there is no name, or a bearer token.
func credentials(r *http.Request) (c auth.Credentials) {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		c.Token = token
	} else if user, password, ok := r.BasicAuth(); ok && user == "" {
		c.Token = password
	} else if ok {
		c.User, c.Password = user, password
	}
	return c
}

// tlsListener serves new connections with TLS while the Gate has a certificate.
type tlsListener struct {
	net.Listener
	gate *auth.Gate
}

func (l tlsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if config := l.gate.Security().TLS; err == nil && config != nil {
		conn = tls.Server(conn, config)
	}
	return conn, err
}
