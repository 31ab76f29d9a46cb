package tcpserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"edged/internal/auth"
)

const denied = "-ERR 'Authorization Violation'"

func hashOf(t testing.TB, password string) auth.Secret {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return auth.Secret(hash)
}

// introduced sends CONNECT and PING, and returns the line of the answer.
func introduced(c *conn, options string) string {
	c.t.Helper()
	c.send("CONNECT " + options + "\r\nPING\r\n")
	return c.line()
}

func TestOnlyTheRightCredentialsLetAClientIn(t *testing.T) {
	t.Parallel()
	users := []auth.User{{Name: "ann", Password: "plain"}, {Name: "bob", Password: hashOf(t, "hashed")}}
	for name, sec := range map[string]auth.Security{
		"token": {Token: "secret"}, "hashed token": {Token: hashOf(t, "secret")},
		"users": {Users: users}, "both": {Token: "secret", Users: users},
	} {
		t.Run(name, func(t *testing.T) {
			opts := testOptions()
			opts.Gate = gated(sec)
			s, addr := serve(t, opts)
			failures := uint64(0)
			for options, ok := range map[string]bool{
				`{}`:                      false,
				`{"auth_token":"secret"}`: sec.Token != "",
				`{"auth_token":"secreT"}`: false,
				`{"auth_token":"` + string(sec.Token) + "x" + `"}`:          false,
				`{"user":"ann","pass":"plain"}`:                             sec.Users != nil,
				`{"user":"bob","pass":"hashed"}`:                            sec.Users != nil,
				`{"user":"bob","pass":"plain"}`:                             false,
				`{"user":"bob"}`:                                            false,
				`{"user":"ann","pass":""}`:                                  false,
				`{"user":"eve","pass":"plain"}`:                             false,
				`{"user":"","pass":""}`:                                     false,
				`{"pass":"plain"}`:                                          false,
				`{"user":"secret","pass":"secret"}`:                         false,
				`{"user":"bob","pass":"` + string(users[1].Password) + `"}`: false,
			} {
				c := dialRaw(t, addr)
				switch got := introduced(c, options); {
				case ok && got != "PONG":
					t.Errorf("%s is answered %q, want PONG", options, got)
				case !ok && got != denied:
					t.Errorf("%s is answered %q, want %q", options, got, denied)
				case !ok:
					c.expectEnd()
					failures++
				}
			}

			eventually(t, "the failures are counted", func() bool { return s.Stats().AuthFailures == failures })
		})
	}
}

func TestInfoSaysThatCredentialsAreNeeded(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(auth.Security{Token: "secret"})
	_, addr := serve(t, opts)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	line, err := bufio.NewReader(nc).ReadString('\n')
	if err != nil || !strings.Contains(line, `"auth_required":true`) || strings.Contains(line, "secret") || strings.Contains(line, "tls") {
		t.Errorf("got %q, %v", line, err)
	}
}

// TestNothingIsObeyedBeforeCredentials checks that not even the beginning of a command is kept.
func TestNothingIsObeyedBeforeCredentials(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(auth.Security{Token: "secret"})
	_, addr := serve(t, opts)
	for _, sent := range []string{"PING\r\n", "SUB > 1\r\n", "P", "PUB foo 1000000\r\n", "\r\n", "x"} {
		c := dialRaw(t, addr)
		c.send(sent)
		c.expect(denied)
		c.expectEnd()
	}
}

func TestAClientCannotChangeItsUser(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(auth.Security{Users: []auth.User{{Name: "ann", Password: "a"}, {Name: "bob", Password: "b"}}})
	s, addr := serve(t, opts)
	c := dialWith(t, addr, `{"user":"ann","pass":"a"}`)
	c.send(`CONNECT {"user":"ann","pass":"a","verbose":true}` + crlf)
	c.expect("+OK")
	if got := s.Clients()[0].User; got != "ann" {
		t.Errorf("the client's user is %q, want ann", got)
	}
	c.send(`CONNECT {"user":"bob","pass":"b"}` + crlf)
	c.expect(denied)
	c.expectEnd()
}

func TestCredentialsHaveToComeInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions()
		opts.ConnectTimeout = 3 * time.Second
		opts.Gate = gated(auth.Security{Token: "secret"})
		_, ln := servePipes(t, opts)
		passed := sinceStart()
		c := ln.dial(t)
		c.send("CONNECT {")
		c.expect("-ERR 'Authentication Timeout'")
		if got := passed(); got != opts.ConnectTimeout {
			t.Errorf("it came after %v, want %v", got, opts.ConnectTimeout)
		}
		c.expectEnd()
	})
}

