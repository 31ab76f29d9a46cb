package uds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens on a Unix socket at path, whose file gets the given permission
// bits whatever the umask is, and on Linux has at no time more than those.
//
// A socket file that no process answers on is replaced. One that is answered,
// and a file that is no socket, are errors and stay as they are. Of several
// processes that call Listen for one path at a time, one succeeds. The listener
// removes its file when it is closed, unless another has taken the file's place.
//
// The file is given to the group of that name. Where there is no such group, or
// this process may not give files to it, it stays as it is.
func Listen(path string, mode fs.FileMode, group string) (net.Listener, error) {
	ln := &listener{path: path, mode: mode, group: group}
	err := ln.open()
	if err != nil {
		return nil, fmt.Errorf("listen on the Unix socket %q: %w", path, err)
	}
	return ln, nil
}

// open makes a new socket and file.
func (l *listener) open() error {
	path, mode := l.path, l.mode
	switch {
	case path == "" || path[0] == '@':
		return errors.New("it needs the path of a file: abstract sockets have no permissions")
	case len(path) > maxPath:
		return fmt.Errorf("the path has %d bytes, a socket takes at most %d; choose a shorter one", len(path), maxPath)
	}

	// Between the look at an old file and its removal another process may have
	// put its own there, so there is one at a time in a folder.
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return err
	}

	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var modeErr error
		err := c.Control(func(fd uintptr) { modeErr = limitMode(fd, mode) })
		return cmp.Or(err, modeErr)
	}}
	inner, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return plain(err)
	}
	unixLn := inner.(*net.UnixListener)
	unixLn.SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err != nil {
		_ = unixLn.Close()
		return plain(err)
	}
	if err := l.dress(info); err != nil {
		_ = os.Remove(path)
		_ = unixLn.Close()
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.current
	l.current, l.info = unixLn, info
	if l.closed { // in the meantime
		return l.close()
	}
	if old != nil {
		_ = old.Close()
	}
	return nil
}

// dress gives the file its group and mode.
func (l *listener) dress(info fs.FileInfo) error {
	if g, err := user.LookupGroup(l.group); l.group != "" && err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			_ = os.Lchown(l.path, -1, gid) // where that is not for us to do, our own group has it
		}
	}
	if info.Mode().Perm() != l.mode.Perm() {
		if err := os.Chmod(l.path, l.mode.Perm()); err != nil {
			return fmt.Errorf("set its mode to %04o: %w", l.mode.Perm(), plain(err))
		}
	}
	return nil
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
	path  string
	mode  fs.FileMode
	group string

	mu      sync.Mutex
	current *net.UnixListener // guarded by mu; another one after the file was put back
	info    fs.FileInfo       // guarded by mu; of its file
	closed  bool              // guarded by mu
}

func (l *listener) unix() *net.UnixListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

func (l *listener) Accept() (net.Conn, error)     { return l.unix().Accept() }
func (l *listener) Addr() net.Addr                { return l.unix().Addr() }
func (l *listener) SetDeadline(t time.Time) error { return l.unix().SetDeadline(t) }

// restore makes the file again if it is gone: a new socket, since no name can be
// given back to the old one. It must not be called during an Accept. It fails
// where the file can't be made, or another one has its place.
func (l *listener) restore() (restored bool, err error) {
	l.mu.Lock()
	info := l.info
	l.mu.Unlock()
	now, err := os.Lstat(l.path)
	if err == nil && os.SameFile(info, now) {
		return false, nil
	}
	if err := l.open(); err != nil {
		return false, err
	}
	return true, nil
}

// Close removes the file and closes the listener, in this order: a file that is
// still there is still answered.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

// close is called with mu held.
func (l *listener) close() error {
	l.closed = true
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(l.info, now) {
		_ = os.Remove(l.path) // what stays behind is stale, and replaced next time
	}
	return l.current.Close()
}
