package poller

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"edged/internal/ledger"
	"edged/internal/numbers"
	"edged/internal/redisconn"
)

// Store asks Redis for parts of lists, and keeps the configurations of consumers beside
// them, over connections of its own: nothing here takes a turn of the loop. One goroutine
// uses it.
type Store struct {
	redis  *redisconn.Clients
	where  string
	holder string
}

// NewStore connects to nothing yet.
func (l *Loop) NewStore() *Store {
	return &Store{redis: l.opts.Redis.NewClients(), where: l.opts.Redis.Where(), holder: l.holder}
}

// Close closes all connections.
func (s *Store) Close() { s.redis.Close() }

// do does something with the client of the server that has a list; once more if the list has
// moved.
func (s *Store) do(key string, do func(*redis.Client) (any, error)) (any, error) {
	for {
		reply, err := do(s.redis.Client(key))
		switch {
		case err == nil || errors.Is(err, redis.Nil):
			s.redis.Reached(key)
			return reply, nil
		case s.redis.Failed(key, err):
			continue
		}
		return nil, errors.New(redisconn.Explain(err, s.where))
	}
}

// Part returns up to n items of a list, from a place on, of each at most the first bytes.
func (s *Store) Part(ctx context.Context, key string, fromRight bool, from From, n, bytes int) (History, error) {
	keys := ledger.KeysOf(key)
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return peek.RunBy(ctx, c, []string{keys.List, keys.Ledger, keys.Times}, peekArgs(fromRight, from, n, bytes)...)
	})
	if err != nil {
		return History{}, err
	}
	return peeked(reply)
}

// compare counts items that are equal to given ones, whose sizes and sums it gets: over a slow link the
// items themselves could take longer than a reply may. KEYS: 1 list, 2 ledger. ARGV: 1 'R' if the right
// end is the head, 2 the number of the first item, then a size and a sum for each. It returns {the number
// that it began with, how many are equal}: it begins with the head if that is later.
var compare = redisconn.NewScript(`
local first = tonumber(redis.call('HMGET', KEYS[2], 'first')[1]) or 0
local asked = tonumber(ARGV[2])
local from = math.max(asked, first)
local equal = 0
for i = 3 + 2 * (from - asked), #ARGV, 2 do
  local at = from + equal - first
  local v = redis.call('LINDEX', KEYS[1], ARGV[1] == 'R' and -at - 1 or at)
  if not v or #v ~= tonumber(ARGV[i]) or redis.sha1hex(v) ~= ARGV[i + 1] then break end
  equal = equal + 1
end
return {string.format('%.0f', from), equal}
`)

// Compare compares items with those of a list, from a number on. first is that number, or the number of
// the head if that is later; from it on, so many items are equal. No item is read.
func (s *Store) Compare(ctx context.Context, key string, fromRight bool, from uint64, items [][]byte) (first uint64, equal int, err error) {
	args := []any{side(fromRight), from}
	for _, item := range items {
		sum := sha1.Sum(item)
		args = append(args, len(item), hex.EncodeToString(sum[:]))
	}
	keys := ledger.KeysOf(key)
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return compare.RunBy(ctx, c, []string{keys.List, keys.Ledger}, args...)
	})
	if err != nil {
		return 0, 0, err
	}
	words, _ := reply.([]any)
	if len(words) != 2 {
		return 0, 0, errors.New("unexpected reply from the script that compares items")
	}
	n, _ := words[1].(int64)
	return max(from, number(words[0])), min(max(0, int(n)), len(items)), nil
}

// Confirmed returns the items that Redis knows a durable consumer to have confirmed, and whether
// it has a place in the list.
func (s *Store) Confirmed(ctx context.Context, key, name string) (acked numbers.Set, known bool, err error) {
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return c.HMGet(ctx, ledger.KeysOf(key).Ledger, ledger.Durable(name)).Result()
	})
	if err != nil {
		return acked, false, err
	}
	values, _ := reply.([]any)
	if len(values) != 1 || values[0] == nil {
		return acked, false, nil
	}
	text, _ := values[0].(string)
	acked, err = numbers.Parse(text)
	return acked, err == nil, err
}

// Owns reports whether a list is this process's, as Redis has it.
func (s *Store) Owns(ctx context.Context, key string) (bool, error) {
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return c.HMGet(ctx, ledger.KeysOf(key).Ledger, "owner").Result()
	})
	if err != nil {
		return false, err
	}
	values, _ := reply.([]any)
	return len(values) == 1 && values[0] == s.holder, nil
}

// ErrStandby refuses to make, change or delete a consumer: another instance serves the list, and
// would not learn of it.
type ErrStandby struct{ Holder string }

func (e ErrStandby) Error() string {
	return fmt.Sprintf("instance %s serves the list: make, change and delete its consumers there", e.Holder)
}

// servedElsewhere begins a script that refuses if another process owns the list. A process that
// has owned it finds another serial, so it reads the ledger and the consumers anew. KEYS: 1 list, 2 ledger,
// 3 consumers. ARGV: 1 holder, 2 name of the consumer.
const servedElsewhere = `
local old = redis.call('HMGET', KEYS[2], 'owner', 'deadline', 'first', 'epoch', 'serial')
local now = redis.call('TIME')
if old[1] ~= ARGV[1] then
  if old[1] and (tonumber(old[2]) or 0) > now[1] * 1000 + math.floor(now[2] / 1000) then return {'standby', old[1]} end
  if tonumber(old[5]) then redis.call('HSET', KEYS[2], 'serial', string.format('%.0f', old[5] + 1)) end
  redis.call('HDEL', KEYS[2], 'owner')
end
`

