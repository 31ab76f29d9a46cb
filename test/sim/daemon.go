package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"edged/test/sim/hub"
	"edged/test/sim/network"
	"edged/test/sim/scenario"
)

// maxPayload is the configured bound of an item in bytes.
func (w *world) maxPayload() int { return w.plan.World.Int("payload", 2048) }

// daemon is a process of edged.
type daemon struct {
	name    string
	host    *network.Host
	cancel  context.CancelFunc
	signals chan os.Signal
	done    chan int
	log     *log
	killed  atomic.Bool
}

// configuration returns the file of a daemon that connects to Redis and listens at
// some addresses.
func (w *world) configuration(name, redis, listen, control string) string {
	a := w.plan.World
	var b strings.Builder
	fmt.Fprintf(&b, "instance = %q\n[redis]\naddress = %q\ntimeout = \"%ss\"\npoll_interval = \"%ss\"\nlease = \"%ss\"\n",
		name[:1], redis, a.Text("timeout", "2"), a.Text("poll", "3"), a.Text("lease", "8"))
	for _, l := range w.lists {
		key := l.Text("key", "")
		fmt.Fprintf(&b, "[[list]]\nkey = %q\nack = %q\ntake_from = %q\n", key, l.Text("ack", "received"), l.Text("take", "left"))
		if l.Text("ack", "") == "explicit" {
			fmt.Fprintf(&b, "ack_wait = \"%ss\"\nmax_deliver = %d\nmax_ack_pending = %d\n", l.Text("wait", "5"), l.Int("deliver", 0), l.Int("pending", 100))
		}
		if n := l.Int("dedup", 0); n > 0 {
			fmt.Fprintf(&b, "dedup = \"json:id\"\ndedup_items = %d\n", n)
		}
		if class := l.Int("class", 0); class > 0 {
			fmt.Fprintf(&b, "class = %d\n", class)
		}
	}
	for _, l := range w.lists {
		if l.Is("inbound") {
			fmt.Fprintf(&b, "[[inbound]]\nsubject = \"in.%s\"\nlist = %q\ntake_from = %q\n", l.Text("key", ""), l.Text("key", ""), l.Text("take", "left"))
		}
	}
	if w.hub != nil {
		fmt.Fprintf(&b, "[[uplink]]\nname = \"up\"\nurl = [\"nats://10.9.9.9:4222\"]\nstream = %q\nsubject = \"%s{list}\"\nwindow_items = %d\n",
			hub.Stream, hub.Prefix, a.Int("uplink", 16))
	}
	fmt.Fprintf(&b, "[delivery]\nbatch_items = %d\nbatch_bytes = \"16KiB\"\nwindow_items = %d\nmemory = %q\nreceipt_timeout = \"%ss\"\n",
		a.Int("batch", 16), a.Int("window", 64), a.Text("memory", "256KiB"), a.Text("receipt", "10"))
	fmt.Fprintf(&b, "share = %d\n", a.Int("share", 10))
	fmt.Fprintf(&b, "[tcp]\nlisten = %q\nmax_payload = \"%dB\"\nmax_pending = \"64KiB\"\nping_interval = \"%ss\"\n", listen, w.maxPayload(), a.Text("ping", "20"))
	fmt.Fprintf(&b, "[control]\nsocket = %q\nstatus_socket = \"\"\n[drain]\ntimeout = \"%ss\"\n[log]\nformat = \"json\"\nlevel = %q\n", control, a.Text("drain", "3"), a.Text("level", "info"))
	return b.String()
}

func (w *world) startDaemon(name string) {
	delete(w.stopped, name)
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{
		name: name, host: w.network.Host(name), cancel: cancel, signals: make(chan os.Signal, 2), done: make(chan int, 1),
	}
	d.log = &log{daemon: d, world: w}
	w.daemons[name] = d
	w.tell(name, "starts")
	w.parts.Launch(ctx, &Process{
		Name: name, Host: d.host, Log: d.log, Signals: d.signals, Done: d.done, Chance: w.chance,
		Configuration: func(redis, listen, control string) string { return w.configuration(name, redis, listen, control) },
	})
}

// killDaemon ends a process at once: keep bytes that it had written still arrive.
func (w *world) killDaemon(name string, keep int, silent bool) {
	d := w.daemons[name]
	if d == nil {
		return
	}
	delete(w.daemons, name)
	d.killed.Store(true)
	d.host.Kill(keep, silent)
	d.cancel()
	w.past = append(w.past, d)
	w.tell(name, "is killed")
}

// stopDaemon sends a signal to a process; it drains.
func (w *world) stopDaemon(name string) {
	d := w.daemons[name]
	if d == nil {
		return
	}
	delete(w.daemons, name)
	d.signals <- syscall.SIGTERM
	w.stopped[name] = time.Now()
	w.past = append(w.past, d)
	w.tell(name, "gets SIGTERM")
}

// ended waits for the end of a process and checks its exit code and books.
func (w *world) ended(d *daemon) {
	code := <-d.done
	d.cancel()
	d.host.Kill(1<<20, false)
	if d.killed.Load() {
		return
	}
	w.lock(func() {
		if code != 0 {
			w.judge.Find("exit", "%s ended with %d", d.name, code)
		}
		if b := d.log.books; b != nil && b.Taken != b.Confirmed+b.Returned+b.Dead+b.Gone {
			w.judge.Find("books", "%s: taken %d, confirmed %d, returned %d, dead %d, gone %d", d.name, b.Taken, b.Confirmed, b.Returned, b.Dead, b.Gone)
		} else if b == nil && !d.log.wasFull.Load() {
			w.judge.Find("books", "%s has no books in its log", d.name)
		}
	})
}

