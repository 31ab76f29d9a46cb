package poller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

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

// requeue puts dead letters back to the end of their list, without what stands
// in front of them; what has no line in front stays as it is. KEYS: 1 list, 2
// dead letters. ARGV: 1 'R' where the right end is the head, 2 how many.
var requeue = redisconn.NewScript(`
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
		got, err = l.requeue(ctx, s, most)
		done += got
		if got < most {
			break
		}
		if err := report(done, total); err != nil {
			return done, err
		}
	}
	if err != nil {
		return done, errors.New(redisconn.Explain(err, l.opts.Redis.Where()))
	}
	return done, nil
}

// requeue puts up to n dead letters of a list back in one script.
func (l *Loop) requeue(ctx context.Context, s *reader, n int) (done int, err error) {
	return ask(ctx, l, func(ctx context.Context) (int, error) {
		s.more = true
		return call(s, func(c *redis.Client) (int, error) {
			reply, err := requeue.RunBy(ctx, c, []string{s.keys.List, s.keys.Dead}, side(s.list.FromRight), n)
			n, _ := reply.(int64)
			return int(n), err
		})
	})
}
