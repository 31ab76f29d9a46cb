package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"edged/internal/numbers"
)

// Result is how a call ended.
type Result string

// Results of a call. After all but OK nothing was changed.
const (
	OK      Result = "ok"
	Moved   Result = "moved"   // list or ledger are not as the caller expected; see Outcome.Why
	Standby Result = "standby" // another process owns the list
	Lost    Result = "lost"    // there is no ledger; a claim makes one
)

// Outcome is the reply to a call.
type Outcome struct {
	What   Result
	Length int64         // of the list, afterwards
	Holder string        // the owner, if What is Standby
	Ends   time.Duration // after a claim that stands by: when its lease ends
	Why    string        // if What is Moved: owner, serial, epoch, head, landmark, length or item
	Full   bool          // Redis is at its maxmemory; only of a call with Kept that changes something
	Serial uint64        // of the ledger, afterwards
	First  uint64        // the number of the head, afterwards
	State  *State        // after a claim
}

// State is all that a ledger says, after a claim.
type State struct {
	Created    bool // the claim made the ledger
	RunChanged bool // Redis is another process than before, or another replica: a new epoch began
	HeadMoved  bool // the head is not the item that the ledger says

	Owner      string // before the claim; empty: none
	Epoch, Run string
	Serial     uint64 // of the last update before the claim
	Unbroken   bool   // the caller has been the owner since that update
	First      uint64
	Head       Mark // of the item with number First
	Done       uint64
	Plain      uint64
	HasPlain   bool
	Grace      time.Time // by Redis's clock; zero: none
	Now        time.Time // by Redis's clock

	Known     uint64 // a confirmed item that was still in the list
	KnownMark Mark
	HasKnown  bool

	Seen Seen

	Finished         numbers.Set
	Groups, Durables map[string]numbers.Set
	Aside            []uint64          // numbers of the items set aside
	Times            []Time            // by number
	Consumers        map[string]string // configurations of durable consumers by name

	// Malformed are names of fields that could not be read. They count as First, a
	// malformed record as that of a consumer that has confirmed nothing.
	Malformed []string
}

// ParseOutcome reads the reply to a call.
func ParseOutcome(reply any) (Outcome, error) {
	words, _ := reply.([]any)
	if len(words) != 5 && len(words) != 6 && len(words) != 11 {
		return Outcome{}, errReply
	}
	what, _ := words[0].(string)
	length, isLength := words[1].(int64)
	word, _ := words[2].(string)
	serial, err := number(words[3])
	first, err2 := number(words[4])
	if err := errors.Join(err, err2); err != nil || !isLength || length < 0 || length > maxPlace || first > maxPlace {
		return Outcome{}, errors.Join(errReply, err)
	}

	o := Outcome{What: Result(what), Length: length, Serial: serial, First: first}
	switch o.What {
	case OK:
		o.Full = word == "full"
	case Lost:
	case Moved:
		o.Why = word
	case Standby:
		o.Holder = word
	default:
		return Outcome{}, fmt.Errorf("%w: %q", errReply, what)
	}
	if len(words) == 6 {
		var ms uint64
		ms, err = number(words[5])
		o.Ends = time.Duration(min(ms, maxEnds)) * time.Millisecond
	}
	if len(words) == 11 {
		o.State, err = parseState(o, words[5:])
	}
	return o, err
}

// maxPlace bounds lengths and numbers, so that their sums are numbers too.
const maxPlace = 1 << 62

// maxEnds bounds the time until a lease ends, in ms: an hour, after which the list is looked at again.
const maxEnds = 3_600_000

var errReply = errors.New("unexpected reply from the ledger's script")

func number(word any) (uint64, error) {
	text, _ := word.(string)
	return strconv.ParseUint(text, 10, 64)
}