// log is the log of a daemon. Its disk can be full.
type log struct {
	daemon  *daemon
	world   *world
	full    atomic.Bool
	wasFull atomic.Bool
	lines   atomic.Int64
	books   *books
}

type books struct{ Taken, Confirmed, Returned, Dead, Gone int }

func (l *log) Write(p []byte) (int, error) {
	if l.full.Load() {
		l.wasFull.Store(true)
		return 0, syscall.ENOSPC
	}
	l.lines.Add(int64(bytes.Count(p, []byte("\n"))))
	var line struct {
		Msg, List, Reason, Error string
		books
	}
	if json.Unmarshal(p, &line) == nil {
		if line.Msg == "drained" {
			l.books = &line.books
		}
		if !l.daemon.killed.Load() {
			l.world.tell(l.daemon.name, "%s", strings.TrimSpace(strings.Join([]string{line.Msg, line.List, line.Reason, line.Error}, " ")))
		}
	}
	return len(p), nil
}

func (w *world) logLines() (n int) {
	for _, d := range w.daemons {
		n += int(d.log.lines.Load())
	}
	return n
}

// unlogged is how many lines a daemon has dropped, as it says itself.
func (w *world) unlogged(name string) (n int) {
	answer, _ := w.ask(name, "status")
	_, rest, found := strings.Cut(answer, "\nlog        ")
	if found {
		fmt.Sscan(rest, &n)
	}
	return n
}

// left judges the ledgers after an instance was told to end and has had the time: it owns no
// list.
func (w *world) left(a scenario.Args) {
	name := a.Text("daemon", "")
	stopped, ended := w.stopped[name]
	if !ended || time.Since(stopped) < w.plan.World.Seconds("drain", 3*time.Second)+2*time.Second {
		return
	}
	for _, key := range w.redis.Data() {
		fields, ok := key.Value.(map[string]string)
		if !ok || !strings.HasSuffix(key.Name, ":edged") {
			continue
		}
		if owner := fields["owner"]; strings.HasPrefix(owner, name+"/") {
			w.Find("left", "%s has ended and still owns %s: %s", name, key.Name, owner)
		}
	}
}

var errNoAnswer = errors.New("no answer")

// operate says a command to a daemon and returns the last line of its answer.
func (w *world) operate(name, command string) (string, error) {
	answer, err := w.ask(name, command)
	return answer[strings.LastIndexByte(answer, '\n')+1:], err
}

// ask says a command to a daemon and returns the lines of its answer.
func (w *world) ask(name, command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := w.network.Host("operator").Dial(ctx, name, "control")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	answer := ""
	in := bufio.NewScanner(conn)
	for in.Scan() {
		text := in.Text()
		answer += "\n" + text
		if text == "OK" || strings.HasPrefix(text, "ERR ") {
			w.tell("operator", "%s: %s: %s", name, command, text)
			return answer, nil
		}
	}
	w.tell("operator", "%s: %s: no answer, %v", name, command, in.Err())
	return "", errNoAnswer
}

// askAll wants an answer from each daemon.
func (w *world) askAll() {
	for name := range w.daemons {
		for _, command := range []string{"status", "lists"} {
			if answer, err := w.operate(name, command); err != nil || answer != "OK" {
				w.lock(func() { w.judge.Find("control", "%s answers %q to %s: %v", name, answer, command, err) })
			}
		}
	}
}

// server is the process of Redis or of the hub.
type server struct {
	host     *network.Host
	listener *network.Listener
	accepted chan struct{} // closed when the accept loop has ended
}

func (w *world) startRedis() { w.serving = w.startServer("redis", w.redis.Serve) }

// startServer starts a process that serves the connections to a host.
func (w *world) startServer(host string, serve func(net.Conn)) *server {
	s := &server{host: w.network.Host(host), accepted: make(chan struct{})}
	s.listener = s.host.Listen("tcp")
	go func() {
		defer close(s.accepted)
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	return s
}

// startHub starts the hub of the uplink, if the world has one.
func (w *world) startHub() {
	if w.plan.World.Int("uplink", 0) == 0 {
		return
	}
	w.hub = hub.New(func(sender, subject string, data []byte) {
		list := strings.TrimPrefix(subject, hub.Prefix)
		w.lock(func() { w.judge.Stored(list, string(data), sender) })
		w.tell("hub", "%s of %s stores %.30q", sender, list, data)
	})
	w.hubServing = w.startServer("hub", w.hub.Serve)
}

// stopHub ends the hub after all daemons.
func (w *world) stopHub() {
	if w.hub != nil {
		w.hubServing.host.Kill(0, false)
		<-w.hubServing.accepted
		w.hub.Wait()
	}
}

// afflict lets something be wrong with the hub's stream.
func (w *world) afflict(a scenario.Args) {
	if w.hub != nil {
		w.hub.SetFault(hub.Fault(a.Text("kind", "")))
	}
}

// stopRedis kills Redis; its data stays until it is started with others.
func (w *world) stopRedis(keep int, silent bool) {
	if w.serving == nil {
		return
	}
	w.serving.host.Kill(keep, silent)
	w.redis.Kill()
	<-w.serving.accepted
	w.serving = nil
}

// restartRedis starts Redis with the data that it had, with older or no data.
func (w *world) restartRedis(a scenario.Args) {
	if w.serving != nil {
		w.stopRedis(a.Int("keep", 0), a.Is("silent"))
	}
	before := w.redis.Data()
	switch a.Text("data", "same") {
	case "none":
		w.redis.Restart(nil)
	case "older":
		w.redis.Restart(w.saved)
	default:
		w.redis.RestartWithData()
	}
	w.changed(before, w.redis.Data())
	w.startRedis()
	if a.Text("data", "same") != "same" {
		w.lock(w.judge.Forgotten)
	}
}
