package uds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a socket, in bytes: sun_path of unix(7) with
// its closing NUL.
const maxPath = 107

// Listen listens on a Unix socket at path, whose file gets the given permission
// bits whatever the umask is, and has at no time more than those.
//
// A socket file that no process answers on is replaced. One that is answered,
// and a file that is no socket, are errors and stay as they are. Of several
// processes that call Listen for one path at a time, one succeeds. The listener
// removes its file when it is closed, unless another has taken the file's place.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	ln, err := listen(path, mode)
	if err != nil {
		return nil, fmt.Errorf("listen on the Unix socket %q: %w", path, err)
	}
	return ln, nil
}

func listen(path string, mode fs.FileMode) (net.Listener, error) {
	switch {
	case path == "" || path[0] == '@':
		return nil, errors.New("it needs the path of a file: abstract sockets have no permissions")
	case len(path) > maxPath:
		return nil, fmt.Errorf("the path has %d bytes, Linux takes at most %d; choose a shorter one", len(path), maxPath)
	}

	// Between the look at an old file and its removal another process may have
	// put its own there, so there is one at a time in a folder.
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}

	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// bind takes the mode of the file from that of the socket, less the umask.
		var chmodErr error
		if err := c.Control(func(fd uintptr) {
			chmodErr = unix.Fchmod(int(fd), uint32(mode.Perm()))
		}); err != nil {
			return err
		}
		return chmodErr
	}}
	inner, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, plain(err)
	}
	unixLn := inner.(*net.UnixListener)
	unixLn.SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err != nil {
		_ = unixLn.Close()
		return nil, plain(err)
	}
	ln := &listener{UnixListener: unixLn, path: path, info: info}
	if info.Mode().Perm() != mode.Perm() {
		if err := os.Chmod(path, mode.Perm()); err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("set its mode to %04o: %w", mode.Perm(), plain(err))
		}
	}
	return ln, nil
}

// lockFolder keeps other callers of lockFolder out of the folder until the
// returned function is called.
func lockFolder(folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the folder %q does not exist; create it first (under systemd: RuntimeDirectory=)", folder)
	case err != nil:
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the folder %q: %w", folder, err)
	}
	return func() { _ = f.Close() }, nil
}

// removeStale makes room for a socket at path, if that harms nobody.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return plain(err)
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is not a socket; it is left alone: remove it or choose another path")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN): // EAGAIN: its queue is full
		return errors.New("another process answers on it; stop that one or choose another path")
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove the stale socket: %w", plain(err))
		}
		return nil
	default:
		return fmt.Errorf("cannot tell whether another process uses it: %w", plain(err))
	}
}

// plain takes the operation and the address off an error that is wrapped in
// text that says them already.
func plain(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// listener removes its socket file when it is closed, and no other file.
type listener struct {
	*net.UnixListener
	path string
	info fs.FileInfo // of the socket file
	once sync.Once
}

// Close removes the file and closes the listener, in this order: a file that is
// still there is still answered.
func (l *listener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(l.info, now) {
			_ = os.Remove(l.path) // what stays behind is stale, and replaced next time
		}
	})
	return l.UnixListener.Close()
}