// withRules serves the lists "items" and "box.items" to ann, a user with rules, and to the token "all".
func withRules(t *testing.T, publish, subscribe auth.Rules) (s *Server, addr string, items, boxItems *fakeList) {
	items, boxItems = &fakeList{subject: "items"}, &fakeList{subject: "box.items"}
	opts := testOptions()
	opts.Lists = []List{{Subject: "items", Joiner: items}, {Subject: "box.items", Joiner: boxItems}}
	opts.Services = echo
	opts.Gate = gated(auth.Security{Token: "all", Users: []auth.User{{Name: "ann", Password: "a", Publish: publish, Subscribe: subscribe}}})
	s, addr = serve(t, opts)
	return s, addr, items, boxItems
}

var echo = []Service{{Name: "echo", Subject: "edged.echo", Answer: func(p []byte) []byte { return append([]byte("re:"), p...) }}}

const (
	asAnn = `{"user":"ann","pass":"a","headers":true,"no_responders":true}`
	asAll = `{"auth_token":"all","headers":true,"no_responders":true}`
)

func TestPublishingIsBoundByTheUsersRules(t *testing.T) {
	t.Parallel()
	s, addr, _, _ := withRules(t, auth.Rules{Allow: []string{"a.*", "b.>", "edged.echo"}, Deny: []string{"b.c.>"}}, auth.Rules{})
	c, all := dialWith(t, addr, asAnn), dialWith(t, addr, asAll)
	all.send("SUB > 1\r\n")
	all.sync()
	for subject, ok := range map[string]bool{
		"a.x": true, "b.x": true, "b.c": true, "b.x.y": true,
		"a": false, "a.x.y": false, "b": false, "b.c.d": false, "c": false, "A.x": false,
	} {
		c.send("PUB " + subject + " 2\r\nhi\r\n")
		if ok {
			c.sync()
			all.expect("MSG "+subject+" 1 2", "hi")
			continue
		}
		c.expect(fmt.Sprintf("-ERR 'Permissions Violation for Publish to %q'", subject))
		c.sync()
	}

	all.sync()
	if got := s.Stats().Denied; got != 6 {
		t.Errorf("%d messages were denied, want 6", got)
	}
}

func TestSubscribingIsBoundByTheUsersRules(t *testing.T) {
	t.Parallel()
	_, addr, items, boxItems := withRules(t, auth.Rules{}, auth.Rules{Allow: []string{"_INBOX.>", "box.>", "a.*"}, Deny: []string{"box.secret"}})
	c := dialWith(t, addr, asAnn)
	for _, subject := range []string{"items", ">", "*", "*.items", "a.>", "a", "box", "box.secret", "a.*.b", "_INBOX"} {
		c.send("SUB " + subject + " 1\r\n")
		c.expect(fmt.Sprintf("-ERR 'Permissions Violation for Subscription to %q'", subject))
		c.sync()
	}
	c.send("SUB items workers 1\r\n")
	c.expect(`-ERR 'Permissions Violation for Subscription to "items" using queue "workers"'`)
	c.send("SUB _INBOX.x.* 1\r\nSUB box.items 2\r\nSUB a.b 3\r\nSUB a.* 4\r\n")
	c.sync()
	if got := [2]int{items.members(), boxItems.members()}; got != [2]int{0, 1} {
		t.Errorf("%v members joined the lists, want 0 and 1", got)
	}
}

// An allowed pattern may match more than its user is allowed to have.
func TestDeniedSubjectsAreTakenOutOfAWiderSubscription(t *testing.T) {
	t.Parallel()
	_, addr, items, boxItems := withRules(t, auth.Rules{}, auth.Rules{Deny: []string{"items", "*.secret"}})
	c, all := dialWith(t, addr, asAnn), dialWith(t, addr, asAll)
	c.send("SUB > 1\r\nSUB *.* q 2\r\n")
	c.sync()
	boxItems.member(t, 1)
	if items.members() != 0 {
		t.Error("the user is a member of a list that is denied")
	}

	all.send("PUB box.secret 2\r\nno\r\nPUB box.open q 3\r\nyes\r\n")
	c.expect("MSG box.open 1 q 3", "yes", "MSG box.open 2 q 3", "yes")
	c.sync()
	all.send("SUB box.secret q 1\r\n" + strings.Repeat("PUB box.secret 2\r\nhi\r\n", 20))
	for range 20 { // another member of the group gets all messages
		all.expect("MSG box.secret 1 2", "hi")
	}
	c.sync()
}

