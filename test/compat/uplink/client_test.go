package uplink

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
)

// run runs a command of edged to its end.
func run(t *testing.T, environment []string, input string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), edgedtest.Binary(t), args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), environment...), strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// awaitSubscriber publishes to a subject of no stream until a subscriber gets it. If there is no
// subscriber, the hub says so before it answers a PING.
func awaitSubscriber(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	none, err := nc.SubscribeSync(nats.NewInbox())
	if err != nil {
		t.Fatal(err)
	}

	redistest.Eventually(t, "there is a subscriber of "+subject, func() bool {
		before, _, _ := none.Pending()
		if err := nc.PublishRequest(subject, none.Subject, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		after, _, _ := none.Pending()
		return after == before
	})
}

func TestSubAndPubWithACredentialsFile(t *testing.T) {
	t.Parallel()
	config, all, box := operated(t, jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{"edge.box.>"}},
		Sub: jwt.Permission{Allow: jwt.StringList{"edge.box.>", "ready", "_INBOX.>"}},
	})
	h := startHub(t, config)
	js := h.connect(nats.UserCredentialBytes(all))
	stream := newStream(t, js, nil)
	_, _, strange := operated(t, jwt.Permissions{})
	creds, foreign := filepath.Join(t.TempDir(), "box.creds"), filepath.Join(t.TempDir(), "foreign.creds")
	for file, text := range map[string][]byte{creds: box, foreign: strange} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	server := []string{"NATS_URL=" + h.address}
	sub, err := edgedtest.Start(exec.Command(edgedtest.Binary(t), "sub", "-server", h.address, "-creds", creds, "edge.box.events", "ready"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Kill)
	awaitSubscriber(t, js.Conn(), "ready") // its last subscription
	if out, code := run(t, server, "", "pub", "-creds", creds, "edge.box.events", "one"); code != 0 || out != "confirmed 1 of 1\n" {
		t.Errorf("edged pub with a text: %d, %s", code, out)
	}
	if out, code := run(t, append(server, "NATS_CREDS="+creds), "two\nthree\n", "pub", "edge.box.events"); code != 0 || out != "confirmed 2 of 2\n" {
		t.Errorf("edged pub with lines and NATS_CREDS: %d, %s", code, out)
	}
	if got, want := stored(t, stream), []string{"one", "two", "three"}; !slices.Equal(got, want) {
		t.Errorf("the stream has %q, not %q", got, want)
	}
	if _, err := sub.AwaitLine(func(line string) bool { return line == "edge.box.events three\n" }); err != nil {
		t.Fatalf("edged sub: %v\n%s", err, sub.Output())
	}
	if err := sub.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := sub.Wait(); code != 0 || err != nil {
		t.Errorf("edged sub ends with %d, %v", code, err)
	}
	if got, want := sub.Output(), "ready \nedge.box.events one\nedge.box.events two\nedge.box.events three\n"; got != want {
		t.Errorf("edged sub prints %q, not %q", got, want)
	}

	for want, args := range map[string][]string{
		"refuses the user, password, token or credentials":             {"sub", "-creds", foreign, "edge.box.events"},
		"wants a user or a token: see -user, -token-file and -creds":   {"sub", "edge.box.events"},
		"refuses the subject edge.other.events: the user has no right": {"sub", "-creds", creds, "edge.other.events"},
		`line 1: ` + h.address + ` refuses it: permissions violation`:  {"pub", "-creds", creds, "edge.other.events", "x"},
		"no such file or directory":                                    {"pub", "-creds", creds + ".bak", "edge.box.events", "x"},
	} {
		if out, code := run(t, server, "", args...); code != 1 || !strings.Contains(out, want) {
			t.Errorf("edged %q ends with %d and does not say %q:\n%s", args, code, want, out)
		}
	}
}
