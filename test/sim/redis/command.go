package redis

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// commands are those that the server knows, by their names in capitals; the name of
// a subcommand is "CLIENT|ID". Each line has the name, the number of words (negative:
// that many or more), flags, and the places of the first and the last key and the
// step between keys, as COMMAND INFO of Redis gives them.
//
// Flags: w writes, r reads, o is denied at maxmemory, l is allowed while loading,
// b is allowed while a script is busy, s is not allowed in scripts, a changes its
// key whatever the reply is, unless that is an error.
var commands = parseCommands(`
append 3 woa 1 1 1
decr 2 woa 1 1 1
decrby 3 woa 1 1 1
get 2 r 1 1 1
getdel 2 w 1 1 1
getex -2 w 1 1 1
getrange 4 r 1 1 1
getset 3 woa 1 1 1
incr 2 woa 1 1 1
incrby 3 woa 1 1 1
incrbyfloat 3 woa 1 1 1
mget -2 r 1 -1 1
mset -3 wo 1 -1 2
msetnx -3 wo 1 -1 2
psetex 4 wo 1 1 1
set -3 wo 1 1 1
setex 4 wo 1 1 1
setnx 3 wo 1 1 1
setrange 4 wo 1 1 1
strlen 2 r 1 1 1

hdel -3 w 1 1 1
hexists 3 r 1 1 1
hget 3 r 1 1 1
hgetall 2 r 1 1 1
hincrby 4 woa 1 1 1
hincrbyfloat 4 woa 1 1 1
hkeys 2 r 1 1 1
hlen 2 r 1 1 1
hmget -3 r 1 1 1
hmset -4 wo 1 1 1
hscan -3 r 1 1 1
hset -4 woa 1 1 1
hsetnx 4 wo 1 1 1
hstrlen 3 r 1 1 1
hvals 2 r 1 1 1

lindex 3 r 1 1 1
linsert 5 wo 1 1 1
llen 2 r 1 1 1
lmove 5 wo 1 2 1
lpop -2 w 1 1 1
lpos -3 r 1 1 1
lpush -3 wo 1 1 1
lpushx -3 wo 1 1 1
lrange 4 r 1 1 1
lrem 4 w 1 1 1
lset 4 wo 1 1 1
ltrim 4 w 1 1 1
rpop -2 w 1 1 1
rpoplpush 3 wo 1 2 1
rpush -3 wo 1 1 1
rpushx -3 wo 1 1 1

sadd -3 wo 1 1 1
scard 2 r 1 1 1
sismember 3 r 1 1 1
smembers 2 r 1 1 1
srem -3 w 1 1 1
zadd -4 woa 1 1 1
zcard 2 r 1 1 1
zincrby 4 woa 1 1 1
zrange -4 r 1 1 1
zrangebyscore -4 r 1 1 1
zrank 3 r 1 1 1
zrem -3 w 1 1 1
zremrangebyrank 4 w 1 1 1
zremrangebyscore 4 w 1 1 1
zscore 3 r 1 1 1

dbsize 1 r 0 0 0
del -2 w 1 -1 1
exists -2 r 1 -1 1
expire -3 w 1 1 1
expireat -3 w 1 1 1
flushall -1 w 0 0 0
flushdb -1 w 0 0 0
keys 2 r 0 0 0
persist 2 w 1 1 1
pexpire -3 w 1 1 1
pexpireat -3 w 1 1 1
pttl 2 r 1 1 1
rename 3 w 1 2 1
renamenx 3 w 1 2 1
scan -2 r 0 0 0
touch -2 r 1 -1 1
ttl 2 r 1 1 1
type 2 r 1 1 1
unlink -2 w 1 -1 1

auth -2 slb 0 0 0
client|getname 2 sl 0 0 0
client|id 2 sl 0 0 0
client|setinfo 4 sl 0 0 0
client|setname 3 sl 0 0 0
client|tracking -3 sl 0 0 0
config|get -3 sl 0 0 0
config|set -4 sl 0 0 0
echo 2 l 0 0 0
eval -3 s 0 0 0
evalsha -3 s 0 0 0
hello -1 slb 0 0 0
info -1 l 0 0 0
ping -1 - 0 0 0
quit -1 slb 0 0 0
script|exists -3 s 0 0 0
script|flush -2 s 0 0 0
script|load 3 s 0 0 0
select 2 l 0 0 0
subscribe -2 sl 0 0 0
time 1 l 0 0 0
unsubscribe -1 sl 0 0 0
`)

