package redis

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// start starts a simulated server.
func start(t *testing.T) *Redis {
	r := New()
	t.Cleanup(r.Close)
	return r
}

// do executes a command that must not fail.
func do(t *testing.T, r *Redis, words ...string) any {
	t.Helper()
	reply, err := r.Do(words...)
	if err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	return reply
}

// want fails the test unless a command's reply is this one.
func want(t *testing.T, r *Redis, reply any, words ...string) {
	t.Helper()
	if got := do(t, r, words...); !reflect.DeepEqual(got, reply) {
		t.Errorf("%q: got %#v, want %#v", words, got, reply)
	}
}

// ended fails the test unless the server has closed the connection.
func (c *conn) ended() {
	c.tb.Helper()
	if b, err := c.in.ReadByte(); err != io.EOF {
		c.tb.Errorf("read %q and %v, want EOF", b, err)
	}
}

// info returns a field of INFO.
func info(t *testing.T, r *Redis, section, field string) string {
	t.Helper()
	text := do(t, r, "INFO", section).(string)
	for line := range strings.SplitSeq(text, "\r\n") {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return value
		}
	}
	t.Fatalf("INFO has no %s: %q", field, text)
	return ""
}

func TestDoReturnsGoValues(t *testing.T) {
	r := start(t)
	want(t, r, "OK", "SET", "s", "x")
	want(t, r, "x", "GET", "s")
	want(t, r, nil, "GET", "none")
	want(t, r, int64(2), "RPUSH", "l", "a", "")
	want(t, r, []any{"a", ""}, "LRANGE", "l", "0", "-1")
	want(t, r, []any{nil, []any{"a"}}, "EVAL", "return {false, {'a'}}", "0")
	if _, err := r.Do("LLEN", "s"); err == nil || !strings.HasPrefix(err.Error(), "WRONGTYPE ") {
		t.Errorf("LLEN of a string: %v", err)
	}
	if got := r.Keys(); !slices.Equal(got, []string{"l", "s"}) {
		t.Errorf("keys: %q", got)
	}
}

func TestExecutePassesFaultsAndIsNotCounted(t *testing.T) {
	r := start(t)
	r.SetFault(Loading)
	if _, err := r.Do("SET", "s", "1"); err == nil {
		t.Error("Do: no error while loading")
	}
	if _, err := r.Execute("SET", "s", "1"); err != nil {
		t.Error("Execute:", err)
	}
	if _, err := r.Do("GET", "s"); err == nil {
		t.Error("Do: Execute has ended the fault")
	}
	if n := r.Commands(); n != 2 {
		t.Errorf("%d commands counted, want 2", n)
	}
}

func TestChangesByDoAreTracked(t *testing.T) {
	r := start(t)
	hints, reader := dial(t, r), dial(t, r)
	hints.do("SUBSCRIBE", invalidated)
	reader.do("CLIENT", "TRACKING", "ON", "REDIRECT", "1", "NOLOOP")
	for _, change := range []func(...string) (any, error){r.Do, r.Execute} {
		reader.do("GET", "s")
		change("SET", "s", "1")
		if got, want := hints.receive(), "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\ns\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNothingIsSentWhenTheClientThatHintsGoToIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		hints, reader := dial(t, r), dial(t, r)
		hints.do("SUBSCRIBE", invalidated)
		reader.do("CLIENT", "TRACKING", "ON", "REDIRECT", "1")
		reader.do("GET", "s")
		hints.conn.Close()
		synctest.Wait()

		want(t, r, "OK", "SET", "s", "1")
		if got := reader.do("PING"); got != "+PONG\r\n" {
			t.Error(got)
		}
		if got := reader.do("CLIENT", "TRACKING", "ON", "REDIRECT", "1"); !strings.Contains(got, "does not exist") {
			t.Error(got)
		}
		if n := len(r.clients); n != 1 {
			t.Errorf("%d clients, want 1", n)
		}
	})
}

func TestKeysOfClientsThatAreGoneAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		for i := range 10 {
			c := dial(t, r)
			c.do("CLIENT", "TRACKING", "ON")
			c.do("MGET", "a", fmt.Sprint(i))
			c.conn.Close()
		}
		synctest.Wait()
		if n := len(r.tracking.keys); n != 0 {
			t.Errorf("%d keys are tracked, want 0", n)
		}
	})
}

func TestKeysExpireByTheClockOfTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		hints, reader := dial(t, r), dial(t, r)
		hints.do("SUBSCRIBE", invalidated)
		reader.do("CLIENT", "TRACKING", "ON", "REDIRECT", "1")
		do(t, r, "SET", "early", "1", "PX", "10000")
		do(t, r, "SET", "late", "1", "PX", "20000")
		reader.do("MGET", "late", "early")
		begin := time.Now()
		for _, key := range []string{"early", "late"} {
			if got := hints.receive(); !strings.Contains(got, key) {
				t.Errorf("got %q, want %s", got, key)
			}
		}
		if took := time.Since(begin); took != 20*time.Second {
			t.Errorf("the last key expired after %v", took)
		}
		want(t, r, int64(0), "EXISTS", "early", "late")
	})
}

func TestAnIdleServerWakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		dial(t, r).do("SET", "s", "1", "PX", "10000")
		before := r.Commands()
		time.Sleep(24 * time.Hour * 365)
		if r.Commands() != before || !r.tracking.wakeAt.IsZero() {
			t.Error("it was busy")
		}
	})
}

func TestKeysExpireAtATimeOfTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		do(t, r, "SET", "s", "1", "PX", "10000")
		r.SetClock(-time.Hour)
		want(t, r, int64(3610_000), "PTTL", "s")
		time.Sleep(time.Hour)
		want(t, r, int64(10_000), "PTTL", "s")
		r.SetClock(9 * time.Second)
		want(t, r, int64(-2), "PTTL", "s")
	})
}

func TestTheClockSetForwardExpiresTrackedKeysAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		hints, reader := dial(t, r), dial(t, r)
		hints.do("SUBSCRIBE", invalidated)
		reader.do("CLIENT", "TRACKING", "ON", "REDIRECT", "1")
		do(t, r, "SET", "s", "1", "PX", "10000")
		reader.do("GET", "s")
		r.SetClock(-time.Minute)
		time.Sleep(30 * time.Second)
		want(t, r, int64(40_000), "PTTL", "s")
		begin := time.Now()
		r.SetClock(time.Minute)
		if got := hints.receive(); !strings.Contains(got, "\r\ns\r\n") || time.Since(begin) > 0 {
			t.Errorf("got %q after %v", got, time.Since(begin))
		}
	})
}

func TestTimeIsTheServersAndStandsStillInScripts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.SetClock(time.Hour)
		unix := fmt.Sprint(time.Now().Add(time.Hour).Unix())
		want(t, r, []any{unix, "0"}, "TIME")
		want(t, r, []any{unix, "0"}, "EVAL", "return redis.call('TIME')", "0")
	})
}

// fill makes a key of each type, two of them with a time to live.
func fill(t *testing.T, r *Redis) {
	t.Helper()
	for _, words := range lines(`
		SET string x
		SET brief x PX 1000
		RPUSH list a "" c
		PEXPIRE list 60000
		HSET hash a 1 b 2
		SADD set a b
		ZADD sorted 1.5 a 2 b
		SELECT 3
		SET elsewhere x
		SELECT 0
	`) {
		do(t, r, words...)
	}
}

func TestRestartBringsSavedDataBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		fill(t, r)
		saved := r.Save()
		for _, words := range lines(`
			RPUSH list d
			HSET hash a 2
			SADD set c
			SET new x
		`) {
			do(t, r, words...)
		}
		time.Sleep(2 * time.Second)
		r.Restart(saved)

		want(t, r, []any{"a", "", "c"}, "LRANGE", "list", "0", "-1")
		want(t, r, int64(58_000), "PTTL", "list")
		want(t, r, []any{"a", "1", "b", "2"}, "HGETALL", "hash")
		want(t, r, []any{"a", "b"}, "SMEMBERS", "set")
		want(t, r, "1.5", "ZSCORE", "sorted", "a")
		want(t, r, int64(0), "EXISTS", "brief", "new")
		want(t, r, int64(5), "DBSIZE")
		do(t, r, "SELECT", "3")
		want(t, r, "x", "GET", "elsewhere")

		r.Restart(nil)
		if data := r.Save(); len(data) != 0 {
			t.Errorf("after a restart without data: %v", data)
		}
	})
}

func TestASavedCopyIsNotChangedLater(t *testing.T) {
	r := start(t)
	fill(t, r)
	saved, again := r.Save(), r.Save()
	for _, words := range lines(`
		LSET list 0 z
		LREM list -1 c
		HSET hash a 9
		SADD set z
		ZADD sorted 9 a
	`) {
		do(t, r, words...)
	}
	for i := range saved {
		saved[i].Expires, again[i].Expires = time.Time{}, time.Time{}
	}
	if !reflect.DeepEqual(saved, again) {
		t.Errorf("got %v, want %v", saved, again)
	}
	r.Restart(saved)
	do(t, r, "LSET", "list", "0", "z")
	if !reflect.DeepEqual(saved, again) {
		t.Errorf("after a restart: got %v, want %v", saved, again)
	}
}

func TestRestartIsThatOfANewProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		hints, reader := dial(t, r), dial(t, r)
		hints.do("SUBSCRIBE", invalidated)
		reader.do("CLIENT", "TRACKING", "ON", "REDIRECT", "1")
		fill(t, r)
		reader.do("GET", "string")
		sha := do(t, r, "SCRIPT", "LOAD", "return 1").(string)
		run, replica := info(t, r, "server", "run_id"), info(t, r, "replication", "master_replid")

		r.RestartWithData()
		hints.ended()
		reader.ended()
		want(t, r, int64(5+1), "DBSIZE")
		want(t, r, []any{int64(0)}, "SCRIPT", "EXISTS", sha)
		if _, err := r.Do("EVALSHA", sha, "0"); err == nil || !strings.HasPrefix(err.Error(), "NOSCRIPT") {
			t.Errorf("EVALSHA: %v", err)
		}
		if info(t, r, "server", "run_id") == run || info(t, r, "replication", "master_replid") == replica {
			t.Error("the IDs are the same")
		}
		if got := dial(t, r).do("CLIENT", "ID"); got != ":1\r\n" {
			t.Errorf("the first client's ID: %q", got)
		}
	})
}

func TestACommandOfBeforeARestartIsNotExecutedAfterIt(t *testing.T) {
	r := start(t)
	for range 100 {
		c := dial(t, r)
		c.do("PING")
		c.send("RPUSH", "l", "x")
		r.Restart(nil)
		r.serving.Wait()
		if n := len(r.Save()); n > 0 {
			t.Fatalf("%d keys after a restart without data", n)
		}
	}
}

func TestDisconnectEndsEveryClient(t *testing.T) {
	r := start(t)
	a, b := dial(t, r), dial(t, r)
	a.do("SET", "s", "1")
	b.do("SUBSCRIBE", "x")
	r.Disconnect()
	a.ended()
	b.ended()
	want(t, r, "1", "GET", "s")
	if got := dial(t, r).do("CLIENT", "ID"); got != ":3\r\n" {
		t.Errorf("the next client's ID: %q", got)
	}
}

func TestOneClientTooManyIsRefused(t *testing.T) {
	r := start(t)
	r.MaxClients(1)
	dial(t, r).do("PING")
	c := dial(t, r)
	if got := c.receive(); got != "-ERR max number of clients reached\r\n" {
		t.Errorf("got %q", got)
	}
	c.ended()
	r.MaxClients(0)
	dial(t, r).do("PING")
}

func TestCloseEndsEverything(t *testing.T) {
	r := New()
	c := dial(t, r)
	c.do("PING")
	r.Close()
	c.ended()
	late := dial(t, r)
	late.receive()
	late.ended()
}

func TestBytesThatAreNoCommandEndTheConnection(t *testing.T) {
	r := start(t)
	for _, bytes := range []string{
		"PING\r\n", "*x\r\n", "*1\r\n+PING\r\n", "*01\r\n$4\r\nPING\r\n", "*1\n$4\r\nPING\r\n", "*-1\r\n", "*1\r\n$-1\r\n", "*1\r\n$999999999999\r\n",
		"*" + strings.Repeat("1", readSize),
	} {
		c := dial(t, r)
		io.WriteString(c.conn, bytes)
		if got := c.receive(); !strings.HasPrefix(got, "-ERR Protocol error") {
			t.Errorf("%.50q: %q", bytes, got)
		}
		c.ended()
	}
}

func TestInfoTellsAboutTheServer(t *testing.T) {
	r := start(t)
	do(t, r, "CONFIG", "SET", "maxmemory", "104857600", "maxmemory-policy", "volatile-lru")
	before := info(t, r, "memory", "used_memory")
	do(t, r, "RPUSH", "l", strings.Repeat("x", 10_000_000))
	if after := info(t, r, "memory", "used_memory"); len(after) <= len(before) {
		t.Errorf("used_memory was %s and is %s with 10 MB more", before, after)
	}
	for field, value := range map[string]string{
		"redis_version": version, "maxmemory": "104857600", "maxmemory_policy": "volatile-lru", "role": "master", "loading": "0",
	} {
		if got := info(t, r, "all", field); got != value {
			t.Errorf("%s is %s, want %s", field, got, value)
		}
	}
	r.SetFault(ReadOnly)
	if got := info(t, r, "replication", "role"); got != "slave" {
		t.Errorf("role is %s, want slave", got)
	}
}

func FuzzReadCommand(f *testing.F) {
	f.Add([]byte("*1\r\n$4\r\nPING\r\n"))
	f.Add([]byte("*2\r\n$3\r\nGET\r\n$0\r\n\r\n"))
	f.Add([]byte("*0\r\n*1\r\n$-1\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		in := bufio.NewReaderSize(strings.NewReader(string(sent)), readSize)
		words, err := readCommand(in)
		if err == nil && len(words) > 0 && !strings.HasPrefix(string(sent), wire(words)) {
			t.Errorf("%q was read as %q", sent, words)
		}
	})
}
