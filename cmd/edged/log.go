package main

import (
	"io"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	logjournal "edged/internal/journal"
	"edged/internal/logsample"
)

// At most repeats lines with the same message are written per repeatInterval.
const (
	repeats        = 20
	repeatInterval = 10 * time.Second
)

// newLog logs to the journal where w is that, by send; else to w: readable on a
// terminal, JSON elsewhere, unless log.format says which. The level can be changed
// while it runs. close writes what is left.
func (d *daemon) newLog(w io.Writer, send logjournal.Send) (log *zap.Logger, close func()) {
	format := d.cfg.Log.Format
	var core zapcore.Core
	stop := func() {}
	if format == "auto" && onJournal(w) {
		c := logjournal.New(d.level, send)
		core, stop, d.logDropped = c, c.Close, c.Dropped
	} else {
		core = zapcore.NewCore(encoder(format == "console" || format == "auto" && onTerminal(w)), zapcore.Lock(zapcore.AddSync(w)), d.level)
	}
	limited := logsample.New(core, repeats, repeatInterval)
	d.logRepeated = limited.Dropped
	log = zap.New(limited)
	return log, func() {
		_ = log.Sync()
		stop()
	}
}

func encoder(forPeople bool) zapcore.Encoder {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	if !forPeople {
		return zapcore.NewJSONEncoder(enc)
	}
	enc.EncodeLevel = zapcore.CapitalLevelEncoder
	enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
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