// command is the description of a command.
type command struct {
	name                string // in capitals
	arity               int
	reads, writes       bool
	denyOOM             bool
	whileLoading        bool
	whileBusy           bool
	notInScripts        bool
	always              bool // any reply except an error means that the key has changed
	flushes             bool // it changes all keys
	first, last, stride int  // of the keys among the words; 0: it has no keys
}

func parseCommands(table string) map[string]*command {
	all := map[string]*command{}
	for line := range strings.Lines(table) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		var c command
		var flags string
		if _, err := fmt.Sscan(line, &c.name, &c.arity, &flags, &c.first, &c.last, &c.stride); err != nil {
			panic(fmt.Sprintf("%q: %v", line, err))
		}

		has := func(flag string) bool { return strings.Contains(flags, flag) }
		c.name = strings.ToUpper(c.name)
		c.reads, c.writes, c.denyOOM, c.always = has("r"), has("w"), has("o"), has("a")
		c.whileLoading, c.whileBusy, c.notInScripts = has("l"), has("b"), has("s")
		c.flushes = c.writes && c.first == 0
		all[c.name] = &c
		if name, _, ok := strings.Cut(c.name, "|"); ok {
			all[name] = nil // it has subcommands
		}
	}
	return all
}

// lookUp finds the command that words are, or returns the error for them.
func lookUp(words []string) (c *command, err string) {
	name := strings.ToUpper(words[0])
	c, known := commands[name]
	if !known {
		return nil, unknownCommand(words)
	}
	if c == nil { // it has subcommands
		if len(words) < 2 {
			return nil, fmt.Sprintf("ERR wrong number of arguments for '%s' command", strings.ToLower(name))
		}
		if c = commands[name+"|"+strings.ToUpper(words[1])]; c == nil {
			return nil, fmt.Sprintf("ERR unknown subcommand '%s'. Try %s HELP.", words[1], name)
		}
	}
	if len(words) < max(c.arity, -c.arity) || c.arity > 0 && len(words) != c.arity {
		return nil, fmt.Sprintf("ERR wrong number of arguments for '%s' command", strings.ToLower(c.name))
	}
	return c, ""
}

func unknownCommand(words []string) string {
	var args strings.Builder
	for _, word := range words[1:] {
		if args.Len() > 128 {
			break
		}
		fmt.Fprintf(&args, "'%.128s' ", word)
	}
	return fmt.Sprintf("ERR unknown command '%.128s', with args beginning with: %s", words[0], args.String())
}

// keys are the keys among the words of a command.
func (c *command) keys(words []string) iter.Seq[string] {
	last := c.last
	if last < 0 {
		last += len(words)
	}
	return func(yield func(string) bool) {
		for i := c.first; i > 0 && i <= last && i < len(words); i += c.stride {
			if !yield(words[i]) {
				return
			}
		}
	}
}

// changed reports whether a command that writes has changed anything, which the
// reply tells.
func (c *command) changed(reply []byte) bool {
	switch {
	case len(reply) < 2 || reply[0] == '-':
		return false
	case c.always:
		return true
	}
	nothing := reply[1] == '0' || reply[1] == '-' // none, or nil
	return !nothing || reply[0] == '+' || reply[0] == '$' && reply[1] == '0'
}

// Fault is a state in which the server refuses commands.
type Fault string

const (
	None     Fault = ""
	Loading  Fault = "LOADING"  // the data set is loading
	Busy     Fault = "BUSY"     // a script has been running for too long
	ReadOnly Fault = "READONLY" // the server is a replica
	OOM      Fault = "OOM"      // the data takes maxmemory, and nothing can be evicted
	Misconf  Fault = "MISCONF"  // the last snapshot could not be saved
)

var refusals = map[Fault]string{
	Loading:  "LOADING Redis is loading the dataset in memory",
	Busy:     "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
	ReadOnly: "READONLY You can't write against a read only replica.",
	OOM:      "OOM command not allowed when used memory > 'maxmemory'.",
	Misconf: "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. " +
		"Commands that may modify the data set are disabled, because this instance is configured to report errors " +
		"during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs " +
		"for details about the RDB error.",
}

