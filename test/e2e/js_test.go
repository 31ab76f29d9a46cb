package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"edged/internal/redistest"
)

func TestTheJavaScriptClientWorks(t *testing.T) {
	t.Parallel()
	folder := filepath.Join("..", "js")
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("this test needs Node.js: run `make test`, or install Debian's package nodejs")
	}
	if _, err := os.Stat(filepath.Join(folder, "node_modules", "@nats-io", "transport-node")); err != nil {
		t.Fatal("this test needs the packages of test/js: run `make test`, or `npm ci` there")
	}
	r := redistest.Start(t)
	r.Push("events", numbers(0, 5000)...) // as scenarios.mjs expects
	d := startEdged(t, r, `drain.timeout = "1h"`)

	node := exec.CommandContext(t.Context(), "node", "scenarios.mjs")
	node.Dir = folder
	node.Env = append(os.Environ(), "EDGED="+d.Address)
	var stderr bytes.Buffer
	node.Stderr = &stderr
	stdout, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		t.Log(lines.Text())
		if lines.Text() == "ready for lame duck mode" {
			waitEmpty(t, r, "events")
			d.Signal(syscall.SIGTERM)
		}
	}
	if err := node.Wait(); err != nil {
		t.Fatalf("scenarios.mjs: %v\n%s", err, stderr.Bytes())
	}
	if b := d.close(); b != (books{taken: 5000, confirmed: 5000}) {
		t.Errorf("books are %+v, want 5000 confirmed", b)
	}
}
