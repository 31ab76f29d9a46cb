// Soak runs edged for a while in a hostile environment and reports whether it kept its promises and
// its size. It plays a scenario of the simulator (test/sim) in real time, with real processes: two
// edged, one redis-server with an append-only file, clients and operators over sockets.
//
//	cd test && go run ./soak [-minutes N] [-seed N] [-race] [-binary FILE]
//
// The seed fixes the plan but, unlike in the simulator, not the course of events.
//
// The plan is a chain of episodes. In each of them something goes wrong many times: SIGKILL,
// SIGSTOP and SIGTERM of edged; SIGKILL of redis-server, also with the loss of its files or with
// older ones; connections that are cut, slow, silent or refused; CLIENT KILL, SCRIPT FLUSH,
// FLUSHALL, OOM, READONLY, MISCONF, BUSY. Then all faults end, polite clients connect, and within a
// minute all items in Redis must be delivered. The judge of the simulator decides, and a line is
// printed: the time since the start, faults, deliveries, how many of those came twice, and the
// figures of both daemons and of Redis. Daemon b is never ended: it shows growth over time.
//
// It ends with code 1 if the judge found something or if a figure grew. Then the story, the plan
// and all logs stay in a folder that it names. SIGINT and SIGTERM end it early, with the same
// summary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"edged/internal/edgedtest"
	"edged/test/sim"
	"edged/test/sim/scenario"
)

func main() {
	var opts options
	minutes := flag.Float64("minutes", 10, "how long no further episode begins after the start")
	flag.Uint64Var(&opts.seed, "seed", rand.Uint64N(1_000_000), "the plan")
	flag.BoolVar(&opts.race, "race", false, "build the daemon with the race detector")
	flag.StringVar(&opts.binary, "binary", "", "the daemon; empty: it is built")
	flag.Parse()
	if flag.NArg() > 0 || *minutes <= 0 {
		fmt.Fprintln(os.Stderr, "soak: it takes no arguments, and some minutes")
		os.Exit(2)
	}

	opts.length = time.Duration(*minutes * float64(time.Minute))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, opts)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	length time.Duration
	seed   uint64
	race   bool
	binary string
}

// run plays the plan of the seed. Its error describes the failure.
func run(ctx context.Context, out io.Writer, opts options) error {
	folder, err := os.MkdirTemp("", "e") // short: it holds Unix sockets
	if err != nil {
		return err
	}

	if opts.binary == "" {
		opts.binary = filepath.Join(folder, "edged")
		var flags []string
		if opts.race {
			flags = append(flags, "-race")
		}
		if err := edgedtest.Build(ctx, opts.binary, flags...); err != nil {
			return err
		}
	}

	// An episode and the quiet time after it take an hour on average.
	seed, events := plan(opts.seed, 2*time.Hour*time.Duration(1+opts.length/time.Minute))
	fmt.Fprintf(out, "seed %d: %s\n", seed, describe(events))
	findings, err := play(ctx, out, opts, folder, events)
	if err == nil && findings == 0 {
		return os.RemoveAll(folder)
	}
	return errors.Join(err, fmt.Errorf("%d findings with seed %d; story, plan and logs are in %s", findings, seed, folder))
}

// play plays a plan until the time is over, and returns the number of findings.
func play(ctx context.Context, out io.Writer, opts options, folder string, plan *scenario.Scenario) (findings int, err error) {
	if err := os.WriteFile(filepath.Join(folder, "plan.txt"), plan.Format(), 0o600); err != nil {
		return 0, err
	}
	processes, end := context.WithCancel(context.WithoutCancel(ctx))
	parts := &parts{ctx: processes, interrupted: ctx, binary: opts.binary, folder: folder}
	defer parts.running.Wait()
	defer end()
	harness, err := os.Create(filepath.Join(folder, "harness.log"))
	if err != nil {
		return 0, err
	}
	defer harness.Close()
	began := time.Now()
	parts.redis, err = startServer(processes, &parts.running, folder, func(format string, args ...any) {
		fmt.Fprintf(harness, "%.3f %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	})
	if err != nil {
		return 0, err
	}
	world := sim.New(plan, parts)
	parts.died = func(name, state string) { world.Find("died", "%s ended by itself: %s", name, state) }

	report := &report{out: out, world: world, parts: parts, folder: folder, began: began}
	report.begin(hasRaceDetector(opts.binary))
	defer context.AfterFunc(ctx, report.interrupt)()
	var pace pace
	for _, e := range plan.Events {
		select {
		case <-time.After(pace.pause(e)):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		world.Do(e)
		if e.Verb == "check" && ctx.Err() == nil {
			report.episode()
			if time.Since(began) > opts.length {
				break
			}
			parts.redis.Compact()
		}
	}
	world.End()
	return report.end(), nil
}
