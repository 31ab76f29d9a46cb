// Package auth decides which clients may connect to a server and which rights they have, for all
// servers of the process.
//
// A Gate holds the Security in force, which Set replaces as a whole. A server authenticates a
// client under the Security that it has read, and asks the User, which never changes afterwards,
// for its rights. A server that keeps the client reads Security once more before it starts to
// serve, and calls Keeps after each Set.
//
// Work for clients that are not authenticated is bounded. Password hashes are computed one at a
// time for the whole process, and so are steps of TLS handshakes. Clients wait for their turns in
// bounded queues, which are fair by address, and leave them when they disconnect or time out. The
// time of a refusal reveals nothing about which names and secrets exist. A server whose clients
// send their credentials with each request uses a Remembered instead of the Gate.
//
// The package starts no goroutines and knows neither sockets nor protocols.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"
	"sync/atomic"

	"edged/internal/password"
)

const (
	// MaxHashes is the number of clients that can wait for a password comparison. A box that needs
	// a tenth of a second for each would not get through more of them within the usual
	// ConnectTimeout.
	MaxHashes = 64

	// MaxHandshakes is the number of clients that can wait for a step of their TLS handshake. A
	// step takes milliseconds.
	MaxHandshakes = 256

	// maxTried bounds the user name of a refused login in the log, in bytes. Valid user names are
	// not longer.
	maxTried = 64
)

// ErrRefused is the error of wrong credentials.
var ErrRefused = errors.New("the login is refused")

// refusal is an ErrRefused with a reason.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) Unwrap() error   { return ErrRefused }

// Options are the options of a Gate.
type Options struct {
	Security Security // until Set

	Compare func(hash, given string) bool // nil means password.Matches; tests replace it
}

// Gate authenticates clients. Its methods may be called from any goroutine.
type Gate struct {
	Handshakes *Turns // for steps of TLS handshakes

	hashes   *Turns // to compare a password with its hash
	compare  func(hash, given string) bool
	security atomic.Pointer[Security]
}

// New makes a Gate.
func New(opts Options) *Gate {
	g := &Gate{Handshakes: NewTurns(MaxHandshakes), hashes: NewTurns(MaxHashes), compare: opts.Compare}
	if g.compare == nil {
		g.compare = password.Matches
	}
	g.Set(opts.Security)
	return g
}

// Security returns the Security in force. Each Set makes it a different pointer.
func (g *Gate) Security() *Security { return g.security.Load() }

// Set replaces the Security.
func (g *Gate) Set(sec Security) { g.security.Store(sec.measured()) }

// Hashing returns the number of clients that wait for a password comparison.
func (g *Gate) Hashing() int { return g.hashes.Waiting() }

// Credentials authenticate a client.
type Credentials struct {
	User, Password string
	Token          string // set only if Security has a token, and then compared first
}

// String keeps credentials out of logs.
func (Credentials) String() string { return "(credentials)" }

// Tried returns the user name of a refused login in a form that is safe for a log line.
func Tried(name string) string {
	if len(name) > maxTried {
		return strings.ToValidUTF8(name[:maxTried], "") + "…"
	}
	return name
}

// Authenticate finds the user that the credentials belong to under sec, which comes from Security.
// The user is nil for a client with all rights. The error is ErrRefused if the client must not
// connect; its text is for the log only, because it reveals whether a name exists. Any other error
// says why the credentials were not compared: ErrCrowded, ErrAbandoned or ErrLate, see Begin.
func (g *Gate) Authenticate(ctx context.Context, sec *Security, with Credentials, peer Peer) (u *User, err error) {
	if !sec.Closed() {
		return nil, nil
	}
	secret, given, why := sec.Token, with.Token, refusal("the token is wrong")
	switch byToken := sec.Token != "" && with.Token != ""; {
	case byToken:
	case with.User == "": // no user has that name
		return nil, refusal("it has no user name and no token that could be right")
	default:
		secret, given, why = "", with.Password, "no user has this name"
		if u = sec.user(with.User); u != nil {
			secret, why = u.Password, "the password is wrong"
		}
	}

	ok, err := g.matches(ctx, sec, secret, given, peer)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, why
	default:
		return u, nil
	}
}

// matches reports whether given is the secret; an empty secret stands for none. A refusal takes the
// time of the costliest hash in sec, even if this secret is cheaper or there is none. So the time
// reveals nothing about the secret. Each step of a hash's cost doubles that time. The error says
// why given was not compared.
func (g *Gate) matches(ctx context.Context, sec *Security, secret Secret, given string, peer Peer) (ok bool, err error) {
	cost, hashed := password.Cost(string(secret))
	if !hashed {
		want, got := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(given))
		ok = subtle.ConstantTimeCompare(want[:], got[:]) == 1 && secret != ""
		if ok || sec.costliest == 0 {
			return ok, nil
		}
	}

	if err := g.hashes.Begin(ctx, peer); err != nil {
		return false, err
	}
	defer g.hashes.End()
	if !hashed {
		g.compare(password.Decoy(sec.costliest), given)
		return false, nil
	}
	ok = g.compare(string(secret), given)
	for ; !ok && cost < sec.costliest; cost++ {
		g.compare(password.Decoy(cost), given)
	}
	return ok, nil
}
