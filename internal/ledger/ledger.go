// Package ledger defines the hash that Redis keeps beside a list, and the scripts
// that change list and ledger together. It does no I/O: a Call makes the words of a
// command, an Outcome is its reply.
//
// The ledger is a hash without a TTL, {list}:edged. Its fields:
//
//	owner     the process that serves the list, "instance/token"
//	deadline  when another instance may take over, in ms by Redis's clock; without an owner:
//	          when the last one gave the list back
//	lease     how far ahead the deadline is set, in ms
//	serial    the number of the last change
//	epoch     the first part of item ids
//	run       Redis's run id, or its replication id
//	first     the number of the item at the head
//	head      the mark of that item, empty if the list was empty
//	finished  the finished items, as a numbers.Set
//	done      all items below it are confirmed by at least one consumer
//	plain     all items below it are confirmed by all plain and ephemeral consumers
//	grace     when the wait for consumers to come back ends, in ms by Redis's clock
//	since     the serial of the owner's last claim, and of its last update before that
//	known     number and mark of an item that is confirmed and still in the list
//	seen      of which removed items the keys are known, for lists with dedup; see Seen
//	group:NAME, durable:NAME
//	          the items that this consumer has confirmed, as a numbers.Set
//
// Beside it {list}:edged:consumers, a hash, has the configuration of each durable consumer
// that a client has made. A claim returns it: an owner knows whom it has to keep items for.
// {list}:edged:seen, a string, has the keys of removed items.
//
// Promises:
//
//   - A call does everything or nothing. Commands that the ACL denies fail first,
//     before the script has written anything.
//   - Calls are numbered. A call that arrives late, after others, is refused, and so
//     is a call of a process that no longer owns the list.
//   - Items are removed only if the head and the landmarks are as the caller read
//     them. Equal neighbours are the exception: they can't be told apart.
//   - Calls succeed in a Redis at maxmemory, since removing items makes room.
package ledger

import (
	"strings"

	"edged/internal/numbers"
)

// Names of the fields that a caller sets.
const (
	Epoch    = "epoch"
	Finished = "finished"
	Done     = "done"
	Plain    = "plain"
	Grace    = "grace"
	Known    = "known" // number and mark of an item that is confirmed and still in the list
	SeenKeys = "seen"  // a Seen
)

const (
	groupPrefix   = "group:"
	durablePrefix = "durable:"
)

// Group is the field of a queue group.
func Group(name string) string { return groupPrefix + name }

// Durable is the field of a durable consumer.
func Durable(name string) string { return durablePrefix + name }

// MaxState is how many bytes the records of a ledger may have in a reply: 64
// consumers and the finished items, each at its bound, their configurations, and small fields.
const MaxState = 65*numbers.MaxText + 64*MaxConfig + 1<<20

// MaxConfig is how many bytes the configuration of a consumer may have.
const MaxConfig = 8 << 10

// Keys are the keys of a list. All are in the list's hash slot, so that a script
// can use them together in a cluster.
type Keys struct {
	List   string
	Ledger string
	Dead   string // a list: dead letters
	Aside  string // a hash: items set aside by their number
	Times  string // a list: when items were first seen, see Time
	Seen   string // a string: keys of removed items, of those that SeenKeys says
	Free   string // written when the ownership is given back, so that instances on standby get a hint

	Consumers string // a hash: configurations of durable consumers by name
}

// KeysOf returns the keys of a list.
func KeysOf(list string) Keys {
	base := tagged(list)
	return Keys{
		List:   list,
		Ledger: base + ":edged",
		Dead:   base + ":dead",
		Aside:  base + ":edged:aside",
		Times:  base + ":edged:times",
		Seen:   base + ":edged:seen",
		Free:   base + ":edged:free",

		Consumers: base + ":edged:consumers",
	}
}

func (k Keys) all() []string {
	return []string{k.List, k.Ledger, k.Dead, k.Aside, k.Free, k.Times, k.Consumers, k.Seen}
}

// tagged returns list with a hash tag that puts it into list's slot: the tag that
// it has, or all of it. https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
func tagged(list string) string {
	if _, after, ok := strings.Cut(list, "{"); ok && strings.Index(after, "}") > 0 {
		return list
	}
	return "{" + list + "}"
}
