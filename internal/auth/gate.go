// Package auth says which clients may connect to a server, and their rights there, for
// all servers of the process.
//
// A Gate has the Security in force, which Set replaces as a whole. A server authenticates
// a client under the Security that it has read, and asks the User, which is not changed any
// more, for its rights. If it serves the client for longer, it looks at Security once more
// before it begins, and asks Keeps after each Set.
//
// Work for clients that are not authenticated is bounded: password hashes are computed one
// at a time for the whole process, and so are steps of TLS handshakes. Clients wait for their
// turns in bounded queues, which are fair by address, and leave them when they are gone or
// too late. The time of a refusal says nothing about which names and secrets exist. A server
// whose clients send their credentials with each request asks a Remembered in the Gate's place.
//
// The package has no goroutines, and knows neither sockets nor protocols.
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
	// MaxHashes is the number of clients that can wait for their password to be compared. A
	// box that takes a tenth of a second for each has compared no more before the usual
	// ConnectTimeout.
	MaxHashes = 64

	// MaxHandshakes is the number of clients that can wait for a step of their TLS handshake. A
	// step takes milliseconds.
	MaxHandshakes = 256

	// maxTried bounds the name in the log that a login was tried with, in bytes. Names of users
	// are not longer.
	maxTried = 64
)

// ErrRefused is the error of credentials that are not right.
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

// Security returns the Security in force. After each Set it is another pointer.
func (g *Gate) Security() *Security { return g.security.Load() }

// Set replaces the Security.
func (g *Gate) Set(sec Security) { g.security.Store(sec.measured()) }

// Hashing returns the number of clients that wait for their password to be compared.
func (g *Gate) Hashing() int { return g.hashes.Waiting() }

// Credentials authenticate a client.
type Credentials struct {
	User, Password string
	Token          string // goes before them if there is a token in Security
}

// String keeps credentials out of logs.
func (Credentials) String() string { return "(credentials)" }

// Tried returns the user name of a refused login as a log line may have it.
func Tried(name string) string {
	if len(name) > maxTried {
		return strings.ToValidUTF8(name[:maxTried], "") + "…"
	}
	return name
}

// Authenticate finds the user that the credentials belong to under sec, which comes from
// Security: nil for one with all rights. The error is an ErrRefused if the client must not
// connect; its text is for the log only, as it tells whether a name exists. Otherwise it says
// why the credentials were not compared: ErrCrowded, ErrAbandoned or ErrLate, see Begin.
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

// matches reports whether given is the secret, which is empty for none. The time that a
// refusal takes says nothing about the secret: it is the time of the costliest hash in sec,
// also for another secret and for none. Each step of a hash's cost doubles that time. The
// error says why given was not compared.
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
