// Package journal is a zap core that writes to systemd's journal in structured
// fields: MESSAGE (with the fields behind it, for people), PRIORITY, EDGED_<KEY>
// for each field of the entry, and a MESSAGE_ID for entries with a field "event"
// that is one of Events. See systemd.journal-fields(7).
//
// Writing never waits: entries go to a bounded queue, one goroutine sends them in
// their order. What finds the queue full, or a journal that does not take it, is
// dropped and counted; the next entry that gets through is followed by the count.
package journal

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// Events has the MESSAGE_ID of each event; they never change, so that
// `journalctl MESSAGE_ID=…` and its catalogs find them.
var Events = map[string]string{
	"started":        "0f9f2b9c6ff24d3f8a8b8e6a0c6f4a51",
	"draining":       "5b1a3f1e2f6e4c4e9a57b9c3b2a7d60e",
	"redis-lost":     "c8e1f3f0d9d44cc08b6f7f0b7f0f9a33",
	"redis-back":     "3d2c7f6a51b14e5d9f6b0e9c2a4d8b72",
	"client-cut-off": "a47d0c5e8f3b49b2b1c6d2e7f9083c14",
}

const (
	queueLength = 1024        // entries
	closeGrace  = time.Second // for the queue to be sent at Close
)

// Send writes an entry; its signature is that of go-systemd's journal.Send.
type Send func(message string, priority journal.Priority, fields map[string]string) error

// Core is a zapcore.Core. Cores made by With share the queue and the goroutine.
type Core struct {
	zapcore.LevelEnabler
	*sender
	fields []zapcore.Field
}

// sender is the queue and the goroutine that empties it.
type sender struct {
	send    Send
	dropped atomic.Uint64
	done    chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	closed bool       // guarded by mu
	queue  chan entry // closed under mu
}

type entry struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

// New makes a core and starts its goroutine, which Close ends.
func New(level zapcore.LevelEnabler, send Send) *Core {
	s := &sender{send: send, done: make(chan struct{}), queue: make(chan entry, queueLength)}
	go s.run()
	return &Core{LevelEnabler: level, sender: s}
}

// Dropped is how many entries did not reach the journal.
func (s *sender) Dropped() uint64 { return s.dropped.Load() }

// Close sends what is in the queue and ends the goroutine. A journal that hangs
// keeps it for a second at most. Entries that come later are dropped.
func (s *sender) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.queue)
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(closeGrace):
	}
}

func (s *sender) run() {
	defer close(s.done)
	var told uint64 // of dropped
	for e := range s.queue {
		if s.send(e.message, e.priority, e.fields) != nil {
			s.dropped.Add(1)
			continue
		}
		if n := s.dropped.Load(); n > told && s.send(
			fmt.Sprintf("%d lines of the log did not reach the journal", n-told), journal.PriWarning, nil) == nil {
			told = n
		}
	}
}

func (s *sender) put(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		select {
		case s.queue <- e:
			return
		default:
		}
	}
	s.dropped.Add(1)
}

// With is part of zapcore.Core.
func (c *Core) With(fields []zapcore.Field) zapcore.Core {
	clone := *c
	clone.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return &clone
}

// Check is part of zapcore.Core.
func (c *Core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write is part of zapcore.Core. It never fails and never waits.
func (c *Core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	out := entry{priority: priority(e.Level), fields: map[string]string{}}
	if e.LoggerName != "" {
		out.fields["EDGED_LOGGER"] = e.LoggerName
	}
	var message strings.Builder
	message.WriteString(e.Message)
	for _, list := range [][]zapcore.Field{c.fields, fields} {
		for _, f := range list {
			enc := zapcore.NewMapObjectEncoder()
			f.AddTo(enc)
			for key, value := range enc.Fields {
				if key == "errorVerbose" { // zap adds it; it is the error again
					continue
				}
				text := fmt.Sprint(value)
				if key == "event" {
					if id := Events[text]; id != "" {
						out.fields["MESSAGE_ID"] = id
					}
				} else {
					fmt.Fprintf(&message, " %s=%s", key, quoted(text))
				}
				out.fields[name(key)] = text
			}
		}
	}
	out.message = message.String()
	c.put(out)
	return nil
}

// Sync is part of zapcore.Core; Close sends what is left.
func (c *Core) Sync() error { return nil }

// quoted quotes what would not stand for itself in a line of words.
func quoted(text string) string {
	if q := fmt.Sprintf("%q", text); text == "" || q != `"`+text+`"` || strings.ContainsAny(text, " =") {
		return q
	}
	return text
}

// name makes the name of a journal field: capital letters, digits and _.
func name(key string) string {
	return "EDGED_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func priority(l zapcore.Level) journal.Priority {
	switch {
	case l < zapcore.InfoLevel:
		return journal.PriDebug
	case l == zapcore.InfoLevel:
		return journal.PriInfo
	case l == zapcore.WarnLevel:
		return journal.PriWarning
	case l == zapcore.ErrorLevel:
		return journal.PriErr
	default:
		return journal.PriCrit
	}
}
