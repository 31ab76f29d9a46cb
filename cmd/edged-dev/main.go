// Command edged-dev is edged for a first try: the same daemon, on an in-memory Redis inside the
// process, with sample items on its lists. It needs nothing else on the machine, listens on
// loopback, and prints the items as a client of the daemon.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"edged/internal/client"
	"edged/internal/config"
	"edged/internal/daemon"
)

const usage = `edged-dev runs edged on an in-memory Redis with sample items, on loopback.

  edged-dev

It takes no arguments. Profiles are for "go tool pprof" at
http://127.0.0.1:8222/debug/pprof/profile?seconds=10
`

// version is a semantic version.
var version = "0.1.0" // set by the Makefile's VERSION

// sampleInterval is the time between two sample items of a list.
const sampleInterval = 500 * time.Millisecond

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run is main without globals; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("edged-dev", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {}
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil: // flags has printed the error
		fmt.Fprint(stderr, usage)
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "edged-dev: unexpected argument: %s\n%s", flags.Arg(0), usage)
		return 2
	}

	code, err := try(args[0], stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "edged-dev: %v\n", err)
	}
	return code
}

// try runs the daemon with its Redis, samples and printer, and returns its exit code.
func try(program string, stdout, stderr io.Writer) (code int, err error) {
	folder, err := os.MkdirTemp("", "edged-dev-")
	if err != nil {
		return daemon.ExitFailed, err
	}
	defer os.RemoveAll(folder)

	redis, err := startRedis()
	if err != nil {
		return daemon.ExitFailed, err
	}
	defer redis.Close()

	cfg, err := config.Load("")
	if err != nil {
		return daemon.ExitFailed, err
	}
	cfg.Redis.Address = redis.Addr()
	cfg.Control.Socket, cfg.Control.StatusSocket = filepath.Join(folder, "control.sock"), ""
	cfg.HTTP.Listen, cfg.HTTP.Profiles = "127.0.0.1:8222", true

	s := &samples{redis: redis, lists: cfg.Lists, out: &lines{w: stdout}}
	defer s.stop()
	ready := func(at daemon.Addresses) {
		fmt.Fprintf(s.out, help, cfg.Control.Socket, at.TCP, filepath.Join(filepath.Dir(program), "edged"), at.HTTP)
		s.start(at.TCP.String())
	}
	return daemon.Main(context.Background(), daemon.Options{Config: cfg, Version: version, Stderr: stderr, Ready: ready}), nil
}

const help = `edged runs on an in-memory Redis with sample items on two lists, "events" and "readings".
Look at it in a browser, or from another terminal:

  page      http://%[4]s/
  control   echo status | socat - UNIX-CONNECT:%[1]s
  data      (printf 'CONNECT {}\r\nSUB events 1\r\n'; sleep 5) | socat - TCP:%[2]s
  the same  %[3]s sub events
  any NATS client at nats://%[2]s does as well

Ctrl-C drains and ends it. The items, as a first client gets them:

`

// samples produces sample items on lists and prints them.
type samples struct {
	redis *memoryRedis
	lists []config.List
	out   io.Writer

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// start is called with the address at which the daemon serves clients.
func (s *samples) start(server string) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel

	var keys []string
	for _, list := range s.lists {
		keys = append(keys, list.Key)
	}
	s.running.Go(func() { s.redis.Produce(ctx, keys, sampleInterval) })
	for _, list := range s.lists {
		s.running.Go(func() {
			// The printer ends with the server, or when an operator disconnects it.
			printer := client.Subscription{
				Server: client.Server{Address: server, Name: "edged-dev"}, Subjects: []string{list.Subject}, Out: s.out,
			}
			_ = printer.Run(ctx)
		})
	}
}

// stop ends the goroutines of start, if any.
func (s *samples) stop() {
	if s.cancel != nil {
		s.cancel()
	}
	s.running.Wait()
}

// lines lets several goroutines write whole lines to one writer.
type lines struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
