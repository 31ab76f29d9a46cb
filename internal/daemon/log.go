package daemon

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"edged/internal/config"
	logjournal "edged/internal/journal"
	"edged/internal/logqueue"
	"edged/internal/logring"
	"edged/internal/logsample"
)

// At most repeats lines with the same message are written per repeatInterval.
const (
	repeats        = 20
	repeatInterval = 10 * time.Second
)

// logging is the daemon's log. Its destination never holds up the daemon: what that does
// not take is lost and counted.
type logging struct {
	*zap.Logger
	level    zap.AtomicLevel // can be changed while the daemon runs
	recent   logring.Ring    // its last warnings and errors
	lost     func() uint64   // the number of lines that the destination did not take
	repeated func() uint64   // the number of lines dropped because their message came too often
	close    func()          // writes the lines that are left, for a second at most
}

// sendFunc writes an entry of the journal; its signature is that of go-systemd's
// journal.Send.
type sendFunc func(message string, priority journal.Priority, fields map[string]string) error

// newLog logs to the journal by send, if w is connected to it; else to w: readable
// on a terminal, JSON elsewhere, unless log.format says which.
func newLog(cfg config.Log, w io.Writer, send sendFunc) *logging {
	l := &logging{level: zap.NewAtomicLevel()}
	l.level.UnmarshalText([]byte(cfg.Level)) // config has checked it

	format := cfg.Format
	var core zapcore.Core
	if format == "auto" && onJournal(w) {
		q := logqueue.New(func(e logjournal.Entry) error { return send(e.Message, e.Priority, e.Fields) }, logjournal.Lost)
		core, l.lost, l.close = logjournal.New(l.level, q.Put), q.Dropped, q.Close
	} else {
		enc := encoder(format == "console" || format == "auto" && onTerminal(w))
		q := logqueue.New(func(line []byte) error {
			_, err := w.Write(line)
			return err
		}, func(n uint64) []byte { return lostLines(enc.Clone(), n) })
		core, l.lost, l.close = zapcore.NewCore(enc, lines(q.Put), l.level), q.Dropped, q.Close
	}

	limited := logsample.New(zapcore.NewTee(core, l.recent.Core()), repeats, repeatInterval)
	l.repeated = limited.Dropped
	l.Logger = zap.New(limited)
	return l
}

// lostLines returns the line that says how many lines were lost.
func lostLines(enc zapcore.Encoder, n uint64) []byte {
	about := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "lines of the log were lost"}
	line, err := enc.EncodeEntry(about, []zapcore.Field{zap.Uint64("lines", n)})
	if err != nil {
		return nil
	}
	defer line.Free()
	return bytes.Clone(line.Bytes())
}

// lines is a zapcore.WriteSyncer of encoded lines, which controls no terminal.
type lines func([]byte)

// Write passes on a line in which characters that control a terminal are escaped as JSON
// does it.
func (put lines) Write(line []byte) (int, error) {
	escaped := make([]byte, 0, len(line))
	for rest := bytes.TrimSuffix(line, []byte("\n")); len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		rest = rest[size:]
		switch {
		case unicode.IsPrint(r), r == '\t': // tabs separate the columns
			escaped = utf8.AppendRune(escaped, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	put(append(escaped, '\n'))
	return len(line), nil
}

// Sync is part of zapcore.WriteSyncer; close writes the lines that are left.
func (put lines) Sync() error { return nil }

func encoder(forPeople bool) zapcore.Encoder {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	if !forPeople {
		return zapcore.NewJSONEncoder(enc)
	}
	enc.EncodeLevel = zapcore.CapitalLevelEncoder
	enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000Z07:00")
	return zapcore.NewConsoleEncoder(enc)
}

// onJournal tells whether w is our standard error, systemd has connected that to
// the journal ($JOURNAL_STREAM of systemd.exec(5)), and the journal is there.
func onJournal(w io.Writer) bool {
	if w != io.Writer(os.Stderr) || !journal.Enabled() {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return is && err == nil
}

func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
