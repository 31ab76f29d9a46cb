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

	"edged/internal/redistest"
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
	printsBothLists(t, 2000, itemOfExample, "node", javaScriptExample(t, "subscriber.mjs"))
}

// javaScriptExample copies a program beside the packages of test/js, which Node.js searches.
func javaScriptExample(t *testing.T, name string) (file string) {
	t.Helper()
	folder := t.TempDir()
	source, err := os.ReadFile(filepath.Join(examples, "javascript", name))
	if err != nil {
		t.Fatal(err)
	}

	packages, err := filepath.Abs(filepath.Join(nodeFolder(t), "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(folder, name)
	if err := os.WriteFile(file, source, 0o600); err != nil {
		t.Fatal(err)
	}

	if err := os.Symlink(packages, filepath.Join(folder, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return file
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

func TestTheGoWorkerHandlesEachItem(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "worker")
	if err := build(filepath.Join(examples, "go"), "-o", program, "./worker"); err != nil {
		t.Fatal(err)
	}
	handlesEachItem(t, program)
}

func TestTheJavaScriptWorkerHandlesEachItem(t *testing.T) {
	t.Parallel()
	handlesEachItem(t, "node", javaScriptExample(t, "worker.mjs"))
}

func TestThePythonWorkerHandlesEachItem(t *testing.T) {
	t.Parallel()
	handlesEachItem(t, "python3", filepath.Join(examples, "python", "worker.py"))
}

func TestTheCWorkerHandlesEachItem(t *testing.T) {
	t.Parallel()
	handlesEachItem(t, compileC(t, filepath.Join(examples, "c", "worker.c")))
}

func TestTheReadmesTenLinesHandleEachItem(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}

	lines := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	if lines == nil || !bytes.Contains(lines[1], []byte(`"nats://box:4222"`)) {
		t.Fatalf("README.md has no lines of Go that connect to nats://box:4222: %s", lines)
	}
	source := filepath.Join(t.TempDir(), "main.go")

	text := "package main\n" +
		`import ("context"; "fmt"; "log"; "os"; "os/signal"; "syscall"; "github.com/nats-io/nats.go"; "github.com/nats-io/nats.go/jetstream")` + "\n" +
		"func handle(item []byte) { fmt.Printf(\"events %s\\n\", item) }\n" +
		"func main() {\nctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)\n" +
		strings.Replace(string(lines[1]), `"nats://box:4222"`, `os.Getenv("NATS_URL")`, 1) + "<-ctx.Done()\n}\n"
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "worker")
	if err := build(filepath.Join(examples, "go"), "-o", program, source); err != nil {
		t.Fatal(err)
	}
	handlesEachItem(t, program)
}

// handlesEachItem checks that an unchanged worker handles all items of either server, and that none
// is left, even if the server restarts meanwhile.
func handlesEachItem(t *testing.T, name string, args ...string) {
	for _, k := range []kind{edged, natsServer} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			const n = 2000
			s := startStream(t, k, settings{}, true)
			program := startExample(t, s.server, name, args...)
			js := js(t, s)
			redistest.Eventually(t, "the worker has made its consumer", func() bool {
				_, err := js.Consumer(t.Context(), "events", "worker")
				return err == nil
			})

			missing := make(map[string]bool)
			for _, item := range numbered(n) {
				missing["events "+item] = true
			}
			until := func(left int) {
				t.Helper()
				for len(missing) > left {
					delete(missing, program.line())
				}
			}
			s.push(numbered(n)[:n/2]...)
			until(n - 100)
			s.restart()
			s.push(numbered(n)[n/2:]...)
			until(0)
			// Another item replaces an acknowledgement that was lost in the restart.
			for s.left() > 0 {
				select {
				case <-program.lines:
				case <-program.late:
					t.Fatalf("gave up waiting: nothing is left; %d items are", s.left())
				case <-time.After(10 * time.Millisecond): // check again
				}
			}
		})
	}
}

// telegraf is built with the plugins of its example only, of hundreds.
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

// printsBothLists checks that a program prints n items of each list at least once, even if edged
// restarts meanwhile, and that it ends when it is told to. The address is in NATS_URL; item parses
// a line of the output.
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

	program := startExample(t, s, name, args...)
	until := func(left int) {
		t.Helper()
		for len(missing) > left {
			list, item := item(program.line())
			delete(missing, list+" "+item)
		}
	}
	until(n - 1) // of 2 * (n/2), so the second half has begun
	s.restart()
	push(n/2, n)
	until(0)
}

// example is a program that prints items. It ends with the test, by SIGTERM and with
// code 0.
type example struct {
	t     *testing.T
	name  string
	lines <-chan string
	late  <-chan time.Time
}

// startExample starts a program with the address of a server in NATS_URL.
func startExample(t *testing.T, s *server, name string, args ...string) *example {
	t.Helper()
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

	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer kill.Stop()
		for range lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s ends with %v", name, err)
		}
		if t.Failed() {
			t.Logf("the output of %s:\n%s", name, stderr.Bytes())
		}
	})

	return &example{t: t, name: name, lines: lines, late: time.After(patience)}
}

// line returns the next line of the program.
func (e *example) line() string {
	e.t.Helper()
	select {
	case line, ok := <-e.lines:
		if !ok {
			e.t.Fatalf("%s has ended", e.name)
		}
		return line
	case <-e.late:
		e.t.Fatalf("gave up waiting: %s prints all items", e.name)
	}
	panic("unreachable")
}
