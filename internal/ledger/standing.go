package ledger

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"edged/internal/numbers"
	"edged/internal/redisconn"
)

// Standing is a list as Redis has it, for a process that does not serve it.
type Standing struct {
	Length   int64
	Holder   string    // the owner; empty if there is none, its lease has ended, or it is a process of this instance
	Own      string    // the owner, if it is a process of this instance, this one included
	OwnUntil string    // when its lease ends, by Redis's clock
	Serial   string    // of the ledger; empty: there is none
	First    uint64    // the number of the head
	Done     uint64    // items below are confirmed by at least one consumer
	Finished uint64    // items below are finished
	Epoch    string    // of these numbers
	Served   time.Time // when a process served the list last; zero: that is not known
	Durables []Absent  // by name
	Same     bool      // the serial is the known one, or there is a Holder: Durables are not told
}

// Absent is a durable consumer in a Standing.
type Absent struct {
	Name   string
	Config string      // its configuration; empty: only the ledger knows it
	Placed bool        // the ledger knows …
	Acked  numbers.Set // … which items it has confirmed
}

// stands reads a list and changes nothing. KEYS: 1 list, 2 ledger, 3 consumers. ARGV: 1 the
// serial for which the caller knows the consumers, 2 the prefix of holders that do not count as
// owners. It returns {length, owner, serial, first, done, finished, epoch, ms since a process served
// the list or "", the names and configurations of consumers, and the fields of the ledger}. The last
// two are left out if the serial is the known one, or there is an owner.
//
// An owner renews its lease after a third of it: one that is gone has served the list until then.
//
// Without an owner each change of a consumer gives the ledger another serial.
var stands = redisconn.NewScript(`
local is = redis.call('HMGET', KEYS[2], 'owner', 'serial', 'first', 'done', 'finished', 'epoch', 'deadline', 'lease')
local t = redis.call('TIME')
local now, owner, deadline, ago, own = t[1] * 1000 + math.floor(t[2] / 1000), is[1], tonumber(is[7]), '', ''
if deadline then
  local served = deadline
  if owner then served = deadline - (tonumber(is[8]) or 0) * 2 / 3 end
  ago = string.format('%.0f', math.max(0, now - served))
  if deadline <= now then owner = false end
end
if owner and string.sub(owner, 1, #ARGV[2]) == ARGV[2] then
  own = (is[7] or '') .. ' ' .. owner
  owner = false
end
local out = {redis.call('LLEN', KEYS[1]), owner or '', is[2] or '', is[3] or '', is[4] or '', is[5] or '', is[6] or '', ago, own}
if not owner and (not is[2] or is[2] ~= ARGV[1]) then
  out[10] = redis.call('HGETALL', KEYS[3])
  out[11] = redis.call('HGETALL', KEYS[2])
end
return out
`)

// Stand is the command that reads a Standing. The caller knows the consumers as they are with a
// serial, which may be empty. Holders with a prefix do not count.
func Stand(k Keys, known, own string) []any {
	return stands.Call([]string{k.List, k.Ledger, k.Consumers}, known, own)
}

// ParseStanding reads the reply to Stand.
func ParseStanding(reply any) (s Standing, err error) {
	all, _ := reply.([]any)
	if len(all) < 9 {
		return s, errors.New("unexpected reply from the script that reads a ledger")
	}
	var words [9]string
	for i := range words {
		words[i], _ = all[i].(string)
	}
	s.Length, _ = all[0].(int64)
	s.Holder, s.Serial, s.Epoch = words[1], words[2], words[6]
	s.OwnUntil, s.Own, _ = strings.Cut(words[8], " ")
	_ = parse(&s.First, words[3])
	_ = parse(&s.Done, words[4])
	finished, _ := numbers.Parse(words[5])
	s.Finished, s.Done = max(s.First, finished.Floor()), max(s.First, s.Done)
	var ago uint64
	if parse(&ago, words[7]) == nil {
		s.Served = time.Now().Add(-time.Duration(ago) * time.Millisecond)
	}
	if s.Same = len(all) < 11; !s.Same {
		configs, _ := all[9].([]any)
		fields, _ := all[10].([]any)
		s.Durables = durables(configs, fields)
	}
	return s, nil
}

// durables reads the two last parts of a reply to Stand.
func durables(configs, fields []any) (all []Absent) {
	byName := make(map[string]Absent)
	for i := 0; i+1 < len(configs); i += 2 {
		name, _ := configs[i].(string)
		config, _ := configs[i+1].(string)
		byName[name] = Absent{Name: name, Config: config}
	}
	for i := 0; i+1 < len(fields); i += 2 {
		field, _ := fields[i].(string)
		name, ok := strings.CutPrefix(field, durablePrefix)
		if !ok {
			continue
		}
		text, _ := fields[i+1].(string)
		d := byName[name]
		acked, err := numbers.Parse(text)
		d.Name, d.Acked, d.Placed = name, acked, err == nil
		byName[name] = d
	}
	for _, d := range byName {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Absent) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
