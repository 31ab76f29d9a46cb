package tcpserver

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"edged/internal/auth"
)

func TestInfoComesFirstAndPromisesNothingElse(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	line := make([]byte, 1024)
	n, err := nc.Read(line)
	if err != nil {
		t.Fatal(err)
	}

	text, ok := strings.CutPrefix(string(line[:n]), "INFO ")
	if !ok {
		t.Fatalf("got %q", line[:n])
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}

	for key, want := range map[string]any{
		"server_name": "test", "version": natsVersion, "edged": "1.2.3", "proto": 1.0, "headers": true,
		"max_payload": 1048576.0, "client_id": 1.0, "client_ip": "127.0.0.1", "host": "127.0.0.1",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}

	for _, key := range []string{"server_id", "go", "port"} {
		if got[key] == nil {
			t.Errorf("%s is missing", key)
		}
	}

	if len(got) != 12 {
		t.Errorf("%d fields in %s, want 12", len(got), text)
	}
}

// TestFatalErrors checks which errors end a connection, and with which words.
func TestFatalErrors(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxPayload = 100
	s, addr := serve(t, opts)
	long := strings.Repeat("a", 5000)

	cases := []struct{ name, sent, want string }{
		{"unknown verb", "FOO\r\n", "Unknown Protocol Operation"},
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "Unknown Protocol Operation"},
		{"HTTP POST", "POST / HTTP/1.1\r\n\r\n", "Unknown Protocol Operation"},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01", "Unknown Protocol Operation"},
		{"NUL", "\x00", "Unknown Protocol Operation"},
		{"empty line", "\r\n", "Unknown Protocol Operation"},
		{"verb with a tail", "PINGS\r\n", "Unknown Protocol Operation"},
		{"SUB without sid", "SUB foo\r\n", "Unknown Protocol Operation"},
		{"SUB with too much", "SUB a b c d\r\n", "Unknown Protocol Operation"},
		{"UNSUB without sid", "UNSUB\r\n", "Unknown Protocol Operation"},
		{"PUB without length", "PUB foo\r\n", "Unknown Protocol Operation"},
		{"PUB with a negative length", "PUB foo -1\r\n", "Unknown Protocol Operation"},
		{"PUB with no number", "PUB foo 1x\r\n", "Unknown Protocol Operation"},
		{"PUB longer than announced", "PUB foo 1\r\nxyz\r\n", "Unknown Protocol Operation"},
		{"PUB over max_payload", "PUB foo 101\r\n", "Maximum Payload Violation"},
		{"PUB with a huge length", "PUB foo 99999999999999999999999999\r\n", "Maximum Payload Violation"},
		{"HPUB over max_payload", "HPUB foo 12 101\r\n", "Maximum Payload Violation"},
		{"HPUB with more header than message", "HPUB foo 12 10\r\n", "Unknown Protocol Operation"},
		{"HPUB with a huge header", "HPUB foo 99999999999999999999999999 10\r\n", "Unknown Protocol Operation"},
		{"HPUB with one length", "HPUB foo 12\r\n", "Unknown Protocol Operation"},
		{"control line", "SUB " + long + " 1\r\n", "maximum control line exceeded"},
		{"control line without an end", "PUB " + long, "maximum control line exceeded"},
		{"CONNECT with no JSON", "CONNECT {\r\n", "Unknown Protocol Operation"},
		{"CONNECT with another protocol", `CONNECT {"protocol":2}` + "\r\n", "invalid client protocol"},
		{"no_responders alone", `CONNECT {"no_responders":true}` + "\r\n", "no responders requires headers support"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, addr)
			c.send(tc.sent)
			c.expect("-ERR '" + tc.want + "'")
			c.expectEnd()
		})
	}

	eventually(t, "all were counted and are gone", func() bool {
		st := s.Stats()
		return st.ProtocolErrors == uint64(len(cases)) && st.Clients == 0
	})
}

func TestHPubNeedsHeadersInConnect(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dialWith(t, addr, `{}`)
	c.send("HPUB foo 12 12\r\nNATS/1.0\r\n\r\n\r\n")
	c.expect("-ERR 'message headers not supported'")
	c.expectEnd()
}

