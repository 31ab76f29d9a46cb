package redisconn

import (
	"context"
	"crypto/sha1"
	"encoding/hex"

	"github.com/redis/go-redis/v9"
)

// Script is a Lua script. go-redis's own Script goes through an interface, which keeps the
// scripting of all its clients in the binary.
type Script struct{ text, hash string }

// NewScript makes a script of its text.
func NewScript(text string) *Script {
	sum := sha1.Sum([]byte(text))
	return &Script{text, hex.EncodeToString(sum[:])}
}

// Call returns the command that runs the script if Redis knows it.
func (s *Script) Call(keys []string, args ...any) []any {
	words := make([]any, 0, 3+len(keys)+len(args)+12) // room for marks
	words = append(words, "EVALSHA", s.hash, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	return append(words, args...)
}

// load returns the command that loads the script into Redis.
func (s *Script) load() []any { return []any{"SCRIPT", "LOAD", s.text} }

// run calls the script with do, and loads it first if Redis does not know it.
func (s *Script) run(do func(words ...any) (any, error), keys []string, args []any) (any, error) {
	reply, err := do(s.Call(keys, args...)...)
	if !NoScript(err) {
		return reply, err
	}
	if _, err := do(s.load()...); err != nil {
		return nil, err
	}
	return do(s.Call(keys, args...)...)
}

// RunBy runs the script with a client of go-redis, and loads it if Redis does not know it.
func (s *Script) RunBy(ctx context.Context, client *redis.Client, keys []string, args ...any) (any, error) {
	return s.run(func(words ...any) (any, error) { return client.Do(ctx, words...).Result() }, keys, args)
}

// NoScript reports whether Redis does not know a script that was called.
func NoScript(err error) bool { return Says(err, "NOSCRIPT") }
