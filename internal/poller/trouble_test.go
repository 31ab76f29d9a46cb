package poller

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// trouble is something that happens to Redis, and what it is called.
type trouble struct {
	name   string
	reason string // part of it
	only   string // the mode that it concerns; "" for all
	mute   bool   // Redis answers nobody
	begin  func(*testing.T, *redistest.Server) (end func())
}

func do(t *testing.T, s *redistest.Server, args ...any) {
	t.Helper()
	if err := s.Client().Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

func disconnectAll(t *testing.T, s *redistest.Server) {
	do(t, s, "CLIENT", "KILL", "TYPE", "pubsub")
	do(t, s, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
}

// forbid takes a right from the user that the loop logs in as.
func forbid(rule, only string) trouble {
	return trouble{name: rule, only: only, reason: "lacks a right", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "ACL", "SETUSER", "edged", rule)
		return func() { do(t, s, "ACL", "SETUSER", "edged", "+@all") }
	}}
}

var troubles = []trouble{
	{name: "read-only replica", reason: "read-only replica", begin: func(t *testing.T, s *redistest.Server) func() {
		do(t, s, "REPLICAOF", "127.0.0.1", "1")
		return func() { do(t, s, "REPLICAOF", "NO", "ONE") }
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
	forbid("-ltrim", ""),
	forbid("-evalsha", ""),
	forbid("-lrange", "received"),
	forbid("-lmove", "explicit"),
	forbid("-hset", "explicit"),
}

// startWithUser starts a server with the user that the loop logs in as.
func startWithUser(t *testing.T) *redistest.Server {
	return redistest.Start(t, "--user", "edged", "on", ">secret", "~*", "&*", "+@all")
}

func logIn(r *redisconn.Options) { r.Username, r.Password = "edged", "secret" }

// served is a list "a" that is served, and its one client.
type served struct {
	loop    *Loop
	items   func() []string
	confirm func() // all that has arrived
	empty   func() bool
}

func serveReceived(t *testing.T, s *redistest.Server, change func(*Options)) served {
	r := start(t, s.Address(), change)
	a, _ := r.join(0, true)
	return served{r.loop, func() (items []string) {
		for _, item := range a.got() {
			items = append(items, string(item))
		}
		return items
	}, a.confirm, func() bool { return s.Len("a") == 0 }}
}

func serveExplicit(t *testing.T, s *redistest.Server, change func(*Options)) served {
	r := startExplicit(t, s.Address(), "x", func(o *Options, _ *relay.ExplicitOptions) { change(o) })
	h := r.join(false)
	said := 0
	return served{r.loop, h.items, func() {
		for ; said < h.count(); said++ {
			h.say(said, batch.Acked)
		}
	}, empty(s, "x")}
}

var modes = map[string]func(*testing.T, *redistest.Server, func(*Options)) served{
	"received": serveReceived, "explicit": serveExplicit,
}

// endure has a list in trouble while ten items are unconfirmed and ten more
// come: the same client gets them all, once and in order.
func endure(t *testing.T, s *redistest.Server, l served, reason string, mute bool, begin func() (end func())) {
	t.Helper()
	items := numbered(20)
	s.Push("a", items[:10]...)
	redistest.Eventually(t, "the first items arrived", func() bool { return len(l.items()) == 10 })
	end := begin()
	pushed := !mute && s.Client().RPush(context.Background(), "a", items[10:]...).Err() == nil
	l.confirm()
	redistest.Eventually(t, "the trouble is visible", func() bool {
		st := l.loop.Lists()[0]
		return st.State == Failing && strings.Contains(st.Reason, reason) && !st.FaultSince.IsZero()
	})
	end()
	if !pushed {
		s.Push("a", items[10:]...)
	}
	redistest.Eventually(t, "all items arrived and are gone", func() bool {
		l.confirm()
		return len(l.items()) >= 20 && l.empty()
	})
	wantItems(t, l.items(), 20)
	redistest.Eventually(t, "the trouble is over", func() bool {
		st := l.loop.Lists()[0]
		return st.State == Serving && st.Reason == ""
	})
}

func TestTroubleIsNamedAndLosesNothing(t *testing.T) {
	t.Parallel()
	for mode, serve := range modes {
		for _, x := range troubles {
			if x.only != "" && x.only != mode {
				continue
			}
			t.Run(mode+"/"+x.name, func(t *testing.T) {
				t.Parallel()
				s := startWithUser(t)
				l := serve(t, s, func(o *Options) {
					logIn(&o.Redis)
					o.Redis.Timeout = 500 * time.Millisecond
				})
				endure(t, s, l, x.reason, x.mute, func() func() { return x.begin(t, s) })
			})
		}
	}
}

func TestAListWithoutRightsDoesNotStopTheOther(t *testing.T) {
	t.Parallel()
	s := startWithUser(t)
	r := start(t, s.Address(), func(o *Options) { logIn(&o.Redis) })
	a, _ := r.join(0, false)
	b, _ := r.join(1, false)
	redistest.Eventually(t, "both are served", func() bool { return r.status("a").State == Serving && r.status("b").State == Serving })
	do(t, s, "ACL", "SETUSER", "edged", "resetkeys", "~b", "~{b}*")
	s.Push("a", numbered(100)...)
	redistest.Eventually(t, "the fault is visible", func() bool {
		st := r.status("a")
		return st.State == Failing && strings.Contains(st.Reason, "lacks a right")
	})
	s.Push("b", numbered(100)...)
	redistest.Eventually(t, "the other list is served", func() bool { return s.Len("b") == 0 })
	wantNumbered(t, b.got(), 100)
	do(t, s, "ACL", "SETUSER", "edged", "~*")
	redistest.Eventually(t, "the list is served again", func() bool { return s.Len("a") == 0 })
	wantNumbered(t, a.got(), 100)
}

func TestConnectionsKilledEvery50MillisecondsWhileItemsComeLoseNothing(t *testing.T) {
	t.Parallel()
	for mode, serve := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			l := serve(t, s, func(*Options) {})
			items := numbered(20000)
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for i := 0; i < len(items); i += 1000 {
				s.Push("a", items[i:i+1000]...)
				l.confirm()
				disconnectAll(t, s)
				<-tick.C
			}
			redistest.Eventually(t, "all is gone", func() bool { l.confirm(); return l.empty() })
			wantItems(t, l.items(), len(items))
		})
	}
}

func TestARedisThatLostItsDataIsServedAgain(t *testing.T) {
	t.Parallel()
	for mode, serve := range modes {
		t.Run(mode, func(t *testing.T) {
			s := redistest.Start(t)
			l := serve(t, s, func(*Options) {})
			items := numbered(20)
			s.Push("a", items[:10]...)
			redistest.Eventually(t, "the first items arrived", func() bool { return len(l.items()) == 10 })
			s.Kill()
			s.Restart()
			s.Push("a", items[10:]...)
			redistest.Eventually(t, "what came then arrived and is gone", func() bool {
				l.confirm()
				return len(l.items()) >= 20 && l.empty()
			})
			wantItems(t, l.items(), 20)
		})
	}
}

func TestAPasswordThatIsMissingIsSaid(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "CONFIG", "SET", "requirepass", "secret")
	r := start(t, s.Address())
	redistest.Eventually(t, "it is said", func() bool { return strings.Contains(r.status("a").Reason, "refuses the credentials") })
}
