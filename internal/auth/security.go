package auth

import (
	"crypto/tls"
	"slices"

	"edged/internal/password"
	"edged/internal/subject"
)

// Security says which clients may connect and which rights they have. With the zero value every
// client may connect and has all rights. The values that it points to must not change once a Gate
// holds it.
type Security struct {
	Token Secret // authenticates a client that gets all rights; empty for none
	Users []User // no two have the same name

	TLS      *tls.Config // offered to every client; nil for none
	TLSFirst bool        // a NATS client gets INFO after the handshake, not before it

	costliest int // cost of the costliest hash among the secrets, 0 if there is none
}

// User is a user that connects with a name and a password. The nil User has all rights.
type User struct {
	Name      string
	Password  Secret
	Publish   Rules
	Subscribe Rules
	Durables  bool // the user may make durable consumers; a user with Rules needs this
}

// Rules are the subjects that a user may use: those that a pattern of Allow covers, or all if Allow
// is empty, except those that a pattern of Deny covers.
type Rules struct {
	Allow, Deny []string
}

// Secret is a password or a token, in plain text or as its bcrypt hash.
type Secret string

// String keeps secrets out of logs.
func (Secret) String() string { return "(secret)" }

// Closed reports whether clients have to authenticate.
func (sec *Security) Closed() bool { return sec.Token != "" || len(sec.Users) > 0 }

// Keeps reports whether the client that was authenticated as u under old has the same credentials
// and rights under sec.
func (sec *Security) Keeps(old *Security, u *User) bool {
	switch {
	case u != nil:
		now := sec.user(u.Name)
		return now != nil && now.Password == u.Password && now.Publish.equal(u.Publish) && now.Subscribe.equal(u.Subscribe) && now.Durables == u.Durables
	case old.Closed():
		return sec.Token == old.Token
	default:
		return !sec.Closed()
	}
}

// user returns the user of this name; nil if there is none.
func (sec *Security) user(name string) *User {
	if i := slices.IndexFunc(sec.Users, func(u User) bool { return u.Name == name }); i >= 0 {
		return &sec.Users[i]
	}
	return nil
}

// measured returns sec with costliest set.
func (sec Security) measured() *Security {
	sec.costliest = 0
	for _, u := range append([]User{{Password: sec.Token}}, sec.Users...) {
		cost, _ := password.Cost(string(u.Password))
		sec.costliest = max(sec.costliest, cost)
	}
	return &sec
}

// MayPublish reports whether the user may publish to a literal subject.
func (u *User) MayPublish(literal []byte) bool {
	return u == nil || !u.Publish.any() || u.Publish.permits(string(literal))
}

// MaySubscribe reports whether the user may subscribe to a subject, with
// wildcards or not.
func (u *User) MaySubscribe(name string) bool { return u == nil || u.Subscribe.permits(name) }

// MayMakeDurables reports whether the user may make durable consumers.
func (u *User) MayMakeDurables() bool {
	return u == nil || !u.Publish.any() && !u.Subscribe.any() || u.Durables
}

// DeniedBelow returns the patterns that deny the user a part of a permitted pattern.
func (u *User) DeniedBelow(pattern string) (denied []string) {
	if u == nil {
		return nil
	}
	for _, d := range u.Subscribe.Deny {
		if subject.Overlap(d, pattern) {
			denied = append(denied, d)
		}
	}
	return denied
}

// NameOf returns the user's name, empty for nil.
func NameOf(u *User) string {
	if u == nil {
		return ""
	}
	return u.Name
}

// permits reports whether the rules allow every subject that name covers; name is a literal subject
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
