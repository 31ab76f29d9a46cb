package batch

import (
	"time"

	"edged/internal/numbers"
)

// Place is the next step that the loop may take with the list.
type Place struct {
	Active bool      // a consumer is there to receive
	Idle   bool      // there is no consumer at all, not even one that only owes
	Floor  uint64    // items below are finished
	From   uint64    // the number to read next
	Items  int       // how many items may be read; 0: none
	Bytes  int       // how many bytes they may have; at least 1 where Items is not 0
	Large  int       // how many where they are Large (IsLarge); no less than Bytes
	Full   bool      // nothing can be read before consumers have confirmed items
	Sweep  bool      // the read is for consumers behind the front
	Judge  uint64    // not 0: it is to be known whether the item before this number is a duplicate
	Dirty  bool      // Changes has something to write
	Wake   time.Time // Plan wants to be called then; zero: no such time
}

// Snapshot is a list's ledger at a start, or when this process gets the list.
type Snapshot struct {
	Epoch    string               // in which the numbers stand for these items
	First    uint64               // number of the item at the head
	End      uint64               // one past the last item
	Finished numbers.Set          // items that are finished, or set aside
	Aside    []uint64             // items that are set aside
	Times    []Seen               // when items were seen first, by number
	Done     uint64               // items below are confirmed by at least one consumer
	Plain    uint64               // the plain cursor: all plain consumers had confirmed the items below
	HasPlain bool                 // there were any
	Records  map[Name]numbers.Set // the items that each queue group and durable consumer had confirmed
	Grace    time.Duration        // for so long those still owe, and a new consumer begins where they were

	Consumers map[string]string // configurations of durable consumers, as their owner wrote them
	Lost      bool              // a configuration that is missing there was lost by Redis; else it was deleted
}

// Changes are not in the ledger yet. They are to be written in one step.
type Changes struct {
	Floor     uint64 // items below are finished, once this is written
	Confirmed uint64 // one past the last item that any consumer has confirmed
	Finished  string // numbers.Set as text; empty: as the ledger has it
	Done      string
	Plain     string
	NoPlain   bool // the plain cursor goes
	GraceOver bool
	Records   []Record
	Dead      []Dead
	Aside     []uint64 // items to be set aside: they count as finished
	Restored  []uint64 // items to be set aside no longer
	Times     []Seen   // to be added to the times
	TimesGone int      // how many of the times before go, the lowest first
	TimesAnew bool     // all of them go
}

// Seen says that the items below a number, and above those of the time before, were seen
// first at a time.
type Seen struct {
	Below uint64
	At    time.Time
}

// Name is that of a queue group or of a durable consumer.
type Name struct {
	Durable bool
	Name    string
}

// Record holds the items that a consumer has confirmed.
type Record struct {
	Name
	Acked string // empty: the record goes
}

// Dead is an item to be copied to the dead letters. It is still in the list, or set aside.
type Dead struct {
	Number     uint64
	Reason     string
	Deliveries int  // to the consumer that gave it up
	Aside      bool // Redis has set it aside
}

// Empty reports whether there is nothing to write.
func (c *Changes) Empty() bool {
	return c.Finished == "" && c.Done == "" && c.Plain == "" && !c.NoPlain && !c.GraceOver && len(c.Records) == 0 && len(c.Dead)+len(c.Aside)+len(c.Restored) == 0 &&
		len(c.Times) == 0 && c.TimesGone == 0 && !c.TimesAnew
}
