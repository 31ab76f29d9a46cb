package poller

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"edged/internal/redisconn"
)

// Peeked is an item as it waits in its list.
type Peeked struct {
	Head []byte // its first bytes
	Size int    // bytes of the whole item
}

// peek returns the length of a list and of items from its head on the size and
// the first bytes; it changes nothing. KEYS: 1 list. ARGV: 1 'R' where the right
// end is the head, 2 how many items, 3 how many bytes of each.
var peek = redisconn.NewScript(`
local out = {redis.call('LLEN', KEYS[1])}
for i = 1, tonumber(ARGV[2]) do
  local v = redis.call('LINDEX', KEYS[1], ARGV[1] == 'R' and -i or i - 1)
  if not v then break end
  out[#out + 1] = #v
  out[#out + 1] = string.sub(v, 1, tonumber(ARGV[3]))
end
return out
`)

// Peek returns up to n items at the head of a list, of each at most the first
// bytes, and how many items the list has. What is on its way is among them, but
// for explicit lists, whose items are elsewhere then.
func (l *Loop) Peek(ctx context.Context, key string, n, bytes int) (items []Peeked, total int64, err error) {
	return l.heads(ctx, key, n, bytes, func(s *lane) (string, string) {
		if s.list.FromRight {
			return s.keys[0], "R"
		}
		return s.keys[0], "L"
	})
}

// heads peeks at the list that where names, and the side of its head.
func (l *Loop) heads(ctx context.Context, key string, n, bytes int, where func(*lane) (key, side string)) (items []Peeked, total int64, err error) {
	s := l.lane(key)
	if s == nil {
		return nil, 0, ErrNoList
	}

	list, side := where(s)
	answer, err := ask(ctx, l, func(ctx context.Context) (any, error) {
		return call(s, func(c *redis.Client) (any, error) { return peek.RunBy(ctx, c, []string{list}, side, n, bytes) })
	})
	if err != nil {
		return nil, 0, errors.New(redisconn.Explain(err, l.opts.Redis.Where()))
	}

	reply, _ := answer.([]any)
	if len(reply) > 0 {
		total, _ = reply[0].(int64)
	}
	for i := 1; i+1 < len(reply); i += 2 {
		size, _ := reply[i].(int64)
		head, _ := reply[i+1].(string)
		items = append(items, Peeked{[]byte(head), int(size)})
	}
	return items, total, nil
}
