package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"edged/internal/edgedtest"
)

// lists are the two lists, each with half of the items.
var lists = []string{"events", "readings"}

// lab holds the built programs and a Redis for the measurements.
type lab struct {
	folder string // short: it holds Unix sockets
	quick  bool
	items  int // of the measurements refused and uplink/down
	redis  *process
	conn   *redisConn // the producer's

	address string // address of the measured server
	release func() // releases the address
}

// newLab builds edged and nats-server and starts Redis.
func newLab(ctx context.Context, quick bool) (l *lab, err error) {
	l = &lab{quick: quick}
	if l.address, l.release, err = edgedtest.Reserve(); err != nil {
		return nil, err
	}

	if l.folder, err = os.MkdirTemp("", "e"); err != nil {
		l.release()
		return nil, err
	}
	made := l // a failure returns nil
	defer func() {
		if err != nil {
			made.close()
		}
	}()

	if err := l.make(ctx); err != nil {
		return nil, fmt.Errorf("%v\nis this the folder bench of edged?", err)
	}

	if err := l.build(ctx, "nats-server", ".", "github.com/nats-io/nats-server/v2"); err != nil {
		return nil, err
	}
	if err := os.WriteFile(l.path("baseline.py"), baseline, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if l.redis, err = startRedis(ctx, l.folder, "redis"); err != nil {
		return nil, fmt.Errorf("%v; is it installed? `make tools` does it", err)
	}
	if l.conn, err = dialRedis(l.redis.address); err != nil {
		return nil, err
	}
	return l, nil
}

// startRedis starts a Redis on a Unix socket of this name.
func startRedis(ctx context.Context, folder, name string) (*process, error) {
	socket := filepath.Join(folder, name)
	return launch(ctx, &process{name: "redis-server", address: socket}, false,
		program("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder))
}

func (l *lab) close() {
	if l.conn != nil {
		l.conn.Close()
	}
	if l.redis != nil {
		l.redis.Kill()
	}
	l.release()
	os.RemoveAll(l.folder)
}

func (l *lab) path(name string) string { return filepath.Join(l.folder, name) }

// make makes edged as its users do.
func (l *lab) make(ctx context.Context) error {
	if err := l.command(ctx, "..", "make", "-s", "build"); err != nil {
		return err
	}
	return l.command(ctx, "..", "cp", "bin/edged", l.path("edged"))
}

// build builds a program without debugging information, as `make build` does.
func (l *lab) build(ctx context.Context, name, folder, pkg string) error {
	return l.command(ctx, folder, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", l.path(name), pkg)
}

func (l *lab) command(ctx context.Context, folder, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %v\n%s", cmd, err, out)
	}
	return nil
}

// few returns n, or far less for a smoke test.
func (l *lab) few(n int) int {
	if l.quick {
		return max(n/100, 20)
	}
	return n
}

// long returns d, or far less for a smoke test.
func (l *lab) long(d time.Duration) time.Duration {
	if l.quick {
		return d / 40
	}
	return d
}

// starter starts a server with an empty Redis.
type starter func(context.Context, *lab) (*process, error)

// edged starts edged with the two lists in an ack mode.
func edged(ack string) starter {
	return configured{lists: lists, list: []string{fmt.Sprintf("ack = %q", ack)}}.start
}

// configured is edged with other lists or settings.
type configured struct {
	lists    []string // keys
	list     []string // lines of the configuration for each list
	settings []string // further lines of the configuration
}

func (c configured) start(ctx context.Context, l *lab) (*process, error) {
	if err := l.conn.ok("FLUSHALL"); err != nil {
		return nil, err
	}
	d := &edgedtest.Daemon{
		Binary: l.path("edged"), Folder: l.folder, Redis: "unix://" + l.redis.address, Address: l.address,
		Settings: append([]string{`instance = "bench"`}, c.settings...),
	}
	for _, list := range c.lists {
		d.Settings = append(d.Settings, "[[list]]", fmt.Sprintf("key = %q", list))
		d.Settings = append(d.Settings, c.list...)
	}

	start := func() (*edgedtest.Process, error) {
		err := d.Launch()
		return d.Process, err
	}
	return launch(ctx, &process{name: "edged", address: l.address, control: d.Socket()}, true, start)
}

// natsServer starts nats-server, which does not use Redis.
func natsServer(ctx context.Context, l *lab) (*process, error) {
	host, port, _ := strings.Cut(l.address, ":")
	return launch(ctx, &process{name: "nats-server", address: l.address}, true,
		program(l.path("nats-server"), "-a", host, "-p", port))
}

// python starts baseline.py.
func python(ctx context.Context, l *lab) (*process, error) {
	if err := l.conn.ok("FLUSHALL"); err != nil {
		return nil, err
	}
	command := append([]string{"python3", l.path("baseline.py"), l.redis.address, l.address}, lists...)
	return launch(ctx, &process{name: "python", address: l.address}, false, program(command...))
}

// preload pushes n items of size bytes, one half into each list.
func (l *lab) preload(n, size int) error {
	for i, list := range lists {
		share := n / len(lists)
		if i == 0 {
			share = n - share*(len(lists)-1)
		}
		if err := l.fill(list, share, size); err != nil {
			return err
		}
	}
	runtime.GC() // collects the items, so that this is not done during the measurement
	return nil
}

// fill pushes n different items of size bytes into a list.
func (l *lab) fill(list string, n, size int) error {
	const bytesPerCommand = 1 << 20
	padding := strings.Repeat("x", size-stampSize)
	for left := n; left > 0; {
		k := max(1, min(left, 1000, bytesPerCommand/size))
		args := make([]string, 2, 2+k)
		args[0], args[1] = "RPUSH", list
		for i := range k {
			args = append(args, fmt.Sprintf("%0*d%s", stampSize, left-i, padding))
		}
		if err := l.conn.ok(args...); err != nil {
			return err
		}
		left -= k
	}
	return nil
}
