package auth

import (
	"slices"
	"testing"
)

func TestRulesPermitAllowedSubjectsThatAreNotDenied(t *testing.T) {
	t.Parallel()
	rules := Rules{Allow: []string{"a.*", "b.>"}, Deny: []string{"b.c.>"}}
	u := &User{Name: "ann", Publish: rules, Subscribe: rules}
	for name, want := range map[string]bool{
		"a.x": true, "b.x": true, "b.c": true, "b.x.y": true,
		"a": false, "a.x.y": false, "b": false, "b.c.d": false, "c": false, "A.x": false,
	} {
		if got := u.MayPublish([]byte(name)); got != want {
			t.Errorf("it may publish to %s: %v", name, got)
		}
		if got := u.MaySubscribe(name); got != want {
			t.Errorf("it may subscribe to %s: %v", name, got)
		}
	}

	for pattern, want := range map[string]bool{"a.*": true, "b.>": true, "b.*": true, ">": false, "a.>": false, "b.c.*": false} {
		if got := u.MaySubscribe(pattern); got != want {
			t.Errorf("it may subscribe to %s: %v", pattern, got)
		}
	}
}

func TestUserWithoutRulesMayUseAllSubjects(t *testing.T) {
	t.Parallel()
	for _, u := range []*User{nil, {Name: "ann"}} {
		if !u.MayPublish([]byte("a")) || !u.MaySubscribe(">") || !u.MayMakeDurables() || u.DeniedBelow(">") != nil {
			t.Errorf("%q has not all rights", NameOf(u))
		}
	}
}

func TestUserWithRulesNeedsAGrantForDurables(t *testing.T) {
	t.Parallel()
	for _, u := range []User{{Publish: Rules{Allow: []string{"a"}}}, {Subscribe: Rules{Deny: []string{"a"}}}} {
		if u.MayMakeDurables() {
			t.Errorf("%+v may make durables", u)
		}
		u.Durables = true
		if !u.MayMakeDurables() {
			t.Errorf("%+v may make none", u)
		}
	}
}

func TestDeniedPartsOfAPatternAreNamed(t *testing.T) {
	t.Parallel()
	u := &User{Subscribe: Rules{Deny: []string{"items", "*.secret", "b.>"}}}
	for pattern, want := range map[string][]string{
		">": {"items", "*.secret", "b.>"}, "*.*": {"*.secret", "b.>"}, "b.*": {"*.secret", "b.>"}, "c": nil,
	} {
		if got := u.DeniedBelow(pattern); !slices.Equal(got, want) {
			t.Errorf("%s is denied %q, want %q", pattern, got, want)
		}
	}
}

func TestSecurityKeepsClientsWithTheSameCredentialsAndRights(t *testing.T) {
	t.Parallel()
	ann := func(change func(*User)) Security {
		u := User{Name: "ann", Password: "a", Subscribe: Rules{Allow: []string{"x"}}}
		if change != nil {
			change(&u)
		}
		return Security{Token: "t", Users: []User{{Name: "bob"}, u}}
	}

	old := ann(nil)
	for name, c := range map[string]struct {
		user *User
		now  Security
		want bool
	}{
		"the same user":               {&old.Users[1], ann(nil), true},
		"another token":               {&old.Users[1], Security{Token: "u", Users: old.Users}, true},
		"another password":            {&old.Users[1], ann(func(u *User) { u.Password = "b" }), false},
		"other rules to subscribe":    {&old.Users[1], ann(func(u *User) { u.Subscribe = Rules{} }), false},
		"other rules to publish":      {&old.Users[1], ann(func(u *User) { u.Publish.Deny = []string{"x"} }), false},
		"another grant":               {&old.Users[1], ann(func(u *User) { u.Durables = true }), false},
		"the user is gone":            {&old.Users[1], Security{Token: "t"}, false},
		"an open gate, for a user":    {&old.Users[1], Security{}, false},
		"the same token":              {nil, Security{Token: "t"}, true},
		"another token, for a token":  {nil, Security{Token: "u"}, false},
		"an open gate, for the token": {nil, Security{}, false},
	} {
		if got := c.now.Keeps(&old, c.user); got != c.want {
			t.Errorf("%s: it is kept: %v", name, got)
		}
	}

	if open := new(Security); !open.Keeps(open, nil) || old.Keeps(open, nil) {
		t.Error("a client that gave no credentials stays if none are asked for, and only then")
	}
}