// The daemon's own answers do not carry a user's payload to a subject that the user has no right to publish to.
func TestRepliesOfTheDaemonReachOnlySubjectsThatTheUserMayPublishTo(t *testing.T) {
	t.Parallel()
	_, addr, _, _ := withRules(t, auth.Rules{Allow: []string{"edged.echo", "open"}}, auth.Rules{})
	c, all := dialWith(t, addr, asAnn), dialWith(t, addr, asAll)
	c.send("SUB closed 1\r\n")
	c.sync()
	all.send("SUB open 1\r\nSUB closed 2\r\n")
	all.sync()
	c.send("PUB edged.echo closed 2\r\nhi\r\n")
	c.expect("MSG closed 1 5", "re:hi")
	c.send("PUB edged.echo open 2\r\nhi\r\n")
	all.expect("MSG open 1 5", "re:hi")
	all.send("PUB edged.echo closed 2\r\nho\r\n")
	all.expect("MSG closed 2 5", "re:ho")
	c.expect("MSG closed 1 5", "re:ho")
	all.sync()
}

func TestAcknowledgingNeedsNoRightToPublish(t *testing.T) {
	t.Parallel()
	l := &explicitList{fakeList: fakeList{subject: "items"}}
	opts := testOptions()
	opts.Lists = []List{{Name: "my list", Stream: "my_list", Subject: "items", Confirm: Acknowledged, Joiner: l}}
	opts.Gate = gated(auth.Security{Users: []auth.User{{Name: "ann", Password: "a", Publish: auth.Rules{Deny: []string{">"}}}}})
	_, addr := serve(t, opts)
	c := dialWith(t, addr, asAnn)
	c.send("SUB items 1\r\n")
	c.sync()
	c.send(pub(ackSubject(0), "", "+ACK"))
	c.sync()
	if got := l.acker(t, 0).calls(); len(got) != 1 {
		t.Errorf("%d items were acknowledged, want 1", len(got))
	}
}

func TestReloadDisconnectsOnlyClientsWhoseRightsHaveChanged(t *testing.T) {
	t.Parallel()
	ann, bob, eve := auth.User{Name: "ann", Password: "a"}, auth.User{Name: "bob", Password: "b"}, auth.User{Name: "eve", Password: "e"}
	opts := testOptions()
	opts.Gate = gated(auth.Security{Token: "t", Users: []auth.User{ann, bob, eve}})
	s, addr := serve(t, opts)
	clients := map[string]*conn{}
	for name, options := range map[string]string{
		"ann": `{"user":"ann","pass":"a"}`, "bob": `{"user":"bob","pass":"b"}`, "eve": `{"user":"eve","pass":"e"}`, "token": `{"auth_token":"t"}`,
	} {
		clients[name] = dialWith(t, addr, options)
	}
	waiting := dialRaw(t, addr)
	stay := func(names ...string) {
		t.Helper()
		for _, name := range names {
			clients[name].sync()
		}
	}
	if n := reload(s, auth.Security{Token: "t", Users: []auth.User{eve, bob, ann}}); n != 0 {
		t.Errorf("%d were disconnected by a reload that changes nothing", n)
	}
	stay("ann", "bob", "eve", "token")

	bob.Publish.Allow = []string{"x"}
	if n := reload(s, auth.Security{Token: "t", Users: []auth.User{ann, bob}}); n != 2 {
		t.Errorf("%d were disconnected, want 2", n)
	}
	clients["bob"].expectEnd()
	clients["eve"].expectEnd()
	stay("ann", "token")

	if n := reload(s, auth.Security{Token: "other", Users: []auth.User{ann, bob}}); n != 1 {
		t.Errorf("%d were disconnected, want 1", n)
	}
	clients["token"].expectEnd()
	stay("ann")
	if got := introduced(waiting, `{"auth_token":"t"}`); got != denied {
		t.Errorf("the old token is answered %q, want %q", got, denied)
	}
	if got := introduced(dialRaw(t, addr), `{"auth_token":"other"}`); got != "PONG" {
		t.Errorf("the new token is answered %q, want PONG", got)
	}
}

