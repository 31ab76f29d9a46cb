package tcpserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"slices"

	"edged/internal/password"
	"edged/internal/subject"
)

// Security says which clients may connect, and which rights they have. With the zero
// value every client may connect and has all rights. The values that it points to must
// not be changed once the server has it.
type Security struct {
	Token Secret // authenticates a client that gets all rights; empty for none
	Users []User // no two have the same name

	TLS      *tls.Config // asked of every client; nil for none
	TLSFirst bool        // INFO comes after the handshake, not before it
}

// User is a user that connects with a name and a password.
type User struct {
	Name      string
	Password  Secret
	Publish   Rules
	Subscribe Rules
}

// Rules are the subjects that a user may use: those that a pattern of Allow stands for,
// or all if Allow is empty, except those that a pattern of Deny stands for.
type Rules struct {
	Allow, Deny []string
}

// Secret is a password or a token, in the clear or as its bcrypt hash.
type Secret string

// String keeps secrets out of logs.
func (Secret) String() string { return "(secret)" }

// matches reports whether given is the secret. The time that it takes says nothing
// about the secret.
func (c *client) matches(secret Secret, given string) bool {
	if _, hashed := password.Cost(string(secret)); !hashed {
		want, got := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(given))
		return subtle.ConstantTimeCompare(want[:], got[:]) == 1
	}

	// It is slow on purpose. One at a time, so that a flood of passwords takes one core
	// at most.
	c.server.hashing.Lock()
	defer c.server.hashing.Unlock()
	return !c.ended.Load() && password.Matches(string(secret), given)
}

// closed reports whether clients have to authenticate themselves.
func (sec *Security) closed() bool { return sec.Token != "" || len(sec.Users) > 0 }

// user returns the user of this name; nil if there is none.
func (sec *Security) user(name string) *User {
	if i := slices.IndexFunc(sec.Users, func(u User) bool { return u.Name == name }); i >= 0 {
		return &sec.Users[i]
	}
	return nil
}

// authenticate finds the user that the options belong to: nil for one with all rights. ok
// reports whether the client may connect.
func (c *client) authenticate(sec *Security, o connectOptions) (u *User, ok bool) {
	switch {
	case !sec.closed():
		return nil, true
	case sec.Token != "" && o.Token != "":
		return nil, c.matches(sec.Token, o.Token)
	case len(sec.Users) == 0:
		return nil, false
	}
	if u = sec.user(o.User); u == nil {
		c.matches(sec.Users[0].Password, o.Password) // a wrong name takes as long as a wrong password
		return nil, false
	}
	return u, c.matches(u.Password, o.Password)
}

// keeps reports whether a client that was authenticated under old, as u, has the same
// credentials and rights under sec.
func (sec *Security) keeps(old *Security, u *User) bool {
	switch {
	case u != nil:
		now := sec.user(u.Name)
		return now != nil && now.Password == u.Password && now.Publish.equal(u.Publish) && now.Subscribe.equal(u.Subscribe)
	case old.closed():
		return sec.Token == old.Token
	default:
		return !sec.closed()
	}
}

// Reload replaces the Security: new connections get the new one. A client stays if its
// credentials still give it the same rights, over a connection like its own. The other
// clients are disconnected; it returns their number. If the authorities have changed,
// clients that may have shown a certificate of an old one are among them.
func (s *Server) Reload(sec Security) (disconnected int) {
	s.mu.Lock()
	s.security.Store(&sec)
	s.mu.Unlock()
	for _, c := range s.snapshot() {
		c.mu.Lock()
		stays := c.ended.Load() || c.tls.suffices(&sec) && (c.admitted == nil || sec.keeps(c.admitted, c.user))
		if stays && c.admitted != nil {
			c.admitted = &sec
		}
		c.mu.Unlock()
		if !stays {
			c.end(endReloaded)
			disconnected++
		}
	}
	return disconnected
}

// permits reports whether the rules allow all that name stands for, a literal subject
// or a pattern.
func (r *Rules) permits(name string) bool {
	covers := func(pattern string) bool { return subject.Matches(pattern, name) }
	return (len(r.Allow) == 0 || slices.ContainsFunc(r.Allow, covers)) && !slices.ContainsFunc(r.Deny, covers)
}

func (r Rules) equal(other Rules) bool {
	return slices.Equal(r.Allow, other.Allow) && slices.Equal(r.Deny, other.Deny)
}

// any reports whether there are rules at all.
func (r *Rules) any() bool { return len(r.Allow) > 0 || len(r.Deny) > 0 }

// mayPublish reports whether the client may publish to a literal subject.
func (c *client) mayPublish(literal []byte) bool {
	return c.user == nil || !c.user.Publish.any() || c.user.Publish.permits(string(literal))
}

// maySubscribe reports whether the client may subscribe to a subject, with
// wildcards or not.
func (c *client) maySubscribe(name string) bool {
	return c.user == nil || c.user.Subscribe.permits(name)
}

// deniedBelow returns the patterns that deny the client a part of a permitted pattern.
func (c *client) deniedBelow(pattern string) (denied []string) {
	if c.user == nil {
		return nil
	}
	for _, d := range c.user.Subscribe.Deny {
		if subject.Overlap(d, pattern) {
			denied = append(denied, d)
		}
	}
	return denied
}

// answersTo returns the only client that may get the daemon's answers to a reply subject
// of this client; nil if every subscriber may. Without it a client that is not allowed to
// publish to a subject could make the daemon publish there.
func (c *client) answersTo(reply []byte) (only *client) {
	if c.mayPublish(reply) {
		return nil
	}
	return c
}

// name returns the user's name, empty for nil.
func (u *User) name() string {
	if u == nil {
		return ""
	}
	return u.Name
}