// TestErrorsThatDoNotDisconnect checks that the connection still works afterwards.
func TestErrorsThatDoNotDisconnect(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxSubscriptions = 2
	s, addr, _ := withList(t, opts, OnPong)
	deep, long := strings.Repeat("a.", maxTokens)+"*", strings.Repeat("1", maxName)
	c := dialWith(t, addr, `{"pedantic":true}`)
	for _, tc := range []struct{ name, sent, want string }{
		{"empty token", "SUB foo..bar 1\r\n", "Invalid Subject"},
		{"leading dot", "SUB .foo 1\r\n", "Invalid Subject"},
		{"trailing dot", "SUB foo. 1\r\n", "Invalid Subject"},
		{"> in the middle", "SUB foo.>.bar 1\r\n", "Invalid Subject"},
		{"NUL", "SUB fo\x00o 1\r\n", "Invalid Subject"},
		{"invalid UTF-8", "SUB fo\xffo 1\r\n", "Invalid Subject"},
		{"CR", "SUB fo\ro 1\r\n", "Invalid Subject"},
		{"too many tokens", "SUB " + deep + " 1\r\n", `Permissions Violation for Subscription to "` + deep + `", too many tokens`},
		{"a long queue group", "SUB a " + strings.Repeat("q", maxName+1) + " 1\r\nSUB a " + strings.Repeat("q", maxName) + " 1\r\nUNSUB 1\r\n", `Permissions Violation for Subscription to "a", name too long`},
		{"a long sid", "SUB a 1" + long + "\r\nSUB a " + long + "\r\nUNSUB " + long + "\r\n", `Permissions Violation for Subscription to "a", name too long`},
		{"PUB to *", "PUB foo.* 2\r\nhi\r\n", "Invalid Publish Subject"},
		{"PUB to an empty token", "PUB foo. 2\r\nhi\r\n", "Invalid Publish Subject"},
		{"PUB to invalid UTF-8", "PUB \xff 2\r\nhi\r\n", "Invalid Publish Subject"},
		{"PUB with a reply of >", "PUB foo > 2\r\nhi\r\n", "Invalid Publish Subject"},
		{"PUB to a list", "PUB items 7\r\nPING\r\nX\r\n", `Permissions Violation for Publish to "items"`},
		{"a list as reply subject", "PUB edged.echo items 1\r\nX\r\n", `Permissions Violation for Publish with Reply of "items"`},
		{"third SUB", "SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n", "maximum subscriptions exceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.t = t
			c.send(tc.sent)
			c.expect("-ERR '" + tc.want + "'")
			c.sync()
		})
	}

	if st := s.Stats(); st.Denied != 6 || st.ProtocolErrors != 0 {
		t.Errorf("stats are %+v, want 6 denied and no protocol errors", st)
	}
}

func TestFloodOfSubscriptionsIsAnsweredOneByOne(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxSubscriptions = 10
	s, addr := serve(t, opts)
	c := dial(t, addr)
	var flood strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&flood, "SUB foo.%d %d\r\n", i, i)
	}

	go c.Write([]byte(flood.String()))
	for range 990 {
		c.expect("-ERR 'maximum subscriptions exceeded'")
	}
	c.sync()
	if got := s.Clients()[0].Subscriptions; got != 10 {
		t.Errorf("%d subscriptions, want 10", got)
	}
}

func TestVerbsIgnoreCaseAndBlanksSeparate(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dialRaw(t, addr)
	c.send("connect \t{\"headers\":true}\r\nsUb \t foo\t  7 \t\r\npub\tfoo \t 2 \r\nhi\r\nhpub foo  12\t14\nNATS/1.0\r\n\r\nhi\r\npIng\npong\r\nunsub  7\r\nPUB foo 0\r\n\r\nPING \r\n")
	c.expect("MSG foo 7 2", "hi", "HMSG foo 7 12 14", "NATS/1.0", "", "hi", "PONG", "PONG")
}

