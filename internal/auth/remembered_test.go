package auth

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// remembering is a Remembered for ann, whose password "right" is a hash, and for a token.
func remembering() (*Remembered, *work) {
	w := new(work)
	sec := Security{Token: hash(5), Users: []User{{Name: "ann", Password: hash(4)}, {Name: "bob", Password: hash(4)}}}
	return Remember(New(Options{Security: sec, Compare: w.compare})), w
}

// again authenticates under the Security in force.
func (r *Remembered) again(with Credentials) (*User, error) {
	return r.Authenticate(context.Background(), r.gate.Security(), with, Peer{})
}

var right = Credentials{User: "ann", Password: "right"}

func TestRightCredentialsAreHashedOnce(t *testing.T) {
	t.Parallel()
	r, w := remembering()
	for with, cost := range map[Credentials]int{right: 1 << 4, {Token: "right"}: 1 << 5} {
		for i, want := range []int{cost, 0, 0} {
			u, err := r.again(with)
			if err != nil || NameOf(u) != with.User {
				t.Errorf("the user is %q, %v, want %q", NameOf(u), err, with.User)
			}
			if got := w.take(); got != want {
				t.Errorf("login %d of %q took the work of %d, want %d", i+1, with.User, got, want)
			}
		}
	}
}

// A refusal takes its time, also for a user whose right password is known.
func TestRefusalsAreNotRemembered(t *testing.T) {
	t.Parallel()
	r, w := remembering()
	r.again(right)
	w.take()

	for _, with := range []Credentials{
		{User: "ann", Password: "wrong"}, {User: "bob", Password: "wrong"}, {User: "annr", Password: "ight"}, {Password: "right", Token: "wrong"},
	} {
		for range 2 {
			if _, err := r.again(with); !errors.Is(err, ErrRefused) {
				t.Errorf("%q, %q: the error is %v, want a refusal", with.User, with.Password, err)
			}
			if got := w.take(); got != 1<<5 {
				t.Errorf("the refusal of %q, %q took the work of %d, want %d", with.User, with.Password, got, 1<<5)
			}
		}
	}
}

func TestCredentialsAreForgottenWithTheirSecurity(t *testing.T) {
	t.Parallel()
	r, w := remembering()
	old := r.gate.Security()
	r.again(right)
	r.gate.Set(Security{Users: []User{{Name: "ann", Password: hash(6), Subscribe: Rules{Deny: []string{"x"}}}}})
	w.take()
	if u, err := r.again(right); err != nil || u.MaySubscribe("x") || w.take() != 1<<6 {
		t.Errorf("the user has old rights, or was not compared again: %v", err)
	}

	// A request that has begun before the change.
	if u, err := r.Authenticate(context.Background(), old, right, Peer{}); err != nil || !u.MaySubscribe("x") || w.take() != 1<<4 {
		t.Errorf("it is not authenticated under the Security that it asked for: %v", err)
	}
	if r.again(right); w.take() != 0 {
		t.Error("it has made other credentials be compared again")
	}
}

func TestRememberedCredentialsAreBounded(t *testing.T) {
	t.Parallel()
	r, w := remembering()
	named := func(i int) Credentials { return Credentials{User: fmt.Sprint(i), Token: "right"} }
	for i := range 2 * maxRemembered {
		r.again(named(i))
		r.again(named(0)) // in use
	}

	if got := len(r.known); got != maxRemembered {
		t.Errorf("%d are remembered, want %d", got, maxRemembered)
	}
	w.take()
	for i, want := range map[int]int{0: 0, 1: 1 << 5, 2*maxRemembered - 1: 0} {
		if r.again(named(i)); w.take() != want {
			t.Errorf("login %d took another work than %d", i, want)
		}
	}
}
