package daemon

import (
	"io/fs"
	"os"
	"runtime/debug"

	"go.uber.org/zap"

	"edged/internal/cgroup"
	"edged/internal/config"
	"edged/internal/relay"
	"edged/internal/tcpserver"
)

const (
	// programPages is about the memory that the program's file takes: the kernel counts
	// it in the control group, and Go's runtime does not.
	programPages = 8 << 20
	// restMemory is the memory that edged takes without clients and items: the program's pages, the
	// lists, requests of operators.
	restMemory = programPages + 16<<20

	// maxPending bounds the items that await acknowledgements, of all lists together: two consumers
	// with the largest max_ack_pending.
	maxPending = 131_072

	// unitMemory is MemoryMax= of the unit as shipped.
	unitMemory = 256 << 20
)

// allowedMemory is how many bytes edged may take with a configuration: the budgets, the memory outside
// of them for each connection, and the rest. docs/SECURITY.md has the same sum.
func allowedMemory(cfg *config.Config) int64 {
	tcp, delivery := cfg.TCP, cfg.Delivery
	connections := tcpserver.Footprint(tcp.MaxConnections, int(tcp.MaxControlLine), tcp.TLS.CertFile != "")
	items := delivery.Memory + delivery.Memory/2 // the half for consumers behind the others
	replies := 4 * (delivery.BatchBytes + tcp.MaxPayload)
	return restMemory + maxPending*relay.ClaimMemory + int64(tcp.Memory+items+replies+delivery.InboundBuffer) + int64(connections) + uplinkMemory(cfg)
}

// limiter tells the garbage collector how much memory it may let the process take.
type limiter struct {
	group int64 // limit of the control group (MemoryMax= in the unit); 0 means none
	fixed bool  // by GOMEMLIMIT
	log   *zap.Logger
}

// newLimiter makes a limiter for the control group of this process. root is the file system's root.
func newLimiter(root fs.FS, log *zap.Logger) *limiter {
	group, err := cgroup.MemoryLimit(root)
	if err != nil {
		log.Warn("can't tell how much memory the control group may use", zap.Error(err))
	}
	return &limiter{group: group, fixed: os.Getenv("GOMEMLIMIT") != "", log: log}
}

// warn says in the log if the control group has less memory than a configuration allows.
func (l *limiter) warn(cfg *config.Config) {
	if allowed := allowedMemory(cfg); l.group > 0 && l.group < allowed {
		l.log.Warn("the configuration allows more memory than MemoryMax=",
			zap.Int64("allowed_bytes", allowed), zap.Int64("group_bytes", l.group))
	}
}

// follow limits the memory to the sum that a configuration allows, so that garbage is not added to the
// budgets. In a smaller control group the limit leaves room for memory that the runtime does not count: a
// tenth for sockets and threads, and the program's pages. GOMEMLIMIT in the environment takes
// precedence.
func (l *limiter) follow(cfg *config.Config) {
	if l == nil {
		return
	}
	allowed := allowedMemory(cfg)
	limit := allowed - programPages
	fields := []zap.Field{zap.Int64("allowed_bytes", allowed)}
	if l.group > 0 {
		limit = min(limit, max(l.group/10*9-programPages, l.group/2))
		fields = append(fields, zap.Int64("group_bytes", l.group))
	}
	l.warn(cfg)
	if !l.fixed {
		debug.SetMemoryLimit(limit)
		l.log.Info("memory limit of the garbage collector", append(fields, zap.Int64("limit_bytes", limit))...)
	}
}