func parseState(o Outcome, words []any) (*State, error) {
	flags, _ := words[0].([]any)
	before, _ := words[1].([]any)
	written, _ := words[2].([]any)
	aside, _ := words[3].([]any)
	times, _ := words[4].([]any)
	consumers, _ := words[5].([]any)
	fields := slices.Concat(before, written)
	if len(flags) != 6 || len(fields)%2 != 0 {
		return nil, errReply
	}
	serial, err := number(flags[3])
	now, err2 := number(flags[4])
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("%w: %w", errReply, err)
	}

	s := &State{
		Created: flags[0] == int64(1), RunChanged: flags[1] == int64(1), HeadMoved: flags[2] == int64(1), Unbroken: flags[5] == int64(1),
		Serial: serial, First: o.First, Done: o.First, Plain: o.First, Now: time.UnixMilli(int64(now)),
		Groups: map[string]numbers.Set{}, Durables: map[string]numbers.Set{}, Consumers: map[string]string{},
	}
	for i := 0; i+1 < len(consumers); i += 2 {
		name, _ := consumers[i].(string)
		s.Consumers[name], _ = consumers[i+1].(string)
	}
	for i := 0; i+1 < len(before); i += 2 {
		if before[i] == "owner" {
			s.Owner, _ = before[i+1].(string)
		}
	}
	for i := 0; i < len(fields); i += 2 {
		name, _ := fields[i].(string)
		value, _ := fields[i+1].(string)
		if err := s.field(name, value); err != nil {
			s.Malformed = append(s.Malformed, name)
		}
	}
	s.Finished.Raise(s.First)
	s.Done = max(s.Done, s.Finished.Floor())
	for _, word := range aside {
		if n, err := number(word); err == nil {
			s.Aside = append(s.Aside, n)
		}
	}
	s.Times = ParseTimes(times)
	return s, nil
}

// lastTime is the end of the year 9999, in milliseconds. JSON has no later time.
const lastTime = 253_402_300_799_999

// ParseTimes returns the times in a reply to LRANGE. Malformed ones are left out.
func ParseTimes(words []any) (times []Time) {
	for _, word := range words {
		text, _ := word.(string)
		var t Time
		var ms uint64
		below, at, _ := strings.Cut(text, ":")
		if parse(&t.Below, below) == nil && parse(&ms, at) == nil && ms <= lastTime {
			t.At = time.UnixMilli(int64(ms))
			times = append(times, t)
		}
	}
	return times
}

// field takes over a field of the ledger. One that is malformed is left as it is.
func (s *State) field(name, value string) error {
	switch name {
	case Epoch:
		if !isEpoch(value) {
			return errEpoch
		}
		s.Epoch = value
	case "run":
		s.Run = value
	case "head":
		s.Head = Mark(value)
	case Done:
		return parse(&s.Done, value)
	case Plain:
		s.HasPlain = true
		return parse(&s.Plain, value)
	case Grace:
		var ms uint64
		if err := parse(&ms, value); err != nil {
			return err
		}
		s.Grace = time.UnixMilli(int64(ms))
	case Known:
		number, mark, ok := strings.Cut(value, " ")
		s.HasKnown, s.KnownMark = ok, Mark(mark)
		return parse(&s.Known, number)
	case SeenKeys:
		seen, err := parseSeen(value)
		s.Seen = seen
		return err
	case Finished:
		set, err := numbers.Parse(value)
		s.Finished = set
		return err
	}
	return s.record(name, value)
}

var errEpoch = errors.New("not an epoch")

// isEpoch reports whether text can be an epoch, which is a part of reply subjects. The scripts
// have the same rule.
func isEpoch(text string) bool {
	strange := func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }
	return text != "" && len(text) <= 64 && !strings.ContainsFunc(text, strange)
}

// record takes over a field of a consumer, and leaves out all others.
func (s *State) record(field, value string) error {
	records := s.Groups
	name, ok := strings.CutPrefix(field, groupPrefix)
	if !ok {
		records = s.Durables
		name, ok = strings.CutPrefix(field, durablePrefix)
	}
	if !ok {
		return nil
	}
	set, err := numbers.Parse(value)
	records[name] = set
	return err
}

func parse(n *uint64, value string) error {
	parsed, err := strconv.ParseUint(value, 10, 64)
	if err == nil {
		*n = parsed
	}
	return err
}
