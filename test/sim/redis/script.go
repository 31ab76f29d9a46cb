package redis

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// scripts runs Lua. As in Redis, all scripts share one interpreter, and only KEYS
// and ARGV change from call to call; miniredis would make an interpreter for each
// call, which takes longer than the call. Redis.mu guards it.
type scripts struct {
	state    *lua.LState
	compiled map[string]*lua.LFunction // by SHA-1
	known    map[string]bool           // the SHA-1 of those that EVALSHA may call

	client *client // that has called the script that runs
	wrote  bool    // the script that runs has called a command that writes
}

// chunk is the name of scripts in error messages.
const chunk = "user_script"

func newScripts(r *Redis) scripts {
	l := lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: 16 << 10, RegistryMaxSize: 1 << 20})
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
		lua.StringLibName: lua.OpenString, lua.MathLibName: lua.OpenMath,
	} {
		l.Push(l.NewFunction(open))
		l.Push(lua.LString(name))
		l.Call(1, 0)
	}

	module := l.SetFuncs(l.NewTable(), map[string]lua.LGFunction{
		"call":         func(l *lua.LState) int { return r.luaCall(l, true) },
		"pcall":        func(l *lua.LState) int { return r.luaCall(l, false) },
		"sha1hex":      func(l *lua.LState) int { l.Push(lua.LString(sha1Hex(l.CheckString(1)))); return 1 },
		"error_reply":  errorReply,
		"status_reply": func(l *lua.LState) int { l.Push(field(l, "ok", l.CheckString(1))); return 1 },
		"log":          func(*lua.LState) int { return 0 },
	})
	for level, name := range []string{"LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"} {
		module.RawSetString(name, lua.LNumber(level))
	}
	l.SetGlobal("redis", module)
	if err := l.DoString(match); err != nil {
		panic(err)
	}
	protectGlobals(l)
	return scripts{state: l, compiled: map[string]*lua.LFunction{}, known: map[string]bool{}}
}

// match lets string.match return nil if nothing matches, as Lua does: this one returns nothing.
const match = `
local match, some = string.match, function(first, ...) return first, ... end
string.match = function(...) return some(match(...)) end
`

// protectGlobals makes reading and writing of global variables that don't exist fail.
func protectGlobals(l *lua.LState) {
	l.SetMetatable(l.G.Global, l.SetFuncs(l.NewTable(), map[string]lua.LGFunction{
		"__index": func(l *lua.LState) int {
			l.RaiseError("Script attempted to access nonexistent global variable '%s'", l.ToString(2))
			return 0
		},
		"__newindex": func(l *lua.LState) int {
			l.RaiseError("Attempt to modify a readonly table")
			return 0
		},
	}))
}

