package poller

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"

	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// Followed is a part of a list, as a viewer reads it.
type Followed struct {
	Epoch string // of the numbers; empty: the list has no ledger yet
	First uint64 // the number of the head
	End   uint64 // one past the last item
	Owner string // of another process that serves the list, if there is one
	Items []Peeked
}

// AtEnd is a From.Number beyond every list.
const AtEnd = noNumber

// follow reads items without a change to anything. KEYS: 1 list, 2 ledger, 3 times. ARGV: 1 'R' if
// the right end is the head, 2 how many items, 3 how many bytes of them, but one item at least,
// 4 the number of the first one, or "since" and 5 the time in ms, 6 this process. It returns
// {length, epoch, number of the head, number of the first item, another owner, times, item, …}.
// Without a ledger the head has number 0.
//
// The items are read a few at a time: Redis can't tell their sizes in advance.
var follow = redisconn.NewScript(`
local length = redis.call('LLEN', KEYS[1])
local known = redis.call('HMGET', KEYS[2], 'epoch', 'first', 'owner', 'deadline')
local first = tonumber(known[2]) or 0
local owner = ''
if known[3] and known[3] ~= ARGV[6] then
  local now = redis.call('TIME')
  if (tonumber(known[4]) or 0) > now[1] * 1000 + math.floor(now[2] / 1000) then owner = known[3] end
end
local times = {}
local from = tonumber(ARGV[4])
if not from then
  times = redis.call('LRANGE', KEYS[3], 0, -1)
  from = first
  for _, seen in ipairs(times) do
    local below, at = string.match(seen, '^(%d+):(%d+)$')
    if below and tonumber(at) < tonumber(ARGV[5]) then from = tonumber(below) end
  end
end
from = math.max(from, first)
local items, bytes, step, at = {}, 0, 1, from - first
local last = math.min(length, at + tonumber(ARGV[2]))
while at < last and bytes < tonumber(ARGV[3]) do
  local upto = math.min(last, at + step)
  local some
  if ARGV[1] == 'R' then
    some = redis.call('LRANGE', KEYS[1], -upto, -at - 1)
  else
    some = redis.call('LRANGE', KEYS[1], at, upto - 1)
  end
  for i = 1, #some do
    local v = some[ARGV[1] == 'R' and #some + 1 - i or i]
    bytes = bytes + #v
    if bytes > tonumber(ARGV[3]) and #items > 0 then break end
    items[#items + 1] = v
  end
  at, step = upto, math.min(step * 2, 64)
end
if #items > 0 and #times == 0 then times = redis.call('LRANGE', KEYS[3], 0, -1) end
local function digits(n) return string.format('%.0f', n) end
local out = {length, known[1] or '', digits(first), digits(from), owner, times}
for _, v in ipairs(items) do out[#out + 1] = v end
return out
`)

// Follow returns up to n items of a list, from a place on, that have so many bytes, but one item
// at least. It is for viewers: it takes nothing of the list, and no turn of the loop.
func (s *Store) Follow(ctx context.Context, key string, fromRight bool, from From, n, bytes int) (Followed, error) {
	keys := ledger.KeysOf(key)
	begin, since := any(from.Number), int64(0)
	if from.Number == AtEnd {
		begin, n = 0, 0
	}
	if !from.Since.IsZero() {
		begin, since = "since", from.Since.UnixMilli()
	}
	reply, err := s.do(key, func(c *redis.Client) (any, error) {
		return follow.RunBy(ctx, c, []string{keys.List, keys.Ledger, keys.Times}, side(fromRight), n, bytes, begin, since, s.holder)
	})
	if err != nil {
		return Followed{}, err
	}
	f, err := followed(reply)
	instance, _, _ := strings.Cut(s.holder, "/")
	if strings.HasPrefix(f.Owner, instance+"/") { // a process of this instance that is gone
		f.Owner = ""
	}
	return f, err
}

// followed reads the reply of follow.
func followed(reply any) (f Followed, err error) {
	words, _ := reply.([]any)
	if len(words) < 6 {
		return f, errors.New("unexpected reply from the script that follows a list")
	}
	length, _ := words[0].(int64)
	f.Epoch, _ = words[1].(string)
	f.First = number(words[2])
	f.End = f.First + uint64(max(0, length))
	f.Owner, _ = words[4].(string)
	seen, _ := words[5].([]any)

	next, times := number(words[3]), dates(ledger.ParseTimes(seen))
	for _, word := range words[6:] {
		text, _ := word.(string)
		f.Items = append(f.Items, Peeked{Number: next, Seen: times.of(next), Head: []byte(text), Size: len(text)})
		next++
	}
	return f, nil
}
