package redisconn

import (
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
)

// serverOf returns the one server in use at address, and a channel on which the
// close of its connection is told.
func serverOf(t *testing.T, o Options) (s *Server, closed <-chan struct{}) {
	t.Helper()
	o.Timeout = 5 * time.Second
	told := make(chan struct{}, 1)
	servers := NewServers(o, Callbacks{Changed: func(string) {}, Closed: func() { told <- struct{}{} }})
	t.Cleanup(servers.Close)
	return servers.Route().Server, told
}

func TestAConnectionThatIsClosedAtRestIsNoticedAtOnce(t *testing.T) {
	redis := redistest.Start(t)
	s, closed := serverOf(t, Options{Address: redis.Address()})
	if _, err := s.Do(t.Context(), "PING"); err != nil {
		t.Fatal(err)
	}
	if s.Heed(t.Context()) {
		t.Fatal("the connection has broken by itself")
	}
	redis.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	<-closed
	if !s.Heed(t.Context()) || s.Breaks() != 1 {
		t.Errorf("it is not told, %d breaks", s.Breaks())
	}
	if v, err := s.Do(t.Context(), "PING"); v != "PONG" || err != nil {
		t.Errorf("on the next connection: %v, %v", v, err)
	}
}

func TestRedisOwnWordsSayWhyItLetsNobodyIn(t *testing.T) {
	full := redistest.Start(t, "--maxclients", "1")
	full.Client().Ping(t.Context()) // takes the one place
	locked := redistest.Start(t)
	locked.Client().ConfigSet(t.Context(), "requirepass", "right")
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Address: full.Address()}, "ERR max number of clients reached"},
		{Options{Address: locked.Address(), Password: "wrong"}, "WRONGPASS"},
		{Options{Address: locked.Address()}, "NOAUTH"},
		{Options{Address: locked.Address(), Password: "right", DB: 1000}, "ERR DB index is out of range"},
	} {
		s, _ := serverOf(t, c.o)
		if _, err := s.Do(t.Context(), "PING"); !IsReply(err) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestAServerWithoutHelloIsLoggedInto(t *testing.T) {
	s, _ := serverOf(t, Options{Address: answering(t, ":3\r\n")})
	if v, err := s.Do(t.Context(), "LLEN", "key"); v != int64(3) || err != nil {
		t.Errorf("%v, %v", v, err)
	}
}

func TestAScriptIsLoadedWhenRedisDoesNotKnowIt(t *testing.T) {
	redis := redistest.Start(t)
	s, _ := serverOf(t, Options{Address: redis.Address()})
	script := NewScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
	for want := range int64(3) {
		redis.Client().ScriptFlush(t.Context())
		if v, err := s.Run(t.Context(), script, []string{"n"}, 1); v != 2*want+1 || err != nil {
			t.Errorf("%v, %v", v, err)
		}
		redis.Client().ScriptFlush(t.Context())
		if v, err := script.RunBy(t.Context(), s.Client(), []string{"n"}, 1); v != 2*want+2 || err != nil {
			t.Errorf("by go-redis: %v, %v", v, err)
		}
	}
}
