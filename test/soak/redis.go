package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"edged/internal/edgedtest"
	"edged/test/sim/redis"
)

// server is a redis-server process with an append-only file. It listens on a Unix socket that only
// this program knows: edged reaches it through Serve.
//
// Its clock cannot be set, and it is never seen while it loads its data.
type server struct {
	ctx     context.Context
	running *sync.WaitGroup
	folder  string
	log     func(format string, args ...any)
	process *edgedtest.Process
	client  *goredis.Client // has one connection
	busy    *goredis.Client // runs the script of the fault BUSY
	looping sync.WaitGroup  // that script
	saved   string          // folder of an older copy of the files
}

// keepAlive is how long a connection to Redis may be silent. Half-open ones end then.
const keepAlive = 5 * time.Minute

func startServer(ctx context.Context, running *sync.WaitGroup, folder string, log func(string, ...any)) (*server, error) {
	goredis.SetLogger(discard{}) // its lines about killed servers add nothing
	s := &server{ctx: ctx, running: running, folder: filepath.Join(folder, "redis"), log: log}
	// A folder in place of the snapshot file makes each snapshot fail.
	if err := os.MkdirAll(filepath.Join(s.folder, "dump.rdb"), 0o700); err != nil {
		return nil, err
	}
	options := goredis.Options{
		Network: "unix", Addr: s.socket(), DisableIdentity: true, Protocol: 2, MaxRetries: -1, DialerRetries: 1,
		PoolSize: 1, ReadTimeout: edgedtest.Patience, ContextTimeoutEnabled: true,
	}
	s.client = goredis.NewClient(&options)
	busy := options
	busy.ReadTimeout = -1
	s.busy = goredis.NewClient(&busy)
	return s, s.start()
}

type discard struct{}

func (discard) Printf(context.Context, string, ...any) {}

func (s *server) socket() string { return filepath.Join(s.folder, "s") }

func (s *server) files() string { return filepath.Join(s.folder, "appendonlydir") }

// start starts the process with the existing files.
func (s *server) start() error {
	os.Remove(s.socket())
	var err error

	// With appendfsync everysec a write may wait for an fsync, and be lost with the process. With
	// no, the kernel has each command before its reply is sent.
	s.process, err = edgedtest.Start(exec.Command("redis-server", "--port", "0", "--unixsocket", s.socket(), "--dir", s.folder,
		"--logfile", filepath.Join(s.folder, "log"), "--save", "", "--appendonly", "yes", "--appendfsync", "no",
		"--auto-aof-rewrite-percentage", "0"))
	if err != nil {
		return fmt.Errorf("%v; install it, or run `make tools`", err)
	}

	for deadline := time.Now().Add(edgedtest.Patience); ; time.Sleep(2 * time.Millisecond) {
		err := s.client.Ping(s.ctx).Err()
		if err == nil {
			return nil
		}
		if s.process.HasEnded() || time.Now().After(deadline) || s.ctx.Err() != nil {
			return fmt.Errorf("redis-server does not serve: %v", err)
		}
	}
}

// restart kills the process and starts it again, after a change of its files.
func (s *server) restart(change func() error) {
	s.process.Kill()
	s.looping.Wait()
	err := change()
	if err == nil {
		err = s.start()
	}
	if err != nil && s.ctx.Err() == nil {
		panic(err) // the soak cannot go on
	}
}

// Kill kills the process. It loads its data again at once, so that they can be read; the world lets
// no connection in until Restart.
func (s *server) Kill() { s.restart(func() error { return nil }) }

// RestartWithData does nothing: the process already runs.
func (s *server) RestartWithData() {}

// Restart starts the process with no data, or with the copy of its files that Save made.
func (s *server) Restart(data redis.Data) {
	s.restart(func() error {
		if err := os.RemoveAll(s.files()); err != nil || data == nil {
			return err
		}
		return os.CopyFS(s.files(), os.DirFS(s.saved))
	})
}

// Save copies the files while the process writes them, as a backup does.
func (s *server) Save() redis.Data {
	s.saved = filepath.Join(s.folder, "saved")
	err := os.RemoveAll(s.saved)
	if err == nil {
		err = os.CopyFS(s.saved, os.DirFS(s.files()))
	}
	if err != nil {
		panic(err)
	}
	return redis.Data{}
}

