package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"edged/internal/edgedtest"
	"edged/internal/ledger"
	"edged/internal/redistest"
)

// box is edged as a separate process, with its own Redis.
type box struct {
	redis  *redistest.Server
	socket string
	log    string // path
	tcp    string // address for clients
	cmd    *exec.Cmd
}

// startBox starts edged and waits until it serves.
func startBox(t *testing.T, redis *redistest.Server) *box {
	folder := shortFolder(t)
	b := &box{redis: redis, socket: filepath.Join(folder, "c.sock"), log: filepath.Join(folder, "log")}
	content := fmt.Sprintf("instance = \"box\"\nredis.address = %q\ntcp.listen = \"127.0.0.1:0\"\ncontrol.socket = %q\ncontrol.status_socket = \"\"\n",
		redis.Address(), b.socket)
	file := filepath.Join(folder, "edged.toml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(b.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()

	b.cmd = exec.Command("edged", "-config", file)
	b.cmd.Stderr = log
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.cmd.Process.Kill()
		b.cmd.Wait()
	})
	redistest.Eventually(t, "edged serves", func() bool {
		m := servingAt.FindStringSubmatch(b.logged(t))
		if m != nil {
			b.tcp = m[1]
		}
		return m != nil
	})
	return b
}

func (b *box) logged(t *testing.T) string { return readDoc(t, b.log) }

// bury makes dead letters of a list.
func (b *box) bury(t *testing.T, list string, n int) {
	t.Helper()
	const step = 20_000 // a slow script would be a timeout for the client
	const script = `for i = 1, tonumber(ARGV[1]) do redis.call('RPUSH', KEYS[1], '{}\n' .. i) end`
	for ; n > 0; n -= step {
		err := b.redis.Client().Eval(t.Context(), script, []string{ledger.KeysOf(list).Dead}, min(n, step)).Err()
		if err != nil && err.Error() != "redis: nil" {
			t.Fatal(err)
		}
	}
}

// examples returns the examples of help by command name.
func (b *box) examples(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("edged", "ctl", "-socket", b.socket, "help json").Output()
	if err != nil {
		t.Fatal(err)
	}

	var help struct {
		Commands []struct{ Name, Example string }
	}
	if err := json.Unmarshal(out, &help); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, c := range help.Commands {
		all[c.Name] = c.Example
	}
	return all
}

func TestTheExamplesOfHelpWorkAsPrinted(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	redis.Push("events", "one", "two", "three")
	b := startBox(t, redis)
	b.bury(t, "events", 100)
	makeDurable(t, b.tcp)
	clients := connect(t, b.tcp, 12) // kick names the twelfth

	examples := b.examples(t)
	run := func(name string) {
		t.Helper()
		out, err := exec.Command("sh", "-c", examples[name]).CombinedOutput()
		ends := strings.HasSuffix(string(out), "\nOK\n") || string(out) == "OK\n" ||
			strings.Contains(examples[name], "json'") && json.Valid(out) && !strings.Contains(string(out), `{"error":`)
		if err != nil || !ends {
			t.Errorf("%s: %v\n%s", examples[name], err, out)
		}
	}
	for name := range examples {
		if name != "watch" && name != "drain" && name != "quit" {
			run(name)
		}
	}
	watchLines(t, examples["watch"], 3)

	for _, c := range clients {
		c.Close()
	}
	run("drain")
	b.cmd.Wait()
	examples = startBox(t, redis).examples(t)
	run("quit")
}

// makeDurable makes the JetStream consumer worker of the list events.
func makeDurable(t *testing.T, address string) {
	t.Helper()
	nc, err := nats.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const config = `{"stream_name":"events","config":{"durable_name":"worker","ack_policy":"explicit"}}`
	m, err := nc.Request("$JS.API.CONSUMER.DURABLE.CREATE.events.worker", []byte(config), 10*time.Second)
	if err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Fatalf("the consumer is not made: %v, %v", m, err)
	}
}

// connect makes clients until the newest one has at least the number n.
func connect(t *testing.T, address string, n int) (all []net.Conn) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := edgedtest.Ping(c, "{}", edgedtest.Patience); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}

	return all
}

// watchLines runs an example of watch until it has printed n lines with numbers.
func watchLines(t *testing.T, example string, n int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", example)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}

	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}()

	lines := bufio.NewScanner(out)
	for got := 0; got < n; {
		if !lines.Scan() {
			t.Errorf("%s: ended after %d lines with numbers, not %d", example, got, n)
			return
		}
		if strings.Contains(lines.Text(), "0s") {
			got++
		}
	}
}

func TestALongRequeueSaysItsOutcomeAndIsCancelledByClosing(t *testing.T) {
	t.Parallel()
	const letters = 400_000
	b := startBox(t, redistest.Start(t))
	b.bury(t, "events", letters)
	out, err := exec.Command("sh", "-c", b.examples(t)["requeue"]).CombinedOutput()
	if !strings.HasSuffix(string(out), "\n400000 dead letters put back\nOK\n") || err != nil {
		t.Errorf("the answer ends without an outcome: %v\n%s", err, out)
	}

	// A client that closes its connection cancels the rest.
	b.redis.Client().Del(t.Context(), "events")
	b.bury(t, "events", letters)
	watchRequeue := exec.Command("sh", "-c", "exec socat -t99 - UNIX-CONNECT:"+b.socket+" <<'END'\nrequeue events all\nEND\n")
	lines, err := watchRequeue.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watchRequeue.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(lines).ReadString('\n'); !strings.Contains(line, " of 400000 dead letters put back") {
		t.Errorf("the first line is %q, %v", line, err)
	}
	watchRequeue.Process.Kill()
	watchRequeue.Wait()

	said := regexp.MustCompile(`"msg":"a requeue was cancelled: its client left","list":"events","requeued":(\d+),"of":400000`)
	var requeued string
	redistest.Eventually(t, "the log has the command", func() bool {
		if m := said.FindStringSubmatch(b.logged(t)); m != nil {
			requeued = m[1]
		}
		return requeued != ""
	})
	back, left := b.redis.Len("events"), b.redis.Len(ledger.KeysOf("events").Dead)
	if fmt.Sprint(back) != requeued || back+left != letters || left == 0 {
		t.Errorf("the log says that %s are put back; %d are in the list, %d are dead letters", requeued, back, left)
	}
}
