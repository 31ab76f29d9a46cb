package daemon

import (
	"io"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"edged/internal/config"
	logjournal "edged/internal/journal"
	"edged/internal/logsample"
)

// At most repeats lines with the same message are written per repeatInterval.
const (
	repeats        = 20
	repeatInterval = 10 * time.Second
)

// logging is the daemon's log.
type logging struct {
	*zap.Logger
	level    zap.AtomicLevel // can be changed while the daemon runs
	dropped  func() uint64   // the number of lines that did not reach the journal; nil if the log is not the journal's
	repeated func() uint64   // the number of lines dropped because their message came too often
	close    func()          // writes the lines that are left
}

// newLog logs to the journal by send, if w is connected to it; else to w: readable
// on a terminal, JSON elsewhere, unless log.format says which.
func newLog(cfg config.Log, w io.Writer, send logjournal.Send) *logging {
	l := &logging{level: zap.NewAtomicLevel()}
	l.level.UnmarshalText([]byte(cfg.Level)) // config has checked it
	format := cfg.Format
	var core zapcore.Core
	stop := func() {}
	if format == "auto" && onJournal(w) {
		c := logjournal.New(l.level, send)
		core, stop, l.dropped = c, c.Close, c.Dropped
	} else {
		core = zapcore.NewCore(encoder(format == "console" || format == "auto" && onTerminal(w)), zapcore.Lock(zapcore.AddSync(w)), l.level)
	}
	limited := logsample.New(core, repeats, repeatInterval)
	l.repeated = limited.Dropped
	l.Logger = zap.New(limited, zap.ErrorOutput(zapcore.Lock(zapcore.AddSync(w))))
	l.close = func() {
		_ = l.Sync()
		stop()
	}
	return l
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
