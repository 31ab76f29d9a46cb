package redisconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Reply is an error reply of Redis.
type Reply string

func (e Reply) Error() string { return string(e) }

// RedisError marks it as a reply for go-redis, whose own replies have this method too.
func (e Reply) RedisError() {}

// IsReply reports whether an error is a reply of Redis, so that the connection is still good.
func IsReply(err error) bool {
	if _, ok := err.(Reply); ok {
		return true
	}
	var reply redis.Error
	return errors.As(err, &reply)
}

// Broken returns err unless it is a reply.
func Broken(err error) error {
	if _, ok := err.(Reply); ok {
		return nil
	}
	return err
}

// Says reports whether an error is a reply of Redis that begins with one of these words. Redis 6
// puts a script's error after an error of its own.
func Says(err error, words ...string) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	for _, word := range words {
		if text := reply.Error(); strings.HasPrefix(text, word+" ") || strings.Contains(text, ": -"+word+" ") {
			return true
		}
	}
	return false
}

// noMaster is the reason why the master is not known.
type noMaster string

func (e noMaster) Error() string { return string(e) }

// errClosed is the error of a connection that was closed while it was idle.
var errClosed = fmt.Errorf("the connection was closed: %w", io.EOF)

// errMidway is the error of a connection that the server closed instead of answering.
var errMidway = errors.New("closed while an answer was due")

// ClosedMidway reports whether the server closed the connection while an answer was due. Redis does
// so if the reply is larger than its limit for a client.
func ClosedMidway(err error) bool { return errors.Is(err, errMidway) }

// Uncarried reports whether the server's answer cannot be transferred: it closed the connection
// instead of answering, or its reply exceeds all bounds.
func Uncarried(err error) bool { return ClosedMidway(err) || errors.Is(err, errReply) }

// greetingError is the error of a server that closes a new connection without a word.
type greetingError struct{ error }

func (e greetingError) Unwrap() error { return e.error }

// ClosedByPeer reports whether an error means that the other side closed an established connection.
// The next connection may work.
func ClosedByPeer(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// TimedOut reports whether an error means that nothing arrived in time.
func TimedOut(err error) bool {
	var netErr net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &netErr) && netErr.Timeout()
}

// Explain puts an error of the Redis at address into words for an operator.
func Explain(err error, address string) string {
	text := err.Error()
	has := func(s string) bool { return strings.Contains(text, s) }
	var certErr *tls.CertificateVerificationError
	var lost noMaster
	switch {
	case errors.As(err, &lost):
		return text
	case errors.As(err, &certErr):
		return "the certificate of Redis at " + address + " is not trusted; check redis.tls.ca_file and redis.tls.server_name: " + certErr.Err.Error()
	case has("remote error: tls"):
		return "Redis at " + address + " refuses the TLS connection; check redis.tls.cert_file: " + text
	case strings.HasPrefix(text, "WRONGTYPE"):
		return "the key holds no list; rename it, or correct the configuration"
	case strings.HasPrefix(text, "LOADING"):
		return "Redis is loading its data"
	case Says(err, "READONLY"):
		return "Redis is a read-only replica at " + address + "; connect to the master"
	case Says(err, "MOVED"):
		return "Redis at " + address + " says that the list is on another node of the cluster: " + text
	case Says(err, "ASK", "TRYAGAIN"):
		return "the list's slot is being moved from " + address + " to another node of the cluster; waiting until it is there"
	case Says(err, "CLUSTERDOWN"):
		return "the cluster does not serve the list's slot, says " + address + ": " + text
	case Says(err, "CROSSSLOT"):
		return "the keys beside the list are in another slot: " + text
	case Says(err, "MASTERDOWN", "MISCONF", "NOREPLICAS"):
		return "Redis refuses writes: " + text
	case strings.HasPrefix(text, "NOAUTH"), strings.HasPrefix(text, "WRONGPASS"), has("AUTH failed"), has("AUTH <password> called"):
		return "Redis refuses the credentials; check redis.username and redis.password_file: " + text
	case strings.HasPrefix(text, "NOPERM"), has("The user executing the script can't"), has("ACL failure in script"):
		return "the Redis user lacks a right: " + text
	case strings.HasPrefix(text, "OOM"):
		return "Redis is at its maxmemory: " + text
	case strings.HasPrefix(text, "ERR max number of clients"):
		return "Redis at " + address + " has no place for another client; raise its maxclients, or see CLIENT LIST for the others: " + text
	case strings.HasPrefix(text, "DENIED"):
		return "Redis at " + address + " is in protected mode; give it a password, or let it listen on loopback alone: " + text
	case strings.HasPrefix(text, "ERR unknown command"), strings.HasPrefix(text, "ERR unsupported"):
		return "Redis at " + address + " lacks a command that edged needs; is it a proxy, or was the command renamed? " + text
	case IsReply(err):
		return "Redis at " + address + " says: " + text
	case TimedOut(err):
		return "no answer from Redis at " + address
	case errors.Is(err, io.EOF), has("connection reset"), has("broken pipe"):
		return explainClose(err, address)
	case has("connection refused"), has("no such file or directory"):
		return "nobody listens at " + address + "; is Redis running?"
	}

	var op *net.OpError
	if errors.As(err, &op) { // its text has the port of this end, which differs each time
		text = op.Op + ": " + op.Err.Error()
	}
	return fmt.Sprintf("Redis at %s: %s", address, text)
}

// explainClose puts the error of a connection that the other side closed into words.
func explainClose(err error, address string) string {
	var greeting greetingError
	where := "Redis at " + address
	switch {
	case errors.As(err, &greeting):
		return where + " closed the connection at the first command (HELLO); does it want TLS, or is it a proxy?"
	case ClosedMidway(err):
		return where + " closed the connection while it answered; if it was not restarted, see its client-output-buffer-limit and maxmemory-clients"
	}
	return where + " closed the connection"
}
