package poller

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/redistest"
)

// trouble is something that happens to Redis, and what it is called.
type trouble struct {
	name   string
	reason string // part of it
	mute   bool   // Redis does not answer
	begin  func(*testing.T, *redistest.Server) (end func())
}

func disconnectAll(t *testing.T, s *redistest.Server) {
	do(t, s, "CLIENT", "KILL", "TYPE", "pubsub")
	do(t, s, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
}

// forbid takes a right from the user that the loop logs in as.
func forbid(rule string) trouble {
	return trouble{name: rule, reason: "lacks a right", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "ACL", "SETUSER", "edged", rule)
		return func() { do(t, s, "ACL", "SETUSER", "edged", "+@all") }
	}}
}

var troubles = []trouble{
	{name: "read-only replica", reason: "read-only replica", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "REPLICAOF", "127.0.0.1", "1")
		return func() { do(t, s, "REPLICAOF", "NO", "ONE") }
	}},
	{name: "a master that misses its replicas", reason: "Redis refuses writes: NOREPLICAS", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "CONFIG", "SET", "min-replicas-to-write", "1")
		return func() { do(t, s, "CONFIG", "SET", "min-replicas-to-write", "0") }
	}},
	{name: "restarted as a replica", reason: "read-only replica", mute: true, begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "SAVE")
		s.Kill()
		s.Launch("--replicaof", "127.0.0.1", "1")
		s.Await()
		return func() { do(t, s, "REPLICAOF", "NO", "ONE") }
	}},
	{name: "loading", reason: "loading its data", mute: true, begin: func(t *testing.T, s *redistest.Server) func() {
		pipe := s.Client().Pipeline()
		for i := range 2000 {
			pipe.Set(t.Context(), fmt.Sprint("filler", i), strings.Repeat("x", 100), 0)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		do(t, s, "SAVE")
		s.Kill()
		s.Launch("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
		return func() {
			do(t, s, "CONFIG", "SET", "key-load-delay", "0")
			s.Await()
		}
	}},
	{name: "killed", reason: "nobody listens", mute: true, begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "SAVE")
		s.Kill()
		return s.Restart
	}},
	{name: "killed without its data", reason: "nobody listens", mute: true, begin: func(t *testing.T, s *redistest.Server) func() {
		s.Kill()
		return s.Restart
	}},
	{name: "stopped", reason: "no answer", mute: true, begin: func(t *testing.T, s *redistest.Server) func() {
		s.Signal(syscall.SIGSTOP)
		return func() { s.Signal(syscall.SIGCONT) }
	}},
	{name: "wrong password", reason: "refuses the credentials", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "ACL", "SETUSER", "edged", "resetpass", ">another")
		disconnectAll(t, s)
		return func() { do(t, s, "ACL", "SETUSER", "edged", "resetpass", ">secret") }
	}},
	{name: "scripts may not be loaded", reason: "lacks a right", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "ACL", "SETUSER", "edged", "-script")
		do(t, s, "SCRIPT", "FLUSH")
		return func() { do(t, s, "ACL", "SETUSER", "edged", "+@all") }
	}},
	forbid("-ltrim"),
	forbid("-evalsha"),
	forbid("-lrange"),
	forbid("-hset"),
}

// startWithUser starts a server with the user that the loop logs in as.
func startWithUser(t *testing.T) *redistest.Server {
	return redistest.Start(t, "--user", "edged", "on", ">secret", "~*", "&*", "+@all")
}

func logIn(o *setup) { o.Redis.Username, o.Redis.Password = "edged", "secret" }

// endure has a list in trouble while ten items are unconfirmed and ten more
// come: the same client gets them all, once and in order.
func endure(t *testing.T, s *redistest.Server, l *life, reason string, mute bool, begin func() (end func())) {
	t.Helper()
	items := numbered(20)
	c := l.join(0, true)
	s.Push("a", items[:10]...)
	c.wait(t, 10)
	end := begin()
	pushed := !mute && s.Client().RPush(context.Background(), "a", items[10:]...).Err() == nil
	c.confirm()
	redistest.Eventually(t, "the trouble is visible", func() bool {
		st := l.status("a")
		return st.State == Failing && strings.Contains(st.Reason, reason) && !st.FaultSince.IsZero()
	})
	end()
	if !pushed {
		s.Push("a", items[10:]...)
	}
	redistest.Eventually(t, "all items arrived and are gone", func() bool {
		c.confirm()
		return c.count() >= 20 && s.Len("a") == 0
	})
	wantNumbered(t, c.got(), 20)
	redistest.Eventually(t, "the trouble is over", func() bool {
		st := l.status("a")
		return st.State == Serving && st.Reason == ""
	})
}

func TestTroubleIsNamedAndLosesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		for _, x := range troubles {
			t.Run(x.name, func(t *testing.T) {
				t.Parallel()
				s := startWithUser(t)
				l := start(t, s.Address(), mode, logIn, func(o *setup) { o.Redis.Timeout = 500 * time.Millisecond })
				endure(t, s, l, x.reason, x.mute, func() func() { return x.begin(t, s) })
			})
		}
	})
}

func TestAPasswordThatIsMissingIsSaid(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "CONFIG", "SET", "requirepass", "secret")
	l := start(t, s.Address())
	redistest.Eventually(t, "it is said", func() bool { return strings.Contains(l.status("a").Reason, "refuses the credentials") })
}

// tracks tells whether a server sends hints.
func tracks(t *testing.T, s *redistest.Server) bool {
	t.Helper()
	return tracking.MatchString(s.Client().ClientList(t.Context()).Val())
}

// tracking is a client with the flag t whose hints go to another one:
// https://redis.io/docs/latest/commands/client-list/
var tracking = regexp.MustCompile(` flags=[A-Za-z]*t[A-Za-z]* .* redir=[0-9]`)

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

func TestTheLogNamesEachReasonOfAnOutageOnce(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	core, logged := observer.New(zap.ErrorLevel)
	l := start(t, s.Address(), func(o *setup) { o.Log = zap.New(core) })
	l.is(Waiting)
	fails := func(reason string) {
		redistest.Eventually(t, "it fails: "+reason, func() bool {
			return strings.Contains(l.status("a").Reason, reason) && strings.Contains(l.status("b").Reason, reason)
		})
	}
	for range 2 {
		s.Kill()
		fails("nobody listens")
		s.Launch("--requirepass", "secret")
		fails("refuses the credentials")
	}

	var reasons []string
	for _, line := range logged.FilterMessageSnippet("Redis does not serve the lists").All() {
		reasons = append(reasons, line.ContextMap()["reason"].(string))
	}
	if text := strings.Join(reasons, "\n"); len(reasons) > 3 || strings.Count(text, "nobody listens") != 1 || strings.Count(text, "credentials") != 1 {
		t.Errorf("the log has\n%s", text) // one more is the connection's that was closed
	}
}
