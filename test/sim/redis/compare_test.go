package redis

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
)

// servers are a real Redis and a simulated one, which get the same commands.
type servers struct {
	t    *testing.T
	real *redistest.Server
	sim  *Redis
}

func startBoth(t *testing.T, args ...string) *servers {
	t.Helper()
	s := &servers{t, redistest.Start(t, args...), New()}
	t.Cleanup(s.sim.Close)
	return s
}

// both are connections to both servers.
type both struct{ real, sim *conn }

func (s *servers) dial() both {
	s.t.Helper()
	c, err := net.Dial("unix", strings.TrimPrefix(s.real.Address(), "unix://"))
	if err != nil {
		s.t.Fatal(err)
	}
	b := both{newConn(s.t, c), dial(s.t, s.sim)}
	s.t.Cleanup(func() {
		b.real.conn.Close()
		b.sim.conn.Close()
	})
	return b
}

// same sends a command to both and fails the test unless the replies are the same.
func (b both) same(words ...string) {
	b.real.tb.Helper()
	b.real.send(words...)
	b.sim.send(words...)
	b.sameReply(words)
}

// sameReply fails the test unless the next replies, to a command, are the same.
func (b both) sameReply(words []string) {
	b.real.tb.Helper()
	if want, got := b.real.receive(), b.sim.receive(); got != want {
		b.real.tb.Errorf("%.200q\n got %.500q\nwant %.500q", words, got, want)
	}
}

// id returns a connection's ID at each server.
func (b both) id() (real, sim string) {
	b.real.tb.Helper()
	number := func(reply string) string { return strings.Trim(reply, ":\r\n") }
	return number(b.real.do("CLIENT", "ID")), number(b.sim.do("CLIENT", "ID"))
}

// messages returns the messages that came to a connection that has subscribed, and
// fails the test unless they are the same at both servers.
func (b both) messages() []string {
	b.real.tb.Helper()
	upToPong := func(c *conn) (all []string) {
		c.send("PING")
		for {
			message := c.receive()
			if strings.HasPrefix(message, "*2\r\n$4\r\npong") {
				return all
			}
			all = append(all, message)
		}
	}
	want, got := upToPong(b.real), upToPong(b.sim)
	slices.Sort(want) // a command's own messages come in any order
	slices.Sort(got)
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		b.real.tb.Errorf("messages:\n got %q\nwant %q", got, want)
	}
	return got
}

// lines are commands, one a line, with words that hold no spaces: "" is an empty word.
func lines(text string) (commands [][]string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for i, word := range words {
			if word == `""` {
				words[i] = ""
			}
		}
		if len(words) > 0 {
			commands = append(commands, words)
		}
	}
	return commands
}

