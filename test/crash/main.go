// Crash counts the items that edged loses. It pushes numbered items into two lists of a real
// redis-server, and a client for each list takes them through the real daemon. Meanwhile it kills,
// ends and stalls daemon and clients, at random moments from a seed that it prints. Then it
// compares the pushed items with the items that the clients have recorded.
//
//	cd test && go run ./crash [-items N] [-faults N] [-together N] [-seed N] [-race] [-only TEXT]
//
// Each row of the table is one scenario in one mode, in a Redis that was empty before. A mode says
// when items count as confirmed, and which consumers the lists have: one each, or also a second one
// that reads slowly. Durable ones are pull consumers of JetStream with explicit acknowledgement.
//
//   - lost: items that a client never recorded.
//   - twice: recordings of an item after its first.
//   - out of order: recordings of an item with a smaller number than the previous one on the same
//     connection, if it was not recorded before and is not marked as a redelivery. Those two are
//     the exceptions to the order of a list.
//   - corrupted: data that is not, byte for byte, an item that was pushed.
//
// It ends with code 1 if an explicit or received list lost an item, if any item came out of order
// or corrupted, or if more items came twice than may be in flight: one window
// (delivery.window_items) for each list and fault. If a consumer lags, all items that it had not
// confirmed come again after a start. A list with ack "none" may lose items that were in the
// sockets; the table shows how many.
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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"edged/internal/edgedtest"
)

func main() {
	var opts options
	flag.IntVar(&opts.items, "items", 200_000, "items pushed for each row, both lists together")
	flag.IntVar(&opts.faults, "faults", 5, "kills, ends or stalls in each row")
	flag.Uint64Var(&opts.seed, "seed", rand.Uint64N(1_000_000), "where the random moments come from")
	flag.IntVar(&opts.together, "together", 1, "rows at a time")
	flag.BoolVar(&opts.race, "race", false, "build the daemon with the race detector")
	flag.StringVar(&opts.only, "only", "", "run only the rows whose name, such as \"SIGTERM | none\", contains this")
	flag.Parse()
	if flag.NArg() > 0 || opts.faults < 1 || opts.together < 1 || opts.items < 2*len(lists)*opts.faults {
		fmt.Fprintln(os.Stderr, "crash: it takes no arguments, at least one row at a time, at least one fault, and at least four items a fault")
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, opts)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "crash: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	items    int // in each row
	faults   int // in each row
	together int // rows at a time
	seed     uint64
	race     bool
	only     string
}

// run prints the table. Its error names the rows that break a promise.
func run(ctx context.Context, out io.Writer, opts options) error {
	folder, err := os.MkdirTemp("", "e") // short: it holds Unix sockets
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	binary := filepath.Join(folder, "edged")
	var flags []string
	if opts.race {
		flags = append(flags, "-race")
	}
	if err := edgedtest.Build(ctx, binary, flags...); err != nil {
		return err
	}
	places := make(chan *place, opts.together)
	for i := range opts.together {
		p, err := newPlace(filepath.Join(folder, strconv.Itoa(i)))
		if err != nil {
			return err
		}
		defer p.close()
		places <- p
	}

	fmt.Fprintf(out, "seed %d, %d faults in each row\n", opts.seed, opts.faults)
	const format = "%-54s | %8v | %8v | %8v | %12v | %9v\n"
	fmt.Fprintf(out, format, "scenario | mode", "pushed", "lost", "twice", "out of order", "corrupted")
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var failed []string
	for _, r := range start(ctx, &running, places, binary, opts) {
		got := <-r.ended
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case got.err != nil:
			return fmt.Errorf("%s, seed %d: %v\nthe log of edged:\n%s", r.name(), opts.seed, got.err, r.daemon.History())
		}
		fmt.Fprintf(out, format, r.name(), got.pushed, got.lost, got.twice, got.disorder, got.corrupted)
		if wrong := got.wrong(r.mode, opts.faults); wrong != "" {
			failed = append(failed, r.name()+": "+wrong)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("with seed %d:\n%s", opts.seed, strings.Join(failed, "\n"))
	}
	return nil
}

// place is all that a row needs for itself, and gives back in the end.
type place struct {
	folder  string
	address string // of edged
	release func()
	redis   *redis
}

func newPlace(folder string) (p *place, err error) {
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	p = &place{folder: folder}
	if p.address, p.release, err = edgedtest.Reserve(); err != nil {
		return nil, err
	}
	if p.redis, err = startRedis(folder); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (p *place) close() {
	p.redis.close()
	p.release()
}

// start lets the rows run in their order, each as soon as it has a place.
func start(ctx context.Context, running *sync.WaitGroup, places chan *place, binary string, opts options) (rows []*row) {
	for i, s := range scenarios {
		for j, m := range modes {
			r := &row{
				scenario: s, mode: m, faults: opts.faults, items: opts.items, ended: make(chan result, 1),
				random: rand.New(rand.NewPCG(opts.seed, uint64(i*len(modes)+j))), // its own, so that -only changes no moment
			}
			if strings.Contains(r.name(), opts.only) {
				rows = append(rows, r)
			}
		}
	}

	running.Go(func() {
		for _, r := range rows {
			select {
			case <-ctx.Done():
				r.ended <- result{err: ctx.Err()}
				continue
			case p := <-places:
				running.Go(func() {
					r.redis, r.daemon = p.redis, newDaemon(binary, p, r.mode, time.Duration(opts.together)*time.Second)
					got, err := r.run(ctx)
					got.err = err
					r.ended <- got
					places <- p
				})
			}
		}
	})
	return rows
}