func TestReloadThatRequiresCredentialsDisconnectsClientsWithoutThem(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	c, silent := dial(t, addr), dialRaw(t, addr)
	if n := reload(s, auth.Security{Token: "t"}); n != 2 {
		t.Errorf("%d were disconnected, want 2", n)
	}
	c.expectEnd()
	silent.expectEnd()
	if n := reload(s, auth.Security{}); n != 0 {
		t.Errorf("%d were disconnected, want 0", n)
	}
	dial(t, addr)
}

// The reload has put the new rules in force, but has not reached the client yet.
func TestConnectDuringAReloadKeepsNoOldRights(t *testing.T) {
	t.Parallel()
	ann := auth.User{Name: "ann", Password: "a"}
	opts := testOptions()
	opts.Gate = gated(auth.Security{Users: []auth.User{ann}})
	s, addr := serve(t, opts)
	const options = `{"user":"ann","pass":"a"}`
	c := dialWith(t, addr, options)
	c.send("SUB secret 1\r\n")
	c.sync()
	ann.Subscribe.Deny = []string{"secret"}
	s.opts.Gate.Set(auth.Security{Users: []auth.User{ann}})
	c.send("CONNECT " + options + "\r\n")
	c.sync()

	if n := s.Reload(); n != 1 {
		t.Errorf("%d were disconnected, want the client with a subscription that it has no right to", n)
	}
}

func TestReloadDisconnectsClientsThatAreLessSecuredThanItRequires(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	verified := func(by *authority) auth.Security {
		sec := a.secured()
		sec.TLS.ClientAuth, sec.TLS.ClientCAs = tls.RequireAndVerifyClientCert, by.pool()
		return sec
	}
	s, addr := serve(t, testOptions())
	plain := dial(t, addr)
	if n := reload(s, a.secured()); n != 1 {
		t.Errorf("turning TLS on disconnected %d, want the one without it", n)
	}
	plain.expectEnd()

	anybody := a.mustDialTLS(addr, false, nil)
	anybody.send("CONNECT {}\r\n")
	anybody.sync()
	if n := reload(s, verified(a)); n != 1 {
		t.Errorf("asking for certificates disconnected %d, want the one that has shown none", n)
	}
	anybody.expectEnd()

	known := a.mustDialTLS(addr, false, &tls.Config{Certificates: []tls.Certificate{a.issue("client")}})
	known.send("CONNECT {}\r\n")
	known.sync()
	if n := reload(s, verified(a)); n != 0 {
		t.Errorf("the same authorities again disconnected %d, want none", n)
	}
	known.sync()
	if n := reload(s, verified(other)); n != 1 {
		t.Errorf("other authorities disconnected %d, want the one whose certificate is not of theirs", n)
	}
	known.expectEnd()
}

// A client may ask for new keys as often as it likes, and read none of the answers.
func TestRecordsThatTheClientDoesNotTakeAreBounded(t *testing.T) {
	t.Parallel()
	r := &records{collect: true}
	answer := make([]byte, 30)
	total := 0
	for total < 10*maxWaiting {
		n, err := r.Write(answer)
		if total += n; err != nil {
			break
		}
	}

	if total > maxWaiting {
		t.Errorf("%d bytes wait, want at most %d", total, maxWaiting)
	}

	// The records that the writer makes are bounded by a round.
	r.lend(nil)
	if _, err := r.Write(make([]byte, 10*maxWaiting)); err != nil {
		t.Error(err)
	}
	if got, want := len(r.take()), total+10*maxWaiting; got != want {
		t.Errorf("%d bytes were taken, want %d", got, want)
	}
	if _, err := r.Write(answer); err != nil {
		t.Error(err)
	}
}

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxPerAddress = 2
	s, addr := serve(t, opts)
	first := dial(t, addr)
	dial(t, addr)
	third := dialRaw(t, addr)
	third.expect("-ERR 'maximum connections exceeded'")
	third.expectEnd()

	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other, err := from.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	eventually(t, "a client of another address is let in", func() bool { return s.Stats().Clients == 3 })

	first.Close()
	eventually(t, "the first is gone", func() bool { return s.Stats().Clients == 2 })
	dial(t, addr)
	if st := s.Stats(); st.Refused != 1 {
		t.Errorf("%d were refused, want 1", st.Refused)
	}
}
