// Package logsample keeps a repeated message from flooding the log: zap's sampler with edged's
// rules.
package logsample

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Core is a zapcore.Core that drops lines whose level and message have been written often lately.
// It counts them, and logs at most once per interval that it drops lines. Debug lines always pass:
// a user who asks for them wants all of them.
type Core struct {
	zapcore.Core              // the sampler
	all          zapcore.Core // writes every line
	dropped      *atomic.Uint64
}

// New returns a Core that writes to all at most the given number of lines with the same
// level and message per interval, which begins with the first of them.
func New(all zapcore.Core, lines int, interval time.Duration) *Core {
	c := &Core{all: all, dropped: new(atomic.Uint64)}
	var said atomic.Int64 // time of the last such line, in nanoseconds since 1970
	hook := func(e zapcore.Entry, decision zapcore.SamplingDecision) {
		if decision != zapcore.LogDropped {
			return
		}
		n := c.dropped.Add(1)
		last, now := said.Load(), e.Time.UnixNano()
		if now-last < int64(interval) || !said.CompareAndSwap(last, now) {
			return
		}

		about := zapcore.Entry{Level: e.Level, Time: e.Time, Message: "dropping log lines that repeat; status counts them"}
		_ = all.Write(about, []zapcore.Field{zap.String("line", e.Message), zap.Uint64("dropped", n)})
	}
	c.Core = zapcore.NewSamplerWithOptions(all, interval, lines, 0, zapcore.SamplerHook(hook))
	return c
}

// Dropped returns the number of lines dropped so far.
func (c *Core) Dropped() uint64 { return c.dropped.Load() }

// With is part of zapcore.Core.
func (c *Core) With(fields []zapcore.Field) zapcore.Core {
	return &Core{Core: c.Core.With(fields), all: c.all.With(fields), dropped: c.dropped}
}

// Check is part of zapcore.Core.
func (c *Core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level == zapcore.DebugLevel {
		return c.all.Check(e, checked)
	}
	return c.Core.Check(e, checked)
}