// TestInputSplitAnywhere sends a conversation with all commands of a client, including errors: cut
// in two at every byte, byte by byte, and many at once.
func TestInputSplitAnywhere(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(auth.Security{Users: []auth.User{{Name: "ann", Password: "a", Publish: auth.Rules{Deny: []string{"secret"}}, Subscribe: auth.Rules{Deny: []string{"secret"}}}}})
	opts.Services = echo
	_, ln := servePipes(t, opts)
	c := ln.dial(t)
	talk := `CONNECT {"verbose":false,"pedantic":true,"user":"ann","pass":"a","headers":true,"no_responders":true}` + crlf +
		"PING\r\nSUB foo 1\r\nSUB foo.* workers 2\r\nsub\t> \t 3\r\n" +
		"PUB foo bar 3\r\na\r\n\r\n" +
		"HPUB foo.x 12 15\r\nNATS/1.0\r\n\r\nabc\r\n" +
		"hpub foo.x bar 0 0\r\n\r\n" +
		"UNSUB 3\r\nUNSUB 2 2\r\n" +
		"SUB secret 4\r\nPUB secret 4\r\nPING\r\nSUB a..b 5\r\nPUB a..b 0\r\n\r\n" +
		"SUB inbox.* 6\r\nPUB edged.echo inbox.1 2\r\nhi\r\nPUB nobody inbox.2 0\r\n\r\n" +
		"PONG\r\nUNSUB 1 1\r\nUNSUB 6\nUNSUB 7\r\n" +
		`CONNECT {"verbose":true,"user":"ann","pass":"a","headers":true}` + crlf + "UNSUB 1\r\nPUB foo 0\r\n\r\nPING\r\n"

	answer := []string{
		"PONG",
		"MSG foo 1 bar 3", "a", "", "MSG foo 3 bar 3", "a", "",
		"HMSG foo.x 3 12 15", "NATS/1.0", "", "abc", "HMSG foo.x 2 12 15", "NATS/1.0", "", "abc",
		"MSG foo.x 3 bar 0", "", "MSG foo.x 2 bar 0", "",
		`-ERR 'Permissions Violation for Subscription to "secret"'`, `-ERR 'Permissions Violation for Publish to "secret"'`,
		"-ERR 'Invalid Subject'", "-ERR 'Invalid Publish Subject'",
		"MSG inbox.1 6 5", "re:hi", "HMSG inbox.2 6 38 38", "NATS/1.0 503", "Nats-Subject: nobody", "", "",
		"+OK", "+OK", "+OK", "PONG",
	}
	for i := range talk {
		c.send(talk[:i])
		c.send(talk[i:])
		c.expect(answer...)
	}

	go c.Write([]byte(strings.Repeat(talk, 100))) // a pipe has no buffer, and answers arrive meanwhile
	for range 100 {
		c.expect(answer...)
	}

	for i := range talk {
		c.send(talk[i : i+1])
	}

	c.expect(answer...)
}

// TestViolationSplitAnywhere checks that an error is reported as soon as it is certain, however the
// input is split, and ends the connection.
func TestViolationSplitAnywhere(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxPayload, opts.MaxControlLine = 100, 100

	_, ln := servePipes(t, opts)
	for sent, want := range map[string]string{
		"UNSUBB\r\n":                           "Unknown Protocol Operation",
		"CONNECT {]\r\n":                       "Unknown Protocol Operation",
		"PUB foo 2\r\nabcd":                    "Unknown Protocol Operation",
		"HPUB foo 3 2\r\n":                     "Unknown Protocol Operation",
		"PUB foo 101\r\n":                      "Maximum Payload Violation",
		"SUB " + strings.Repeat("a", 101):      "maximum control line exceeded",
		"CONNECT {\"no_responders\":true}\r\n": "no responders requires headers support",
	} {
		for i := range len(sent) {
			c := ln.dial(t)
			c.send(sent[:i])
			c.send(sent[i:])
			c.expect("-ERR '" + want + "'")
			c.expectEnd()
		}
	}
}

