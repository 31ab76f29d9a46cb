package redis

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edged/internal/redistest"
)

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