// session is sent on one connection.
const session = `
	PING
	PING x
	ECHO hello
	SET s 1
	GET s
	GET none
	SET s 2 NX
	SET s 2 XX
	SET t 1 PX 100000
	GETSET s 3
	INCR s
	APPEND s x
	INCR s
	STRLEN s
	SETRANGE range 0 ""
	EXISTS range
	SETRANGE range 3 abc
	GETRANGE range 0 -1
	GETRANGE range 1 3
	GETRANGE range 4 100
	GETRANGE none 0 -1
	SETRANGE range 1 xy
	SETRANGE range 0 ""
	GET range
	TTL s
	EXPIRE s 100
	PERSIST s
	PERSIST s
	PEXPIRE none 100
	LLEN s
	RPUSH s x
	TYPE s
	TYPE none
	RPUSH l a b c d e f
	LPUSH l z
	PEXPIRE l 100000
	LPUSH l x y
	LRANGE l 0 -1
	PERSIST l
	LPUSH s x y
	LPUSH l9 x y
	LRANGE l9 0 -1
	DEL l9
	LLEN l
	LTRIM l 2 -1
	LRANGE l 0 -1
	LRANGE l 2 3
	LRANGE l -2 -1
	LRANGE l 5 100
	LRANGE l 100 200
	LRANGE none 0 -1
	LRANGE l x 1
	LINDEX l 0
	LINDEX l -1
	LINDEX l 99
	LINDEX none 0
	LTRIM l 0 -1
	LTRIM l 1 -1
	LTRIM none 0 -1
	LSET l 0 A
	LSET l 99 A
	LSET none 0 A
	LREM l 1 A
	LREM l 0 none
	LREM none 0 x
	LPOP l
	RPOP l
	LPOP l 2
	LPOP none
	LPOP none 2
	LMOVE l m LEFT RIGHT
	LMOVE none m LEFT RIGHT
	RPOPLPUSH m l
	EXISTS l m s none
	RPUSHX none x
	LINSERT l BEFORE none x
	RPUSH l ""
	LRANGE l 0 -1
	HSET h a 1 b 2
	HSET h a 3
	HSET h odd
	HGET h a
	HGET h none
	HGETALL h
	HGETALL none
	HKEYS h
	HMGET h a none b
	HLEN h
	HEXISTS h a
	HINCRBY h n 5
	HDEL h a none
	HGET s a
	SADD set x
	SCARD set
	LLEN set
	ZADD z 1 a 2 b
	ZSCORE z a
	ZRANGE z 0 -1
	RENAME l l2
	RENAME none l2
	RENAMENX l2 h
	DBSIZE
	DEL l2 h none
	UNLINK set
	LTRIM m 5 10
	EXISTS m
	MSET a 1 b 2
	MGET a b none s
	SELECT 1
	DBSIZE
	SET one x
	SELECT 16
	SELECT -1
	SELECT x
	FLUSHDB
	DBSIZE
	SELECT 0
	DBSIZE
	FLUSHALL
	DBSIZE
	GET
	GET a b
	CLIENT
	CLIENT NOPE
	CLIENT GETNAME x
	NOPE a b
	SCRIPT NOPE
	CLIENT GETNAME
	CLIENT SETNAME me
	CLIENT GETNAME
	HELLO x
	HELLO 4
	HELLO 2 NOPE
	HELLO 2 AUTH nobody x
	AUTH x
	AUTH nobody x
	AUTH default x
	CONFIG GET maxmemory
	CONFIG SET maxmemory 100000000
	CONFIG SET nope 1
	SUBSCRIBE a b
	GET s
	PING
	PING x
	UNSUBSCRIBE a
	UNSUBSCRIBE
	GET s
	QUIT
`

func TestRepliesAreThoseOfRedis(t *testing.T) {
	b := startBoth(t).dial()
	for _, words := range lines(session) {
		b.same(words...)
		if words[0] == "SUBSCRIBE" { // one reply for each channel
			for range words[2:] {
				b.sameReply(words)
			}
		}
	}
	if _, err := b.sim.in.ReadByte(); err == nil {
		t.Error("the connection is open after QUIT")
	}
}

func TestPipelinedCommandsAreAnsweredInOrder(t *testing.T) {
	b := startBoth(t).dial()
	large := strings.Repeat("x", 3*readSize)
	commands := [][]string{{"RPUSH", "l", "a", large}, {"LLEN", "l"}, {"NOPE"}, {"LRANGE", "l", "0", "-1"}, {"LPOP", "l"}}
	for _, words := range commands {
		b.real.send(words...)
		b.sim.send(words...)
	}
	for _, words := range commands {
		b.sameReply(words)
	}
}

func TestHelloSaysWhatRedisSays(t *testing.T) {
	b := startBoth(t).dial()
	for _, words := range [][]string{{"HELLO"}, {"HELLO", "2"}, {"HELLO", "2", "AUTH", "default", "any", "SETNAME", "me"}} {
		want, got := b.real.do(words...), b.sim.do(words...)
		id, simID := b.id()
		v := strings.Split(want, "\r\n")[8] // after *14, server, redis and version, with their lengths
		want = strings.Replace(want, ":"+id, ":"+simID, 1)
		want = strings.Replace(want, fmt.Sprintf("$%d\r\n%s", len(v), v), "", 1)
		got = strings.Replace(got, fmt.Sprintf("$%d\r\n%s", len(version), version), "", 1)
		if got != want {
			t.Errorf("%q\n got %q\nwant %q", words, got, want)
		}
	}
	b.same("CLIENT", "GETNAME")
}

