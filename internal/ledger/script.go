package ledger

import (
	"strconv"

	"edged/internal/redisconn"
)

// Scripts are all scripts of this package, to be loaded into a server.
var Scripts = []*redisconn.Script{update, claim, release, Look, stands}

// Nothing else runs in Redis between a script's checks and its changes.
//
// Common to all: KEYS are those of Keys, in the order of all; ARGV[1] is
// the holder and ARGV[2] "R" if the list's head is its right end. They return
// {result, length of the list, word, serial, first}; word is the other holder for
// "standby", for "moved" the part that was not as expected, and for "ok" "full" if it was
// asked whether Redis is, and it is.
//
// All are written in the same order: reads, writes that change nothing, changes. The
// first two fail if the ACL denies the command, so no call is half done. Only the
// last LLEN comes later: without it everything is done, as after a lost reply, and
// no claim succeeds. The writes that change nothing are commands that Redis allows at
// maxmemory: it refuses a command that may need memory only as the first write of a
// script.
//
// Numbers stay strings unless they are counted with: Lua writes a number with 14
// digits at most.
var prelude = `
local list, ledger, dead, aside, times, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[8]
local holder, side = ARGV[1], ARGV[2]

local function item(index)
  if side == 'R' then index = -1 - index end
  return redis.call('LINDEX', list, index)
end

local function mark(v)
  if not v then return '' end
  local size = #v
  if size > ` + strconv.Itoa(2*markEnd) + ` then
    v = string.sub(v, 1, ` + strconv.Itoa(markEnd) + `) .. string.sub(v, -` + strconv.Itoa(markEnd) + `)
  end
  return size .. ':' .. redis.sha1hex(v)
end

local function isNumber(text) return text and string.find(text, '^%d+$') end

local function isEpoch(text) return text and #text <= 64 and string.find(text, '^%w+$') end

local function digits(n) return string.format('%.0f', n) end

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
`

