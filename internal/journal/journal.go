// Package journal is a zap core that writes structured fields to systemd's journal: MESSAGE
// (followed by the fields, for people), PRIORITY, EDGED_<KEY> for each field of the entry, and a
// MESSAGE_ID for entries with a field "event" that is one of Events. See systemd.journal-fields(7).
//
// Messages have no characters that control a terminal; fields have their values unchanged.
package journal

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// Events has the MESSAGE_ID of each event. They never change, so that `journalctl MESSAGE_ID=…` and
// its catalogs find them.
var Events = map[string]string{
	"started":        "0f9f2b9c6ff24d3f8a8b8e6a0c6f4a51",
	"draining":       "5b1a3f1e2f6e4c4e9a57b9c3b2a7d60e",
	"redis-lost":     "c8e1f3f0d9d44cc08b6f7f0b7f0f9a33",
	"redis-back":     "3d2c7f6a51b14e5d9f6b0e9c2a4d8b72",
	"login-refused":  "7c1d94e2a8f64b0d93be5a1f60c7d284",
	"client-cut-off": "a47d0c5e8f3b49b2b1c6d2e7f9083c14",
}

// Entry is an entry of the journal.
type Entry struct {
	Message  string
	Priority journal.Priority
	Fields   map[string]string
}

// Core is a zapcore.Core that makes entries.
type Core struct {
	zapcore.LevelEnabler
	put    func(Entry)
	fields []zapcore.Field
}

// New makes a core that passes its entries to put, which must not wait for the journal.
func New(level zapcore.LevelEnabler, put func(Entry)) *Core {
	return &Core{LevelEnabler: level, put: put}
}

// Lost returns the entry with the number of entries that did not reach the journal.
func Lost(n uint64) Entry {
	lines := strconv.FormatUint(n, 10)
	return Entry{"lines of the log were lost lines=" + lines, journal.PriWarning, map[string]string{"EDGED_LINES": lines}}
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

// Write is part of zapcore.Core. It never fails.
func (c *Core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	out := Entry{Priority: priority(e.Level), Fields: map[string]string{}}
	if e.LoggerName != "" {
		out.Fields["EDGED_LOGGER"] = e.LoggerName
	}

	var message strings.Builder
	message.WriteString(printable(e.Message))
	for _, list := range [][]zapcore.Field{c.fields, fields} {
		for _, f := range list {
			enc := zapcore.NewMapObjectEncoder()
			f.AddTo(enc)
			for key, value := range enc.Fields {
				if key == "errorVerbose" { // zap adds it; it repeats the error
					continue
				}
				text := fmt.Sprint(value)
				if key == "event" {
					if id := Events[text]; id != "" {
						out.Fields["MESSAGE_ID"] = id
					}
				} else {
					fmt.Fprintf(&message, " %s=%s", key, quoted(text))
				}
				out.Fields[name(key)] = text
			}
		}
	}

	out.Message = message.String()
	c.put(out)
	return nil
}

// Sync is part of zapcore.Core; there is nothing to write.
func (c *Core) Sync() error { return nil }

// quoted quotes a text that would be ambiguous in a line of words.
func quoted(text string) string {
	if q := fmt.Sprintf("%q", text); text == "" || q != `"`+text+`"` || strings.ContainsAny(text, " =") {
		return q
	}
	return text
}

// printable escapes a message that has characters which control a terminal.
func printable(message string) string {
	if strings.ContainsFunc(message, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strings.Trim(strconv.Quote(message), `"`)
	}
	return message
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
