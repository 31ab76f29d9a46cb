package poller

import (
	"time"

	"edged/internal/redisconn"
)

// Redis builds the reply to a read in its memory, with as many items as were asked for, however
// large they are: 30 items of 60 MiB behind small ones took 1.8 GiB. It can't tell the sizes of
// items in advance, but how much memory a list takes. If that is much more than items as were
// read last explain, there are larger ones, and reads go by a script that stops in time.

const (
	weighEvery = 100 * time.Millisecond
	weighOld   = time.Second // an older weight counts for nothing
	unweighed  = 2           // items that are read without a weight

	// spare is how many bytes more than explained a list may take. So much more, and what is
	// pushed within weighEvery, a reply may have.
	spare = 32 << 20
)

// within reads items from the head on, in the order of LRANGE, but no more than so many bytes,
// except for a single item. KEYS: 1 list. ARGV: 1 "R" if the right end is the head, 2 index of
// the first, 3 how many, 4 bytes.
var within = redisconn.NewScript(`
local out, bytes = {}, 0
for i = tonumber(ARGV[2]), ARGV[2] + ARGV[3] - 1 do
  local v = redis.call('LINDEX', KEYS[1], ARGV[1] == 'R' and -1 - i or i)
  if not v then break end
  bytes = bytes + #v
  if bytes > tonumber(ARGV[4]) and #out > 0 then break end
  out[#out + 1] = v
end
if ARGV[1] == 'R' then
  for i = 1, math.floor(#out / 2) do out[i], out[#out + 1 - i] = out[#out + 1 - i], out[i] end
end
return out
`)

// weight is the memory that a list takes, as far as it is known.
type weight struct {
	known bool      // Redis tells
	at    time.Time // when it was asked last
	heavy bool      // there are larger items than those that were read last
}

// old reports whether a read of many items has to wait for a new weight.
func (w *weight) old(now time.Time) bool { return w.known && now.Sub(w.at) > weighOld }

// due reports whether to ask anew with a read of so many items.
func (w *weight) due(now time.Time, items int) bool {
	wait := weighEvery
	if !w.known && !w.at.IsZero() {
		wait = time.Minute // the ACL, or the server, does not let edged ask
	}
	return now.Sub(w.at) >= wait && items >= unweighed
}

// weighed notes the reply to MEMORY USAGE, for a list of so many items, of which those read last
// had a mean size.
func (w *weight) weighed(reply any, err error, now time.Time, items, mean int) {
	bytes, ok := reply.(int64)
	if w.at = now; err != nil || !ok {
		w.known, w.heavy = false, false
		return
	}
	const besides = 16 // bytes that an item takes beside its own
	w.known, w.heavy = true, bytes-int64(items)*int64(mean+besides)*3/2 > spare
}

// weigh reads the reply to MEMORY USAGE.
func (r *reader) weigh(c *redisconn.Conn, x *exchange) error {
	bytes, err := c.Value()
	r.weight.weighed(bytes, err, x.now, int(r.end-r.first), r.mean)
	return err
}
