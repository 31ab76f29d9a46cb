package uplink

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"edged/internal/edgedtest"
)

func TestTraceNamesTheHubsRefusal(t *testing.T) {
	t.Parallel()
	secrets := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(secrets, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	right := fmt.Sprintf("user = \"box\"\npassword_file = %q", write("right", "open sesame\n"))
	wrong := fmt.Sprintf("user = \"box\"\npassword_file = %q", write("wrong", "open barley\n"))
	const all = `authorization: {users: [{user: admin, password: admin}, {user: box, password: "open sesame"}]}`
	const few = `authorization: {users: [{user: admin, password: admin}, {user: box, password: "open sesame",
		permissions: {publish: ["edge.box.>", "$JS.API.STREAM.NAMES"], subscribe: ["_INBOX.>"]}}]}`

	for _, test := range []struct {
		name, hub, box string
		stream         bool
		want           []string
	}{
		{"well", all, right, true, []string{"login    ok    the hub accepts the credentials", "stream   ok    the hub has a stream for 1 list, without a message of this box",
			"verdict  ok    uplink hub: 127.0.0.1:", "reached: the hub has a stream for 1 list"}},
		{"wrong password", all, wrong, true, []string{"login    FAIL  the hub refuses the credentials (authorization violation): check creds_file,", "verdict  FAIL"}},
		{"no stream", all, right, false, []string{"stream   FAIL  list events: no stream of the hub has the subject edge.box.events: create one", "verdict  FAIL"}},
		{"no right", few, right, true, []string{"stream   FAIL  list events: the hub's account lacks a right", "$JS.API.STREAM.INFO.BOX", "verdict  FAIL"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := startHub(t, test.hub)
			if test.stream {
				newStream(t, h.connect(nats.UserInfo("admin", "admin")), nil)
			}
			s := edgedtest.Run(t, startRedis(t).Address(), settings(h.address, test.box)...)
			answer := s.Control("trace uplink hub")
			words := strings.Join(strings.Fields(answer), " ")
			for _, want := range test.want {
				if !strings.Contains(words, strings.Join(strings.Fields(want), " ")) {
					t.Errorf("it does not say %q:\n%s", want, answer)
				}
			}
			if strings.Contains(answer, "open ") {
				t.Errorf("it tells the password:\n%s", answer)
			}
		})
	}
}
