package trace

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseTakesHostsWithAndWithoutAPort(t *testing.T) {
	for text, want := range map[string]string{
		"hub.example": "hub.example:4222", "hub.example:443": "hub.example:443", "10.0.0.1": "10.0.0.1:4222", "10.0.0.1:1": "10.0.0.1:1",
		"fd00::1": "[fd00::1]:4222", "[fd00::1]": "[fd00::1]:4222", "[fd00::1]:5": "[fd00::1]:5", "fe80::1%eth0": "[fe80::1%eth0]:4222",
		"": "", ":4222": "", "hub:0": "", "hub:65536": "", "hub:": "", "nats://hub": "", "a b": "", "hub\x1b": "", "hüb": "", strings.Repeat("a", 256): "",
	} {
		got, err := Parse(text, "4222")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestTheClockIsJudgedByTheProgramsAge(t *testing.T) {
	made := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		now           time.Time
		synced, known bool
		result, text  string
	}{
		{made.AddDate(1, 0, 0), true, true, OK, ", synchronized"},
		{made.AddDate(1, 0, 0), false, false, OK, "can't be read"},
		{made.AddDate(1, 0, 0), false, true, Warn, "not synchronized"},
		{time.Unix(0, 0), true, true, Warn, "before this edged was made: no certificate is valid yet"},
		{made.AddDate(30, 0, 0), true, true, Warn, "certificates have expired"},
	} {
		if f := clock(test.now, made, test.synced, test.known); f.result != test.result || !strings.Contains(f.words(), test.text) {
			t.Errorf("at %s it is %s: %s", test.now, f.result, f.words())
		}
	}
}

func TestTheFirstHopIsThatOfTheLongestRoute(t *testing.T) {
	const table4 = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	0100000A	0003	0	0	600	00000000	0	0	0
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
down0	0002A8C0	00000000	0000	0	0	100	00FFFFFF	0	0	0
`
	const table6 = `fd910003000000000000000000000000 40 00000000000000000000000000000000 00 fd910001000000000000000000000001 00000400 00000001 00000000 00000003     eth0
fd910001000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`
	for address, want := range map[string]string{
		"192.168.1.7": "eth0, on its own network", "192.168.2.7": "eth0 by the gateway 192.168.1.1", "192.0.2.1": "eth0 by the gateway 192.168.1.1",
		"fd91:1::7": "eth0, on its own network", "fd91:3::7": "eth0 by the gateway fd91:1::1", "fd92::1": "a route that is not in the main table",
	} {
		to := netip.MustParseAddr(address)
		got := firstHop6(table6, to)
		if to.Is4() {
			got = firstHop4(table4, to)
		}
		if got.words() != want {
			t.Errorf("%s goes by %s; want %s", address, got.words(), want)
		}
	}

	const arp = `IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         52:54:00:12:34:56     *        eth0
192.168.1.9      0x1         0x0         00:00:00:00:00:00     *        eth0
`
	for address, want := range map[string]string{"192.168.1.1": "answers ARP", "192.168.1.9": "does not answer ARP", "192.168.1.2": ""} {
		if got := neighbour(arp, netip.MustParseAddr(address)); got != want {
			t.Errorf("%s %s; want %q", address, got, want)
		}
	}
}

func TestHopsNameTheRouterAtWhichPacketsEnd(t *testing.T) {
	to := netip.MustParseAddrPort("10.0.9.9:4222")
	at := func(address string) answer { return answer{from: netip.MustParseAddr(address)} }
	first, second := at("10.0.0.1"), at("10.0.1.1")
	blocked := second
	blocked.blocked = "prohibited by a filter"

	host := answer{from: to.Addr(), reached: true}
	for _, test := range []struct {
		tcp, udp []answer
		want     string
	}{
		{[]answer{{}, {}}, []answer{{}, {}}, "silence from the first hop on"},
		{[]answer{first, {}, {}}, nil, "silence after 10.0.0.1 (hop 1)"},
		{[]answer{first, {}, second, {}}, []answer{first, {}}, "silence after 10.0.1.1 (hop 3), the way is 1 10.0.0.1, 2 silent, 3 10.0.1.1"},
		{[]answer{first, blocked}, nil, "10.0.1.1 (after hop 1) does not pass packets on, it says: prohibited by a filter"},
		{[]answer{{}, blocked}, nil, "10.0.1.1 (the first that answers) does not pass packets on, it says: prohibited by a filter"},
		{[]answer{first, {}}, []answer{first, second, {}}, "silence for TCP after hop 1, and for UDP after 10.0.1.1 (1 10.0.0.1, 2 10.0.1.1)"},
		{[]answer{first, {}}, []answer{first, host}, "silence for TCP port 4222, but the host answers UDP (1 10.0.0.1, 2 10.0.9.9)"},
		{[]answer{first, host}, nil, "the host answers now"},
	} {
		if f := judgeHops(to, test.tcp, test.udp); f.text != test.want || f.remedy == "" {
			t.Errorf("%v, %v: %q, %q; want %q", test.tcp, test.udp, f.text, f.remedy, test.want)
		}
	}
}

func TestTheVerdictIsAboutAllServers(t *testing.T) {
	well := &tracer{Target: Target{Address: "hub1:4222"}, good: []string{"nats-server 2", "the stream is there"}}
	flawed := &tracer{Target: Target{Address: "hub2:4222"}, notes: []string{"the certificate expires soon"}}
	ill := &tracer{Target: Target{Address: "hub3:4222"}, cause: "refused: is it running?"}
	for _, test := range []struct {
		tracers      []*tracer
		result, text string
	}{
		{[]*tracer{well}, OK, "uplink hub: hub1:4222: reached: the stream is there"},
		{[]*tracer{well, flawed}, Warn, "uplink hub: hub1:4222: reached: the stream is there. hub2:4222: reached, but the certificate expires soon"},
		{[]*tracer{well, ill}, Warn, "uplink hub: hub3:4222: refused: is it running? hub1:4222: reached: the stream is there"},
		{[]*tracer{ill}, Fail, "uplink hub: hub3:4222: refused: is it running?"},
	} {
		if v := judge("uplink hub", test.tracers); v.Result != test.result || v.Text != test.text {
			t.Errorf("%s: %s; want %s: %s", v.Result, v.Text, test.result, test.text)
		}
	}

	if v := judge("hub1:4222", []*tracer{well}); v.Text != "hub1:4222: reached: the stream is there" {
		t.Error(v.Text)
	}
}

// A trace ends when its lines are no longer read, whatever it waits for.
func TestATraceEndsWhenItsReaderIsGone(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	gone := errors.New("gone")
	ended := make(chan error)
	stuck := Step{Name: "stuck", Run: func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}}
	target := Target{Address: ln.Addr().String(), Protocol: Silent, Then: []Step{stuck}}
	go func() {
		_, err := Run(t.Context(), "x", []Target{target, target}, func(l Line) error {
			if l.Step == "stuck" && l.Result == Running {
				return gone
			}
			return nil
		})
		ended <- err
	}()

	if err := <-ended; err != gone {
		t.Error(err)
	}
}

func TestASocketOfThisBox(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	verdict := func() Line {
		v, err := Run(t.Context(), "redis", []Target{{Address: "unix://" + path, Protocol: Silent}}, func(Line) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := verdict(); v.Result != Fail || !strings.Contains(v.Text, "there is no file "+path) {
		t.Errorf("%s: %s", v.Result, v.Text)
	}

	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if v := verdict(); v.Result != OK || v.Text != "redis: unix://"+path+": reached" {
		t.Errorf("%s: %s", v.Result, v.Text)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	if v := verdict(); v.Result != Fail || !strings.Contains(v.Text, "nothing listens at "+path) {
		t.Errorf("%s: %s", v.Result, v.Text)
	}
}

func TestWordsFromTheNetworkAreOnePrintableLine(t *testing.T) {
	if got := printable("a\x1b[2J\nb\u202e"); got != `a\x1b[2J\nb\u202e` {
		t.Error(got)
	}
	if got := printable(strings.Repeat("é", 500)); len(got) > 304 {
		t.Error(len(got))
	}
}