// refuse returns the error for a command that the client may not send now, or "".
// mu is held.
func (r *Redis) refuse(c *client, cmd *command) string {
	var refused bool
	switch r.fault {
	case Loading:
		refused = !cmd.whileLoading
	case Busy:
		refused = !cmd.whileBusy
	case ReadOnly:
		refused = cmd.writes
	case OOM:
		refused = cmd.denyOOM
	case Misconf:
		refused = cmd.writes || cmd.name == "PING"
	}
	switch {
	case refused:
		return refusals[r.fault]
	case len(c.channels) > 0 && cmd.name != "SUBSCRIBE" && cmd.name != "UNSUBSCRIBE" && cmd.name != "PING" && cmd.name != "QUIT":
		return fmt.Sprintf("ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
			strings.ToLower(cmd.name))
	}
	return ""
}

// own executes a command that miniredis lacks or executes otherwise, and reports whether it is
// one. mu is held.
func (r *Redis) own(c *client, cmd *command, words []string) bool {
	switch cmd.name {
	case "HELLO":
		r.hello(c, words[1:])
	case "AUTH":
		r.auth(c, words[1:])
	case "QUIT":
		c.status("OK")
		c.gone = true
	case "SELECT":
		r.selectDB(c, words)
	case "PING":
		ping(c, words[1:])
	case "INFO":
		c.bulk(r.info(words[1:]))
	case "EVAL":
		r.eval(c, words[1:])
	case "EVALSHA":
		r.evalSHA(c, words[1:])
	case "SUBSCRIBE":
		subscribe(c, words[1:])
	case "UNSUBSCRIBE":
		unsubscribe(c, words[1:])
	case "SETRANGE":
		if words[3] != "" {
			return false
		}
		r.dispatch(c, []string{"STRLEN", words[1]}) // miniredis would make the key
	default:
		return r.ownSub(c, cmd, words)
	}
	return true
}

// ownSub is own for commands that have subcommands.
func (r *Redis) ownSub(c *client, cmd *command, words []string) bool {
	switch cmd.name {
	case "CLIENT|ID":
		c.integer(c.id)
	case "CLIENT|SETNAME":
		c.name = words[2]
		c.status("OK")
	case "CLIENT|GETNAME":
		if c.name == "" {
			c.null()
		} else {
			c.bulk(c.name)
		}
	case "CLIENT|SETINFO":
		c.status("OK")
	case "CLIENT|TRACKING":
		r.setTracking(c, words[2:])
	case "CONFIG|GET":
		r.configGet(c, words[2:])
	case "CONFIG|SET":
		r.configSet(c, words[2:])
	case "SCRIPT|LOAD":
		r.scriptLoad(c, words[2])
	case "SCRIPT|EXISTS":
		r.scriptExists(c, words[2:])
	case "SCRIPT|FLUSH":
		r.scripts.known = map[string]bool{}
		c.status("OK")
	default:
		return false
	}
	return true
}

// selectDB is SELECT. mu is held.
func (r *Redis) selectDB(c *client, words []string) {
	db, err := strconv.Atoi(words[1])
	switch {
	case err != nil:
		c.error("ERR value is not an integer or out of range")
	case db < 0 || db >= 16:
		c.error("ERR DB index is out of range")
	default:
		r.use(c, db)
		c.status("OK")
	}
}

// use selects a database. mu is held.
func (r *Redis) use(c *client, db int) {
	c.db, r.lastDB = db, max(db, r.lastDB)
	begin := c.out.Len()
	r.dispatch(c, []string{"SELECT", strconv.Itoa(db)})
	c.out.Truncate(begin)
}

// ping is PING.
func ping(c *client, words []string) {
	switch {
	case len(words) > 1:
		c.error("ERR wrong number of arguments for 'ping' command")
	case len(c.channels) > 0:
		c.array(2)
		c.bulk("pong")
		c.bulk(strings.Join(words, ""))
	case len(words) == 1:
		c.bulk(words[0])
	default:
		c.status("PONG")
	}
}