// sha1Hex returns the SHA-1 of a text as Redis writes it.
func sha1Hex(text string) string {
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

// compile returns the SHA-1 of a script, after compiling it if that is new.
func (s *scripts) compile(text string) (sha string, _ error) {
	sha = sha1Hex(text)
	if s.compiled[sha] != nil {
		return sha, nil
	}
	statements, err := parse.Parse(strings.NewReader(text), chunk)
	if err != nil {
		return "", err
	}
	proto, err := lua.Compile(statements, chunk)
	if err != nil {
		return "", err
	}
	s.compiled[sha] = s.state.NewFunctionFromProto(proto)
	return sha, nil
}

// load compiles a script and makes it known, or replies with the error. mu is held.
func (r *Redis) load(c *client, text string) (sha string, ok bool) {
	sha, err := r.scripts.compile(text)
	if err != nil {
		c.error("ERR Error compiling script (new function): " + err.Error())
		return "", false
	}
	r.scripts.known[sha] = true
	return sha, true
}

// scriptLoad is SCRIPT LOAD. mu is held.
func (r *Redis) scriptLoad(c *client, text string) {
	if sha, ok := r.load(c, text); ok {
		c.bulk(sha)
	}
}

// scriptExists is SCRIPT EXISTS. mu is held.
func (r *Redis) scriptExists(c *client, hashes []string) {
	c.array(len(hashes))
	for _, sha := range hashes {
		if r.scripts.known[strings.ToLower(sha)] {
			c.integer(1)
		} else {
			c.integer(0)
		}
	}
}

// eval is EVAL. mu is held.
func (r *Redis) eval(c *client, words []string) {
	keys, args, ok := scriptArguments(c, words[1:])
	if !ok {
		return
	}
	if sha, ok := r.load(c, words[0]); ok {
		r.runScript(c, sha, keys, args)
	}
}

// evalSHA is EVALSHA. mu is held.
func (r *Redis) evalSHA(c *client, words []string) {
	keys, args, ok := scriptArguments(c, words[1:])
	if !ok {
		return
	}
	sha := strings.ToLower(words[0])
	if !r.scripts.known[sha] {
		c.error("NOSCRIPT No matching script. Please use EVAL.")
		return
	}
	r.runScript(c, sha, keys, args)
}

// scriptArguments splits the words after a script, or replies with the error.
func scriptArguments(c *client, words []string) (keys, args []string, ok bool) {
	n, err := strconv.Atoi(words[0])
	words = words[1:]
	switch {
	case err != nil:
		c.error("ERR value is not an integer or out of range")
	case n > len(words):
		c.error("ERR Number of keys can't be greater than number of args")
	case n < 0:
		c.error("ERR Number of keys can't be negative")
	default:
		return words[:n], words[n:], true
	}
	return nil, nil, false
}

// runScript calls a compiled script and replies with its result. mu is held.
func (r *Redis) runScript(c *client, sha string, keys, args []string) {
	s := &r.scripts
	s.client, s.wrote = c, false
	l := s.state
	l.G.Global.RawSetString("KEYS", list(l, keys))
	l.G.Global.RawSetString("ARGV", list(l, args))

	l.Push(s.compiled[sha])
	db := c.db
	err := l.PCall(0, 1, nil)
	if c.db != db { // SELECT in a script holds until its end
		r.use(c, db)
	}
	if err != nil {
		text, line := scriptError(err)
		c.error(fmt.Sprintf("%s script: %s, on @%s:%s.", text, sha, chunk, line))
		return
	}
	result := l.Get(-1)
	l.Pop(1)
	c.luaValue(result)
}

func list(l *lua.LState, words []string) *lua.LTable {
	t := l.CreateTable(len(words), 0)
	for _, word := range words {
		t.Append(lua.LString(word))
	}
	return t
}

// field makes a table with one field.
func field(l *lua.LState, name, value string) *lua.LTable {
	t := l.CreateTable(0, 1)
	t.RawSetString(name, lua.LString(value))
	return t
}

// errorReply is redis.error_reply.
func errorReply(l *lua.LState) int {
	text := strings.TrimPrefix(l.CheckString(1), "-")
	if !strings.Contains(text, " ") {
		text = "ERR " + text
	}
	l.Push(field(l, "err", text))
	return 1
}

// scriptError returns the text of an error that a script did not catch, and the line
// it comes from.
func scriptError(err error) (text, line string) {
	failure, ok := err.(*lua.ApiError)
	if !ok {
		return "ERR " + err.Error(), "0"
	}
	if t, ok := failure.Object.(*lua.LTable); ok {
		return lua.LVAsString(t.RawGetString("err")), lua.LVAsString(t.RawGetString("line"))
	}
	text = failure.Object.String()
	if _, after, ok := strings.Cut(text, chunk+":"); ok {
		line, _, _ = strings.Cut(after, ":")
	}
	return "ERR " + text, line
}

// luaCall is redis.call, or redis.pcall if it does not raise errors. mu is held.
func (r *Redis) luaCall(l *lua.LState, raise bool) int {
	reply := r.callFromScript(l)
	text, failed := reply.(replyError)
	if !failed || !raise {
		l.Push(toLua(l, reply))
		return 1
	}
	t := field(l, "err", string(text))
	line := strings.TrimPrefix(l.Where(1), chunk+":")
	t.RawSetString("line", lua.LString(strings.TrimSuffix(line, ":")))
	l.Error(t, 0)
	return 0
}

// callFromScript executes the command that is on the stack of Lua, and returns the
// reply. mu is held.
func (r *Redis) callFromScript(l *lua.LState) (reply any) {
	words := make([]string, l.GetTop())
	for i := range words {
		switch word := l.Get(i + 1).(type) {
		case lua.LString:
			words[i] = string(word)
		case lua.LNumber:
			words[i] = number(float64(word))
		default:
			return replyError("ERR Lua redis lib command arguments must be strings or integers")
		}
	}
	if len(words) == 0 {
		return replyError("ERR Please specify at least one argument for this redis lib call")
	}
	cmd, err := r.refuseInScript(words)
	if err != "" {
		return replyError(err)
	}

	// The client's own buffer takes the reply, and is then cut to what it was.
	c := r.scripts.client
	begin := c.out.Len()
	r.call(c, cmd, words)
	reply, _ = parseReply(c.out.Bytes()[begin:])
	c.out.Truncate(begin)
	return reply
}

// refuseInScript finds the command that words are, or returns the error for it. At
// maxmemory a script that has written goes on. mu is held.
func (r *Redis) refuseInScript(words []string) (_ *command, err string) {
	cmd, err := lookUp(words)
	switch {
	case strings.HasPrefix(err, "ERR wrong number"):
		return nil, "ERR Wrong number of args calling Redis command from script"
	case err != "":
		return nil, "ERR Unknown Redis command called from script"
	case cmd.notInScripts:
		return nil, "ERR This Redis command is not allowed from script"
	case cmd.writes && (r.fault == ReadOnly || r.fault == Misconf),
		cmd.denyOOM && r.fault == OOM && !r.scripts.wrote:
		return nil, refusals[r.fault]
	}
	r.scripts.wrote = r.scripts.wrote || cmd.writes
	return cmd, ""
}

// number writes a number of Lua as Redis does.
func number(n float64) string {
	if n == math.Trunc(n) && math.Abs(n) < 1<<63 {
		return strconv.FormatInt(int64(n), 10)
	}
	return strconv.FormatFloat(n, 'g', 17, 64)
}

// toLua converts a reply.
func toLua(l *lua.LState, reply any) lua.LValue {
	switch reply := reply.(type) {
	case string:
		return lua.LString(reply)
	case int64:
		return lua.LNumber(reply)
	case status:
		return field(l, "ok", string(reply))
	case replyError:
		return field(l, "err", string(reply))
	case []any:
		t := l.CreateTable(len(reply), 0)
		for _, v := range reply {
			t.Append(toLua(l, v))
		}
		return t
	}
	return lua.LFalse
}

// luaValue replies with the result of a script. mu is held.
func (c *client) luaValue(v lua.LValue) {
	switch v := v.(type) {
	case lua.LString:
		c.bulk(string(v))
	case lua.LNumber:
		c.integer(int64(v))
	case *lua.LTable:
		c.luaTable(v)
	default:
		if v == lua.LTrue {
			c.integer(1)
		} else {
			c.null()
		}
	}
}

// luaTable replies with an error, a status, or the elements up to the first nil.
func (c *client) luaTable(t *lua.LTable) {
	if text, ok := t.RawGetString("err").(lua.LString); ok {
		c.error(string(text))
		return
	}
	if text, ok := t.RawGetString("ok").(lua.LString); ok {
		c.status(string(text))
		return
	}
	n := 0
	for t.RawGetInt(n+1) != lua.LNil {
		n++
	}
	c.array(n)
	for i := range n {
		c.luaValue(t.RawGetInt(i + 1))
	}
}