// update checks, and then changes list and ledger.
//
// ARGV: 3 epoch, 4 serial, 5 this call's serial, 6 whether it changes anything,
// 7 lease in ms if the deadline is due, 8 items to remove, 9 the head's number if it may be another item,
// 10 how many landmarks and 11 how many fields to write follow, each with two words,
// 12 whether items are kept, 13 the mark of the head after the removal if the caller knows
// it. After them, if there are any: how many dead letters, items to set aside, items set
// aside no longer, fields to delete and times follow, how many times go, how many parts of the
// keys of removed items follow, and these.
// Whether Redis is full the first write tells, which needs memory.
//
// The length is read last: reading the list makes Redis track it again, after
// LTRIM has ended that.
var update = redisconn.NewScript(prelude + `
local old = redis.call('HMGET', ledger, 'serial', 'owner', 'epoch', 'head', 'first')
local serial, first = old[1] or '0', old[5] or '0'
local function reply(result, word) return {result, redis.call('LLEN', list), word, serial, first} end

if not tonumber(old[1]) or not tonumber(old[5]) then
  serial, first = '0', '0'
  return reply('lost', '')
end
if old[2] and old[2] ~= holder then return reply('standby', old[2]) end
if not old[2] then return reply('moved', 'owner') end
if serial ~= ARGV[4] then return reply('moved', 'serial') end
if old[3] ~= ARGV[3] then return reply('moved', 'epoch') end

local head = mark(item(0))
if ARGV[9] == '' and old[4] and old[4] ~= '' and old[4] ~= head then return reply('moved', 'head') end
local at = 14
for _ = 1, tonumber(ARGV[10]) do
  if (ARGV[at] == '0' and head or mark(item(tonumber(ARGV[at])))) ~= ARGV[at + 1] then return reply('moved', 'landmark') end
  at = at + 2
end
if ARGV[6] == '' then return reply('ok', '') end

local trim, deadline = tonumber(ARGV[8]), nil
if ARGV[7] ~= '' then deadline = digits(clock() + ARGV[7]) end
if trim > 0 then
  local least = trim
  head = ARGV[13]
  if head == '' then head = mark(item(trim)) else least = trim + 1 end
  if (head == '' or least > trim) and redis.call('LLEN', list) < least then return reply('moved', 'length') end
end
local sets, nSets = at, 2 * tonumber(ARGV[11])
at = at + nSets
local more = ARGV[at]
local nDead, nAside, nRestored, nDelete, nTimes, timesGone, nSeen = 0, 0, 0, 0, 0, 0, 0
if more then
  nDead, nAside = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  nRestored, nDelete = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  nTimes, timesGone = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  nSeen = tonumber(ARGV[at + 6])
  at = at + 7
end
local copies = {}
for i = 1, nDead + nAside do
  local place = ARGV[at + 2 * (i - 1)]
  if string.sub(place, 1, 1) == '#' then
    copies[i] = redis.call('HGET', aside, string.sub(place, 2))
  else
    copies[i] = item(tonumber(place))
  end
  if not copies[i] then return reply('moved', 'item') end
end

local full = ''
if ARGV[12] ~= '' then
  local written = redis.pcall('HSET', ledger, 'serial', serial)
  if type(written) == 'table' then
    if not string.find(written.err, '^OOM') then return written end
    full = 'full'
  end
end
if trim > 0 then redis.call('LTRIM', list, 0, -1) else redis.call('HDEL', ledger, '') end
if more then
  redis.call('HDEL', ledger, '')
  redis.call('HDEL', aside, '')
  if nTimes > 0 or timesGone ~= 0 then redis.call('LTRIM', times, 0, -1) end
  if nSeen > 0 then redis.call('SETRANGE', seen, 0, '') end
  redis.call('HSET', ledger, 'serial', serial)
end

for i = 1, nDead do
  redis.call('RPUSH', dead, ARGV[at + 1] .. #copies[i] .. '}\n' .. copies[i])
  at = at + 2
end
for i = nDead + 1, nDead + nAside do
  redis.call('HSET', aside, ARGV[at + 1], copies[i])
  at = at + 2
end
for _ = 1, nRestored do
  redis.call('HDEL', aside, ARGV[at])
  at = at + 1
end
for _ = 1, nDelete do
  redis.call('HDEL', ledger, ARGV[at])
  at = at + 1
end

if timesGone < 0 then redis.call('LTRIM', times, 1, 0) elseif timesGone > 0 then redis.call('LTRIM', times, timesGone, -1) end
for _ = 1, nTimes do
  redis.call('RPUSH', times, ARGV[at])
  at = at + 1
end
for _ = 1, nSeen do
  redis.call('SETRANGE', seen, ARGV[at], ARGV[at + 1])
  at = at + 2
end

serial = ARGV[5]
if ARGV[9] ~= '' then first = ARGV[9] end
if trim > 0 then first = digits(first + trim) end
local fields, n = {'serial', serial, 'first', first, 'head', head}, 6
if deadline then
  fields[7], fields[8], fields[9], fields[10], n = 'deadline', deadline, 'lease', ARGV[7], 10
end
for i = sets, sets + nSets - 1 do
  n = n + 1
  fields[n] = ARGV[i]
end
redis.call('HSET', ledger, unpack(fields))

if trim > 0 then
  if side == 'R' then redis.call('LTRIM', list, 0, -1 - trim) else redis.call('LTRIM', list, trim, -1) end
end
return reply('ok', full)
`)

// Look returns the mark of an item; it is empty if there is no such item. KEYS: 1 list.
// ARGV: 3 the item's index from the head.
var Look = redisconn.NewScript(prelude + `return mark(item(tonumber(ARGV[3])))`)

