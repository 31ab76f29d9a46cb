package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"edged/internal/edgedtest"
	"edged/test/sim"
)

// parts are the real processes of a world. The simulator's network in memory is between them: each
// connection that a process makes or accepts is joined to one of that network, which applies delays
// and cuts.
type parts struct {
	ctx         context.Context // ends with the soak
	interrupted context.Context // ends when the soak is told to end
	binary      string
	folder      string
	redis       *server
	died        func(name, state string)
	running     sync.WaitGroup // all goroutines that serve connections and processes
	started     int

	mu        sync.Mutex
	processes []*process // running ones, the oldest first; guarded by mu
}

// process is a process of edged.
type process struct {
	*edgedtest.Process
	name     string
	address  string       // for clients
	control  string       // socket
	profiles string       // address
	toRedis  net.Listener // accepts its connections to Redis
	release  func()       // releases its resources after its end
}

// dialTimeout is how long a connection to Redis may take when its packets are lost.
const dialTimeout = 5 * time.Second

// window is how many bytes may be in flight to a process before the sender waits.
const window = 64 << 10

func (p *parts) Redis() sim.Redis { return p.redis }

// Vitals returns nothing: the table has those of each process.
func (p *parts) Vitals(int) (goroutines int, heap uint64) { return 0, 0 }

// Rest waits until the world has been settled for two seconds.
func (p *parts) Rest(longest time.Duration, settled func() bool) {
	for began, since := time.Now(), time.Now(); p.interrupted.Err() == nil && time.Since(began) < longest; time.Sleep(250 * time.Millisecond) {
		switch {
		case !settled():
			since = time.Now()
		case time.Since(since) > 2*time.Second:
			return
		}
	}
}

// Freeze stops the processes of a name, or lets them go on. A world may freeze Redis too: then only
// its connections are blocked, because the judge queries it all the time.
func (p *parts) Freeze(name string, frozen bool) {
	sig := syscall.SIGCONT
	if frozen {
		sig = syscall.SIGSTOP
	}
	for _, running := range p.list() {
		if running.name == name {
			running.Signal(sig)
		}
	}
}

// Thaw lets all processes go on.
func (p *parts) Thaw() {
	for _, running := range p.list() {
		running.Signal(syscall.SIGCONT)
	}
}

// list returns the running processes.
func (p *parts) list() []*process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.processes)
}

// Launch starts a process and the goroutines that carry its connections.
func (p *parts) Launch(ctx context.Context, of *sim.Process) {
	running, err := p.start(of)
	if err != nil {
		panic(err) // the soak cannot go on
	}
	p.mu.Lock()
	p.processes = append(p.processes, running)
	p.mu.Unlock()

	listeners := []net.Listener{running.toRedis, of.Host.Listen("tcp"), of.Host.Listen("control")}
	for i, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
			defer cancel()
			return of.Host.Dial(ctx, "redis", "tcp")
		},
		func() (net.Conn, error) { return net.Dial("tcp", running.address) },
		func() (net.Conn, error) { return net.Dial("unix", running.control) },
	} {
		p.running.Go(func() { accept(p.ctx, &p.running, listeners[i], dial) })
	}

	p.running.Go(func() {
		code, told := running.attend(ctx, of.Signals)
		if !told && ctx.Err() == nil && !p.endsSoon() {
			p.died(of.Name, running.State().String())
		}
		of.Done <- code
		for _, l := range listeners {
			l.Close()
		}
		p.remove(running)
		running.release()
	})
}

// endsSoon reports whether the soak is told to end within a second. A signal to all processes of a
// session may reach the daemons first.
func (p *parts) endsSoon() bool {
	select {
	case <-p.interrupted.Done():
		return true
	case <-time.After(time.Second):
		return false
	}
}

// start starts a process with its own folder and addresses.
func (p *parts) start(of *sim.Process) (*process, error) {
	p.started++
	folder := filepath.Join(p.folder, fmt.Sprint("e", p.started))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	address, freeAddress, err := edgedtest.Reserve()
	if err != nil {
		return nil, err
	}
	profiles, freeProfiles, err := edgedtest.Reserve()
	if err != nil {
		return nil, err
	}
	toRedis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(p.folder, of.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}

	of.Host.Window = window
	control, file := filepath.Join(folder, "c"), filepath.Join(folder, "edged.toml")
	text := of.Configuration(toRedis.Addr().String(), address, control) + fmt.Sprintf("[http]\nlisten = %q\nprofiles = true\n", profiles)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(p.binary, "-config", file)
	cmd.Stderr = &lines{to: []io.Writer{log, of.Log}}
	started, err := edgedtest.Start(cmd)
	return &process{
		Process: started, name: of.Name, address: address, control: control, profiles: profiles, toRedis: toRedis,
		release: func() {
			freeAddress()
			freeProfiles()
			log.Close()
			os.RemoveAll(folder)
		},
	}, err
}

// attend passes signals on until the process has ended. It returns the exit code, and whether there
// was a signal. A process that does not end after a signal is made to print its goroutines.
func (r *process) attend(ctx context.Context, signals <-chan os.Signal) (code int, told bool) {
	defer context.AfterFunc(ctx, func() { r.Signal(syscall.SIGKILL) })()
	var late <-chan time.Time
	for {
		select {
		case <-r.Ended():
			return r.State().ExitCode(), told
		case sig := <-signals:
			told = true
			r.Signal(sig.(syscall.Signal))
			late = time.After(2 * edgedtest.Patience)
		case <-late:
			r.Signal(syscall.SIGABRT)
		}
	}
}

func (p *parts) remove(r *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.processes = slices.DeleteFunc(p.processes, func(x *process) bool { return x == r })
}

// lines writes each line at once, for writers that want whole lines.
type lines struct {
	to   []io.Writer
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		end := bytes.IndexByte(l.rest, '\n') + 1
		if end == 0 {
			return len(b), nil
		}
		for _, to := range l.to {
			to.Write(l.rest[:end])
		}
		l.rest = l.rest[end:]
	}
}
