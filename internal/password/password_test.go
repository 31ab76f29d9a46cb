package password

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestHashesAreToldFromPasswords(t *testing.T) {
	rest := strings.Repeat("./Az9", 11)[:53]
	for s, want := range map[string]struct {
		cost              int
		isHash, isAllowed bool
	}{
		"$2a$04$" + rest:        {4, true, true},
		"$2b$10$" + rest:        {10, true, true},
		"$2y$16$" + rest:        {16, true, true},
		"$2a$17$" + rest:        {17, true, false},
		"$2a$31$" + rest:        {31, true, false},
		"$2a$03$" + rest:        {3, true, false},
		"$2a$00$" + rest:        {0, true, false},
		"$2x$10$" + rest:        {},
		"$2a$1$" + rest:         {},
		"$2a$10$" + rest[1:]:    {},
		"$2a$10$" + rest + ".":  {},
		" $2a$10$" + rest:       {},
		"$2a$10$" + rest + "\n": {},
		"hunter2":               {},
		"":                      {},
	} {
		cost, ok := Cost(s)
		if cost != want.cost || ok != want.isHash || Allowed(s) != want.isAllowed {
			t.Errorf("%q: cost %d, a hash %v, allowed %v; want %+v", s, cost, ok, Allowed(s), want)
		}
	}
}

func TestHashMatchesItsPasswordOnly(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]bool{"secret": true, "secreT": false, "": false, string(hash): false} {
		if got := Matches(string(hash), given); got != want {
			t.Errorf("%q matches: %v", given, got)
		}
	}
	if Matches("no hash", "no hash") {
		t.Error("a string that is no hash matches")
	}
}

func TestHashMakesAnAllowedHash(t *testing.T) {
	hash, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	if !Allowed(hash) || !Matches(hash, "secret") {
		t.Errorf("%s is not allowed, or does not match", hash)
	}
	if _, err := Hash(strings.Repeat("x", 73)); err == nil {
		t.Error("a password of 73 bytes is accepted")
	}
}

func TestDecoysHaveTheFormAndTheCostOfAHash(t *testing.T) {
	for cost := MinCost; cost <= MaxCost; cost++ {
		decoy := Decoy(cost)
		if got, ok := Cost(decoy); !ok || got != cost {
			t.Errorf("the decoy of cost %d is a hash: %v, of cost %d", cost, ok, got)
		}
		if _, err := bcrypt.Cost([]byte(decoy)); err != nil {
			t.Errorf("bcrypt doesn't take the decoy of cost %d: %v", cost, err)
		}
	}
	if Matches(Decoy(MinCost), "secret") {
		t.Error("a password matches a decoy")
	}
}