// scriptCases are scripts, their numbers of keys, and the words after that.
var scriptCases = []struct {
	text string
	args []string
}{
	{"return 1", []string{"0"}},
	{"return 1.9", []string{"0"}},
	{"return 'x', 2", []string{"0"}},
	{"return nil", []string{"0"}},
	{"return true", []string{"0"}},
	{"return false", []string{"0"}},
	{"return {tonumber(string.match('a', '%d')) or 'none', string.match('a1', '(%a)(%d)')}", []string{"0"}},
	{"return {1.9, 'a', false, true, {2}, nil, 3}", []string{"0"}},
	{"return {KEYS, ARGV}", []string{"2", "a", "b", "c"}},
	{"return {err='abc'}", []string{"0"}},
	{"return {ok='fine'}", []string{"0"}},
	{"return redis.status_reply('fine')", []string{"0"}},
	{"return redis.error_reply('ERRONE')", []string{"0"}},
	{"return redis.error_reply('MY error')", []string{"0"}},
	{"return redis.sha1hex('')", []string{"0"}},
	{"return {redis.call('SET', 's', 1.5), redis.call('GET', 's'), redis.call('GET', 'none')}", []string{"0"}},
	{"redis.call('SET', 's', 1e15) return redis.call('GET', 's')", []string{"0"}},
	{"return redis.call('SET', 's', 1).ok", []string{"0"}},
	{"redis.call('RPUSH', 'l', 'a', 'b') return redis.call('LRANGE', 'l', 0, -1)", []string{"0"}},
	{"return redis.call('LLEN', 's')", []string{"0"}},
	{"\n\nredis.call('LLEN', 's')", []string{"0"}},
	{"return redis.pcall('LLEN', 's')", []string{"0"}},
	{"return redis.pcall('LLEN', 's').err", []string{"0"}},
	{"return pcall(redis.call, 'LLEN', 's')", []string{"0"}},
	{"return redis.call('NOPE')", []string{"0"}},
	{"return redis.call('GET')", []string{"0"}},
	{"return redis.call('SUBSCRIBE', 'x')", []string{"0"}},
	{"return redis.call('GET', {})", []string{"0"}},
	{"return redis.call()", []string{"0"}},
	{"return nope", []string{"0"}},
	{"nope = 1", []string{"0"}},
	{"error('boom')", []string{"0"}},
	{"return x x", []string{"0"}},
	{"return string.format('%.0f', 12345678901)", []string{"0"}},
	{"local a, b = string.match('me/1 42', '^(.*) (%d+)$') return {a, b}", []string{"0"}},
	{"return {unpack(ARGV, 2, 3)}", []string{"0", "a", "b", "c"}},
	{"return #ARGV[1]", []string{"0", "\x00\xff\r\n"}},
	{"return 1", []string{"x"}},
	{"return 1", []string{"3", "x"}},
	{"return 1", []string{"-1"}},
	{"return redis.call('SELECT', 1)", []string{"0"}},
	{"return redis.call('GET', 's')", []string{"0"}},
}

func TestScriptsReturnWhatTheyReturnInRedis(t *testing.T) {
	b := startBoth(t).dial()
	for _, c := range scriptCases {
		want := b.real.do(append([]string{"EVAL", c.text}, c.args...)...)
		got := b.sim.do(append([]string{"EVAL", c.text}, c.args...)...)
		if c.text == "return x x" { // the words of the compiler differ
			want, got = want[:50], got[:50]
		}
		if got != want {
			t.Errorf("%q %q\n got %q\nwant %q", c.text, c.args, got, want)
		}
	}
}

func TestScriptsAreKnownUntilTheyAreFlushed(t *testing.T) {
	b := startBoth(t).dial()
	one, two := sha1Hex("return 1"), sha1Hex("return 2")
	b.same("EVALSHA", one, "0")
	b.same("SCRIPT", "LOAD", "return 1")
	b.same("EVAL", "return 2", "0")
	b.same("SCRIPT", "EXISTS", one, two, "none")
	b.same("EVALSHA", one, "0")
	b.same("EVALSHA", strings.ToUpper(two), "0")
	b.same("SCRIPT", "FLUSH")
	b.same("SCRIPT", "EXISTS", one, two)
	b.same("EVALSHA", one, "0")
	b.same("EVAL", "return 1", "0")
	b.same("EVALSHA", one, "0")
}