// Compact rewrites the append-only file. The files must not be copied meanwhile.
func (s *server) Compact() {
	s.Execute("BGREWRITEAOF")
	for s.ctx.Err() == nil && strings.Contains(s.info("persistence"), "aof_rewrite_in_progress:1") {
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *server) info(section string) string {
	text, _ := s.client.Info(s.ctx, section).Result()
	return text
}

// Memory returns the bytes that Redis reports as used.
func (s *server) Memory() int {
	_, rest, _ := strings.Cut(s.info("memory"), "used_memory:")
	digits, _, _ := strings.Cut(rest, "\r")
	n, _ := strconv.Atoi(digits)
	return n
}

// Serve joins a connection to the process.
func (s *server) Serve(conn net.Conn) {
	other, err := net.Dial("unix", s.socket())
	if err != nil {
		conn.Close()
		return
	}
	s.running.Go(func() { join(s.ctx, conn, other, keepAlive) })
}

func (s *server) Do(words ...string) (any, error) {
	reply, err := s.client.Do(s.ctx, arguments(words)...).Result()
	if errors.Is(err, goredis.Nil) {
		return nil, nil
	}
	return reply, err
}

// Execute is Do. Faults apply, as to any client.
func (s *server) Execute(words ...string) (any, error) {
	reply, err := s.Do(words...)
	if err != nil {
		s.log("%s: %v", strings.Join(words[:min(len(words), 4)], " "), err)
	}
	return reply, err
}

func arguments(words []string) []any {
	args := make([]any, len(words))
	for i, word := range words {
		args[i] = word
	}
	return args
}

// Change executes commands in a transaction that also reads all data before and after them. If
// Redis refuses it, nothing changes.
func (s *server) Change(commands ...[]string) (before, after redis.Data) {
	var first, last *goredis.Cmd
	_, err := s.client.TxPipelined(s.ctx, func(p goredis.Pipeliner) error {
		first = p.Do(s.ctx, "EVAL", dump, 0)
		for _, words := range commands {
			p.Do(s.ctx, arguments(words)...)
		}
		last = p.Do(s.ctx, "EVAL", dump, 0)
		return nil
	})

	before, okBefore := data(first)
	after, okAfter := data(last)
	if !okBefore || !okAfter {
		s.log("change %q: %v", commands, err)
		return nil, nil
	}
	return before, after
}

// Data reads all data.
func (s *server) Data() redis.Data {
	cmd := s.client.Do(s.ctx, "EVAL", dump, 0)
	all, ok := data(cmd)
	if !ok {
		s.log("read the data: %v", cmd.Err())
	}
	return all
}

// dump returns name, type and value of each key. Redis sends the result without a copy of the items
// in Lua's memory, apart from that of the command itself.
const dump = `
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local type = redis.call('TYPE', key).ok
  local value
  if type == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif type == 'hash' then value = redis.call('HGETALL', key)
  elseif type == 'string' then value = redis.call('GET', key)
  else value = type end
  all[#all + 1] = {key, type, value}
end
return all`

// data decodes the reply to dump, and reports whether it is one. Types in which edged does not
// store items have no value.
func data(cmd *goredis.Cmd) (redis.Data, bool) {
	keys, err := cmd.Slice()
	if err != nil {
		return nil, false
	}

	all := redis.Data{}
	for _, k := range keys {
		k := k.([]any)
		key := redis.Key{Name: k[0].(string)}
		switch value := k[2].(type) {
		case string:
			key.Value = value
		case []any:
			items := make([]string, len(value))
			for i, item := range value {
				items[i] = item.(string)
			}
			key.Value = items
			if k[1] == "hash" {
				fields := map[string]string{}
				for i := 0; i+1 < len(items); i += 2 {
					fields[items[i]] = items[i+1]
				}
				key.Value = fields
			}
		}
		all = append(all, key)
	}

	return all, true
}

// Keys returns the names of all keys, sorted.
func (s *server) Keys() []string {
	keys, err := s.client.Keys(s.ctx, "*").Result()
	if err != nil {
		s.log("KEYS: %v", err)
	}
	slices.Sort(keys)
	return keys
}

// SetFault ends a fault and begins another.
func (s *server) SetFault(fault redis.Fault) {
	s.client.ScriptKill(s.ctx) // an error says that no script runs
	s.looping.Wait()
	s.Execute("CONFIG", "SET", "maxmemory", "0", "save", "")
	s.Execute("REPLICAOF", "NO", "ONE")

	switch fault {
	case redis.OOM:
		s.Execute("CONFIG", "SET", "maxmemory", "1")
	case redis.ReadOnly:
		s.Execute("REPLICAOF", "127.0.0.1", "1") // an unused port
	case redis.Misconf:
		s.Execute("CONFIG", "SET", "save", "3600 1")
		s.Execute("BGSAVE")
	case redis.Busy:
		s.Execute("CONFIG", "SET", "lua-time-limit", "100")
		s.looping.Go(func() { s.busy.Do(s.ctx, "EVAL", "while true do end", 0) })
	case redis.Loading:
		s.log("a redis-server that loads its data is not played")
	}
}

// SetClock does nothing.
func (s *server) SetClock(time.Duration) {}

// MaxClients lets n clients connect, in addition to those of this program; 0 is no bound.
func (s *server) MaxClients(n int) {
	most := 10_000
	if n > 0 {
		most = n + 2
	}
	s.Execute("CONFIG", "SET", "maxclients", strconv.Itoa(most))
}

// Disconnect closes all connections except its own.
func (s *server) Disconnect() {
	s.Execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	s.Execute("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
}

// Close ends the process.
func (s *server) Close() {
	s.process.Signal(syscall.SIGKILL)
	<-s.process.Ended()
	s.looping.Wait()
	s.client.Close()
	s.busy.Close()
}
