package batch

import (
	"time"

	"edged/internal/numbers"
)

// Place is the next step that the loop may take with the list.
type Place struct {
	Active bool      // a consumer is there to receive
	Idle   bool      // there is no consumer at all, not even one that only owes
	First  uint64    // the number of the head, as far as the relay knows
	Floor  uint64    // items below are finished
	From   uint64    // the number to read next
	Items  int       // how many items may be read; 0: none
	Bytes  int       // how many bytes they may have; at least 1 where Items is not 0
	Large  int       // how many where they are Large (IsLarge); no less than Bytes
	Sweep  bool      // the read is for consumers behind the front
	Dirty  bool      // Changes has something to write
	Wake   time.Time // Plan wants to be called then; zero: no such time
}

// Snapshot is a list's ledger at a start, or when this process gets the list.
type Snapshot struct {
	First    uint64                 // number of the item at the head
	Finished numbers.Set            // items that are finished
	Done     uint64                 // items below are confirmed by at least one consumer
	Plain    uint64                 // the plain cursor: all plain consumers had confirmed the items below
	HasPlain bool                   // there were any
	Groups   map[string]numbers.Set // the items that each queue group had confirmed
	Grace    time.Duration          // for so long those still owe, and a new consumer begins where they were
}

// Changes are not in the ledger yet. They are to be written in one step.
type Changes struct {
	Floor     uint64 // items below are finished, once this is written
	Confirmed uint64 // and those below this one confirmed by at least one consumer
	Finished  string // numbers.Set as text; empty: as the ledger has it
	Done      string
	Plain     string
	NoPlain   bool // the plain cursor goes
	GraceOver bool
	Groups    []Record
	Dead      []Dead
}

// Record holds the items that a queue group has confirmed.
type Record struct{ Group, Acked string } // no Acked: the record goes

// Dead is an item to be copied to the dead letters. It is one that still is in the list.
type Dead struct {
	Number     uint64
	Reason     string
	Deliveries int // to the consumer that gave it up
}

// Empty reports whether there is nothing to write.
func (c *Changes) Empty() bool {
	return c.Finished == "" && c.Done == "" && c.Plain == "" && !c.NoPlain && !c.GraceOver && len(c.Groups) == 0 && len(c.Dead) == 0
}
