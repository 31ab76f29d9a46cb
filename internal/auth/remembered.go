package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
)

// maxRemembered is the number of credentials that are remembered: more than the users of a box's
// page and its monitors.
const maxRemembered = 64

// Remembered authenticates like its Gate and remembers credentials that were right, for clients
// that send them with each request. Without it a status page would cost a hash for each of its
// parts, each a tenth of a second or more on a box, and each would wait for its turn.
//
// It keeps no secrets, only their HMACs under a key of its own. They are valid for the Security
// under which they were verified, and are dropped when a different one is in force. Refusals are
// not remembered: each takes its full time. The methods may be called from any goroutine.
type Remembered struct {
	gate *Gate
	key  [sha256.Size]byte

	mu    sync.Mutex // guards everything below
	under *Security
	known []known // the least recently used last
}

// known are credentials that were right.
type known struct {
	digest [sha256.Size]byte
	user   *User
}

// Remember makes a Remembered that knows no credentials yet.
func Remember(gate *Gate) *Remembered {
	r := &Remembered{gate: gate}
	rand.Read(r.key[:]) // never fails
	return r
}

// Authenticate is Gate.Authenticate, but returns at once if it found the same user under sec
// before.
func (r *Remembered) Authenticate(ctx context.Context, sec *Security, with Credentials, peer Peer) (*User, error) {
	digest := r.digest(with)
	if u, ok := r.recall(sec, digest); ok {
		return u, nil
	}
	u, err := r.gate.Authenticate(ctx, sec, with, peer)
	if err == nil && sec.costliest > 0 && sec == r.gate.Security() { // there are hashes, and no later Security
		r.keep(sec, known{digest, u})
	}
	return u, err
}

// digest returns the HMAC of credentials. The lengths separate the parts.
func (r *Remembered) digest(c Credentials) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, r.key[:])
	for _, part := range []string{c.User, c.Password, c.Token} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		mac.Write([]byte(part))
	}
	mac.Sum(sum[:0])
	return sum
}

// recall returns the user that the credentials were found to belong to under sec.
func (r *Remembered) recall(sec *Security, digest [sha256.Size]byte) (u *User, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.under != sec {
		return nil, false
	}
	i := slices.IndexFunc(r.known, func(k known) bool { return k.digest == digest })
	if i < 0 {
		return nil, false
	}
	found := r.known[i]
	r.known = slices.Insert(slices.Delete(r.known, i, i+1), 0, found)
	return found.user, true
}

// keep remembers credentials that were verified under sec.
func (r *Remembered) keep(sec *Security, one known) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.under != sec {
		r.under, r.known = sec, nil
	}
	r.known = slices.DeleteFunc(r.known, func(k known) bool { return k.digest == one.digest })
	r.known = slices.Insert(r.known, 0, one)
	r.known = r.known[:min(len(r.known), maxRemembered)]
}