// commandInfo is the description of a command as COMMAND INFO gives it.
func commandInfo(v any) (name, flags string) {
	fields := v.([]any)
	all := map[string]bool{}
	for _, flag := range fields[2].([]any) {
		all[string(flag.(status))] = true
	}
	for letter, flag := range map[string]string{"w": "write", "r": "readonly", "o": "denyoom", "l": "loading", "b": "allow_busy", "s": "noscript"} {
		if all[flag] {
			flags += letter
		}
	}
	return strings.ToUpper(fields[0].(string)), fmt.Sprintf("%d %s %d %d %d", fields[1], sorted(flags), fields[3], fields[4], fields[5])
}

func sorted(flags string) (s string) {
	for _, letter := range "wrolbs" {
		if strings.ContainsRune(flags, letter) {
			s += string(letter)
		}
	}
	return s
}

func TestCommandsAreDescribedAsInRedis(t *testing.T) {
	b := startBoth(t).dial()
	reply, _ := parseReply([]byte(b.real.do("COMMAND")))
	info := map[string]string{}
	for _, c := range reply.([]any) {
		name, flags := commandInfo(c)
		info[name] = flags
		for _, sub := range c.([]any)[9].([]any) {
			name, flags := commandInfo(sub)
			info[name] = flags
		}
	}
	info["CLIENT|SETINFO"] = "4 ls 0 0 0" // since Redis 7.2

	for name, c := range commands {
		if c == nil {
			continue
		}
		var flags string
		for letter, is := range map[string]bool{"w": c.writes, "r": c.reads, "o": c.denyOOM, "l": c.whileLoading, "b": c.whileBusy, "s": c.notInScripts} {
			if is {
				flags += letter
			}
		}
		got := fmt.Sprintf("%d %s %d %d %d", c.arity, sorted(flags), c.first, c.last, c.stride)
		if want := info[name]; got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// faults are how a real Redis gets into a state, and out of it.
var faults = []struct {
	fault Fault
	begin func(t *testing.T, s *servers) (end func())
}{
	{ReadOnly, func(t *testing.T, s *servers) func() {
		s.admin("REPLICAOF", "127.0.0.1", "1")
		return func() { s.admin("REPLICAOF", "NO", "ONE") }
	}},
	{OOM, func(t *testing.T, s *servers) func() {
		s.admin("CONFIG", "SET", "maxmemory", "1")
		return func() { s.admin("CONFIG", "SET", "maxmemory", "0") }
	}},
	{Misconf, func(t *testing.T, s *servers) func() {
		dir := filepath.Join(t.TempDir(), "gone")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.admin("CONFIG", "SET", "save", "3600 1", "dir", dir)
		os.Remove(dir)
		s.admin("BGSAVE")
		redistest.Eventually(t, "saving has failed", func() bool {
			return s.real.Client().Ping(t.Context()).Err() != nil
		})
		return func() { s.admin("CONFIG", "SET", "save", "") }
	}},
	{Busy, func(t *testing.T, s *servers) func() {
		s.admin("CONFIG", "SET", "busy-reply-threshold", "1")
		busy := s.dial().real
		busy.send("EVAL", "while true do end", "0")
		redistest.Eventually(t, "the script is busy", func() bool {
			return s.real.Client().Ping(t.Context()).Err() != nil
		})
		return func() {
			s.admin("SCRIPT", "KILL")
			busy.receive()
		}
	}},
}

// admin sends a command to the real Redis.
func (s *servers) admin(words ...string) {
	s.t.Helper()
	args := make([]any, len(words))
	for i, word := range words {
		args[i] = word
	}
	if err := s.real.Client().Do(s.t.Context(), args...).Err(); err != nil {
		s.t.Fatalf("%q: %v", words, err)
	}
}

// tried are commands that some faults refuse.
const tried = `
	PING
	GET none
	LRANGE l 0 -1
	LLEN l
	SET s 1
	RPUSH l d
	LPUSH l d
	LMOVE l m LEFT RIGHT
	HSET h a 1
	LSET l 0 a
	LTRIM l 0 -1
	PEXPIRE l 100000
	HDEL h a
	LPOP l
	LREM l 1 none
	DEL none
	SCRIPT LOAD x=1
	SELECT 0
	ECHO x
	CLIENT SETNAME x
	CONFIG GET maxclients
	SUBSCRIBE c
	UNSUBSCRIBE c
	NOPE
	GET
	FLUSHALL ASYNC x
`

func TestFaultsRefuseWhatRedisRefuses(t *testing.T) {
	s := startBoth(t, "--enable-protected-configs", "yes")
	b := s.dial()
	script := "if ARGV[1] == 'first' then redis.call('LTRIM', KEYS[1], 0, -1) end return redis.call(unpack(ARGV, 2))"
	for _, f := range faults {
		t.Run(string(f.fault), func(t *testing.T) {
			b.same("FLUSHALL")
			b.same("RPUSH", "l", "a", "b", "c")
			b.same("SCRIPT", "LOAD", script)
			end := f.begin(t, s)
			s.sim.SetFault(f.fault)
			defer func() {
				s.sim.SetFault(None)
				end()
				b.same("PING")
			}()

			fresh := s.dial()
			fresh.real.do("HELLO", "2")
			if got := fresh.sim.do("HELLO", "2"); got[0] == '-' {
				t.Error("HELLO:", got)
			}
			for _, words := range lines(tried) {
				b.same(words...)
			}
			for _, words := range lines(`
				_ LLEN l
				_ LPOP l
				_ RPUSH l x
				first RPUSH l x
				first SET s 1
				_ DEL none
			`) {
				b.same(append([]string{"EVALSHA", sha1Hex(script), "1", "l"}, words...)...)
			}
			b.same("EVAL", "return redis.pcall('SET', 's', 1).err or 'ok'", "0")
			b.same("LRANGE", "l", "0", "-1")
		})
	}
}

func TestLoadingRefusesWhatRedisRefuses(t *testing.T) {
	s := startBoth(t)
	for i := range 2000 {
		s.admin("SET", fmt.Sprint("filler", i), "x")
	}
	s.admin("SAVE")
	s.real.Kill()
	s.real.Launch("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
	redistest.Eventually(t, "Redis is loading", func() bool {
		err := s.real.Client().Ping(t.Context()).Err()
		return err != nil && strings.HasPrefix(err.Error(), "LOADING")
	})
	s.sim.SetFault(Loading)
	b := s.dial()
	for _, words := range lines(`
		PING
		GET s
		RPUSH l x
		EVALSHA x 0
		SCRIPT LOAD x=1
		SELECT 0
		ECHO x
		CLIENT SETNAME x
		AUTH default x
	`) {
		b.same(words...)
	}
	if got := b.sim.do("HELLO", "2"); got[0] == '-' {
		t.Error("HELLO:", got)
	}
}

// trackingCases are commands of a client with tracking (r) and of another one (w).
var trackingCases = []struct {
	text string
	want int // messages
}{
	{"w SET a 1 / r GET a / w SET a 2 / w SET a 3", 1},
	{"r GET none / w SET none 1", 1},
	{"r GET a / r SET a 2 / w SET a 3", 0}, // its own write makes Redis forget
	{"r GET a / r GET a / r GET b / w MSET b 1 a 1", 2},
	{"w SET a 1 / r GET a / w SET a 2 NX / w GET a", 0},
	{"w DEL l m / w RPUSH l x y / r LLEN l / w RPUSH l z", 1},
	{"r LRANGE l 0 -1 / w LPOP l", 1},
	{"r LINDEX l 0 / w LTRIM l 0 -1", 1},
	{"r LLEN m / w LTRIM m 0 -1", 0}, // there is no such key
	{"r LLEN l / w LREM l 0 none", 0},
	{"r LLEN l / r LLEN m / w LMOVE l m LEFT RIGHT", 2},
	{"r LLEN m / w RENAME m n", 1},
	{"r EXISTS m / w RENAME n m", 1},
	{"r EXISTS m n / w RENAME m n", 2},
	{"w HSET h a 1 / r HGET h a / w HSET h a 1", 1},
	{"r HGETALL h / w HDEL h none", 0},
	{"w HDEL h a", 1},
	{"r HMGET h a / w HINCRBY h a 0", 1},
	{"r TYPE t / w LSET l 0 x", 0},
	{"w SET t 1", 1},
	{"r EXISTS t / w PEXPIRE t 100000", 1},
	{"r EXISTS t / w PERSIST t / w PERSIST t", 1},
	{"r EXISTS t / w PEXPIRE none2 1000", 0},
	{"r GET t / w DEL t / w DEL t", 1},
	{"r GET t / w SELECT 1 / w SET t 1 / w SELECT 0", 1}, // names are tracked
	{"r GET a / w FLUSHDB", 1},
	{"r GET a / r FLUSHALL", 1}, // NOLOOP does not hold for it
	{"w FLUSHALL", 1},
	{"r EVAL|redis.call('GET',KEYS[1])|1|a / w SET a 1", 1},
	{"r EVAL|return_1|1|a / w SET a 1", 0},
	{"r EVAL|redis.call('GET',KEYS[1])redis.call('SET',KEYS[1],1)|1|a / w SET a 1", 0},
	{"r EVAL|redis.call('SET',KEYS[1],1)redis.call('GET',KEYS[1])|1|a / w SET a 1", 1},
	{"r GET a / w EVAL|redis.call('SET',KEYS[1],1)|1|a", 1},
	{"r GET a / r EVAL|redis.call('SET',KEYS[1],1)|1|a", 0},
	{"r GET a / r CLIENT TRACKING OFF / w SET a 1", 0},
}

func TestTrackingTellsWhatRedisTells(t *testing.T) {
	s := startBoth(t)
	hints, reader, writer := s.dial(), s.dial(), s.dial()
	id, simID := hints.id()
	track := func(b both, options ...string) {
		t.Helper()
		words := append([]string{"CLIENT", "TRACKING", "ON", "REDIRECT"}, "")
		words[4] = id
		b.real.do(append(words, options...)...)
		words[4] = simID
		if reply := b.sim.do(append(words, options...)...); reply != "+OK\r\n" {
			t.Fatal(reply)
		}
	}
	track(reader, "NOLOOP")
	hints.same("SUBSCRIBE", invalidated)

	for _, c := range trackingCases {
		for step := range strings.SplitSeq(c.text, " / ") {
			by := reader
			if step[0] == 'w' {
				by = writer
			}
			words := strings.Fields(step[2:])
			if strings.HasPrefix(words[0], "EVAL|") {
				words = strings.Split(words[0], "|")
				words[1] = strings.ReplaceAll(words[1], "_", " ")
			}
			by.same(words...)
		}
		if got := hints.messages(); len(got) != c.want {
			t.Errorf("%s: %d messages, want %d: %q", c.text, len(got), c.want, got)
		}
	}

	track(reader) // without NOLOOP
	reader.same("GET", "a")
	reader.same("SET", "a", "2")
	hints.messages()

	track(reader, "NOLOOP")
	writer.same("SET", "e", "1", "PX", "500")
	reader.same("GET", "e")
	for _, c := range []*conn{hints.real, hints.sim} {
		if got := c.receive(); !strings.Contains(got, "\r\ne\r\n") {
			t.Errorf("after a key has expired: %q", got)
		}
	}

	reader.same("GET", "a")
	hints.same("UNSUBSCRIBE", invalidated)
	writer.same("SET", "a", "1")
	hints.same("SUBSCRIBE", invalidated)
	if got := hints.messages(); len(got) > 0 {
		t.Errorf("a message came while there was no subscription: %q", got)
	}
	reader.same("CLIENT", "TRACKING", "ON", "REDIRECT", "9999")
	reader.same("CLIENT", "TRACKING", "ON", "REDIRECT", "x")
	reader.same("CLIENT", "TRACKING", "MAYBE")
	reader.same("CLIENT", "TRACKING", "ON", "NOPE")
}

func TestExpiryIsThatOfRedis(t *testing.T) {
	b := startBoth(t).dial()
	b.same("SET", "a", "1", "PX", "30")
	b.same("RPUSH", "l", "x")
	b.same("PEXPIRE", "l", "30")
	b.same("SET", "b", "1", "EX", "100")
	b.same("SET", "b", "2")
	b.same("PTTL", "b")
	for _, c := range []*conn{b.real, b.sim} {
		for c.do("EXISTS", "a", "l") != ":0\r\n" {
			time.Sleep(time.Millisecond)
		}
	}
	b.same("KEYS", "*")
	b.same("RPUSH", "l", "y")
	b.same("PTTL", "l")
}
