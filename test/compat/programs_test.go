package compat

import (
	"bufio"
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The scenarios of clients in other languages are programs. A program connects to the address in
// SERVER, and prints "saw NAME: OBSERVATION" for each scenario. It prints "please restart" or
// "please go" if the server is to restart or to send its clients away. It ends with code 0 if all
// went well with any server.

func TestTheJavaScriptClientSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	comparePrograms(t, func(t *testing.T) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "node", "compat.mjs")
		cmd.Dir = nodeFolder(t)
		return cmd
	})
}

func TestTheCClientSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	program := compileC(t, filepath.Join("c", "scenarios.c"))
	comparePrograms(t, func(t *testing.T) *exec.Cmd { return exec.CommandContext(t.Context(), program) })
}

// nodeFolder returns the folder of the JavaScript client.
func nodeFolder(t *testing.T) string {
	t.Helper()
	folder := filepath.Join("..", "js")
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("this test needs Node.js: run `make test-compat`, or install Debian's package nodejs")
	}
	if _, err := os.Stat(filepath.Join(folder, "node_modules", "@nats-io", "transport-node")); err != nil {
		t.Fatal("this test needs the packages of test/js: run `make test-compat`, or `npm ci` there")
	}
	return folder
}

// compileC compiles a program that uses the C client.
func compileC(t *testing.T, source string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "program")
	out, err := exec.Command("cc", "-Wall", "-Wextra", "-Werror", "-o", program, source, "-lnats").CombinedOutput()
	if err != nil {
		t.Fatalf("compile %s (this needs Debian's libnats-dev and gcc; `make tools` installs them): %v\n%s", source, err, out)
	}
	return program
}

func comparePrograms(t *testing.T, program func(t *testing.T) *exec.Cmd) {
	saw := make(map[kind]map[string]string)
	for _, k := range []kind{edged, natsServer} {
		t.Run(string(k), func(t *testing.T) {
			saw[k] = watch(t, start(t, k, settings{natsServer: withJetStream(t)}), program(t))
		})
	}
	compareScenarios(t, saw)
}

// compareScenarios compares the observations of programs, scenario by scenario.
func compareScenarios(t *testing.T, saw map[kind]map[string]string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(saw[natsServer]))
	if !slices.Equal(names, slices.Sorted(maps.Keys(saw[edged]))) || len(names) == 0 {
		t.Fatalf("with edged the scenarios were %q, with nats-server %q", slices.Sorted(maps.Keys(saw[edged])), names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			compare(t, map[kind]string{edged: saw[edged][name], natsServer: saw[natsServer][name]}, nil)
		})
	}
}

// watch runs a program to its end, carries out its requests, and returns its observations.
func watch(t *testing.T, s *server, cmd *exec.Cmd) map[string]string {
	t.Helper()
	return observe(t, s, cmd, func(request string) {
		switch request {
		case "restart":
			s.restart()
		case "go":
			s.lameDuck()
		default:
			t.Errorf("it asks for %q", request)
		}
	})
}

// observe runs a program to its end and returns its observations. Each line that begins with
// "please" is a request.
func observe(t *testing.T, s *server, cmd *exec.Cmd, please func(request string)) map[string]string {
	t.Helper()
	cmd.Env = append(os.Environ(), "SERVER=nats://"+s.tcp)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}

	saw := make(map[string]string)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if request, ok := strings.CutPrefix(lines.Text(), "please "); ok {
			please(request)
			continue
		}
		name, what, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "saw "), ": ")
		saw[name] = what
	}

	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v, after %v\n%s", cmd, err, saw, stderr.Bytes())
	}
	return saw
}
