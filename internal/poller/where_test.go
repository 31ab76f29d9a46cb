package poller

import (
	"regexp"
	"strings"
	"testing"

	"edged/internal/redistest"
)

// tracks tells whether a server sends hints to somebody.
func tracks(t *testing.T, s *redistest.Server) bool {
	t.Helper()
	return tracking.MatchString(s.Client().ClientList(t.Context()).Val())
}

// tracking is a client with the flag t whose hints go to another one:
// https://redis.io/docs/latest/commands/client-list/
var tracking = regexp.MustCompile(` flags=[A-Za-z]*t[A-Za-z]* .* redir=[0-9]`)

func TestAMasterWithoutReplicasThatWantsSomeIsNamedAsSuch(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--min-replicas-to-write", "1")
	r := start(t, s.Address())
	a, _ := r.join(0, false)
	redistest.Eventually(t, "the status says so", func() bool {
		return strings.Contains(r.status("a").Reason, "Redis refuses writes: NOREPLICAS")
	})
	s.Client().ConfigSet(t.Context(), "min-replicas-to-write", "0")
	s.Push("a", numbered(10)...)
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 10 })
}

func TestHintsComeBackAfterTheCredentialsWereRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Client().ConfigSet(t.Context(), "requirepass", "wrong") // the test's own connection stays
	r := start(t, s.Address(), func(o *Options) { o.Redis.Password = "right" })
	a, _ := r.join(0, false)
	for range 2 {
		redistest.Eventually(t, "the list fails", func() bool { return r.status("a").State == Failing })
		s.Client().ConfigSet(t.Context(), "requirepass", "right")
		redistest.Eventually(t, "Redis sends hints", func() bool { return tracks(t, s) })
		s.Client().ConfigSet(t.Context(), "requirepass", "wrong")
		s.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub")
		s.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	}
	s.Client().ConfigSet(t.Context(), "requirepass", "right")
	s.Push("a", numbered(10)...)
	redistest.Eventually(t, "the items arrived", func() bool { return a.count() == 10 })
}
