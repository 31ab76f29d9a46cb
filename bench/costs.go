package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A load is traffic whose costs are measured: those that an item causes in edged, Redis and the
// clients.
type load struct {
	items, size, clients int
	ack                  string
	rate                 int // items a second, pushed one by one; 0: all are in Redis before
}

// costs are the measurements of -costs. The model in model.go is fitted to the first four, the
// corners of a square, and compared with the other loads.
var costs = []measurement{
	{"64B/1", account(load{items: 1_000_000, size: 64, clients: 1})},
	{"1KiB/1", account(load{items: 400_000, size: 1 << 10, clients: 1})},
	{"64B/10", account(load{items: 300_000, size: 64, clients: 10})},
	{"1KiB/10", account(load{items: 100_000, size: 1 << 10, clients: 10})},
	{"256B/1", account(load{items: 1_000_000, size: 256, clients: 1})},
	{"16KiB/1", account(load{items: 40_000, size: 16 << 10, clients: 1})},
	{"256B/10", account(load{items: 200_000, size: 256, clients: 10})},
	{"256B/100", account(load{items: 50_000, size: 256, clients: 100})},
	{"explicit", account(load{items: 400_000, size: 256, clients: 1, ack: "explicit"})},
	{"trickle/1", account(load{items: 5_000, size: 256, clients: 1, rate: 1000})},
	{"trickle/10", account(load{items: 5_000, size: 256, clients: 10, rate: 1000})},
	{"trickle/100", account(load{items: 1_000, size: 256, clients: 100, rate: 100})},
	{"rest", rest},
	{"instructions", instructions},
	{"redis-benchmark", redisBenchmark},
}

