package ledger

import (
	"fmt"
	"strconv"
	"time"
)

// Call is one call of a script. It is a claim, a release, or an update: a check of
// owner, epoch, serial, head and landmarks, and the changes that it asks for.
type Call struct {
	Holder    string // this process: "instance/token"
	FromRight bool   // the head of the list is its right end

	// Claim takes or keeps the ownership and returns the State. It removes nothing, and
	// writes only owner, deadline, lease, serial, run, epoch and grace. If there is no
	// ledger it makes one, and puts items that were set aside back to the head.
	Claim         bool
	Start         bool          // it is the process's first claim of this list
	Instead       string        // "instance/": it replaces another process of this instance at once
	Lease         time.Duration // also of an update with Renew
	Grace         time.Duration // rejoin_grace; after a start it begins unless one is under way
	ByReplication bool          // identify Redis by its replication id: behind Sentinel

	// Release gives the ownership back, and changes nothing else.
	Release bool

	Epoch   string // the one expected; of a claim: the new one, if one begins
	Serial  uint64 // the one expected
	Attempt uint64 // the serial of this call, larger than any before it
	First   uint64 // of a claim: the head's number if there is no ledger; see Rebase

	Landmarks []Landmark // of an update: items that must be at the index at which they were read

	// Changes of an update, beside its serial and the head.
	Renew     bool         // set the deadline to Lease from now
	Rebase    bool         // the head may be another item than the ledger says: its number is First
	Trim      int64        // how many items to remove from the head
	Next      Mark         // of the item that Trim makes the head; empty: the script reads it
	Dead      []DeadLetter // items to copy to the dead letters
	Aside     []Aside      // items to copy to those set aside
	Restored  []uint64     // numbers of items that are set aside no longer
	Times     []Time       // to be added to the times
	TimesGone int          // how many of the times before to remove, the oldest first; AllTimes: all
	Seen      []Part       // of the keys of removed items, to be overwritten
	Kept      bool         // items stay in the list that could be removed: say whether Redis is full
	Set       []Field      // fields to write
	Delete    []string     // fields to delete
}

// Landmark is the mark of the item at an index, counted from the head.
type Landmark struct {
	Index int64
	Mark  Mark
}

// DeadLetter is an item to copy to the dead letters, after Line and a newline.
type DeadLetter struct {
	Index  int64  // counted from the head before anything is removed
	Number uint64 // instead of Index: it is set aside under this number
	Aside  bool   // Number counts
	Line   string // in front of the item, behind a line feed; the script adds the item's size and "}"
}

// Aside is an item to set aside under its number.
type Aside struct {
	Index  int64 // counted from the head before anything is removed
	Number uint64
}

// Time says that the items below a number were first seen at a time, those of the Time
// before it excepted.
type Time struct {
	Below uint64
	At    time.Time // to the millisecond
}

// Part is a part of a string, from an offset on in bytes.
type Part struct {
	Offset uint64
	Bytes  []byte // not kept
}

// AllTimes are all of the times that Redis has.
const AllTimes = -1

func (t Time) word() string { return fmt.Sprintf("%d:%d", t.Below, t.At.UnixMilli()) }

// Field is a field of the ledger and its value.
type Field struct{ Name, Value string }

// Words are the words of the call, for redisconn.Conn.Command.
func (c *Call) Words(k Keys) []any {
	switch {
	case c.Release:
		return release.Call(k.all(), c.Holder, c.side())
	case c.Claim:
		run := "run_id"
		if c.ByReplication {
			run = "master_replid"
		}
		return claim.Call(k.all(), c.Holder, c.side(), c.Instead, c.Lease.Milliseconds(), oneIf(c.Start),
			c.Grace.Milliseconds(), c.Epoch, c.First, c.Attempt, run)
	}

	first, due := "", ""
	if c.Renew {
		due = strconv.FormatInt(c.Lease.Milliseconds(), 10)
	}
	if c.Rebase {
		first = strconv.FormatUint(c.First, 10)
	}
	words := update.Call(k.all(), c.Holder, c.side(), c.Epoch, c.Serial, c.Attempt, oneIf(c.Changes()), due, c.Trim, first,
		len(c.Landmarks), len(c.Set), oneIf(c.Kept), string(c.Next))
	for _, l := range c.Landmarks {
		words = append(words, l.Index, string(l.Mark))
	}
	for _, f := range c.Set {
		words = append(words, f.Name, f.Value)
	}
	if c.rare() {
		words = c.appendRare(words)
	}
	return words
}

// appendRare appends the lists that most updates don't have.
func (c *Call) appendRare(words []any) []any {
	words = append(words, len(c.Dead), len(c.Aside), len(c.Restored), len(c.Delete), len(c.Times), c.TimesGone, len(c.Seen))
	for _, d := range c.Dead {
		if d.Aside {
			words = append(words, "#"+strconv.FormatUint(d.Number, 10), d.Line)
		} else {
			words = append(words, d.Index, d.Line)
		}
	}
	for _, a := range c.Aside {
		words = append(words, a.Index, a.Number)
	}
	for _, n := range c.Restored {
		words = append(words, n)
	}
	for _, name := range c.Delete {
		words = append(words, name)
	}
	for _, t := range c.Times {
		words = append(words, t.word())
	}
	for _, p := range c.Seen {
		words = append(words, p.Offset, p.Bytes)
	}
	return words
}

func (c *Call) rare() bool {
	return len(c.Dead)+len(c.Aside)+len(c.Restored)+len(c.Delete)+len(c.Times)+len(c.Seen) > 0 || c.TimesGone != 0
}

// Changes reports whether an update asks for any change. One that does writes its
// Attempt as the serial, one that does not leaves the ledger as it is.
func (c *Call) Changes() bool {
	return c.Renew || c.Rebase || c.Trim > 0 ||
		len(c.Set) > 0 || c.rare()
}

func (c *Call) side() string {
	if c.FromRight {
		return "R"
	}
	return "L"
}

func oneIf(on bool) string {
	if on {
		return "1"
	}
	return ""
}
