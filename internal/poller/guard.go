package poller

import (
	"strings"

	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// scripts are all that are in use.
var scripts = append([]*redisconn.Script{guard, bury, release, settle, takeFull, giveBack, reclaim, requeue, peek}, ledger.Scripts...)

// The scripts run inside Redis, so between their checks and what they do
// nothing can happen. They move no item through Lua but the one that is buried.
//
// Common to all: KEYS[1] is the list and KEYS[2] its lease, a key whose value
// begins with the holder's name and token and whose time to live is the lease.
// ARGV[1] is this process as a holder.
//
// Removals are numbered, so that a removal whose reply was lost is known to have
// been carried out or not, whatever the items look like; and one that comes late,
// when edged has long gone on, is refused, since it stands on another one's
// number. A lease that is taken anew begins with a number that no removal has.
//
// They work at maxmemory too: a full Redis must be drained, that is how it gets
// room again. Redis refuses what may need memory only as the first write of a
// script, so where need be a write that changes nothing comes before it (LTRIM
// 0 -1, or DEL of what is written next).

// isItem compares the item at an index with a mark; see markOf.
const isItem = `
local function is(index, size, sum, ends)
  local v = redis.call('LINDEX', KEYS[1], index)
  if not v or #v ~= tonumber(size) then return false end
  ends = tonumber(ends)
  if #v > 2 * ends then v = string.sub(v, 1, ends) .. string.sub(v, -ends) end
  return redis.sha1hex(v) == sum
end
`

// before is the number before a call's own, which no removal has.
const before = `
local function before(number) return string.format('%.0f', tonumber(number) - 1) end
`

// lease reads a list's lease: "holder number-of-the-last-removal".
const lease = before + `
local function lease()
  local value = redis.call('GET', KEYS[2])
  if not value then return nil, '0' end
  local holder, serial = string.match(value, '^(.*) (%d+)$')
  return holder or value, serial or '0'
end
`

// guard holds the lease, and removes items from the head if it is still the one
// that was read.
//
// ARGV: 1 holder, 2 what the holders that may be replaced begin with (this
// instance's name, when it has just started), 3 lease in ms, 4 whether to renew,
// 5 items to remove, 6 'R' for a list whose head is the right end, 7 number of
// the last removal, 8 of this call, 9 markEnd, and from 10 on what must be so for
// the head to be the one that was read: an item's place counted from the head,
// its size and its sum, again and again.
//
// It returns {what, length of the list, holder, number of the last removal}: what
// is "ok", "moved" (the head is another one, nothing was removed), "lost" (the
// lease had run out: it is held again, but nothing was removed) or "standby"
// (another holder).
//
// What the user may not do fails before anything is changed: a removal without its
// number would be taken for one that has not been carried out.
var guard = redisconn.NewScript(isItem + lease + `
local holder, serial = lease()
local what = 'ok'
if holder == ARGV[1] then
  if ARGV[4] == '1' then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
  if serial ~= ARGV[7] then what = 'moved' end
elseif holder and not (#ARGV[2] > 0 and string.sub(holder, 1, #ARGV[2]) == ARGV[2]) then
  return {'standby', redis.call('LLEN', KEYS[1]), holder, '0'}
else
  redis.call('DEL', KEYS[2])
  serial = before(ARGV[8])
  redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. serial, 'PX', ARGV[3])
  what = 'lost'
end
for i = 10, #ARGV, 3 do
  local place = tonumber(ARGV[i])
  if ARGV[6] == 'R' then place = -1 - place end
  if what == 'ok' and not is(place, ARGV[i + 1], ARGV[i + 2], ARGV[9]) then what = 'moved' end
end
local n = tonumber(ARGV[5])
if what == 'ok' and n > 0 then
  redis.call('LTRIM', KEYS[1], 0, -1)
  serial = ARGV[8]
  redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. serial, 'PX', ARGV[3])
  if ARGV[6] == 'R' then redis.call('LTRIM', KEYS[1], 0, -n - 1)
  else redis.call('LTRIM', KEYS[1], n, -1) end
end
-- LLEN stands last for a reason: reading the list here makes Redis track it
-- again, after the LTRIM has ended that.
return {what, redis.call('LLEN', KEYS[1]), ARGV[1], serial}
`)

// bury moves the head to the dead-letter list, KEYS[3], behind a line that says
// why. ARGV: 1 holder, 2 'R' or 'L', 3-5 the head's size and sum and markEnd,
// 6 the line, 7 number of the last removal, 8 of this one, 9 lease in ms. It
// returns the same as guard.
//
// It writes the dead letter before it removes the item, and before both the number
// that stands there already, so that nothing is lost or miscounted where the user may
// not do the one or the other.
var bury = redisconn.NewScript(isItem + lease + `
local holder, serial = lease()
if holder and holder ~= ARGV[1] then
  return {'standby', redis.call('LLEN', KEYS[1]), holder, '0'}
elseif not holder then
  return {'moved', redis.call('LLEN', KEYS[1]), ARGV[1], serial}
end
local head = 0
if ARGV[2] == 'R' then head = -1 end
if serial ~= ARGV[7] or not is(head, ARGV[3], ARGV[4], ARGV[5]) then
  return {'moved', redis.call('LLEN', KEYS[1]), ARGV[1], serial}
end
redis.call('LTRIM', KEYS[1], 0, -1)
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. serial, 'PX', ARGV[9])
redis.call('RPUSH', KEYS[3], ARGV[6] .. '\n' .. redis.call('LINDEX', KEYS[1], head))
if ARGV[2] == 'R' then redis.call('LTRIM', KEYS[1], 0, -2) else redis.call('LTRIM', KEYS[1], 1, -1) end
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[8], 'PX', ARGV[9])
return {'ok', redis.call('LLEN', KEYS[1]), ARGV[1], ARGV[8]}
`)

// release gives the lease back if it is this holder's. ARGV: 1 holder.
var release = redisconn.NewScript(lease + `
if lease() == ARGV[1] then return redis.call('DEL', KEYS[2]) end
return 0
`)

// Lists whose items are acknowledged one by one: the items on their way are in an
// in-flight list of each instance, and an instance is alive while its lease
// stands. Only the holder of that lease touches the in-flight list, until it has
// run out: then another instance gives the items back.
//
// KEYS: 1 list, 2 lease, 3 dead letters, 4 in-flight list, 5 instances: a hash of
// those that may have something in flight, with the number of their last removal,
// or "gone": an instance whose items others gave back, or that has ended, learns
// of it that way.

// settle holds the lease and removes items from the in-flight list.
//
// ARGV: 1 holder, 2 what the holder that may be replaced begins with, 3 lease in
// ms, 4 whether to renew, 5 this instance's name, 6 a value that no item has,
// 7 number of the last removal, 8 of this call, 9 how many items to remove from
// the front, 10 how many must be in flight for the indexes to be right; then for
// each other item its index and, where it is dead, the line in front of it in the
// dead letters, else "".
//
// It returns {what, length of the list, holder, number of the last removal}: what
// is "ok", "lost" (what was in flight has been given back, or is a former life's:
// nothing was removed), "moved" (something else is in flight, nothing was removed)
// or "standby" (another process of this name).
//
// Dead letters are written before anything is removed, and what the user may not
// do fails before anything is changed.
var settle = redisconn.NewScript(before + `
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] and not (#ARGV[2] > 0 and string.sub(holder, 1, #ARGV[2]) == ARGV[2]) then
  return {'standby', redis.call('LLEN', KEYS[1]), holder, '0'}
end
local serial = redis.call('HGET', KEYS[5], ARGV[5]) or 'gone'
local what = 'ok'
if holder ~= ARGV[1] then
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
elseif ARGV[4] == '1' then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
if #ARGV[2] > 0 or serial == 'gone' then
  redis.call('LTRIM', KEYS[4], 0, -1)
  serial = before(ARGV[8])
  redis.call('HSET', KEYS[5], ARGV[5], serial)
  what = 'lost'
elseif serial ~= ARGV[7] or redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[10]) then
  what = 'moved'
end
local front = tonumber(ARGV[9])
if what == 'ok' and (front > 0 or #ARGV > 10) then
  redis.call('LTRIM', KEYS[4], 0, -1)
  if #ARGV > 10 then
    redis.call('HSET', KEYS[5], ARGV[5], serial)
    redis.call('LREM', KEYS[4], 1, ARGV[6])
    redis.call('LSET', KEYS[4], ARGV[11], redis.call('LINDEX', KEYS[4], ARGV[11]))
  end
  for i = 11, #ARGV, 2 do
    if #ARGV[i + 1] > 0 then
      redis.call('RPUSH', KEYS[3], ARGV[i + 1] .. '\n' .. redis.call('LINDEX', KEYS[4], ARGV[i]))
    end
  end
  serial = ARGV[8]
  redis.call('HSET', KEYS[5], ARGV[5], serial)
  for i = 11, #ARGV, 2 do redis.call('LSET', KEYS[4], ARGV[i], ARGV[6]) end
  if front > 0 then redis.call('LTRIM', KEYS[4], front, -1) end
  if #ARGV > 10 then redis.call('LREM', KEYS[4], 0, ARGV[6]) end
end
return {what, redis.call('LLEN', KEYS[1]), ARGV[1], serial}
`)

// takeFull moves up to ARGV[2] items to the in-flight list where LMOVE alone is
// refused because Redis is full. ARGV[1] is 'R' where the right end is the head.
var takeFull = redisconn.NewScript(`
local moved = {}
redis.call('LTRIM', KEYS[4], 0, -1)
for i = 1, tonumber(ARGV[2]) do
  local v = redis.call('LMOVE', KEYS[1], KEYS[4], ARGV[1] == 'R' and 'RIGHT' or 'LEFT', 'RIGHT')
  if not v then break end
  moved[i] = v
end
return moved
`)

// giveBack puts the last ARGV[6] items of this instance's in-flight list, or all
// where that is 0, back to the head of the list, in their old order. It counts as
// a removal. ARGV: 1 holder, 2 'R' where the right end is the head, 3 this
// instance's name, 4 number of the last removal, 5 of this one. It returns how
// many, or -1 where the list is not this process's or something else is in flight.
var giveBack = redisconn.NewScript(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('HGET', KEYS[5], ARGV[3]) ~= ARGV[4] then return -1 end
local n, most = 0, tonumber(ARGV[6])
redis.call('LTRIM', KEYS[4], 0, -1)
redis.call('HSET', KEYS[5], ARGV[3], ARGV[5])
while most == 0 or n < most do
  if not redis.call('LMOVE', KEYS[4], KEYS[1], 'RIGHT', ARGV[2] == 'R' and 'RIGHT' or 'LEFT') then break end
  n = n + 1
end
return n
`)

// reclaim gives back what another instance left in flight, whose lease KEYS[2]
// must have run out. One with nothing in flight is looked at twice before it is
// struck off: what it had sent may come late. ARGV: 1 'R' where the right end is
// the head, 2 the instance's name. It returns how many.
var reclaim = redisconn.NewScript(`
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local n = 0
redis.call('LTRIM', KEYS[4], 0, -1)
while redis.call('LMOVE', KEYS[4], KEYS[1], 'RIGHT', ARGV[1] == 'R' and 'RIGHT' or 'LEFT') do n = n + 1 end
if n == 0 and redis.call('HGET', KEYS[5], ARGV[2]) == 'gone' then
  redis.call('HDEL', KEYS[5], ARGV[2])
else
  redis.call('HSET', KEYS[5], ARGV[2], 'gone')
end
return n
`)

// Keys beside a list live in its hash slot, so that a script may use them
// together in a cluster.

func aliveKey(list, instance string) string { return tagged(list) + ":edged:alive:" + instance }

func inFlightKey(list, instance string) string { return tagged(list) + ":edged:inflight:" + instance }

func instancesKey(list string) string { return tagged(list) + ":edged:instances" }

func leaseKey(list string) string { return tagged(list) + ":edged:lease" }

// DeadKey is the dead-letter list of a list.
func DeadKey(list string) string { return tagged(list) + ":dead" }

// tagged returns list with a hash tag that puts it into list's slot: the one it
// has, or all of it. https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
func tagged(list string) string {
	if _, behind, ok := strings.Cut(list, "{"); ok && strings.Index(behind, "}") > 0 {
		return list
	}
	return "{" + list + "}"
}