// account measures a load with its own Redis, which has an append-only file. Figures are for an
// item unless their unit says otherwise.
func account(w load) run {
	if w.ack == "" {
		w.ack = "received"
	}

	return func(ctx context.Context, l *lab) ([]figure, error) {
		l, done, err := l.durable(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		server, err := edged(w.ack)(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		n := l.few(w.items)
		crowd, err := w.prepare(ctx, l, server, n)
		if err != nil {
			return nil, err
		}
		defer closeAll(crowd)

		var passed passage
		end := func() {}
		defer func() { end() }()
		spent, err := l.spent(server, func() (err error) {
			if passed, err = w.pass(l, server, crowd, n); err != nil {
				return err
			}
			end = goOn(crowd)
			passed.asked, err = l.emptied(ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
		return w.figures(n, passed, spent), nil
	}
}

// prepare connects the clients to edged, which is paused, and puts the items into Redis unless they
// come at a rate.
func (w load) prepare(ctx context.Context, l *lab, server *process, n int) ([]*client, error) {
	if err := server.command("pause all"); err != nil {
		return nil, err
	}
	if w.rate == 0 {
		if err := l.preload(n, w.size); err != nil {
			return nil, err
		}
	}

	crowd, err := dialMany(ctx, server.address, w.clients, subscriptions()...)
	if err != nil {
		return nil, err
	}
	for _, c := range crowd {
		c.acknowledges = w.ack == "explicit"
	}
	return crowd, nil
}

// A passage is how the items of a load passed.
type passage struct {
	took  time.Duration // until the clients had them
	bytes int           // in the append-only file, for the items pushed meanwhile
	asked int           // commands that asked whether Redis was empty
}

// pass lets edged deliver n items, and pushes them if they come at a rate.
func (w load) pass(l *lab, server *process, crowd []*client, n int) (p passage, err error) {
	begin := time.Now()
	if err := server.command("resume all"); err != nil {
		return p, err
	}

	pushed := make(chan error, 1)
	go func() {
		var err error
		if w.rate > 0 {
			p.bytes, err = l.push(n, w.size, w.rate)
		}
		pushed <- err
	}()
	err = each(crowd, func(c *client) error { return c.receive(n) })
	if pushErr := <-pushed; err == nil {
		err = pushErr
	}
	if err != nil {
		return p, server.failed(err)
	}
	p.took = time.Since(begin)
	return p, nil
}

// figures are the costs of n items.
func (w load) figures(n int, passed passage, spent spending) []figure {
	commands := spent.commands - float64(passed.asked)
	if w.rate > 0 {
		commands -= float64(n) // the producer's
	}
	item := func(total float64) float64 { return total / float64(n) }
	others := spent.busy - spent.edged.cpu - spent.redis.cpu - spent.clients
	figures := []figure{
		{"items/s", float64(n) / passed.took.Seconds()},
		{"edged-µs", item(micros(spent.edged.cpu))},
		{"edged-in-kernel-%", 100 * spent.edged.system / max(spent.edged.ticks, 1)},
		{"redis-µs", item(micros(spent.redis.cpu))},
		{"clients-µs", item(micros(spent.clients))},
		{"cores-idle", spent.idle.Seconds() / passed.took.Seconds()},
		{"cores-others", max(0, others.Seconds()/passed.took.Seconds())},
		{"switches", item(float64(spent.edged.switches))},
		{"read-B", item(float64(spent.edged.read))},
		{"written-B", item(float64(spent.edged.written))},
		{"redis-commands", item(commands)},
		{"aof-B", item(spent.aof - float64(passed.bytes))},
		{"peak-MiB", spent.edged.peak},
	}

	if spent.counted {
		figures = append(figures, figure{"system-calls", item(spent.calls)})
	}
	if spent.reads > 0 { // explicit lists are read by LMOVE
		figures = append(figures, figure{"items/read", float64(n) / spent.reads})
	}
	return figures
}

// durable returns the lab with a Redis that has an append-only file.
func (l *lab) durable(ctx context.Context) (*lab, func(), error) {
	folder, err := os.MkdirTemp(l.folder, "d")
	if err != nil {
		return nil, nil, err
	}
	own := *l
	if own.redis, err = launch(ctx, &process{name: "redis-server", address: filepath.Join(folder, "redis")}, false,
		program("redis-server", "--port", "0", "--unixsocket", filepath.Join(folder, "redis"), "--save", "", "--dir", folder,
			"--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")); err != nil {
		return nil, nil, err
	}

	done := func() {
		own.conn.Close()
		own.redis.Kill()
		os.RemoveAll(folder)
	}

	if own.conn, err = dialRedis(own.redis.address); err != nil {
		own.redis.Kill()
		return nil, nil, err
	}
	return &own, done, nil
}

// push pushes items one by one, rate of them a second, into the lists in turn. It returns the bytes
// that this takes in the append-only file.
func (l *lab) push(n, size, rate int) (bytes int, err error) {
	padding := strings.Repeat("x", size-stampSize)
	begin := time.Now()
	for i := range n {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		words := []string{"RPUSH", lists[i%len(lists)], fmt.Sprintf("%0*d%s", stampSize, i, padding)}
		bytes += len("*3\r\n")
		for _, word := range words {
			bytes += len(fmt.Sprintf("$%d\r\n%s\r\n", len(word), word))
		}
		if err := l.conn.ok(words...); err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

// emptied returns when all items are removed from Redis, so that the last round trip is over. It
// returns how many commands that took.
func (l *lab) emptied(ctx context.Context) (asked int, err error) {
	for left := 1; left > 0; {
		left = 0
		for _, list := range lists {
			asked++
			l.conn.send("LLEN", list)
			if err := l.conn.out.Flush(); err != nil {
				return asked, err
			}
			_, n, err := l.conn.header()
			if err != nil {
				return asked, err
			}
			left += n
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return asked, err
		}
	}

	return asked, nil
}

// goOn lets clients answer PINGs until the returned function is called, which closes them.
func goOn(crowd []*client) (end func()) {
	var running sync.WaitGroup
	for _, c := range crowd {
		running.Go(func() {
			for c.read() == nil {
			}
		})
	}
	return func() {
		closeAll(crowd)
		running.Wait()
	}
}

// books are all counters at one moment.
type books struct {
	edged, redis counters
	clients      time.Duration // this process
	commands     float64       // commands carried out by Redis, without those that read the books
	reads        float64       // LRANGE
	aof          float64       // size of the append-only file
	busy, idle   time.Duration // of all cores
}

func (l *lab) books(server *process) (b books, err error) {
	// Redis writes to its file late while the disk is busy with earlier writes.
	for text := ""; !strings.Contains(text, "aof_buffer_length:0\r\n"); {
		if text, err = l.conn.text("INFO", "persistence"); err != nil {
			return b, err
		}
	}

	if b.edged, err = server.counters(); err != nil {
		return b, err
	}

	if b.redis, err = l.redis.counters(); err != nil {
		return b, err
	}
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		return b, err
	}
	b.clients = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	if b.busy, b.idle, err = cores(); err != nil {
		return b, err
	}
	text, err := l.conn.text("INFO", "commandstats")
	if err != nil {
		return b, err
	}

	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		number, _, _ := strings.Cut(rest, ",")
		calls, err := strconv.ParseFloat(number, 64)
		if err != nil || name == "info" {
			continue
		}
		if b.commands += calls; name == "lrange" {
			b.reads = calls
		}
	}

	files, err := filepath.Glob(filepath.Join(filepath.Dir(l.redis.address), "appendonlydir", "*.incr.aof"))
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			b.aof += float64(info.Size())
		}
	}
	return b, err
}

// since returns the difference to earlier books. The peaks are those of b.
func (b books) since(earlier books) books {
	b.edged, b.redis = b.edged.since(earlier.edged), b.redis.since(earlier.redis)
	b.clients -= earlier.clients
	b.commands -= earlier.commands
	b.reads -= earlier.reads
	b.aof -= earlier.aof
	b.busy -= earlier.busy
	b.idle -= earlier.idle
	return b
}

// spending is the difference of the books over some work.
type spending struct {
	books
	calls   float64 // system calls of edged
	counted bool    // whether this user is allowed to count calls
}

// spent returns the costs of the work that do does.
func (l *lab) spent(server *process, do func() error) (s spending, err error) {
	calls, err := countCalls(server)
	if err != nil {
		return s, err
	}
	defer calls.close()

	before, err := l.books(server)
	if err != nil {
		return s, err
	}
	if err := do(); err != nil {
		return s, err
	}
	s.counted = calls != nil
	if s.calls, err = calls.count(); err != nil {
		return s, err
	}
	after, err := l.books(server)
	s.books = after.since(before)
	return s, err
}

// cores returns how long all cores together were busy and idle.
func cores() (busy, idle time.Duration, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}

	all, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(all)[1:9] { // guests are in user
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %v", err)
		}
		d := time.Duration(ticks) * (time.Second / 100)
		if i == 3 || i == 4 { // idle, iowait
			idle += d
		} else {
			busy += d
		}
	}

	return busy, idle, nil
}

// counters are the system's counters of a process.
type counters struct {
	cpu           time.Duration
	ticks, system float64 // of the kernel's clock, used to divide cpu: all, and system time
	switches      int64   // context switches
	read, written int64   // bytes by system calls
	peak          float64
}

func (c counters) since(earlier counters) counters {
	c.cpu -= earlier.cpu
	c.ticks -= earlier.ticks
	c.system -= earlier.system
	c.switches -= earlier.switches
	c.read -= earlier.read
	c.written -= earlier.written
	return c
}

func (p *process) counters() (c counters, err error) {
	used, err := p.usage()
	if err != nil {
		return c, err
	}
	c.cpu, c.peak = used.cpu, used.peak
	folder := filepath.Join("/proc", strconv.Itoa(p.Pid()))
	stat, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return c, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.ParseFloat(fields[11], 64)
	c.system, _ = strconv.ParseFloat(fields[12], 64)
	c.ticks = user + c.system

	threads, err := filepath.Glob(filepath.Join(folder, "task", "*", "status"))
	if err != nil {
		return c, err
	}
	for _, thread := range threads {
		c.switches += sum(thread, "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
	}
	c.read = sum(filepath.Join(folder, "io"), "rchar")
	c.written = sum(filepath.Join(folder, "io"), "wchar")
	return c, nil
}

// sum adds the values of some keys in a file of /proc.
func sum(file string, keys ...string) (total int64) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		for _, key := range keys {
			if name == key {
				n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				total += n
			}
		}
	}
	return total
}

