// Bench compares edged with its alternatives: a relay that takes an afternoon to write
// (baseline.py), nats-server, and for each task of edged the same task done by Redis and its
// libraries alone, which is the floor.
//
//	cd bench && go run . [-run REGEXP] [-rounds N] [-items N] [-quick] [-json FILE]
//	cd bench && go run . -benchfmt FILE
//	cd bench && go run . -costs [-run REGEXP] [-rounds N] [-quick] [-json FILE]
//	cd bench && go run . -model FILE
//
// It builds and starts all programs itself, on loopback and Unix sockets. In each round it runs
// every measurement once, so that a slow phase of the machine affects all of them. The table shows
// the medians over the rounds, and how they compare with the targets. Ratios are valid on other
// machines, absolute figures are not. docs/PERFORMANCE.md says how to read it.
//
// The measurements are in table.go, one line each.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// baseline is the program that edged is compared with.
//
//go:embed baseline.py
var baseline []byte

// patience bounds the time of one measurement.
const patience = 3 * time.Minute

func main() {
	var opts options
	flag.Func("run", "measure only names that `REGEXP` matches, such as '^fan-out'", func(text string) (err error) {
		opts.only, err = regexp.Compile(text)
		return err
	})

	flag.IntVar(&opts.rounds, "rounds", 6, "how often each is measured; benchstat wants six")
	flag.BoolVar(&opts.quick, "quick", false, "a smoke test of half a minute: one round of very little; the figures mean nothing")
	flag.BoolVar(&opts.costs, "costs", false, "measure the costs of an item instead, and derive an estimate")
	flag.IntVar(&opts.items, "items", 1_000_000, "how many items `N` pass by in the measurement refused, and wait in uplink/down")
	flag.StringVar(&opts.json, "json", "", "write the figures to `FILE` too")
	benchfmt := flag.String("benchfmt", "", "measure nothing: print `FILE`, written by -json, for benchstat")
	model := flag.String("model", "", "measure nothing: print the model of `FILE`, written by -costs -json")
	flag.Parse()
	if flag.NArg() > 0 || opts.rounds < 1 {
		fmt.Fprintln(os.Stderr, "bench: it takes no arguments, and at least one round")
		os.Exit(2)
	}

	// SIGPIPE too, or the end of a pager would leave servers running.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	var err error
	switch {
	case *benchfmt != "":
		err = convert(*benchfmt, os.Stdout, (*report).benchfmt)
	case *model != "":
		err = convert(*model, os.Stdout, (*report).model)
	default:
		err = bench(ctx, os.Stdout, os.Stderr, opts)
	}

	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	only   *regexp.Regexp // nil: all
	rounds int
	quick  bool
	items  int // of the measurements refused and uplink/down
	json   string
	costs  bool
}

func (o options) measurements() []measurement {
	if o.costs {
		return costs
	}
	return measurements
}

// bench measures, and prints the table. If a measurement fails, or ctx is done, it prints the
// results so far.
func bench(ctx context.Context, out, progress io.Writer, opts options) error {
	if opts.quick {
		opts.rounds = 1
	}

	result := &report{Time: time.Now().UTC(), Machine: thisMachine()}
	fmt.Fprintln(progress, "building edged and nats-server")
	l, err := newLab(ctx, opts.quick)
	if err != nil {
		return err
	}
	defer l.close()
	l.items = opts.items
	failed := result.measure(ctx, progress, l, opts)
	if len(result.Rows) == 0 {
		return errors.Join(failed, errors.New("nothing was measured"))
	}
	result.judge(targets)
	if opts.json != "" {
		if err := result.write(opts.json); err != nil {
			return err
		}
	}

	if err := result.table(out); err != nil {
		return err
	}
	return failed
}

func (r *report) measure(ctx context.Context, progress io.Writer, l *lab, opts options) error {
	for round := range opts.rounds {
		for _, m := range opts.measurements() {
			if opts.only != nil && !opts.only.MatchString(m.name) {
				continue
			}
			fmt.Fprintf(progress, "round %d of %d: %s\n", round+1, opts.rounds, m.name)
			timed, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it takes longer than %v", patience))
			figures, err := m.run(timed, l)
			if err != nil && timed.Err() != nil {
				err = fmt.Errorf("%v: %v", context.Cause(timed), err)
			}
			cancel()
			if err != nil {
				return fmt.Errorf("%s: %v", m.name, err)
			}
			r.add(m.name, figures)
		}
	}

	return nil
}

// convert prints a report in another form.
func convert(file string, out io.Writer, form func(*report, io.Writer) error) error {
	r, err := readReport(file)
	if err != nil {
		return err
	}
	return form(r, out)
}
