package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"edged/internal/config"
	"edged/internal/redistest"
	"edged/internal/uplink"
)

// awayHub is a hub that is never there.
type awayHub struct{}

func (awayHub) Connect(context.Context) (uplink.Link, error) {
	return nil, errors.New("no hub answers")
}

// command says a command to a daemon and returns its answer.
func command(t *testing.T, cfg *config.Config, line string) string {
	t.Helper()
	conn, err := net.Dial("unix", cfg.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		t.Fatal(err)
	}
	answer := ""
	for in := bufio.NewScanner(conn); in.Scan(); {
		answer += in.Text() + "\n"
		if in.Text() == "OK" || strings.HasPrefix(in.Text(), "ERR ") {
			return answer
		}
	}
	t.Fatalf("%s has no answer: %q", line, answer)
	return ""
}

func TestAnUplinkInNoConfigurationHoldsItsListUntilItIsForgotten(t *testing.T) {
	redis := redistest.Start(t)
	with := configured(t, redis)
	list := with.Lists[0]
	list.Key, list.Subject = "jobs", "jobs"
	with.Lists = []config.List{list}
	without := *with
	with.Uplinks = []config.Uplink{{Name: "hub", Lists: []string{"jobs"}, Subject: "edge.{list}", WindowItems: 8, WindowBytes: 1 << 20}}
	next := with
	options := Options{Config: with, Reread: func() (*config.Config, error) { return next, nil }, Hub: func(config.Uplink, string) uplink.Hub { return awayHub{} }}
	end := func(p *process) {
		p.signals <- syscall.SIGTERM
		if code := <-p.ended; code != 0 {
			t.Errorf("exit code %d:\n%s", code, p.log)
		}
	}
	const text = "uplink hub is in no configuration and holds list jobs: forget jobs uplink/hub"
	named := func() bool {
		inOneLine := func(answer string) string { return strings.Join(strings.Fields(answer), " ") }
		return strings.Contains(inOneLine(command(t, with, "status")), text) && strings.Contains(command(t, with, "uplinks"), text)
	}

	d := run(t.Context(), t, options)
	redis.Push("jobs", "one", "two", "three")
	redistest.Eventually(t, "the uplink owes them", func() bool { return strings.Contains(command(t, with, "uplinks"), " 3 ") })
	if answer := command(t, with, "reload"); strings.Contains(answer, text) || named() {
		t.Errorf("it is named though it is configured: %s", answer)
	}
	next = &without
	if answer := command(t, with, "reload"); !strings.Contains(answer, text) || !named() {
		t.Errorf("it is not named after reload: %s", answer)
	}
	end(d)

	options.Config = &without
	d = run(t.Context(), t, options)
	redistest.Eventually(t, "the log names it", func() bool {
		return strings.Contains(d.log.String(), "the list is held for an uplink that is in no configuration")
	})
	redistest.Eventually(t, "status and uplinks name it", named)
	consume(t, d.address, "jobs", "three")
	end(d)
	if n := redis.Len("jobs"); n != 3 {
		t.Errorf("%d items are held for it, want 3", n)
	}

	d = run(t.Context(), t, options)
	redistest.Eventually(t, "it is named", named)
	if answer := command(t, with, "forget jobs uplink/hub"); answer != "OK\n" {
		t.Error(answer)
	}
	redistest.Eventually(t, "it is named no more", func() bool { return !named() })
	redis.Push("jobs", "four")
	consume(t, d.address, "jobs", "four")
	redistest.Eventually(t, "nothing is held for it", func() bool { return redis.Len("jobs") == 0 })
	if answer := command(t, with, "forget jobs uplink/hub"); !strings.HasPrefix(answer, "ERR ") {
		t.Errorf("it is forgotten twice: %s", answer)
	}
	end(d)
}

func TestCheckNamesHubsThatTheUnitMayNotReach(t *testing.T) {
	for address, public := range map[string]bool{
		"nats://localhost:4222": false, "nats://127.0.0.1:4222": false, "nats://[fd00::1]:4222": false, "nats://10.1.2.3:4222": false,
		"nats://100.64.0.1:4222": false, "tls://192.0.2.1:4222": true, "tls://hub.example": true, "nats://[2001:db8::1]:4222": true,
	} {
		if isPublic(address) != public {
			t.Errorf("%s is public: %v", address, !public)
		}
	}
}

func TestCheckReadsTheFilesOfUplinks(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for key, change := range map[string]func(*config.Uplink){
		"creds_file":    func(u *config.Uplink) { u.CredsFile = missing },
		"nkey_file":     func(u *config.Uplink) { u.NkeyFile = missing },
		"password_file": func(u *config.Uplink) { u.User, u.PasswordFile = "u", missing },
		"token_file":    func(u *config.Uplink) { u.TokenFile = missing },
		"tls.ca_file":   func(u *config.Uplink) { u.TLS.Enabled, u.TLS.CAFile = true, missing },
	} {
		cfg := withSockets(t)
		cfg.Uplinks = []config.Uplink{{Name: "hub", URL: []string{"nats://10.0.0.1:4222"}}}
		change(&cfg.Uplinks[0])
		if _, warnings := check(t, cfg); !strings.Contains(warnings, "an uplink stays down; reason: uplink[1]."+key+": open ") {
			t.Errorf("%s: %s", key, warnings)
		}
	}

	cfg := withSockets(t)
	cfg.Uplinks = []config.Uplink{{Name: "hub", URL: []string{"tls://hub.example"}, User: "u", PasswordFile: "credential"}}
	notes, warnings := check(t, cfg)
	if !strings.Contains(notes, "not read: uplink[1].password_file, ") || !strings.Contains(warnings, "uplink-hub.conf") {
		t.Errorf("notes: %s, warnings: %s", notes, warnings)
	}
	if keys := credentials(cfg); len(keys) != 1 || keys[0] != "uplink[1].password_file" {
		t.Errorf("credentials: %v", keys)
	}
}

// noHub is a hub that can't be reached.
type noHub struct{}

func (noHub) Connect(ctx context.Context) (uplink.Link, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAnUplinkThatReloadStopsAndStartsKeepsItsCounters(t *testing.T) {
	d := built(t, redistest.Start(t))
	d.options.Hub = func(config.Uplink, string) uplink.Hub { return noHub{} }
	cfg := *d.served.config()
	cfg.Uplinks = []config.Uplink{{Name: "hub", Lists: []string{"events"}, WindowItems: 1}}
	d.uplinks.ended = map[string]uplink.Status{"hub": {Sent: 5, SentBytes: 50, Skipped: 4, Repeated: 3, Refused: 2, Breaks: 1}}

	all := func(config.Uplink) bool { return true }
	for range 2 {
		d.startUplinks(&cfg)
		got := d.uplinks.running["hub"].up.Status()
		if got.Sent != 5 || got.SentBytes != 50 || got.Skipped != 4 || got.Repeated != 3 || got.Refused != 2 || got.Breaks != 1 {
			t.Errorf("the counters begin anew: %+v", got)
		}
		d.stopUplinks(all)
	}
}
