package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// hotPath is a microbenchmark of edged, and the number of items in one run of it.
type hotPath struct {
	unit, pkg, bench string
	runs, items      int
}

// hotPaths are the steps in user space for an item, and for a batch.
var hotPaths = []hotPath{
	{"read/item", "poller", "BenchmarkReply", 10, 500},                    // a reply of Redis, 256 B each
	{"encode/item", "tcpserver", "BenchmarkEncodeBatch", 10, 500},         // once for each subscription ID
	{"hand-out/client", "relay", "BenchmarkBatchToConsumers/100", 5, 100}, // a batch to a client, and its confirmation
	{"explicit/item", "relay", "BenchmarkAcknowledge", 1000, 1},
}

// instructions counts those of an arm64 processor emulated by qemu, because their number does not
// depend on the machine. It counts a benchmark of N runs and one of 2N runs; the difference is the
// count for N runs.
func instructions(ctx context.Context, l *lab) (figures []figure, err error) {
	for _, path := range hotPaths {
		program := l.path(path.pkg + ".arm64")
		if _, err := os.Stat(program); err != nil {
			cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./internal/"+path.pkg)
			cmd.Dir, cmd.Env = "..", append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("build %s: %v\n%s", path.pkg, err, out)
			}
		}
		runs := path.runs
		if l.quick {
			runs = 1
		}
		once, err := emulate(ctx, program, path.bench, runs)
		if err != nil {
			return nil, err
		}
		twice, err := emulate(ctx, program, path.bench, 2*runs)
		if err != nil {
			return nil, err
		}
		figures = append(figures, figure{path.unit, float64(twice-once) / float64(runs*path.items)})
	}

	return figures, nil
}

// monitor is the beginning of qemu's lines for the second thread: the one of Go's runtime that
// checks the other threads every few microseconds of real time.
var monitor = []byte("Trace 1:")

// emulate runs a benchmark and returns the number of instructions: qemu writes a line for each.
func emulate(ctx context.Context, program, bench string, runs int) (n int, err error) {
	pattern := "^" + strings.ReplaceAll(bench, "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, "qemu-aarch64-static", "-singlestep", "-d", "exec,nochain", "-D", "/dev/stdout",
		program, "-test.run", "^$", "-test.cpu", "1", "-test.bench", pattern, "-test.benchtime", fmt.Sprint(runs, "x"))
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOGC=off", "GOMAXPROCS=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}

	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%v; `make tools` installs it", err)
	}
	lines := bufio.NewScanner(out)
	passed := false
	for lines.Scan() {
		if line := lines.Bytes(); bytes.HasPrefix(line, []byte("Trace ")) && !bytes.HasPrefix(line, monitor) {
			n++
		}
		passed = passed || bytes.HasSuffix(lines.Bytes(), []byte("PASS"))
	}

	if err := cmd.Wait(); err != nil || !passed {
		return 0, fmt.Errorf("%s, emulated: %v", bench, err)
	}
	return n, lines.Err()
}
