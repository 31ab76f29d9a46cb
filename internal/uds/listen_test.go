package uds

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// socketPath returns a path for a socket in a folder of its own.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// makeStale leaves a socket file on which no process answers.
func makeStale(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = ln.Close()
}

// listenFails checks that Listen fails with an error that names the path and the reason, and that
// it leaves the file at path alone.
func listenFails(t *testing.T, path, why string) {
	t.Helper()
	before, _ := os.Lstat(path)
	ln, err := Listen(path, 0o600, "")
	if err == nil {
		_ = ln.Close()
		t.Fatal("Listen succeeded")
	}
	if msg := err.Error(); !strings.Contains(msg, why) || !strings.Contains(msg, path) {
		t.Errorf("got the error %q, want the path and %q in it", msg, why)
	}
	if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
		t.Error("the file at the path is another now")
	}
}

func TestListenSetsTheModeUnderAnyUmaskAndNeverMore(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		for _, mode := range []fs.FileMode{0o600, 0o660, 0o666} {
			path := socketPath(t)
			old := unix.Umask(umask)
			ln, err := Listen(path, mode, "")
			unix.Umask(old)
			if err != nil {
				t.Fatal(err)
			}

			if born := ln.(*listener).info.Mode().Perm(); born&^mode != 0 {
				t.Errorf("umask %04o: the file was made with mode %04o, want at most %04o", umask, born, mode)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != mode {
				t.Errorf("umask %04o: got %v, %v, want mode %04o", umask, info.Mode(), err, mode)
			}
			_ = ln.Close()
		}
	}
}

// flock locks a file or folder as another user's process would, until the test ends.
func flock(t *testing.T, path string, flags int) {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
}

// Every user with the right to list the folder can lock it.
func TestALockOnTheFolderDoesNotKeepListenWaiting(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	flock(t, filepath.Dir(path), unix.O_RDONLY)
	ln, err := Listen(path, 0o666, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("Listen left %v in the folder (%v)", left, err)
	}
}

func TestListenOpensNoLockThatOtherUsersCanHold(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	info, err := os.Lstat(filepath.Join(filepath.Dir(path), lockFile))
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); mode.Perm() != 0o600 {
		t.Errorf("the lock has the mode %v, want 0600", mode)
	}
}

func TestALockThatIsNotReleasedIsAnErrorThatNamesIt(t *testing.T) {
	path := socketPath(t)
	lock := filepath.Join(filepath.Dir(path), lockFile)
	flock(t, lock, unix.O_RDWR|unix.O_CREAT)
	synctest.Test(t, func(t *testing.T) {
		listenFails(t, path, lock)
	})
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	makeStale(t, path)
	ln, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestListenLeavesALiveSocketAlone(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	ln, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	listenFails(t, path, "another process answers on it")
}

func TestListenLeavesALiveSocketWithAFullQueueAlone(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	open := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}

	address := &unix.SockaddrUnix{Name: path}
	ln := open()
	if err := errors.Join(unix.Bind(ln, address), unix.Listen(ln, 0)); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		err = unix.Connect(open(), address)
	}

	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	listenFails(t, path, "another process answers on it")
}

func TestListenLeavesFilesThatAreNoStreamSocketsAlone(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listenFails(t, path, "not a socket")

	path = socketPath(t)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	listenFails(t, path, "not a socket")

	target := socketPath(t)
	makeStale(t, target)
	path = socketPath(t)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	listenFails(t, path, "not a socket")

	path = socketPath(t)
	datagram, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer datagram.Close()
	listenFails(t, path, "cannot tell whether another process uses it")
}

func TestListenNamesTheFaultOfThePath(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	listenFails(t, filepath.Join(path, "missing", "s"), "does not exist")
	listenFails(t, filepath.Join(path, strings.Repeat("x", maxPath)), "at most 107")
	listenFails(t, "@edged", "abstract")
	listenFails(t, "", "needs the path")
}

func TestListenTakesTheLongestPathThatLinuxTakes(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	path += strings.Repeat("x", maxPath-len(path))
	ln, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
}

func TestOfManyThatListenAtOnceOneSucceeds(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	makeStale(t, path)
	const many = 16
	var all sync.WaitGroup
	listeners, errs := make([]net.Listener, many), make([]error, many)
	for i := range many {
		all.Go(func() { listeners[i], errs[i] = Listen(path, 0o600, "") })
	}

	all.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			_ = listeners[i].Close()
		} else if !strings.Contains(err.Error(), "another process answers on it") {
			t.Error(err)
		}
	}

	if won != 1 {
		t.Errorf("%d succeeded, want 1", won)
	}
}

func TestClosingTheListenerRemovesItsFileOnly(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	ln, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v, want no file", err)
	}

	ln, err = Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_ = ln.Close()
	_ = ln.Close() // closing again removes nothing either
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the other listener's file: %v", err)
	}
	_ = c.Close()
}
