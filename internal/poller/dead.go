package poller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// Epitaph is the line of JSON in front of a dead letter: its bytes follow
// unchanged behind the line feed.
type Epitaph struct {
	Reason     string    `json:"reason"`
	Time       time.Time `json:"time"`
	Deliveries int       `json:"deliveries"`
	Instance   string    `json:"instance"`
	Size       int       `json:"size"` // bytes; the script writes it, so it stands last
}

// start is the line without the item's size, which the script adds.
func (e Epitaph) start() (string, error) {
	line, err := json.Marshal(e)
	return strings.TrimSuffix(string(line), "0}"), err
}

// DeadLetter is an item that could not be delivered.
type DeadLetter struct {
	Epitaph
	Item []byte
}

// ErrNoList is returned for a key that is none of the lists.
var ErrNoList = errors.New("there is no such list")

// errEnded is returned once the loop has ended.
var errEnded = errors.New("the loop that serves Redis has ended")

// ask has the loop do something between two turns and waits for what it returns.
func ask[T any](ctx context.Context, l *Loop, do func(context.Context) (T, error)) (got T, err error) {
	var answer struct {
		got T
		err error
	}
	answered := make(chan struct{})
	request := func(ctx context.Context) {
		answer.got, answer.err = do(ctx)
		close(answered)
	}
	select {
	case l.requests <- request:
	case <-l.ended:
		return got, errEnded
	case <-ctx.Done():
		return got, ctx.Err()
	}
	l.comeRound()
	select {
	case <-answered:
		return answer.got, answer.err
	case <-l.ended:
		return got, errEnded
	case <-ctx.Done():
		return got, ctx.Err()
	}
}

// serveRequest does one request, if there is one.
func (l *Loop) serveRequest(ctx context.Context) {
	select {
	case do := <-l.requests:
		l.settleAll()
		do(ctx)
	default:
	}
}

// call does something with the client of the server that has the list; once more if
// the list has moved.
func call[T any](s *reader, do func(*redis.Client) (T, error)) (T, error) {
	got, err := do(s.Server.Client())
	if redisconn.Says(err, "MOVED") {
		if atOnce, _ := s.Detour(err); atOnce {
			got, err = do(s.Server.Client())
		}
	}
	return got, err
}

func (l *Loop) reader(key string) *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.byKey[key]; r != nil && r.list.Key == key {
		return r
	}
	return nil
}

// letterHead is how many bytes of a dead letter Dead reads.
const letterHead = 16 << 10

// Dead returns the oldest dead letters of a list, at most n, and how many there
// are. Of an item it returns the first 15 KiB, or more.
func (l *Loop) Dead(ctx context.Context, key string, n int) (letters []DeadLetter, total int64, err error) {
	r := l.reader(key)
	if r == nil {
		return nil, 0, ErrNoList
	}
	h, err := l.part(ctx, r, []string{r.keys.Dead}, "L", n, letterHead, 0, 0)
	for _, h := range h.Items {
		line, item, _ := bytes.Cut(h.Head, []byte("\n"))
		d := DeadLetter{Item: item}
		if json.Unmarshal(line, &d.Epitaph) != nil {
			d = DeadLetter{Epitaph: Epitaph{Reason: "not written by edged", Size: h.Size}, Item: h.Head}
		}
		letters = append(letters, d)
	}
	return letters, h.Length, err
}

