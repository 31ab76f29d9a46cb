package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"edged/internal/config"
	"edged/internal/uds"
)

// The user and the watchdog of the unit as shipped.
const (
	unitUser     = "edged"
	unitWatchdog = 30 * time.Second
)

// Check does the part of a start that needs no network and changes nothing, with the code of a start: it
// reads the files that a valid configuration names and looks at the folders of the sockets. It writes the
// start's warnings and errors to stderr, and to stdout what it can't know. It reports whether a start
// would go on.
func Check(stdout, stderr io.Writer, cfg *config.Config) (ok bool) {
	log := zap.New(&textCore{w: stderr})
	files := fileReader{cfg: cfg, log: log, outside: true}
	files.contents()
	err := files.err()
	if err != nil {
		fmt.Fprintf(stderr, "edged: %v\n", err)
	}
	control := checkSocket(stdout, cfg.Control.Socket, func(err error) { logNoOperators(cfg, log, err) })
	if path := cfg.Control.StatusSocket; path != "" {
		checkSocket(stdout, path, func(err error) { logNoMonitors(cfg, log, err) })
	}

	uplinks := fileReader{cfg: cfg, log: log, outside: true}
	for i, u := range cfg.Uplinks {
		uplinks.hub(config.Index("uplink", i), u)
	}
	for _, problem := range uplinks.problems {
		log.Warn("an uplink stays down", zap.String("reason", problem))
	}
	warnOfPublicHubs(cfg, log)

	warnIfOpen(cfg, listenAddress(cfg.TCP.Listen), log)
	warnOfFiles(cfg, log)
	redisTimeout(cfg, unitWatchdog, log)
	newLimiter(os.DirFS("/"), log).warn(cfg)

	for _, key := range append(files.unread, uplinks.unread...) {
		fmt.Fprintf(stdout, "not read: %s, which is a systemd credential\n", key)
	}
	if files.read+uplinks.read > 0 && os.Geteuid() == 0 {
		noteRoot(stdout, cfg)
	}
	return err == nil && control
}

// checkSocket looks at the folder of a socket. It calls failed if a start as this user would fail, and
// would so as any other user; else it writes what it can't know.
func checkSocket(w io.Writer, path string, failed func(error)) (ok bool) {
	err := uds.Check(path)
	folder := filepath.Dir(path)
	switch {
	case err == nil:
		return true
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(folder, "/run/"):
		fmt.Fprintf(w, "not known: whether %s can be made: there is no %s yet; edged.service makes it (RuntimeDirectory=)\n", path, folder)
		return true
	case errors.Is(err, fs.ErrPermission) && !owns(folder):
		fmt.Fprintf(w, "not known: whether %s can be made: the user %s can't write to %s, the user of edged.service may\n", path, userName(), folder)
		return true
	}
	failed(err)
	return false
}

// owns reports whether a folder belongs to the user of this process.
func owns(folder string) bool {
	var about unix.Stat_t
	err := unix.Stat(folder, &about)
	return err == nil && int(about.Uid) == os.Geteuid()
}

// noteRoot writes that another user runs the service, if there is that user.
func noteRoot(w io.Writer, cfg *config.Config) {
	if _, err := user.Lookup(unitUser); err == nil {
		fmt.Fprintf(w, "not known: whether the user %s may read these files as root may: runuser -u %[1]s -- edged check %s\n", unitUser, cfg.File())
	}
}

// listenAddress returns the address that a start would listen on, or nil if that depends on a name: none
// is looked up.
func listenAddress(listen string) net.Addr {
	host, _, err := net.SplitHostPort(listen)
	if err == nil && host == "" {
		host = "::"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	_, port := hostPort(listen)
	return &net.TCPAddr{IP: ip.AsSlice(), Port: port, Zone: ip.Zone()}
}

// place is a field of a log line about a key: the key, and where it stands in the configuration.
func place(cfg *config.Config, key string) zap.Field {
	return zap.Inline(zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		enc.AddString("key", key)
		if at := cfg.Place(key); at != "" {
			enc.AddString("place", at)
		}
		return nil
	}))
}

// textCore writes warnings and errors for people: the place and the key, the message, the other fields.
type textCore struct {
	zapcore.LevelEnabler
	w io.Writer
}

// Enabled reports whether a level is one of warnings and errors.
func (*textCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With is not used: the loggers of a check have no fields of their own.
func (c *textCore) With([]zapcore.Field) zapcore.Core { return c }

// Check is part of zapcore.Core.
func (c *textCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Sync is part of zapcore.Core.
func (*textCore) Sync() error { return nil }

// Write writes an entry as a line.
func (c *textCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	var b strings.Builder
	if b.WriteString("edged: "); e.Level == zapcore.WarnLevel {
		b.WriteString("warning: ")
	}
	values := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(values)
	}
	for _, name := range []string{"place", "key"} {
		if value, ok := values.Fields[name]; ok {
			fmt.Fprintf(&b, "%v: ", value)
			delete(values.Fields, name)
		}
	}
	b.WriteString(e.Message)

	for _, f := range fields {
		if value, ok := values.Fields[f.Key]; ok {
			fmt.Fprintf(&b, "; %s: %v", strings.ReplaceAll(f.Key, "_", " "), value)
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(c.w, b.String())
	return err
}
