package tcpserver

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/auth"
)

func TestRefusedLoginIsLoggedWithTheNameThatWasTried(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 62) + "éé"
	for sent, want := range map[string]struct{ user, reason string }{
		`CONNECT {"user":"ann","pass":"hunter2"}`:          {"ann", "the password is wrong"},
		`CONNECT {"user":"eve","pass":"hunter2"}`:          {"eve", "no user has this name"},
		`CONNECT {"user":"` + long + `","pass":"hunter2"}`: {strings.Repeat("x", 62) + "é…", "no user has this name"},
		`CONNECT {"auth_token":"hunter2"}`:                 {"", "the token is wrong"},
		`CONNECT {"pass":"hunter2"}`:                       {"", "it has no user name and no token that could be right"},
		`PING`:                                             {"", "it sent another command before CONNECT"},
		"CONNECT {\"user\":\"ann\",\"pass\":\"a\"}\r\nCONNECT {\"user\":\"bob\",\"pass\":\"b\"}": {"bob", "it is connected as another user"},
	} {
		core, logged := observer.New(zap.InfoLevel)
		opts := testOptions()
		opts.Log = zap.New(core)
		opts.Gate = gated(auth.Security{Token: "t", Users: []auth.User{{Name: "ann", Password: "a"}, {Name: "bob", Password: "b"}}})
		_, addr := serve(t, opts)
		c := dialRaw(t, addr)
		c.send(sent + "\r\n")
		c.expect(denied)
		c.expectEnd()

		lines := logged.All()
		if len(lines) != 1 || lines[0].Message != "login refused" {
			t.Errorf("%s: the log has %v, want one line", sent, lines)
			continue
		}
		fields := lines[0].ContextMap()
		if fields["event"] != "login-refused" || fields["user"] != want.user || fields["reason"] != want.reason {
			t.Errorf("%s: the log has %v, want %v", sent, fields, want)
		}
		if strings.Contains(fmt.Sprint(fields), "hunter2") {
			t.Errorf("%s: the log has the secret: %v", sent, fields)
		}
	}
}
