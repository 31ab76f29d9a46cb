package daemon

import (
	"io/fs"
	"os"
	"runtime/debug"

	"go.uber.org/zap"

	"edged/internal/cgroup"
)

// programPages is what the program's file takes in memory, about: the kernel counts
// it in the control group, and Go's runtime does not.
const programPages = 8 << 20

// limitMemory tells the garbage collector how much of what the control group may use
// (MemoryMax= in the unit) is its, so that it works harder before the kernel kills
// the process. The rest is for what the runtime does not count: a tenth for sockets
// and threads, and the program's pages. Whoever sets GOMEMLIMIT knows better. root is
// the file system's root.
func limitMemory(root fs.FS, log *zap.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	most, err := cgroup.MemoryLimit(root)
	if err != nil {
		log.Warn("can't tell how much memory the control group may use", zap.Error(err))
		return
	}
	if most == 0 {
		return
	}
	limit := max(most/10*9-programPages, most/2)
	debug.SetMemoryLimit(limit)
	log.Info("the garbage collector keeps to the memory of the control group", zap.Int64("limit_bytes", limit),
		zap.Int64("group_bytes", most))
}
