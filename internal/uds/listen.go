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

// Listen listens on a Unix socket at path. Its file gets the given permission bits whatever the
// umask is, and on Linux never has more than those.
//
// A stale socket file, on which no process answers, is replaced. If a process answers, or if the
// file is not a socket, Listen fails and leaves the file. If several processes call Listen for one
// path at a time, one succeeds. The listener removes its file when it is closed, unless another
// file has replaced it.
//
// The file is given to the named group. If there is no such group, or this process has no right to
// give files to it, the file keeps its group.
func Listen(path string, mode fs.FileMode, group string) (net.Listener, error) {
	ln := &listener{path: path, mode: mode, group: group}
	err := ln.open()
	if err != nil {
		return nil, failed(path, err)
	}
	return ln, nil
}

// Check returns an error if Listen would fail for path because of the folder, or because of a file
// that is not a socket. It changes nothing, and does not find out whether another process answers.
// The error wraps fs.ErrNotExist if there is no folder, and fs.ErrPermission if this process cannot
// write to it.
func Check(path string) error {
	folder := filepath.Dir(path)
	err := checkPath(path)
	if err == nil {
		err = unix.Access(folder+"/.", unix.W_OK|unix.X_OK)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = noFolder(folder)
		case err != nil:
			err = noLock(filepath.Join(folder, lockFile), err)
		default:
			_, err = oldFile(path)
		}
	}

	if err != nil {
		return failed(path, err)
	}
	return nil
}

func failed(path string, err error) error {
	return fmt.Errorf("listen on the Unix socket %q: %w", path, err)
}

func checkPath(path string) error {
	switch {
	case path == "" || path[0] == '@':
		return errors.New("it needs the path of a file: abstract sockets have no permissions")
	case len(path) > maxPath:
		return fmt.Errorf("the path has %d bytes, a socket takes at most %d; choose a shorter one", len(path), maxPath)
	}
	return nil
}

// open makes a new socket and file.
func (l *listener) open() error {
	path, mode := l.path, l.mode
	if err := checkPath(path); err != nil {
		return err
	}

	// Between the check of an old file and its removal another process may have put its own file
	// there. So only one process at a time changes a folder.
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
	if l.closed { // meanwhile
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
			_ = os.Lchown(l.path, -1, gid) // if it is not permitted, the file keeps our own group
		}
	}
	if info.Mode().Perm() != l.mode.Perm() {
		if err := os.Chmod(l.path, l.mode.Perm()); err != nil {
			return fmt.Errorf("set its mode to %04o: %w", l.mode.Perm(), plain(err))
		}
	}
	return nil
}

// lockFile is the name of the file whose lock stands for a folder. Every user with the right to
// list a folder could lock the folder itself.
const lockFile = ".edged.lock"

// A lock is held while one socket is made: for at most a second, if an old socket does not answer.
const (
	lockPatience = 10 * time.Second
	lockRetry    = 5 * time.Millisecond
)

// lockFolder excludes other callers of lockFolder from the folder until the returned function is
// called. Only the user of this process can open the locked file.
func lockFolder(folder string) (unlock func(), err error) {
	path := filepath.Join(folder, lockFile)
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockRetry) {
		f, err := tryLock(path)
		switch {
		case err == nil:
			return func() {
				_ = os.Remove(path) // while it is locked: see tryLock
				_ = f.Close()
			}, nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, noFolder(folder)
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, noLock(path, plain(err))
		case time.Now().After(deadline):
			return nil, fmt.Errorf("another process has held the lock %q for %v; end it (fuser names it)", path, lockPatience)
		}
	}
}

// absent is an error that wraps fs.ErrNotExist and has a text of its own.
type absent string

func (e absent) Error() string { return string(e) }
func (absent) Unwrap() error   { return fs.ErrNotExist }

func noFolder(folder string) error {
	return absent(fmt.Sprintf("the folder %q does not exist; create it first (under systemd: RuntimeDirectory=)", folder))
}

func noLock(path string, err error) error {
	return fmt.Errorf("lock %q: %w; the folder must be writable, and the file this user's", path, err)
}

// tryLock makes the file at path, unless it exists, and locks it. It fails with EWOULDBLOCK if
// another process has locked it, or has just removed it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if err == unix.EINTR {
			err = unix.EWOULDBLOCK
		}
		return nil, err
	}

	// The lock is valid only if the next process that opens the path gets the same file.
	mine, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Lstat(path); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
	}
	_ = f.Close()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = unix.EWOULDBLOCK
	}
	return nil, err
}

// oldFile reports whether there is a socket at path. It fails if there is a file that is not a
// socket.
func oldFile(path string) (there bool, err error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, plain(err)
	case info.Mode().Type() != fs.ModeSocket:
		return false, errors.New("there is a file that is not a socket; it is left alone: remove it or choose another path")
	}
	return true, nil
}

// removeStale removes a socket file at path if no process answers on it.
func removeStale(path string) error {
	if there, err := oldFile(path); !there {
		return err
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

// plain removes the operation and the address from an error whose context names them already.
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
	current *net.UnixListener // guarded by mu; replaced when the file is restored
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

// restore makes the file again if it is gone: a new socket, since the old one cannot get a name
// again. It must not be called during an Accept. It fails if the file cannot be made, or another
// file has its place.
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

// Close removes the file, then closes the listener: while the file exists, the socket answers.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

// close closes the listener. mu is held.
func (l *listener) close() error {
	l.closed = true
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(l.info, now) {
		_ = os.Remove(l.path) // if that fails, the stale file is replaced next time
	}
	return l.current.Close()
}
