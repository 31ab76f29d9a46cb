package compat

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Programs that consume with JetStream have two more requests: "please push A B C"
// appends items to events, and "please restart Redis" restarts the Redis of edged.

func TestTheJavaScriptClientOfJetStreamSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	compareConsumers(t, func(t *testing.T) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "node", "jetstream.mjs")
		cmd.Dir = nodeFolder(t)
		return cmd
	})
}

func TestTheCClientOfJetStreamSeesNoOtherServer(t *testing.T) {
	t.Parallel()
	program := compileC(t, filepath.Join("c", "jetstream.c"))
	compareConsumers(t, func(t *testing.T) *exec.Cmd { return exec.CommandContext(t.Context(), program) })
}

func compareConsumers(t *testing.T, program func(*testing.T) *exec.Cmd) {
	saw := make(map[kind]map[string]string)
	for _, k := range []kind{edged, natsServer} {
		t.Run(string(k), func(t *testing.T) {
			s := startStream(t, k, settings{}, false)
			saw[k] = observe(t, s.server, program(t), func(request string) {
				verb, rest, _ := strings.Cut(request, " ")
				switch {
				case verb == "push":
					s.push(strings.Fields(rest)...)
				case request == "restart Redis":
					s.restartStore()
				case request == "restart":
					s.restart()
				default:
					t.Errorf("it asks for %q", request)
				}
			})
		})
	}

	compareScenarios(t, saw)
}