// register writes the configuration of a consumer. ARGV: 3 the item that it begins with: its
// number, or "end" or "last", 4 the configuration without its "{", 5 the field of its record in the
// ledger. It returns {result, word}: "ok" and the configuration with its beginning, or "standby" and
// the owner.
//
// A consumer begins in the list or at its end, as with nats-server. A number beyond the end would
// stand in the ledger as confirmed, as if Redis had lost items. A new consumer has no record: one
// that is left is of a consumer of this name that was deleted.
var register = redisconn.NewScript(servedElsewhere + `
local first = tonumber(old[3]) or 0
local past = first + redis.call('LLEN', KEYS[1])
local from, n = ARGV[3], tonumber(ARGV[3])
if from == 'end' or n and n > past then
  from = string.format('%.0f', past)
elseif from == 'last' then
  from = string.format('%.0f', math.max(first, past - 1))
elseif n < first then
  from = string.format('%.0f', first)
end
if not redis.call('HGET', KEYS[3], ARGV[2]) then redis.call('HDEL', KEYS[2], ARGV[5]) end
local text = '{"from":' .. from .. ',"epoch":"' .. (old[4] or '') .. '",' .. ARGV[4]
redis.call('HSET', KEYS[3], ARGV[2], text)
return {'ok', text}
`)

// unregister removes the configuration of a consumer, and its record in the ledger. ARGV: 3 the field of the
// record. It returns as register does.
var unregister = redisconn.NewScript(servedElsewhere + `
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[3])
return {'ok', ''}
`)

// restore writes a configuration that Redis has lost. A configuration that is missing while
// this process does not own the list was deleted, unless the ledger is lost too. ARGV: 3 the item
// that the consumer began with, 4 the epoch of that number, 5 the configuration without its "{".
// In another epoch the consumer begins with the head. It returns {"ok"} if Redis has the
// configuration, or {"deleted"}.
var restore = redisconn.NewScript(servedElsewhere + `
if redis.call('HGET', KEYS[3], ARGV[2]) then return {'ok', ''} end
if old[1] ~= ARGV[1] and old[3] then return {'deleted', ''} end
local epoch, from = old[4] or '', ARGV[3]
if epoch ~= ARGV[4] then from = '0' end
redis.call('HSET', KEYS[3], ARGV[2], '{"from":' .. from .. ',"epoch":"' .. epoch .. '",' .. ARGV[5])
return {'ok', ''}
`)

// End and Last are places where a consumer begins: after the last item, and with it.
const (
	End  = "end"
	Last = "last"
)

// Register writes the configuration of a consumer, a JSON object with a field at least, and
// returns it as it stands in Redis: with the fields "from", the number of the item that the
// consumer begins with, and "epoch". from is a number, End or Last. The error may be an
// ErrStandby.
func (s *Store) Register(ctx context.Context, key, name, from, config string) (string, error) {
	result, word, err := s.run(ctx, register, key, name, from, strings.TrimPrefix(config, "{"), ledger.Durable(name))
	if err == nil && result == "standby" {
		err = ErrStandby{word}
	}
	return word, err
}

// Restore writes the configuration of a consumer that this process knows, unless Redis has one,
// and reports whether Redis has one now. Without one the consumer was deleted by another
// process. from is the number of the item that the consumer began with, in this epoch.
func (s *Store) Restore(ctx context.Context, key, name string, from uint64, epoch, config string) (there bool, err error) {
	result, _, err := s.run(ctx, restore, key, name, strconv.FormatUint(from, 10), epoch, strings.TrimPrefix(config, "{"))
	return result == "ok", err
}

// Unregister removes the configuration of a consumer, and its record unless the relay writes it again. The error may be an ErrStandby.
func (s *Store) Unregister(ctx context.Context, key, name string) error {
	result, word, err := s.run(ctx, unregister, key, name, ledger.Durable(name))
	if err == nil && result == "standby" {
		err = ErrStandby{word}
	}
	return err
}

// run calls a script that begins with servedElsewhere.
func (s *Store) run(ctx context.Context, script *redisconn.Script, key, name string, args ...any) (result, word string, err error) {
	keys := ledger.KeysOf(key)
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return script.RunBy(ctx, c, []string{keys.List, keys.Ledger, keys.Consumers}, append([]any{s.holder, name}, args...)...)
	})
	if err != nil {
		return "", "", err
	}
	words, _ := reply.([]any)
	if len(words) != 2 {
		return "", "", errors.New("unexpected reply from the script for a list's consumers")
	}
	result, _ = words[0].(string)
	word, _ = words[1].(string)
	return result, word, nil
}

// Registered returns the configurations of a list's consumers.
func (s *Store) Registered(ctx context.Context, key string) (map[string]string, error) {
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return c.HGetAll(ctx, ledger.KeysOf(key).Consumers).Result()
	})
	if err != nil {
		return nil, err
	}
	all, _ := reply.(map[string]string)
	return all, nil
}
