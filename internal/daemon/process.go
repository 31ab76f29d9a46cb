package daemon

import (
	"context"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"

	"edged/internal/redisconn"
	"edged/internal/signals"
	"edged/internal/systemd"
)

// Main is Run for a daemon that has the process to itself. All effects on the process
// are here: signals, the log of go-redis, the memory limit, and the sockets and
// notifications of systemd.
func Main(ctx context.Context, o Options) (code int) {
	// Never stopped: a signal that comes after the drain must not kill the process
	// before it has returned its exit code.
	o.Signals = signals.New().C

	log := newLog(o.Config.Log, o.Stderr, journal.Send)
	defer log.close()
	redisconn.SetLog(log.Logger)
	o.memory = newLimiter(os.DirFS("/"), log.Logger)
	o.memory.follow(o.Config)

	o.Notify = systemd.New(func(err error) { log.Warn("can't notify systemd", zap.Error(err)) })
	var err error
	if o.Sockets, err = systemd.Sockets(); err != nil {
		log.Error("can't use the sockets that systemd passed", zap.Error(err))
		return ExitFailed
	}
	return serve(ctx, o, log)
}