// claim takes or keeps the ownership, and makes the ledger if there is none.
//
// ARGV: 3 the prefix of holders that are replaced at once, 4 lease in ms,
// 5 whether it is the process's first, 6 grace in ms, 7 a new epoch, also if the ledger's is malformed, 8 the head's
// number in a new ledger, 9 this call's serial, 10 Redis's name for its own id.
//
// A claim writes since, "serial of the claim:serial of the last update by this owner",
// so that after claims whose reply was lost the next one tells whether that update was
// carried out.
//
// It returns six elements more: {made the ledger, another run id, another head,
// serial of the last update, now, whether the owner was the same since}, the fields as they were, those that it wrote, and the numbers
// of the items set aside, the times, the consumers' configurations. It reads them first, since the ACL may deny that.
//
// A deadline further ahead than its lease was written before the clock was set
// back. It counts from now on.
var claim = redisconn.NewScript(prelude + `
local old = redis.call('HMGET', ledger, 'serial', 'owner', 'deadline', 'lease', 'run', 'head', 'first', 'grace', 'since', 'epoch')
local serial, owner, first = old[1], old[2], old[7]
local instead, lease = ARGV[3], tonumber(ARGV[4])
local now = clock()
local made = not isNumber(serial) or not isNumber(first)
if made then serial, first = '0', ARGV[8] end
local function reply(result, word) return {result, redis.call('LLEN', list), word, serial, first} end

if owner and owner ~= holder and (instead == '' or string.sub(owner, 1, #instead) ~= instead) then
  local deadline, most = tonumber(old[3]) or 0, now + (tonumber(old[4]) or lease)
  if deadline > most then
    redis.call('HDEL', ledger, '')
    redis.call('HSET', ledger, 'deadline', digits(most))
  end
  if deadline > now then
    local all = reply('standby', owner)
    all[6] = digits(math.min(deadline, most) - now)
    return all
  end
end

redis.call('LLEN', list)
local fields = made and {} or redis.call('HGETALL', ledger)
local waiting = redis.call('HKEYS', aside)
local dates = redis.call('LRANGE', times, 0, -1)
local consumers = redis.call('HGETALL', KEYS[7])
local info = redis.pcall('INFO', ARGV[10] == 'run_id' and 'server' or 'replication')
local run = type(info) == 'string' and string.match(info, ARGV[10] .. ':(%x+)') or ''
local before = serial
local updated = serial
local claimed, last = string.match(old[9] or '', '^(%d+):(%d*)$')
if claimed == serial then updated = last end
serial = ARGV[9]
if tonumber(serial) <= tonumber(before) then serial = digits(before + 1) end
local otherRun = not made and run ~= (old[5] or '')

redis.call('HDEL', ledger, '')
redis.call('HDEL', aside, '')
if made then
  redis.call('DEL', ledger)
  table.sort(waiting, function(a, b) return tonumber(a) > tonumber(b) end)
  for _, number in ipairs(waiting) do
    redis.call(side == 'R' and 'RPUSH' or 'LPUSH', list, redis.call('HGET', aside, number))
    redis.call('HDEL', aside, number)
  end
  waiting = {}
  redis.call('LTRIM', times, 1, 0)
  dates = {}
end

local head = mark(item(0))
local otherHead = not made and old[6] and old[6] ~= '' and old[6] ~= head
local written = {'serial', serial, 'owner', holder, 'since', serial .. ':' .. (owner == holder and updated or '')}
local function set(name, value)
  written[#written + 1] = name
  written[#written + 1] = value
end
if made or otherRun or not isEpoch(old[10]) then set('epoch', ARGV[7]) end
if made then
  set('first', first)
  set('head', head)
end
set('deadline', digits(now + lease))
set('lease', ARGV[4])
set('run', run)
local starts = ARGV[5] ~= '' or owner ~= holder
if starts and (made or not isNumber(old[8]) or tonumber(old[8]) <= now) and tonumber(ARGV[6]) > 0 then set('grace', digits(now + ARGV[6])) end
redis.call('HSET', ledger, unpack(written))

local all = reply('ok', holder)
all[6] = {made and 1 or 0, otherRun and 1 or 0, otherHead and 1 or 0, updated ~= '' and updated or before, digits(now),
  owner == holder and updated ~= '' and 1 or 0}
all[7], all[8], all[9], all[10], all[11] = fields, written, waiting, dates, consumers
return all
`)

// release gives the ownership back if it is this holder's. The deadline becomes the time of that.
var release = redisconn.NewScript(prelude + `
local old = redis.call('HMGET', ledger, 'serial', 'owner', 'first')
local serial, first, result, word = old[1], old[3], 'ok', ''
if not isNumber(serial) or not isNumber(first) then
  serial, first, result = '0', '0', 'lost'
elseif old[2] == holder then
  redis.call('HDEL', ledger, 'owner')
  redis.pcall('HSET', ledger, 'deadline', digits(clock()))
  redis.pcall('SET', KEYS[5], '1', 'PX', 1000)
elseif old[2] then
  result, word = 'standby', old[2]
end
return {result, redis.call('LLEN', list), word, serial, first}
`)
