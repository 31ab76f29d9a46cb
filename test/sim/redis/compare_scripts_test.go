package redis

import (
	"strings"
	"testing"
)

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
