package compat

import (
	"bytes"
	"debug/elf"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"go.yaml.in/yaml/v3"
)

// compose is examples/compose/compose.yaml, which has no keys besides these.
type compose struct {
	Name     string
	Services map[string]struct {
		Image           string
		Command         string
		Volumes         []string
		Tmpfs           []string
		Ports           []string
		User            string
		ReadOnly        bool     `yaml:"read_only"`
		CapDrop         []string `yaml:"cap_drop"`
		SecurityOpt     []string `yaml:"security_opt"`
		StopGracePeriod string   `yaml:"stop_grace_period"`
		MemLimit        string   `yaml:"mem_limit"`
		Restart         string
		Healthcheck     struct{ Test []string }
		Environment     map[string]string
	}
	Volumes map[string]any
}

// composeFile reads the example.
func composeFile(t *testing.T) (file compose, text string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(examples, "compose", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file, string(data)
}

func TestTheComposeFileNamesFilesAndServicesThatExist(t *testing.T) {
	folder := filepath.Join(examples, "compose")
	file, _ := composeFile(t)
	settings := filepath.Join(folder, "edged.toml")
	if out, err := exec.Command(edgedtest.Binary(t), "check", settings).CombinedOutput(); err != nil {
		t.Errorf("edged check: %v\n%s", err, out)
	}

	if text, err := os.ReadFile(settings); err != nil || !bytes.Contains(text, []byte(`address = "redis:6379"`)) || file.Services["redis"].Image == "" {
		t.Errorf("edged.toml does not name the service redis (%v):\n%s", err, text)
	}
	if url := file.Services["worker"].Environment["NATS_URL"]; url != "nats://edged:4222" || file.Services["edged"].Image == "" {
		t.Errorf("the worker connects to %q, which is not the service edged", url)
	}
	for name, service := range file.Services {
		if service.Image == "" || service.Command == "" || service.Restart == "" {
			t.Errorf("the service %s lacks an image, a command or a restart policy", name)
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if _, ok := file.Volumes[source]; ok || source == "../../bin/edged" { // made by `make build`
				continue
			}
			if _, err := os.Stat(filepath.Join(folder, source)); err != nil {
				t.Errorf("the service %s: %v", name, err)
			}
		}
	}
}

// composed runs the services of the example on this machine, each by its own command. A path in a
// container stands for the file that is mounted there, and a service's address for an address of
// this machine.
type composed struct {
	compose
	t      *testing.T
	redis  string // address
	edged  string
	config string // edged.toml with these addresses
}

func startComposed(t *testing.T) *composed {
	t.Helper()
	file, _ := composeFile(t)
	folder, err := os.MkdirTemp("", "e") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	s := &composed{compose: file, t: t, redis: edgedtest.Address(t), edged: edgedtest.Address(t), config: filepath.Join(folder, "edged.toml")}

	text, err := os.ReadFile(filepath.Join(examples, "compose", "edged.toml"))
	if err != nil {
		t.Fatal(err)
	}
	settings := strings.NewReplacer(`"redis:6379"`, strconv.Quote(s.redis), `"0.0.0.0:4222"`, strconv.Quote(s.edged)).Replace(string(text))
	settings += fmt.Sprintf("[control]\nsocket = %q\nstatus_socket = %q\n", filepath.Join(folder, "c.sock"), filepath.Join(folder, "s.sock"))
	if err := os.WriteFile(s.config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// command returns the command that runs in a service's container, adapted to this machine.
func (s *composed) command(service string, words ...string) *exec.Cmd {
	s.t.Helper()
	mounted := map[string]string{}
	for _, volume := range s.Services[service].Volumes {
		source, target, _ := strings.Cut(volume, ":")
		mounted[strings.TrimSuffix(target, ":ro")] = filepath.Join(examples, "compose", source)
	}
	host, port, err := net.SplitHostPort(s.redis)
	if err != nil {
		s.t.Fatal(err)
	}

	words = slices.Clone(words)
	for i, word := range words {
		if file := mounted[word]; file != "" {
			words[i] = file
		}
		if word == "/etc/edged/edged.toml" {
			words[i] = s.config
		}
	}
	switch words[0] {
	case "edged":
		words[0] = edgedtest.Binary(s.t)
		if words[1] == "ctl" { // its default is the file in the container
			words = slices.Insert(words, 2, "-config", s.config)
		}
	case "redis-server":
		words = append(words, "--bind", host, "--port", port, "--dir", s.t.TempDir())
	case "redis-cli":
		words = slices.Insert(words, 1, "-h", host, "-p", port)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = os.Environ()
	for name, value := range s.Services[service].Environment {
		cmd.Env = append(cmd.Env, name+"="+strings.Replace(value, "edged:4222", s.edged, 1))
	}
	return cmd
}

// up starts a service.
func (s *composed) up(service string) *edgedtest.Process {
	s.t.Helper()
	p, err := edgedtest.Start(s.command(service, strings.Fields(s.Services[service].Command)...))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if !p.HasEnded() {
			p.Kill()
		}
		if s.t.Failed() {
			s.t.Logf("the output of %s:\n%s", service, p.Output())
		}
	})
	return p
}

// exec runs a command in a service's container, and returns its output.
func (s *composed) exec(service, words string) string {
	s.t.Helper()
	out, err := s.command(service, strings.Fields(words)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("docker compose exec %s %s: %v\n%s", service, words, err, out)
	}
	return string(out)
}

// down stops a service, which must end well.
func (s *composed) down(service string, p *edgedtest.Process) {
	s.t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil {
		s.t.Errorf("%s ends with %d, %v", service, code, err)
	}
}

// upWithRedis starts Redis and edged, and waits until they are healthy.
func (s *composed) upWithRedis() (edged *edgedtest.Process) {
	s.t.Helper()
	s.up("redis")
	redistest.Eventually(s.t, "Redis answers", func() bool {
		out, _ := s.command("redis", "redis-cli", "PING").Output()
		return string(out) == "PONG\n"
	})
	edged = s.up("edged")
	health := s.Services["edged"].Healthcheck.Test
	if len(health) < 2 || health[0] != "CMD" {
		s.t.Fatalf("the health check of edged is %q", health)
	}
	redistest.Eventually(s.t, "edged is healthy", func() bool { return s.command("edged", health[1:]...).Run() == nil })
	return edged
}

// handles waits until the worker has handled an item of events.
func (s *composed) handles(worker *edgedtest.Process, item string) {
	s.t.Helper()
	if _, err := worker.AwaitLine(func(line string) bool { return line == "events "+item+"\n" }); err != nil {
		s.t.Fatalf("the worker does not handle %s: %v", item, err)
	}
}

func TestTheServicesOfTheComposeFileRunByThemselves(t *testing.T) {
	s := startComposed(t)
	_, text := composeFile(t)
	comments := map[string]bool{} // commands in the file's first comment lines that have been run
	printed := regexp.MustCompile(`(?m)^#   docker compose (exec|restart) (\w+) ?([^#\n]*)`).FindAllStringSubmatch(text, -1)
	exec := func(service, words string) string {
		t.Helper()
		comments[strings.TrimSpace(service+" "+words)] = true
		return s.exec(service, words)
	}

	s.upWithRedis()
	if out := exec("redis", "redis-cli CONFIG GET appendonly"); !strings.Contains(out, "yes") {
		t.Errorf("Redis has no append-only file: %s", out)
	}
	worker := s.up("worker")
	exec("redis", "redis-cli RPUSH events hello")
	s.handles(worker, "hello")
	if out := exec("edged", "edged ctl status"); !strings.Contains(out, "serving") || strings.Contains(out, "fault") {
		t.Errorf("edged ctl status: %s", out)
	}

	comments["worker"] = true // docker compose restart worker
	s.down("worker", worker)
	exec("redis", "redis-cli RPUSH events again")
	worker = s.up("worker")
	s.handles(worker, "again")
	if len(printed) != 3 {
		t.Errorf("compose.yaml has other commands: %q", printed)
	}
	for _, command := range printed {
		if !comments[strings.TrimSpace(command[2]+" "+command[3])] {
			t.Errorf("this command of compose.yaml was not run: %q", command[0])
		}
	}
}

func TestTheComposeFileGivesEdgedTimeToDrain(t *testing.T) {
	s := startComposed(t)
	daemon := s.upWithRedis()
	s.exec("redis", "redis-cli RPUSH events hello")
	s.handles(s.up("worker"), "hello")
	drain := regexp.MustCompile(`(?m)^drain\.timeout += "?(\w+)`).FindStringSubmatch(s.exec("edged", "edged ctl config"))
	if len(drain) != 2 {
		t.Fatal("edged ctl config does not show drain.timeout")
	}

	timeout, err := time.ParseDuration(drain[1])
	grace, err2 := time.ParseDuration(s.Services["edged"].StopGracePeriod)
	if err != nil || err2 != nil || grace <= timeout {
		t.Errorf("stop_grace_period is %s, not above drain.timeout, %s", s.Services["edged"].StopGracePeriod, drain[1])
	}
	s.down("edged", daemon)
}

func TestTheBoundsOfTheComposeFileFitEdged(t *testing.T) {
	file, _ := composeFile(t)
	service := file.Services["edged"]
	settings := filepath.Join(examples, "compose", "edged.toml")
	out, err := exec.Command(edgedtest.Binary(t), "check", settings).CombinedOutput()
	most := regexp.MustCompile(`(?m)^memory +(\d+) MiB at most`).FindSubmatch(out)
	if err != nil || most == nil {
		t.Fatalf("edged check: %v\n%s", err, out)
	}
	need, _ := strconv.ParseFloat(string(most[1]), 64)
	if limit, err := strconv.ParseFloat(strings.TrimSuffix(service.MemLimit, "m"), 64); err != nil || limit < 1.2*need {
		t.Errorf("mem_limit is %s, less than a fifth above %.0f MiB", service.MemLimit, need)
	}
	folder, options, _ := strings.Cut(strings.Join(service.Tmpfs, " "), ":")
	uid, gid, _ := strings.Cut(service.User, ":")
	sockets := fmt.Sprintf("\ncontrol  %s/control.sock for operators, %[1]s/status.sock for monitors\n", folder)
	if !strings.Contains(string(out), sockets) || !strings.Contains(options, "uid="+uid+",gid="+gid) {
		t.Errorf("the user %s can't make its sockets in %s:\n%s", service.User, service.Tmpfs, out)
	}
	if len(service.Ports) != 1 || service.Ports[0] != "127.0.0.1:4222:4222" || !strings.Contains(string(out), " to clients at 0.0.0.0:4222\n") {
		t.Errorf("the port is published as %q, and edged listens elsewhere:\n%s", service.Ports, out)
	}

	// A dynamic linker in the image busybox is not sure to fit.
	makeBuild(t)
	program, err := elf.Open(filepath.Join("..", "..", "bin", "edged"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			t.Error("bin/edged is not a static program")
		}
	}
}

// makeBuild runs make build without the settings of the make that runs the tests.
func makeBuild(t *testing.T) {
	t.Helper()
	cmd := exec.Command("make", "-s", "build")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "CGO_ENABLED=") || strings.HasPrefix(variable, "MAKEFLAGS=")
	})
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
}

