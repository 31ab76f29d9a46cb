package redis

import (
	"strings"
	"testing"
)

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

// tracked are a connection that is sent the names of changed keys, and two others:
// one whose reads are tracked, and one that changes keys.
type tracked struct {
	t                     *testing.T
	hints, reader, writer both
	id, simID             string // of hints
}

// startTracking tracks the reads of a connection, with options.
func startTracking(t *testing.T, options ...string) tracked {
	t.Helper()
	s := startBoth(t)
	c := tracked{t: t, hints: s.dial(), reader: s.dial(), writer: s.dial()}
	c.id, c.simID = c.hints.id()
	c.track(options...)
	c.hints.same("SUBSCRIBE", invalidated)
	return c
}

// track sets the options of the tracking.
func (c tracked) track(options ...string) {
	c.t.Helper()
	words := func(id string) []string {
		return append([]string{"CLIENT", "TRACKING", "ON", "REDIRECT", id}, options...)
	}
	c.reader.real.do(words(c.id)...)
	if reply := c.reader.sim.do(words(c.simID)...); reply != "+OK\r\n" {
		c.t.Fatal(reply)
	}
}

func TestTrackingTellsWhatRedisTells(t *testing.T) {
	b := startTracking(t, "NOLOOP")
	for _, c := range trackingCases {
		for step := range strings.SplitSeq(c.text, " / ") {
			by := b.reader
			if step[0] == 'w' {
				by = b.writer
			}
			words := strings.Fields(step[2:])
			if strings.HasPrefix(words[0], "EVAL|") {
				words = strings.Split(words[0], "|")
				words[1] = strings.ReplaceAll(words[1], "_", " ")
			}
			by.same(words...)
		}
		if got := b.hints.messages(); len(got) != c.want {
			t.Errorf("%s: %d messages, want %d: %q", c.text, len(got), c.want, got)
		}
	}
}

func TestTrackingFollowsItsOptionsAndItsSubscription(t *testing.T) {
	b := startTracking(t) // without NOLOOP
	b.reader.same("GET", "a")
	b.reader.same("SET", "a", "2")
	b.hints.messages()

	b.track("NOLOOP")
	b.writer.same("SET", "e", "1", "PX", "500")
	b.reader.same("GET", "e")
	for _, c := range []*conn{b.hints.real, b.hints.sim} {
		if got := c.receive(); !strings.Contains(got, "\r\ne\r\n") {
			t.Errorf("after a key has expired: %q", got)
		}
	}

	b.reader.same("GET", "a")
	b.hints.same("UNSUBSCRIBE", invalidated)
	b.writer.same("SET", "a", "1")
	b.hints.same("SUBSCRIBE", invalidated)
	if got := b.hints.messages(); len(got) > 0 {
		t.Errorf("a message came while there was no subscription: %q", got)
	}
	b.reader.same("CLIENT", "TRACKING", "ON", "REDIRECT", "9999")
	b.reader.same("CLIENT", "TRACKING", "ON", "REDIRECT", "x")
	b.reader.same("CLIENT", "TRACKING", "MAYBE")
	b.reader.same("CLIENT", "TRACKING", "ON", "NOPE")
}
