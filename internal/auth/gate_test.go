package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"edged/internal/password"
)

// work counts the work of comparisons in units of a hash of cost 0. Each step of the cost
// doubles it. Only "right" is the right password.
type work struct{ done int }

func (w *work) compare(hash, given string) bool {
	cost, _ := password.Cost(hash)
	w.done += 1 << cost
	return given == "right"
}

func (w *work) take() int {
	done := w.done
	w.done = 0
	return done
}

func hash(cost int) Secret { return Secret(password.Decoy(cost)) }

// login authenticates at once.
func login(g *Gate, with Credentials) (*User, error) {
	return g.Authenticate(context.Background(), g.Security(), with, Peer{})
}

func TestGateFindsTheUserOfRightCredentials(t *testing.T) {
	t.Parallel()
	encoded, err := bcrypt.GenerateFromPassword([]byte("hashed"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}

	users := []User{{Name: "ann", Password: "plain"}, {Name: "bob", Password: Secret(encoded)}}
	g := New(Options{Security: Security{Token: "secret", Users: users}})
	for with, want := range map[Credentials]string{
		{User: "ann", Password: "plain"}:                  "ann",
		{User: "bob", Password: "hashed"}:                 "bob",
		{Token: "secret"}:                                 "",
		{User: "bob", Password: "wrong", Token: "secret"}: "",
	} {
		if u, err := login(g, with); err != nil || NameOf(u) != want {
			t.Errorf("%q, %q, %q: the user is %q, %v, want %q", with.User, with.Password, with.Token, NameOf(u), err, want)
		}
	}

	for _, with := range []Credentials{
		{}, {User: "ann"}, {User: "ann", Password: "hashed"}, {User: "bob", Password: string(encoded)}, {User: "eve", Password: "plain"},
		{Password: "plain"}, {Password: "secret"}, {Token: "wrong"}, {User: "ann", Password: "plain", Token: "wrong"},
	} {
		if u, err := login(g, with); !errors.Is(err, ErrRefused) || u != nil {
			t.Errorf("%q, %q, %q: the user is %q, %v, want a refusal", with.User, with.Password, with.Token, NameOf(u), err)
		}
	}
}

func TestOpenGateAsksForNothing(t *testing.T) {
	t.Parallel()
	if u, err := login(New(Options{}), Credentials{User: "ann", Password: "x", Token: "y"}); u != nil || err != nil {
		t.Errorf("the user is %q, %v, want all rights", NameOf(u), err)
	}
}

func TestRefusalTakesTheSameWorkForEveryName(t *testing.T) {
	t.Parallel()
	users := []User{{Name: "clear", Password: "clear"}, {Name: "cheap", Password: hash(5)}, {Name: "dear", Password: hash(9)}}

	tries := []Credentials{
		{User: "clear", Password: "wrong"}, {User: "cheap", Password: "wrong"}, {User: "dear", Password: "wrong"},
		{User: "unknown", Password: "wrong"}, {User: "unknown"},
	}
	withToken := append(tries, Credentials{Token: "wrong"})
	for name, c := range map[string]struct {
		sec    Security
		tries  []Credentials
		expect int
	}{
		"hashes and a password in the clear": {Security{Users: users}, tries, 1 << 9},
		"the first user has no hash":         {Security{Users: users[:2]}, tries, 1 << 5},
		"no hash at all":                     {Security{Users: users[:1]}, tries, 0},
		"a token in the clear":               {Security{Users: users, Token: "clear"}, withToken, 1 << 9},
		"the token is the costliest":         {Security{Users: users, Token: hash(11)}, withToken, 1 << 11},
		"a token alone":                      {Security{Token: hash(6)}, withToken, 1 << 6},
	} {
		t.Run(name, func(t *testing.T) {
			w := new(work)
			g := New(Options{Security: Security{Token: "old"}, Compare: w.compare})
			g.Set(c.sec)
			for _, with := range c.tries {
				if _, err := login(g, with); !errors.Is(err, ErrRefused) {
					t.Errorf("%q, %q: the error is %v", with.User, with.Token, err)
				}
				if got := w.take(); got != c.expect {
					t.Errorf("the refusal of %q, %q took the work of %d, want %d", with.User, with.Token, got, c.expect)
				}
			}
		})
	}
}

func TestRightPasswordTakesOnlyItsOwnHash(t *testing.T) {
	t.Parallel()
	w := new(work)
	g := New(Options{Compare: w.compare, Security: Security{Users: []User{
		{Name: "clear", Password: "right"}, {Name: "cheap", Password: hash(5)}, {Name: "dear", Password: hash(9)},
	}}})
	for user, want := range map[string]int{"clear": 0, "cheap": 1 << 5, "dear": 1 << 9} {
		if _, err := login(g, Credentials{User: user, Password: "right"}); err != nil {
			t.Errorf("%s: %v", user, err)
		}
		if got := w.take(); got != want {
			t.Errorf("the login of %s took the work of %d, want %d", user, got, want)
		}
	}
}

// Two servers share the Gate, so they share its one turn.
func TestPasswordsAreComparedOneAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, goOn := make(chan string, 2), make(chan struct{})
		g := New(Options{Security: Security{Token: hash(4)}, Compare: func(_, given string) bool {
			began <- given
			<-goOn
			return true
		}})
		results := make(chan error, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()

		for _, token := range []string{"first", "second"} {
			go func() {
				_, err := g.Authenticate(ctx, g.Security(), Credentials{Token: token}, Peer{Origin: token})
				results <- err
			}()
			synctest.Wait()
		}

		if got := g.Hashing(); got != 1 || len(began) != 1 {
			t.Errorf("%d wait and %d comparisons have begun, want 1 and 1", got, len(began))
		}
		if err := <-results; err != ErrLate {
			t.Errorf("the error of the second is %v, want %v", err, ErrLate)
		}
		goOn <- struct{}{}
		if err := <-results; err != nil {
			t.Errorf("the first is refused: %v", err)
		}
	})
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	sec := Security{Token: "hunter2", Users: []User{{Name: "ann", Password: "hunter2"}}}
	with := Credentials{User: "ann", Password: "hunter2", Token: "hunter2"}
	if text := fmt.Sprintf("%v %+v %s %v %+v %v", sec, sec, sec.Token, with, with, &with); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
}

func TestNameThatWasTriedIsCutForTheLog(t *testing.T) {
	t.Parallel()
	cut := strings.Repeat("x", 62)
	for name, want := range map[string]string{"ann": "ann", "": "", cut + "éé": cut + "é…", cut + "x€": cut + "x…"} {
		if got := Tried(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}