func TestVerboseAnswersEveryCommand(t *testing.T) {
	t.Parallel()
	_, addr, _ := withList(t, testOptions(), OnPong)
	c := dialWith(t, addr, `{"verbose":true}`)
	c.send("SUB foo 1\r\n")
	c.expect("+OK")
	c.send("PUB foo 2\r\nhi\r\n")
	c.expect("+OK", "MSG foo 1 2", "hi")
	c.send("SUB items 2\r\n")
	c.expect("+OK")
	c.send("UNSUB 1\r\n")
	c.expect("+OK")
	c.sync()
}

// Messages that are not sent on are still read, and a client that waits for +OK gets it.
func TestAVerboseClientGetsOKForMessagesThatAreNotSentOn(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dialWith(t, addr, `{"verbose":true}`)
	c.send("PUB a..b 2\r\nhi\r\nUNSUB none\r\n")
	c.expect("+OK", "+OK")
	c.sync()
}

func TestOperationsBeforeConnectAreObeyed(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dialRaw(t, addr)
	c.send("PING\r\nSUB foo 1\r\nPUB foo 2\r\nhi\r\n")
	c.expect("PONG", "MSG foo 1 2", "hi")
}

func TestEndOfInputStillGetsItsAnswers(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB foo 1\r\nPUB foo 2\r\nhi\r\nPING\r\n")
	c.Conn.(*net.TCPConn).CloseWrite()
	c.expect("MSG foo 1 2", "hi", "PONG")
	c.expectEnd()
}

func TestConnectionsOverTheLimitAreTold(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxConnections = 2
	s, addr := serve(t, opts)
	first := dial(t, addr)
	dial(t, addr)
	third := dialRaw(t, addr)
	third.expect("-ERR 'maximum connections exceeded'")
	third.expectEnd()
	first.Close()
	eventually(t, "the first is gone", func() bool { return s.Stats().Clients == 1 })
	dial(t, addr).sync()
	if st := s.Stats(); st.Accepted != 3 || st.Refused != 1 {
		t.Errorf("stats are %+v, want 3 accepted and 1 refused", st)
	}
}

func TestClientsAreDescribed(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	c := dialWith(t, addr, `{"name":"n","lang":"go","version":"9.9","headers":true}`)
	dial(t, addr)
	c.send("SUB foo 1\r\nPUB foo 2\r\nhi\r\n")
	c.expect("MSG foo 1 2", "hi")
	c.sync()
	all := s.Clients()
	if len(all) != 2 || all[0].ID != 1 || all[1].ID != 2 {
		t.Fatalf("clients are %+v", all)
	}

	got := all[0]
	if got.Name != "n" || got.Lang != "go" || got.ClientVersion != "9.9" || got.Address != c.LocalAddr().String() ||
		got.Subscriptions != 1 || got.Received != 1 || got.Sent != 1 || got.BytesIn == 0 || got.BytesOut == 0 || got.Since.IsZero() {
		t.Errorf("the client is described as %+v", got)
	}

	c.Close()
	eventually(t, "the client is gone", func() bool { return len(s.Clients()) == 1 })
	if st := s.Stats(); st.MessagesIn != 1 || st.MessagesOut != 1 {
		t.Errorf("stats are %+v; a client's counters must outlive it", st)
	}
}

func TestKick(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	c, other := dial(t, addr), dial(t, addr)
	if err := s.Kick(1); err != nil {
		t.Fatal(err)
	}
	c.expectEnd()
	other.sync()
	eventually(t, "the client is unknown", func() bool { return s.Kick(1) != nil })
}

func TestInputInPiecesIsExecutedByAllReaders(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, fewClients} {
		_, addr := serve(t, testOptions())
		for range others {
			dial(t, addr)
		}

		c := dial(t, addr)
		for _, piece := range []string{"SUB a", " 1\r\nPUB a 4\r\nho", "ho\r", "\nPI", "NG\r\n"} {
			c.send(piece)
		}
		c.expect("MSG a 1 4", "hoho", "PONG")
		for i := range 100 { // one read each
			c.send(fmt.Sprintf("PUB a 2\r\n%02d\r\n", i))
			c.expect("MSG a 1 2", fmt.Sprintf("%02d", i))
		}
	}
}
