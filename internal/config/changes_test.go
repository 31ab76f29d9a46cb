package config

import (
	"slices"
	"testing"
)

func TestChangesNameTheKeysWhoseValuesDiffer(t *testing.T) {
	old, now := Default(), Default()
	if got := Changes(old, now); len(got) != 0 {
		t.Errorf("two defaults differ in %q", got)
	}
	now.Redis.DB = 1
	now.Lists[1].Backoff = []Duration{second}
	now.TCP.TLS.First = true
	now.TCP.Users = []User{{Name: "ann"}}
	want := []string{"redis.db", "list[2].backoff", "tcp.tls.first", "tcp.user"}
	if got := Changes(old, now); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	old.TCP.Users = []User{{Name: "bob", Publish: Rules{Deny: []string{"a"}}}}
	want = append(want[:3], "tcp.user[1].name", "tcp.user[1].publish.deny")
	if got := Changes(old, now); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
