package compat

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

var examples = filepath.Join("..", "..", "examples")

func TestTheGoExamplePrintsBothLists(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "subscriber")
	if err := build(filepath.Join(examples, "go"), "-o", program, "."); err != nil {
		t.Fatal(err)
	}
	printsBothLists(t, 2000, itemOfExample, program)
}

func TestTheJavaScriptExamplePrintsBothLists(t *testing.T) {
	t.Parallel()
	// Node.js looks for packages beside the file.
	folder := t.TempDir()
	source, err := os.ReadFile(filepath.Join(examples, "javascript", "subscriber.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Abs(filepath.Join(nodeFolder(t), "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "subscriber.mjs")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(packages, filepath.Join(folder, "node_modules")); err != nil {
		t.Fatal(err)
	}
	printsBothLists(t, 2000, itemOfExample, "node", file)
}

func TestThePythonExamplePrintsBothLists(t *testing.T) {
	t.Parallel()
	printsBothLists(t, 2000, itemOfExample, "python3", filepath.Join(examples, "python", "subscriber.py"))
}

func TestTheCExamplePrintsBothLists(t *testing.T) {
	t.Parallel()
	printsBothLists(t, 2000, itemOfExample, compileC(t, filepath.Join(examples, "c", "subscriber.c")))
}

func TestTheSocatExamplePrintsBothLists(t *testing.T) {
	t.Parallel()
	printsBothLists(t, 20, itemOfExample, filepath.Join(examples, "socat", "subscriber.sh"))
}

// telegraf is built with what its example names, of its hundreds of plugins.
var telegraf = []string{"-tags", "custom,inputs.nats_consumer,outputs.file,parsers.value,serializers.influx",
	"github.com/influxdata/telegraf/cmd/telegraf@v1.37.2"}

func TestTelegrafReadsBothLists(t *testing.T) {
	t.Parallel()
	install := exec.Command("go", append([]string{"install"}, telegraf...)...)
	install.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+binaries)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install telegraf: %v\n%s", err, out)
	}
	metric := regexp.MustCompile(`^nats_consumer,subject=(\w+) value="(.*)" \d+$`)
	item := func(line string) (list, item string) {
		if m := metric.FindStringSubmatch(line); m != nil {
			return m[1], m[2]
		}
		return "", ""
	}
	printsBothLists(t, 20_000, item, filepath.Join(binaries, "telegraf"), "--quiet",
		"--config", filepath.Join(examples, "telegraf", "telegraf.conf"))
}

func itemOfExample(line string) (list, item string) {
	list, item, _ = strings.Cut(line, " ")
	return list, item
}

// printsBothLists checks that a program prints n items of each list, across a
// restart of edged amid them and at least once, and that it ends when it is told
// to. The address is in NATS_URL; item reads a line that it prints.
func printsBothLists(t *testing.T, n int, item func(line string) (list, item string), name string, args ...string) {
	t.Helper()
	s := start(t, edged, settings{edged: `redis.poll_interval = "100ms"`})
	missing := make(map[string]bool)
	push := func(from, to int) {
		for _, list := range []string{"events", "readings"} {
			var items []any
			for i := from; i < to; i++ {
				items = append(items, fmt.Sprintf("item %d", i))
				missing[fmt.Sprintf("%s item %d", list, i)] = true
			}
			s.redis.Push(list, items...)
		}
	}
	push(0, n/2)

	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "NATS_URL=nats://"+s.tcp)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for out := bufio.NewScanner(stdout); out.Scan(); {
			lines <- out.Text()
		}
	}()
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer kill.Stop()
		for range lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s ends with %v", name, err)
		}
		if t.Failed() {
			t.Logf("what %s says:\n%s", name, stderr.Bytes())
		}
	}()

	deadline := time.After(patience)
	until := func(left int) {
		t.Helper()
		for len(missing) > left {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("%s has ended; %d items are missing", name, len(missing))
				}
				list, item := item(line)
				delete(missing, list+" "+item)
			case <-deadline:
				t.Fatalf("gave up waiting: %s prints all items; %d are missing", name, len(missing))
			}
		}
	}
	until(n - 1) // of 2 * (n/2): it has begun
	s.restart()
	push(n/2, n)
	until(0)
}
