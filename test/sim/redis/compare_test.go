package redis

import (
	"fmt"
	"net"
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
