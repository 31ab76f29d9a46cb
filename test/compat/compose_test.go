package compat

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"go.yaml.in/yaml/v3"
)

// compose is examples/compose/compose.yaml, which has no other keys.
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

func TestTheComposeFileNamesFilesAndServicesThatExist(t *testing.T) {
	folder := filepath.Join(examples, "compose")
	text, err := os.ReadFile(filepath.Join(folder, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file compose
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
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

// With docker and the three images on this machine, the example runs.
func TestTheComposeFileRuns(t *testing.T) {
	docker := func(args ...string) (string, error) {
		cmd := exec.Command("docker", args...)
		cmd.Dir = filepath.Join(examples, "compose")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := docker("compose", "version"); err != nil {
		t.Skipf("NOT CHECKED, without docker compose: %v %s", err, out)
	}
	for _, image := range []string{"redis:7", "busybox", "python:3-alpine"} {
		if out, err := docker("image", "inspect", image); err != nil {
			t.Skipf("NOT CHECKED, without the image %s: %v %s", image, err, out)
		}
	}
	binary := exec.Command("make", "-s", "build")
	binary.Dir = filepath.Join("..", "..")
	if out, err := binary.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}

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
