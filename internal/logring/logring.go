// Package logring keeps the last lines of the log for the status page. Lines about logins are not
// kept: a password that was typed as a name must not appear there.
package logring

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"
)

// kept is the number of lines that a Ring keeps, and maxFields bounds the text of a line's fields
// in bytes.
const (
	kept      = 50
	maxFields = 400
)

// Line is a line of the log.
type Line struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // warn or error
	Logger  string    `json:"logger,omitempty"`
	Message string    `json:"message"`
	Fields  string    `json:"fields,omitempty"` // "list=events reason=…"
}

// Ring keeps the last lines of level warn and above. The zero value is empty. Its methods may be
// called from any goroutine.
type Ring struct {
	mu    sync.Mutex
	lines []Line // guarded by mu; the oldest first, at most kept
}

// Lines returns the lines, the newest first.
func (r *Ring) Lines() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := slices.Clone(r.lines)
	slices.Reverse(lines)
	return lines
}

func (r *Ring) add(l Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == kept {
		r.lines = slices.Delete(r.lines, 0, 1)
	}
	r.lines = append(r.lines, l)
}

// Core returns a core that writes to the ring.
func (r *Ring) Core() zapcore.Core { return core{ring: r} }

// core is a zapcore.Core.
type core struct {
	ring   *Ring
	fields []zapcore.Field
}

// Enabled reports whether lines of a level are kept.
func (c core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With is part of zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.ring, slices.Concat(c.fields, fields)}
}

// Check is part of zapcore.Core.
func (c core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write keeps a line. It checks the level itself, because a zapcore.Tee writes to all of its cores
// without calling Check.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	all := slices.Concat(c.fields, fields)
	if c.Enabled(e.Level) && !slices.ContainsFunc(all, aboutLogin) {
		c.ring.add(Line{e.Time, e.Level.String(), e.LoggerName, e.Message, text(all)})
	}
	return nil
}

// Sync is part of zapcore.Core.
func (c core) Sync() error { return nil }

// aboutLogin reports whether a field marks a line about a login.
func aboutLogin(f zapcore.Field) bool {
	return f.Key == "event" && strings.HasPrefix(f.String, "login")
}

// text returns fields as "key=value key=value". It leaves out those that are for machines.
func text(fields []zapcore.Field) string {
	values := zapcore.NewMapObjectEncoder()
	var b strings.Builder
	for _, f := range fields {
		if f.Key == "event" || f.Key == "stack" {
			continue
		}
		f.AddTo(values)
		if value, ok := values.Fields[f.Key]; ok && b.Len() <= maxFields {
			fmt.Fprintf(&b, " %s=%v", f.Key, value)
		}
	}
	return short(strings.TrimPrefix(b.String(), " "))
}

// short cuts s to maxFields bytes.
func short(s string) string {
	if len(s) <= maxFields {
		return s
	}
	cut := maxFields
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
