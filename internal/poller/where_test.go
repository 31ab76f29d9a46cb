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
	l := start(t, s.Address())
	a := l.join(0, false)
	redistest.Eventually(t, "the status says so", func() bool {
		return strings.Contains(l.status("a").Reason, "Redis refuses writes: NOREPLICAS")
	})
	s.Client().ConfigSet(t.Context(), "min-replicas-to-write", "0")
	s.Push("a", numbered(10)...)
	a.wait(t, 10)
}

func TestHintsComeBackAfterTheCredentialsWereRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Client().ConfigSet(t.Context(), "requirepass", "wrong") // the test's own connection stays
	l := start(t, s.Address(), func(o *setup) { o.Redis.Password = "right" })
	a := l.join(0, false)
	for range 2 {
		l.is(Failing)
		s.Client().ConfigSet(t.Context(), "requirepass", "right")
		redistest.Eventually(t, "Redis sends hints", func() bool { return tracks(t, s) })
		s.Client().ConfigSet(t.Context(), "requirepass", "wrong")
		disconnectAll(t, s)
	}
	s.Client().ConfigSet(t.Context(), "requirepass", "right")
	s.Push("a", numbered(10)...)
	a.wait(t, 10)
}
