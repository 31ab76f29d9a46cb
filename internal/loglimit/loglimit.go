// Package loglimit is a zap core in front of another one that lets through a
// bounded number of lines with the same message in a while, and counts the rest:
// what was held back is said in one line, "… 123 more like this", when the while
// is over. Debug lines all pass: who asks for them wants them.
package loglimit

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Limits are of one message at one level.
type Limits struct {
	Lines int           // that pass
	Per   time.Duration // from the first of them on
}

// New puts a limit in front of next. Sync says at once what was held back, and
// leaves no timer behind.
func New(next zapcore.Core, l Limits) zapcore.Core {
	return &core{next, &limiter{limits: l, next: next, runs: map[runKey]*run{}}}
}

type core struct {
	zapcore.Core
	limiter *limiter
}

// limiter is shared by the cores that With makes.
type limiter struct {
	limits Limits
	next   zapcore.Core // without fields

	mu   sync.Mutex
	runs map[runKey]*run // guarded by mu; bounded by the messages in the program
}

// runKey is what makes lines alike.
type runKey struct {
	level           zapcore.Level
	logger, message string
}

// run is the lines with one key since the first of them.
type run struct {
	lines int
	held  int
	timer *time.Timer // ends it
}

// With is part of zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.Core.With(fields), c.limiter}
}

// Check is part of zapcore.Core.
func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || e.Level > zapcore.DebugLevel && !c.limiter.pass(e) {
		return checked
	}
	return c.Core.Check(e, checked)
}

// Sync is part of zapcore.Core.
func (c *core) Sync() error {
	c.limiter.flush()
	return c.Core.Sync()
}

// pass tells whether a line may be written.
func (l *limiter) pass(e zapcore.Entry) bool {
	key := runKey{e.Level, e.LoggerName, e.Message}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runs[key]
	if r == nil {
		r = &run{}
		r.timer = time.AfterFunc(l.limits.Per, func() { l.end(key, r) })
		l.runs[key] = r
	}
	if r.lines < l.limits.Lines {
		r.lines++
		return true
	}
	r.held++
	return false
}

// end says what a run has held back.
func (l *limiter) end(key runKey, r *run) {
	l.mu.Lock()
	if l.runs[key] != r { // flush was here
		l.mu.Unlock()
		return
	}
	delete(l.runs, key)
	l.mu.Unlock()
	l.say(key, r)
}

func (l *limiter) flush() {
	l.mu.Lock()
	runs := l.runs
	l.runs = map[runKey]*run{}
	l.mu.Unlock()
	for key, r := range runs {
		r.timer.Stop()
		l.say(key, r)
	}
}

// say writes the line about what was held back; nobody else has r any more.
func (l *limiter) say(key runKey, r *run) {
	if r.held == 0 {
		return
	}
	e := zapcore.Entry{Level: key.level, Time: time.Now(), LoggerName: key.logger,
		Message: fmt.Sprintf("%s … %d more like this", key.message, r.held)}
	_ = l.next.Write(e, []zapcore.Field{zap.Int("more", r.held)})
}
