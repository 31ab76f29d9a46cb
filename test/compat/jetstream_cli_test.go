package compat

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildCLI installs the command line program nats, once.
var buildCLI = sync.OnceValue(func() error {
	install := exec.Command("go", "install", "github.com/nats-io/natscli/nats@v0.5.0")
	install.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+binaries)
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("go install nats: %v\n%s", err, out)
	}
	return nil
})

// cliSteps are commands in the order in which they are run, with five items in events. Their exit
// codes are compared, and the part of the output that saw returns. After a failure, or without saw,
// only the exit code counts.
var cliSteps = []struct {
	command  string
	saw      func(printed []byte) string
	terminal bool // it needs a terminal
	differs  *difference
}{
	{command: "stream ls --names"},
	{command: "stream info events --json", saw: fields("config.name", "config.subjects", "config.allow_direct",
		"state.messages", "state.first_seq", "state.last_seq", "state.num_subjects", "state.consumer_count")},
	{command: "stream info events", saw: lines("Subjects:", "Messages:", "Direct Get:", "Active Consumers:")},
	{command: "stream get events 2 --json", saw: fields("subject", "seq", "data")},
	{command: "stream get events 3", saw: lines("item")},
	{command: "stream get events --last-for events --json", saw: fields("subject", "seq", "data")},
	{command: "stream get events 9"},
	{command: "stream view events", terminal: true, saw: lines("item")},
	{command: "stream subjects events --json"},
	{command: "stream report", saw: lines("Stream Report")},
	{command: "account info", saw: lines("Streams:")},
	{command: "sub events --stream events --all --count 5 --raw", saw: lines("item"), differs: &difference{
		saw:     `code 1, "nats: error: subscribing using direct get requires NATS Server 2.11"`,
		because: "of a stream with the retention interest, such as edged's, it wants batches of direct gets, which NATS 2.10 has not",
	}},

	{command: "consumer add events worker --pull --ack explicit --deliver all --defaults", saw: lines("Ack Policy:", "Unprocessed Messages:")},
	{command: "consumer ls events --names", saw: lines("worker")},
	{command: "consumer next events worker --raw"},
	{command: "consumer next events worker --count 2 --raw"},
	{command: "consumer next events worker --no-ack --raw"},
	{command: "consumer sub events worker --ack --raw"},
	{command: "consumer info events worker --json", saw: fields("stream_name", "name", "config.durable_name", "config.ack_policy",
		"config.ack_wait", "config.max_ack_pending", "config.max_waiting", "config.max_deliver", "config.deliver_policy", "config.replay_policy",
		"delivered.consumer_seq", "delivered.stream_seq", "ack_floor.consumer_seq", "ack_floor.stream_seq",
		"num_ack_pending", "num_redelivered", "num_waiting", "num_pending")},
	{command: "consumer info events worker", saw: lines("Pull Mode:", "Outstanding Acks:", "Unprocessed Messages:")},
	{command: "consumer report events", saw: lines("worker")},
	{command: "consumer edit events worker --max-pending 7 --force", saw: lines("Max Ack Pending:")},
	{command: "consumer rm events worker --force"},
	{command: "consumer info events worker"},
}

func TestTheCommandLineProgramSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	if err := buildCLI(); err != nil {
		t.Fatal(err)
	}

	saw := make(map[kind][]string)
	for _, k := range []kind{edged, natsServer} {
		t.Run(string(k), func(t *testing.T) {
			s := startStream(t, k, settings{}, false)
			s.push("item 1", "item 2", "item 3", "item 4", "item 5")
			for _, step := range cliSteps {
				printed, code := runCLI(t, s, step.command, step.terminal)
				part := strings.TrimSpace(string(printed))
				if step.saw != nil && code == 0 {
					part = step.saw(printed)
				}
				saw[k] = append(saw[k], fmt.Sprintf("code %d, %q", code, part))
			}
		})
	}

	if t.Failed() {
		return
	}

	for i, step := range cliSteps {
		t.Run(step.command, func(t *testing.T) {
			compare(t, map[kind]string{edged: saw[edged][i], natsServer: saw[natsServer][i]}, step.differs)
		})
	}
}

func TestTheCommandLineProgramPrintsPushedItems(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{edged, natsServer} {
		t.Run(string(k), func(t *testing.T) {
			s := startStream(t, k, settings{}, false)
			prints := startSub(t, s)
			s.push("item 1", "item 2")
			prints("item 1")
			prints("item 2")
		})
	}
}

func TestTheCommandLineProgramGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]func(*stream){"the server": (*stream).restart, "Redis": (*stream).restartStore} {
		for _, k := range []kind{edged, natsServer} {
			t.Run(name+"/"+string(k), func(t *testing.T) {
				t.Parallel()
				s := startStream(t, k, settings{}, false)
				prints := startSub(t, s)
				s.push("before")
				prints("before")
				restart(s)
				s.push("after")
				prints("after")
			})
		}
	}
}

// startSub starts `consumer sub` for a push consumer, which runs until it is interrupted. prints
// waits until it prints an item.
func startSub(t *testing.T, s *stream) (prints func(item string)) {
	t.Helper()
	if err := buildCLI(); err != nil {
		t.Fatal(err)
	}
	runCLI(t, s, "consumer add events pushed --target work.todo --ack explicit --deliver all --wait 2s --defaults", false)
	cmd := cli(t, s, "consumer sub events pushed --ack --raw")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	})

	printed := bufio.NewScanner(stdout)
	return func(item string) {
		t.Helper()
		for printed.Scan() {
			if printed.Text() == item {
				return
			}
		}
		t.Fatalf("it ends before %q", item)
	}
}

func cli(t *testing.T, s *stream, command string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "nats"), strings.Fields("--no-context "+command)...)
	cmd.Env = append(os.Environ(), "NATS_URL=nats://"+s.tcp, "HOME="+binaries, "NATS_TIMEOUT="+patience.String())
	return cmd
}

// runCLI runs a command to its end.
func runCLI(t *testing.T, s *stream, command string, terminal bool) (printed []byte, code int) {
	t.Helper()
	cmd := cli(t, s, command)
	if terminal {
		wrapped := exec.CommandContext(t.Context(), "script", "-qec", strings.Join(cmd.Args, " "), os.DevNull)
		wrapped.Env = cmd.Env
		cmd = wrapped
	}

	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait()
	return out.Bytes(), cmd.ProcessState.ExitCode()
}

// fields returns the fields at these paths of an object of JSON.
func fields(paths ...string) func([]byte) string {
	return func(printed []byte) string {
		var object any
		if err := json.Unmarshal(printed, &object); err != nil {
			return fmt.Sprintf("%v: %s", err, printed)
		}
		var texts []string
		for _, path := range paths {
			value := object
			for _, name := range strings.Split(path, ".") {
				inner, _ := value.(map[string]any)
				value = inner[name]
			}
			texts = append(texts, fmt.Sprintf("%s %v", path, value))
		}

		return strings.Join(texts, ", ")
	}
}

// lines returns the lines with one of the words, without their margins.
func lines(words ...string) func([]byte) string {
	return func(printed []byte) string {
		var texts []string
		for line := range strings.Lines(string(printed)) {
			for _, word := range words {
				if strings.Contains(line, word) {
					texts = append(texts, strings.Join(strings.Fields(line), " "))
				}
			}
		}
		return strings.Join(texts, "; ")
	}
}
