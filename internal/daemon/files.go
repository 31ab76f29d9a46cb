package daemon

import (
	"fmt"
	"syscall"

	"go.uber.org/zap"

	"edged/internal/config"
)

// ownFiles is what edged has open at most besides its clients' connections: 32
// control connections, listening sockets, some connections to Redis, the runtime's;
// and some to spare.
const ownFiles = 64

// fitting holds tcp.max_connections against the limit of open files, and returns
// how many connections fit.
func (d *daemon) fitting(cfg *config.Config) int {
	fit, shortage := warnOfFiles(cfg, d.log.Logger)
	d.shortage.Store(&shortage)
	return fit
}

// warnOfFiles says in the log if too few files may be open for all connections. It returns how many
// connections fit, and why not all of them.
func warnOfFiles(cfg *config.Config, log *zap.Logger) (fit int, shortage string) {
	const key = "tcp.max_connections"
	files, err := openFiles()
	if err != nil {
		log.Warn("can't tell how many files may be open", zap.Error(err))
		return cfg.TCP.MaxConnections, ""
	}
	fit, shortage = fitConnections(cfg.TCP.MaxConnections, files)
	if shortage != "" {
		log.Warn("too few files may be open for all clients", place(cfg, key), zap.String("clients", shortage))
	}
	return fit, shortage
}

// openFiles is the limit of open files, getrlimit(2). The Go runtime has raised the
// soft limit to the hard one.
func openFiles() (uint64, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), err
}

// fitConnections returns how many of the clients that tcp.max_connections lets in
// find a file each under the limit, one at the least, and, where that is not all,
// what to do about it. To refuse the rest in plain words is better than to fail in
// accept(2), and to serve some is better than not to start where nobody can look.
func fitConnections(configured int, files uint64) (fit int, shortage string) {
	need := uint64(configured) + ownFiles
	if files >= need {
		return configured, ""
	}
	fit = 1
	if files > ownFiles {
		fit = int(files - ownFiles)
	}
	return fit, fmt.Sprintf("at most %d in place of tcp.max_connections = %d: the limit of open files is %d; set LimitNOFILE=%d in the unit (or ulimit -n), or lower tcp.max_connections, and restart",
		fit, configured, files, need)
}
