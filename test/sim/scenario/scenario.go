// Package scenario is the language of the simulator: what happens in a simulated
// world, and when.
//
// A scenario is a text of lines. The first ones configure the world, each of the
// others is an event: seconds since the start, a verb, and arguments of the form
// key=value. # begins a comment.
//
//	world instances=2 window=64 lease=6
//	list key=jobs ack=explicit take=left
//	0.000 start daemon=a
//	1.500 push list=jobs n=20
//	2.000 cut from=a to=redis dir=down after=0
//	9.000 check
//
// docs/TESTING.md lists the verbs.
package scenario

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Scenario is a world and its events, ordered by time.
type Scenario struct {
	World  Args
	Lists  []Args
	Events []Event
}

// Event is a line of a scenario.
type Event struct {
	At   time.Duration // since the start; a multiple of a millisecond
	Verb string
	Args Args
}

// Args are arguments in the order in which they were written.
type Args []Arg

// Arg is one argument.
type Arg struct{ Key, Value string }

// With returns a copy of a with one more argument, or another value of it.
func (a Args) With(key string, value any) Args {
	a = slices.Clone(a)
	text := fmt.Sprint(value)
	for i := range a {
		if a[i].Key == key {
			a[i].Value = text
			return a
		}
	}
	return append(a, Arg{key, text})
}

// Of makes arguments of keys and values in turn.
func Of(pairs ...any) Args {
	var a Args
	for i := 0; i+1 < len(pairs); i += 2 {
		a = append(a, Arg{pairs[i].(string), fmt.Sprint(pairs[i+1])})
	}
	return a
}

// Text returns a value, or a default.
func (a Args) Text(key, otherwise string) string {
	for _, arg := range a {
		if arg.Key == key {
			return arg.Value
		}
	}
	return otherwise
}

// Int returns a value as a number, or a default.
func (a Args) Int(key string, otherwise int) int {
	n, err := strconv.Atoi(a.Text(key, ""))
	if err != nil {
		return otherwise
	}
	return n
}

// Is reports whether a value is "true".
func (a Args) Is(key string) bool { return a.Text(key, "") == "true" }

// Seconds returns a value in seconds as a duration, or a default.
func (a Args) Seconds(key string, otherwise time.Duration) time.Duration {
	s, err := strconv.ParseFloat(a.Text(key, ""), 64)
	if err != nil {
		return otherwise
	}
	return time.Duration(s * float64(time.Second))
}

func (a Args) String() string {
	var b strings.Builder
	for i, arg := range a {
		if i > 0 {
			b.WriteByte(' ')
		}
		value := arg.Value
		if value == "" || strings.ContainsAny(value, " \"#") {
			value = strconv.Quote(value)
		}
		b.WriteString(arg.Key + "=" + value)
	}
	return b.String()
}

func (e Event) String() string {
	return strings.TrimSpace(fmt.Sprintf("%.3f %s %s", e.At.Seconds(), e.Verb, e.Args))
}

// Format writes a scenario as Parse reads it.
func (s *Scenario) Format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "world %s\n", s.World)
	for _, l := range s.Lists {
		fmt.Fprintf(&b, "list %s\n", l)
	}
	for _, e := range s.Events {
		fmt.Fprintln(&b, e)
	}
	return b.Bytes()
}

// Parse reads a scenario. The error names the line.
func Parse(text []byte) (*Scenario, error) {
	s := &Scenario{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		words, err := split(lines.Text())
		if err == nil && len(words) > 0 {
			err = s.line(words)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	slices.SortStableFunc(s.Events, func(a, b Event) int { return int(a.At - b.At) })
	return s, lines.Err()
}

func (s *Scenario) line(words []string) error {
	first, rest := words[0], words[1:]
	at, err := strconv.ParseFloat(first, 64)
	verb := first
	if err == nil {
		if len(rest) == 0 {
			return fmt.Errorf("%q has no verb", first)
		}
		verb, rest = rest[0], rest[1:]
	}

	var args Args
	for _, word := range rest {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", word)
		}
		args = append(args, Arg{key, value})
	}
	switch {
	case err == nil:
		ms := time.Duration(at*1000 + 0.5)
		s.Events = append(s.Events, Event{At: ms * time.Millisecond, Verb: verb, Args: args})
	case verb == "world":
		s.World = args
	case verb == "list":
		s.Lists = append(s.Lists, args)
	default:
		return fmt.Errorf("%q is not a time, world or list", verb)
	}
	return nil
}

// split splits a line at spaces outside of quotes, which it removes.
func split(line string) (words []string, err error) {
	for {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			return words, nil
		}
		end := strings.IndexAny(line, " \"")
		if end >= 0 && line[end] == '"' {
			quoted, err := strconv.QuotedPrefix(line[end:])
			if err != nil {
				return nil, fmt.Errorf("%q has no closing quote", line)
			}
			value, _ := strconv.Unquote(quoted)
			words = append(words, line[:end]+value)
			line = line[end+len(quoted):]
			continue
		}
		if end < 0 {
			end = len(line)
		}
		words = append(words, line[:end])
		line = line[end:]
	}
}
