package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"edged/internal/config"
	"edged/internal/redistest"
	"edged/internal/trace"
	"edged/internal/uds"
)

// traced returns what a trace prints.
func traced(t *testing.T, d *daemon, args ...string) string {
	t.Helper()
	var text bytes.Buffer
	if err := d.trace(t.Context(), args, func(a uds.Answer) error { a.Text(&text); return nil }); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if len(line) > 81 {
			t.Errorf("a line has more than 80 columns: %s", line)
		}
	}
	return strings.Join(strings.Fields(text.String()), " ")
}

func TestTraceRedisLogsIn(t *testing.T) {
	redis := redistest.Start(t)
	d := built(t, redis)
	answer := traced(t, d, "redis")
	for _, want := range []string{"connect ok connected after", "login ok Redis accepts the credentials", ", master", "verdict ok redis: "} {
		if !strings.Contains(answer, want) {
			t.Errorf("it does not say %q: %s", want, answer)
		}
	}
	if got := taskLines(d); len(got) != 1 || !strings.HasPrefix(got[0], "trace: done: redis: ") {
		t.Errorf("the tasks are %q", got)
	}

	redis.Client().ConfigSet(t.Context(), "requirepass", "open sesame")
	if answer := traced(t, d, "redis"); !strings.Contains(answer, "login FAIL Redis refuses the credentials; check redis.username and redis.password_file: NOAUTH") ||
		!strings.Contains(answer, "verdict FAIL") {
		t.Error(answer)
	}
}

func TestTraceNamesAHubThatRefusesTheCredentials(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "INFO {\"version\":\"2.10.29\",\"auth_required\":true,\"max_payload\":1048576}\r\n-ERR 'Authorization Violation'\r\n")
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			buf := make([]byte, 4096)
			for _, err := c.Read(buf); err == nil; _, err = c.Read(buf) {
			}
			c.Close()
		}
	}()

	d := built(t, redistest.Start(t))
	cfg := *d.served.config()
	cfg.Uplinks = []config.Uplink{{Name: "hub", URL: []string{"nats://" + ln.Addr().String()}, Lists: []string{"events"}, Subject: "edge.{list}"}}
	d.served.replace(&cfg, d.served.lists())
	answer := traced(t, d, "uplink", "hub")
	for _, want := range []string{"nats ok nats-server 2.10.29, login required", "login FAIL the hub refuses the credentials (authorization violation): check", "verdict FAIL uplink hub: "} {
		if !strings.Contains(answer, want) {
			t.Errorf("it does not say %q: %s", want, answer)
		}
	}
}

func TestATraceIsRefused(t *testing.T) {
	d := built(t, redistest.Start(t))
	code := func(args ...string) string {
		err := d.trace(t.Context(), args, func(uds.Answer) error { return errors.New("it runs") })
		coded, _ := errors.AsType[*uds.Error](err)
		if coded == nil {
			return fmt.Sprint(err)
		}
		return coded.Code
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"uplink", "nothing"}, uds.NotFound}, {[]string{"a", "b"}, uds.BadArgument}, {[]string{"nats://hub"}, uds.BadArgument},
		{[]string{"hub:0"}, uds.BadArgument}, {[]string{"127.0.0.1:1"}, "it runs"},
	} {
		if got := code(test.args...); got != test.want {
			t.Errorf("trace %s: %s, want %s", strings.Join(test.args, " "), got, test.want)
		}
	}
	if got := taskLines(d); len(got) != 1 || got[0] != "trace: failed: 127.0.0.1:1: its client left" {
		t.Errorf("the tasks are %q", got)
	}

	d.tracing.Store(mostTraces)
	if got := code("127.0.0.1:1"); got != "Busy" || d.tracing.Load() != mostTraces {
		t.Error(got)
	}
}

func TestARedisThatEdgedCannotUseIsNamed(t *testing.T) {
	const server = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n"
	for _, test := range []struct {
		info, role any
		text, err  string
	}{
		{server, []any{"master", int64(0)}, ", version 7.0.15, master", ""},
		{"# Server\r\nredis_version:5.0.3\r\n", []any{"master"}, ", version 5.0.3 (before 6 it does not tell of new items), master", ""},
		{server, []any{"slave", "10.0.0.1", int64(6379)}, "", "it is a read-only replica: connect to its master 10.0.0.1:6379"},
		{"", nil, "", ""},
	} {
		text, err := judgeRedis(test.info, test.role)
		if text != test.text || (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
			t.Errorf("%q, %v; want %q, %s", text, err, test.text, test.err)
		}
	}
}

func TestALongWordIsBrokenAtTheEndOfTheLine(t *testing.T) {
	var out strings.Builder
	traceLine{trace.Line{Step: "name", Result: trace.Fail, Text: "there is no " + strings.Repeat("x", 70) + " here"}}.Text(&out)
	if want := "name     FAIL  there is no\n" + strings.Repeat(" ", 15) + strings.Repeat("x", 65) + "\n" + strings.Repeat(" ", 15) + "xxxxx here\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
}
