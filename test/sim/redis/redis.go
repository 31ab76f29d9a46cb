// Package redis is a Redis server inside the process, for simulations. It speaks
// RESP2 on connections that it is given, keeps its data in miniredis, runs Lua,
// and fails in the ways in which Redis fails.
//
// It answers as Redis 7.2 does, and adds the parts of it that edged needs and
// miniredis lacks: client tracking, refused commands (LOADING, READONLY, OOM,
// MISCONF, BUSY), restarts with other data, and a clock that can be set. There are
// no blocking commands, transactions, streams, and no RESP3.
//
// TTL rounds down, and LPUSH takes time in proportion to the length of the list.
//
// Commands are executed one at a time, each with mu held. Replies and messages
// are written to connections with mu held too, so Write of a connection must not
// block. All waits are durably blocking: a Redis made in a bubble of
// testing/synctest stays in it.
//
// Goroutines: one for each connection, for which Close waits. A timer starts another
// one, for a moment, when a tracked key expires.
package redis

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// Redis is a server. Its methods may be called from any goroutine.
type Redis struct {
	serving sync.WaitGroup // the goroutines of the connections

	mu       sync.Mutex // held while a command is executed; guards everything below
	store    *miniredis.Miniredis
	server   *server.Server // the commands of store
	lastDB   int            // the highest database that was selected
	clients  []*client      // in the order in which they came
	local    *client        // executes the commands of Do and Execute
	lastID   int64          // of a client
	most     int            // clients; 0: no limit
	offset   time.Duration  // of the server's clock from time.Now
	fault    Fault
	runID    string
	config   map[string]string
	executed int // commands of clients and of Do
	closed   bool

	tracking tracking
	scripts  scripts
}

// New makes a server without data.
func New() *Redis {
	r := &Redis{
		store:  miniredis.NewMiniRedis(),
		runID:  newRunID(),
		config: map[string]string{"maxmemory": "0", "maxmemory-policy": "noeviction", "maxclients": "10000", "databases": "16"},
	}
	r.store.ClockTTL(true)

	// Only a connection makes miniredis start without a listener. This package
	// serves its connections itself and calls the commands of miniredis directly.
	conn, err := r.store.Dial()
	if err != nil {
		panic(err)
	}
	r.server = r.store.Server()
	conn.Close()
	r.store.Close()

	r.local = newClient(nil)
	r.tracking.keys = map[string]*trackedKey{}
	r.scripts = newScripts(r)
	return r
}

// Serve speaks RESP2 on conn, from a goroutine of its own, until conn fails or the
// server closes it.
func (r *Redis) Serve(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.most > 0 && len(r.clients) >= r.most {
		conn.Write([]byte("-ERR max number of clients reached\r\n"))
		conn.Close()
		return
	}

	c := newClient(conn)
	r.lastID++
	c.id = r.lastID
	r.clients = append(r.clients, c)
	r.serving.Go(func() { r.serve(c) })
}

// Do executes a command of a client that has no connection. It returns a string,
// an int64, nil or a []any of these; an error is an error reply. Commands that are
// about the connection, such as SUBSCRIBE, are not for Do.
func (r *Redis) Do(words ...string) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.executed++
	return r.do(words)
}

// Execute is Do for the simulation itself: faults don't apply, and Commands doesn't
// count it.
func (r *Redis) Execute(words ...string) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fault := r.fault
	r.fault = None
	defer func() { r.fault = fault }()
	return r.do(words)
}

// do executes a command of the client without a connection. mu is held.
func (r *Redis) do(words []string) (any, error) {
	c := r.local
	c.out.Reset()
	r.execute(c, words)
	reply, _ := parseReply(c.out.Bytes())
	switch reply := reply.(type) {
	case replyError:
		return nil, errors.New(string(reply))
	case status:
		return string(reply), nil
	}
	return reply, nil
}

// Close closes all connections and waits for their goroutines.
func (r *Redis) Close() {
	r.mu.Lock()
	r.closed = true
	r.disconnect()
	r.tracking.stop()
	r.mu.Unlock()
	r.serving.Wait()
}

// Disconnect closes the connections of all clients.
func (r *Redis) Disconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disconnect()
}

