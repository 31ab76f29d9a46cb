package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"edged/internal/redistest"
)

// pass makes cmd a process that receives these listeners under these names, as from systemd: from
// file descriptor 3 on. LISTEN_PID must be the process's own ID, which the shell knows.
func pass(t *testing.T, cmd *exec.Cmd, names string, listeners ...net.Listener) {
	t.Helper()
	for _, ln := range listeners {
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(listeners)), "LISTEN_FDNAMES="+names)
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestSocketsOfSystemdAreUsedAndStay(t *testing.T) {
	t.Parallel()
	m := startManager(t, shortFolder(t))
	tcp := listen(t, "tcp", "127.0.0.1:0")
	// The configuration's TCP address is taken: it would be an error to open it.
	cmd, socket, logPath := daemonUnder(t, m, redistest.Start(t), tcp.Addr().String())
	control := listen(t, "unix", socket)
	// In a different order: only the names count.
	pass(t, cmd, "control:tcp", control, tcp)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })

	m.await(t, "READY=1")
	client, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(client).ReadString('\n'); !strings.HasPrefix(line, "INFO ") {
		t.Errorf("the TCP socket answers %q (%v), want INFO", line, err)
	}
	client.Close()
	operator, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(operator, "version")
	if line, err := bufio.NewReader(operator).ReadString('\n'); err != nil || strings.HasPrefix(line, "ERR") {
		t.Errorf("the control socket answers %q (%v)", line, err)
	}
	operator.Close()

	cmd.Process.Signal(syscall.SIGTERM)
	if err := <-ended; err != nil {
		log, _ := os.ReadFile(logPath)
		t.Fatalf("edged ended with %v:\n%s", err, log)
	}
	if !exists(socket) {
		t.Error("edged removed the file of a socket that is systemd's")
	}
	// No process serves, yet no client is refused.
	for _, address := range []net.Addr{tcp.Addr(), control.Addr()} {
		waiting, err := net.Dial(address.Network(), address.String())
		if err != nil {
			t.Errorf("between two runs: %v", err)
			continue
		}
		waiting.Close()
	}
}

// After 78, a client that waits on the socket would start edged again at once, without the pauses
// of Restart=.
func TestABadConfigurationIsTriedAgainIfSocketsArePassed(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "edged.toml")
	if err := os.WriteFile(bad, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	for passed, want := range map[bool]int{true: exitFailed, false: exitConfig} {
		cmd, _, _ := daemonUnder(t, startManager(t, shortFolder(t)), redistest.Start(t), "127.0.0.1:0")
		cmd.Args = []string{cmd.Args[0], "-config", bad}
		if passed {
			pass(t, cmd, "tcp", listen(t, "tcp", "127.0.0.1:0"))
		}
		cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("sockets passed: %v: exit code %d, want %d", passed, code, want)
		}
	}
}

func TestPassedSocketsThatDoNotFitAreNamed(t *testing.T) {
	t.Parallel()
	folder := shortFolder(t)
	tcp, unix := listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", filepath.Join(folder, "s"))

	redis := redistest.Start(t)
	for _, test := range []struct {
		names     string
		listeners []net.Listener
		want      string
	}{
		{"tcp", []net.Listener{tcp}, `none named \"control\": start its .socket unit too`},
		{"control", []net.Listener{unix}, `none named \"tcp\"`},
		{"control:tcp:web", []net.Listener{unix, tcp, tcp}, `a socket named \"web\", and the configuration asks for none`},
		{"tcp:control", []net.Listener{unix, tcp}, "is of the network "},
		{"tcp:tcp:control", []net.Listener{tcp, tcp, unix}, `two sockets named \"tcp\"`},
	} {
		m := startManager(t, shortFolder(t))
		cmd, socket, logPath := daemonUnder(t, m, redis, "127.0.0.1:0")
		pass(t, cmd, test.names, test.listeners...)
		cmd.Run()
		log, _ := os.ReadFile(logPath)
		if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(string(log), test.want) {
			t.Errorf("%s: exit code %d, want %d and %q in:\n%s", test.names, code, exitFailed, test.want, log)
		}
		if exists(socket) {
			t.Errorf("%s: edged opened a socket of its own", test.names)
		}
	}
}