// If this machine has docker and the three images, the example runs.
func TestTheComposeFileRuns(t *testing.T) {
	docker := func(args ...string) (string, error) {
		cmd := exec.Command("docker", args...)
		cmd.Dir = filepath.Join(examples, "compose")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := docker("compose", "version"); err != nil {
		t.Logf("NOT CHECKED, without docker compose: containers, only the services themselves (%v %s)", err, out)
		return
	}
	for _, image := range []string{"redis:7", "busybox", "python:3-alpine"} {
		if out, err := docker("image", "inspect", image); err != nil {
			t.Logf("NOT CHECKED, without the image %s: containers, only the services themselves (%v %s)", image, err, out)
			return
		}
	}
	makeBuild(t)

	t.Cleanup(func() {
		if out, err := docker("compose", "-p", "edged-test", "down", "-v"); err != nil {
			t.Errorf("docker compose down: %v\n%s", err, out)
		}
	})
	for _, args := range [][]string{{"up", "-d"}, {"exec", "-T", "redis", "redis-cli", "RPUSH", "events", "hello"}} {
		if out, err := docker(append([]string{"compose", "-p", "edged-test"}, args...)...); err != nil {
			t.Fatalf("docker compose %q: %v\n%s", args, err, out)
		}
	}
	redistest.Eventually(t, "the worker has handled the item", func() bool {
		out, _ := docker("compose", "-p", "edged-test", "logs", "worker")
		return strings.Contains(out, "events hello")
	})
}