// callCounter counts the system calls of a process by a tracepoint of the kernel, which slows the
// process down only slightly. It is nil if this user is not allowed to.
type callCounter struct{ threads []int }

func countCalls(p *process) (*callCounter, error) {
	text, err := os.ReadFile("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id")
	if err != nil {
		return nil, nil
	}

	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, err
	}

	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Pid()), "task"))
	if err != nil {
		return nil, err
	}
	c := &callCounter{}
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		event := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
		fd, err := unix.PerfEventOpen(&event, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			c.close()
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				return nil, nil
			}
			return nil, fmt.Errorf("count system calls: %v", err)
		}
		c.threads = append(c.threads, fd)
	}

	return c, nil
}

func (c *callCounter) count() (total float64, err error) {
	if c == nil {
		return 0, nil
	}
	for _, fd := range c.threads {
		var n [8]byte
		if _, err := unix.Read(fd, n[:]); err != nil {
			return 0, fmt.Errorf("count system calls: %v", err)
		}
		total += float64(binary.NativeEndian.Uint64(n[:]))
	}
	return total, nil
}

func (c *callCounter) close() {
	if c == nil {
		return
	}
	for _, fd := range c.threads {
		unix.Close(fd)
	}
}

// rest measures the state without traffic: memory of a client, memory of an item in flight, and the
// cost of a minute.
func rest(ctx context.Context, l *lab) ([]figure, error) {
	l, done, err := l.durable(ctx)
	if err != nil {
		return nil, err
	}
	defer done()

	server, err := edged("received")(ctx, l)
	if err != nil {
		return nil, err
	}
	defer server.Kill()

	nobody, err := server.usage()
	if err != nil {
		return nil, err
	}

	const clients = 1000
	crowd, err := dialMany(ctx, server.address, clients, subscriptions()...)
	if err != nil {
		return nil, err
	}
	defer closeAll(crowd)

	all, err := server.usage()
	if err != nil {
		return nil, err
	}
	closeAll(crowd[1:])
	defer goOn(crowd[:1])()

	if err := pause(ctx, l.long(3*time.Second)); err != nil {
		return nil, err
	}
	window := l.long(20 * time.Second)
	spent, err := l.spent(server, func() error { return pause(ctx, window) })
	if err != nil {
		return nil, err
	}
	minute := func(total float64) float64 { return total / window.Minutes() }
	figures := []figure{
		{"KiB/client", (all.resident - nobody.resident) * 1024 / clients},
		{"idle-cpu-ms/min", minute(micros(spent.edged.cpu)) / 1000},
		{"idle-redis-commands/min", minute(spent.commands)},
		{"idle-aof-B/min", minute(spent.aof)},
	}
	if spent.counted {
		figures = append(figures, figure{"idle-system-calls/min", minute(spent.calls)})
	}
	return figures, nil
}

// redisBenchmark runs the benchmark that Redis's documentation ran on a Raspberry Pi 3:
// https://redis.io/docs/latest/operate/oss_and_stack/reference/arm/
func redisBenchmark(ctx context.Context, l *lab) (figures []figure, err error) {
	for _, depth := range []int{1, 8} {
		if err := l.conn.ok("FLUSHALL"); err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, "redis-benchmark", "-s", l.redis.address, "--csv", "-t", "set",
			"-r", "1000000", "-n", strconv.Itoa(l.few(500_000*depth)), "-P", strconv.Itoa(depth)).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("redis-benchmark: %v\n%s", err, out)
		}
		_, line, _ := strings.Cut(string(out), "\"SET\",\"")
		number, _, _ := strings.Cut(line, "\"")
		rate, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return nil, fmt.Errorf("redis-benchmark says %q", out)
		}
		figures = append(figures, figure{fmt.Sprintf("pipeline-%d-SET/s", depth), rate})
	}

	return figures, nil
}
