package poller

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// Peeked is an item as it stands in its list.
type Peeked struct {
	Number uint64
	Seen   time.Time // first, by edged, to about a second; zero: not known
	Head   []byte    // its first bytes
	Size   int       // bytes of the whole item
}

// History is a part of a list.
type History struct {
	Items  []Peeked
	Epoch  string // of their numbers
	First  uint64 // the number of the head
	Floor  uint64 // items below are finished, and kept
	Length int64  // of the list
}

// From says where a part of a list begins.
type From struct {
	Number  uint64
	Since   time.Time // not zero: with the first item that was seen then, in place of Number
	Waiting bool      // with the first item that is not finished, in place of both
}

// peek returns, of a part of a list, the size and the first bytes of each item; it changes
// nothing. KEYS: 1 list and, if it has them, 2 ledger, 3 times. ARGV: 1 'R' if the right end is the
// head, 2 how many items, 3 how many bytes of each, 4 the number of the first one, or "floor",
// or "since" and 5 the time in ms. It returns {length, epoch, number of the head, floor,
// number of the first item, times, size, bytes, size, bytes, …}. Without a ledger the head
// has number 0.
var peek = redisconn.NewScript(`
local length = redis.call('LLEN', KEYS[1])
local known = KEYS[2] and redis.call('HMGET', KEYS[2], 'epoch', 'first', 'finished') or {}
local first = tonumber(known[2]) or 0
local floor = math.max(first, tonumber(string.match(known[3] or '', '^%d+')) or 0)
local times = KEYS[3] and redis.call('LRANGE', KEYS[3], 0, -1) or {}
local from = tonumber(ARGV[4])
if ARGV[4] == 'floor' then from = floor end
if ARGV[4] == 'since' then
  from = first
  for _, seen in ipairs(times) do
    local below, at = string.match(seen, '^(%d+):(%d+)$')
    if below and tonumber(at) < tonumber(ARGV[5]) then from = tonumber(below) end
  end
end
from = math.max(from, first)
local function digits(n) return string.format('%.0f', n) end
local out = {length, known[1] or '', digits(first), digits(floor), digits(from), times}
for i = from - first, from - first + tonumber(ARGV[2]) - 1 do
  local v = redis.call('LINDEX', KEYS[1], ARGV[1] == 'R' and -i - 1 or i)
  if not v then break end
  out[#out + 1] = #v
  out[#out + 1] = string.sub(v, 1, tonumber(ARGV[3]))
end
return out
`)

// History returns up to n items of a list, from a place on, of each at most the first
// bytes. Items on their way are among them, and those that are kept.
func (l *Loop) History(ctx context.Context, key string, from From, n, bytes int) (History, error) {
	r := l.reader(key)
	if r == nil {
		return History{}, ErrNoList
	}
	return l.part(ctx, r, []string{r.keys.List, r.keys.Ledger, r.keys.Times}, peekArgs(r.list.FromRight, from, n, bytes)...)
}

// peekArgs are the arguments of peek.
func peekArgs(fromRight bool, from From, n, bytes int) []any {
	begin, since := strconv.FormatUint(from.Number, 10), int64(0)
	switch {
	case from.Waiting:
		begin = "floor"
	case !from.Since.IsZero():
		begin, since = "since", from.Since.UnixMilli()
	}
	return []any{side(fromRight), n, bytes, begin, since}
}

// part runs peek.
func (l *Loop) part(ctx context.Context, r *reader, keys []string, args ...any) (h History, err error) {
	answer, err := ask(ctx, l, func(ctx context.Context) (any, error) {
		return call(r, func(c *redis.Client) (any, error) { return peek.RunBy(ctx, c, keys, args...) })
	})
	if err != nil {
		return h, errors.New(redisconn.Explain(err, l.opts.Redis.Where()))
	}
	return peeked(answer)
}

// peeked reads the reply of peek.
func peeked(answer any) (h History, err error) {
	reply, _ := answer.([]any)
	if len(reply) < 6 {
		return h, errors.New("unexpected reply from the script that reads a list")
	}

	h.Length, _ = reply[0].(int64)
	h.Epoch, _ = reply[1].(string)
	h.First, h.Floor = number(reply[2]), number(reply[3])
	words, _ := reply[5].([]any)
	next, times := number(reply[4]), dates(ledger.ParseTimes(words))
	for i := 6; i+1 < len(reply); i += 2 {
		size, _ := reply[i].(int64)
		head, _ := reply[i+1].(string)
		h.Items = append(h.Items, Peeked{Number: next, Seen: times.of(next), Head: []byte(head), Size: int(size)})
		next++
	}
	return h, nil
}

// dates are the times when items were seen first, of items that are asked for in their order.
type dates []ledger.Time

// of returns the time of an item; zero: it is not known.
func (d *dates) of(n uint64) (at time.Time) {
	for len(*d) > 0 && (*d)[0].Below <= n {
		*d = (*d)[1:]
	}
	if len(*d) > 0 {
		at = (*d)[0].At
	}
	return at
}

// number is the number in a word of a reply; 0: there is none.
func number(word any) uint64 {
	text, _ := word.(string)
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}