// disconnect closes the connections of all clients. mu is held.
func (r *Redis) disconnect() {
	for _, c := range r.clients {
		c.gone = true
		c.conn.Close()
	}
	r.clients = nil
	r.tracking.forgetAll()
}

// MaxClients refuses further connections while there are n or more; 0 ends that.
func (r *Redis) MaxClients(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.most = n
}

// SetFault makes the server refuse commands as Redis does in that state, until
// SetFault(None).
func (r *Redis) SetFault(fault Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

// SetClock sets the server's clock to time.Now()+offset. As in Redis, keys expire at
// a time of that clock.
func (r *Redis) SetClock(offset time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick()
	back := r.offset - offset
	r.offset = offset
	if back > 0 { // miniredis keeps the time to live; the time of expiry must stay
		r.store.SetTime(r.now())
		for db := range r.lastDB + 1 {
			db := r.store.DB(db)
			for _, key := range db.Keys() {
				if ttl := db.TTL(key); ttl > 0 {
					db.SetTTL(key, ttl+back)
				}
			}
		}
	}
	r.expireTracked()
}

// now is the time on the server's clock. mu is held.
func (r *Redis) now() time.Time { return time.Now().Add(r.offset) }

// tick tells miniredis the time, and expires keys. mu is held.
func (r *Redis) tick() {
	r.store.SetTime(r.now())
	r.store.DB(0)
}

// Keys returns the names of the keys in database 0, sorted.
func (r *Redis) Keys() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick()
	return r.store.DB(0).Keys()
}

// Commands returns how many commands clients and Do have sent. Commands inside
// scripts don't count.
func (r *Redis) Commands() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.executed
}

// execute executes a command and appends the reply to c.out. The server's clock
// stands still meanwhile, in scripts too. mu is held.
func (r *Redis) execute(c *client, words []string) {
	r.store.SetTime(r.now())
	cmd, err := lookUp(words)
	if err == "" {
		err = r.refuse(c, cmd)
	}
	if err != "" {
		c.error(err)
		return
	}
	r.call(c, cmd, words)
}

// call executes a command that was not refused, from a client or from a script of
// the client. mu is held.
func (r *Redis) call(c *client, cmd *command, words []string) {
	if r.own(c, cmd, words) {
		return
	}
	existed := cmd.name != "LTRIM" || r.tracking.keys[words[1]] == nil || r.store.DB(c.db).Exists(words[1])
	begin := c.out.Len()
	if cmd.name == "LPUSH" && len(words) > 3 {
		r.pushLeft(c, words[1], words[2:])
	} else {
		r.dispatch(c, words)
	}

	switch {
	case cmd.reads && c.tracking:
		for key := range cmd.keys(words) {
			r.remember(c, key)
		}
	case cmd.writes && existed && cmd.changed(c.out.Bytes()[begin:]):
		if cmd.flushes {
			r.invalidateAll()
		}
		for key := range cmd.keys(words) {
			r.invalidate(c, key)
		}
	}
}

// dispatch has miniredis execute a command. mu is held.
func (r *Redis) dispatch(c *client, words []string) {
	r.server.Dispatch(c.peer, words)
	c.peer.Flush()
}

// pushLeft is LPUSH of several items, for each of which miniredis would copy the whole
// list. mu is held.
func (r *Redis) pushLeft(c *client, key string, items []string) {
	db := r.store.DB(c.db)
	old, err := db.List(key)
	if err == miniredis.ErrWrongType {
		c.error(err.Error())
		return
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	ttl := db.TTL(key)
	db.Del(key)
	n, _ := db.Push(key, append(items, old...)...)
	if ttl > 0 {
		db.SetTTL(key, ttl)
	}
	c.integer(int64(n))
}

// client is a connection, or Do. mu guards everything except conn.
type client struct {
	conn net.Conn // nil: Do
	id   int64
	name string
	db   int
	peer *server.Peer // for miniredis; writes to out
	out  bytes.Buffer // replies that were not sent yet
	gone bool         // nothing more is executed

	channels []string // that it has subscribed to
	tracking bool
	redirect int64 // the ID of the client that gets the invalidations
	noLoop   bool
}

// find returns the client with an ID, or nil. mu is held.
func (r *Redis) find(id int64) *client {
	i := slices.IndexFunc(r.clients, func(c *client) bool { return c.id == id })
	if i < 0 {
		return nil
	}
	return r.clients[i]
}