// requeue puts dead letters back to the end of their list, without the line that edged wrote before
// them; one without such a line stays as it is. KEYS: 1 list, 2 dead letters, 3 ledger. ARGV: 1 'R' if
// the right end is the head, 2 how many, 3 holder, and for a list with dedup, otherwise empty: 4 items
// of the window, 5 the part that makes the key, 6 whether these are the first. It returns how many, or
// the process that serves the list.
//
// A dead letter is a copy of an item that the window may still have. So the first one that is put back
// is a cut: from there on the items before it do not count, see ledger.Seen.
var requeue = redisconn.NewScript(`
if ARGV[5] ~= '' then
  local old = redis.call('HMGET', KEYS[3], 'owner', 'deadline', 'first', 'seen')
  local now = redis.call('TIME')
  if old[1] and old[1] ~= ARGV[3] and (tonumber(old[2]) or 0) > now[1] * 1000 + math.floor(now[2] / 1000) then return old[1] end
  if ARGV[6] ~= '' and tonumber(old[3]) then
    local cut = string.format('%.0f', old[3] + redis.call('LLEN', KEYS[1]))
    local from, to, items, list, by = string.match(old[4] or '', '^(%d+) (%d+) (%d+) %[([%d,]*)%] (.*)$')
    if not from then from, to, items, list, by = old[3], old[3], ARGV[4], '', ARGV[5] end
    local cuts = {}
    for n in string.gmatch(list, '%d+') do cuts[#cuts + 1] = n end
    if #cuts >= ` + strconv.Itoa(ledger.MaxCuts) + ` then
      if tonumber(cuts[1]) > tonumber(from) then from = cuts[1] end
      table.remove(cuts, 1)
    end
    cuts[#cuts + 1] = cut
    redis.call('LTRIM', KEYS[2], 0, -1)
    redis.call('HSET', KEYS[3], 'seen', from .. ' ' .. to .. ' ' .. items .. ' [' .. table.concat(cuts, ',') .. '] ' .. by)
  end
end
local n = 0
redis.call('LTRIM', KEYS[2], 0, -1) -- at maxmemory RPUSH must not be the first write
for i = 1, tonumber(ARGV[2]) do
  local v = redis.call('LINDEX', KEYS[2], 0)
  if not v then break end
  local _, stop = string.find(v, '^{[^\n]*}\n')
  if stop then v = string.sub(v, stop + 1) end
  redis.call(ARGV[1] == 'R' and 'LPUSH' or 'RPUSH', KEYS[1], v)
  redis.call('LTRIM', KEYS[2], 1, -1)
  n = n + 1
end
return n
`)

// requeueBatch bounds what one script does.
const requeueBatch = 500

// Requeue puts up to n of the dead letters that a list has now, the oldest first,
// back to the end of the list, and returns how many. After each step it calls report,
// whose error ends it.
func (l *Loop) Requeue(ctx context.Context, key string, n int, report func(done, total int) error) (done int, err error) {
	s := l.reader(key)
	if s == nil {
		return 0, ErrNoList
	}
	there, err := ask(ctx, l, func(ctx context.Context) (int64, error) {
		return call(s, func(c *redis.Client) (int64, error) { return c.LLen(ctx, s.keys.Dead).Result() })
	})
	total := min(n, int(there))

	for done < total && err == nil {
		var got int
		most := min(requeueBatch, total-done)
		got, err = l.requeue(ctx, s, most, done == 0)
		done += got
		if got < most {
			break
		}
		if err := report(done, total); err != nil {
			return done, err
		}
	}
	if err != nil && !errors.Is(err, errElsewhere) {
		err = errors.New(redisconn.Explain(err, l.opts.Redis.Where()))
	}
	return done, err
}

// requeue puts up to n dead letters of a list back in one script. first says that they are the first.
func (l *Loop) requeue(ctx context.Context, s *reader, n int, first bool) (done int, err error) {
	return ask(ctx, l, func(ctx context.Context) (int, error) {
		s.more = true
		args := []any{side(s.list.FromRight), n, l.holder, s.list.DedupItems, s.list.Dedup.String(), ""}
		if first {
			args[5] = "1"
		}
		reply, err := call(s, func(c *redis.Client) (any, error) {
			return requeue.RunBy(ctx, c, []string{s.keys.List, s.keys.Dead, s.keys.Ledger}, args...)
		})
		if s.repeats != nil {
			s.claimed = false // it reads the cut
		}
		if holder, standby := reply.(string); standby && err == nil {
			return 0, fmt.Errorf("%w %s serves the list: requeue its dead letters there", errElsewhere, holder)
		}
		n, _ := reply.(int64)
		return int(n), err
	})
}

// errElsewhere refuses to do what only the process that serves a list can.
var errElsewhere = errors.New("instance")
