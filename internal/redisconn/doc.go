// Package redisconn holds connections to Redis: RESP2, client tracking, the route to a list's
// server through a cluster or Sentinels, and scripts.
//
// A [Server] is one Redis server in use. It has a connection of edged's own, for the round trips of
// delivery, and a client of go-redis for everything else.
//
// Promises:
//
//   - No command is sent twice. After a lost reply the caller decides.
//   - Replies arrive in the order of the commands, at the functions that wait for them. After an
//     error that is not a reply nothing more is sent or received on that connection.
//   - Lengths, counts and nesting of replies are checked before memory is allocated for them; see
//     [Conn.Value], [Conn.Items] and clients.go.
//   - A deadline is for progress: it is extended while at least 1 KiB arrives within
//     Options.Timeout.
//   - If Redis closes an idle connection, this is detected at once (on Linux), and its hints are
//     not trusted from then on.
//   - Errors keep Redis's own words, if it gave any.
//
// Concurrency: a [Servers] and all that it returns belong to one goroutine. Callbacks says which of
// its functions are called from other goroutines. Servers.Watch owns one goroutine for each server,
// each Conn one more on Linux; Close waits for them.
package redisconn
