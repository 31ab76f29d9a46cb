//go:build linux

package trace

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// orders is the environment variable, in JSON, of a process that traces instead of testing.
const orders = "EDGED_TEST_TRACE"

// order is a trace to be carried out.
type order struct {
	Address  string
	Protocol Protocol
	Roots    []byte // PEM; none: no TLS unless the server requires it
}

func TestMain(m *testing.M) {
	if text := os.Getenv(orders); text != "" {
		os.Exit(carryOut(text))
	}
	if os.Getuid() != 0 {
		os.Exit(asRootOfOwn())
	}
	os.Exit(m.Run())
}

// asRootOfOwn runs the tests again, as root of a user namespace.
func asRootOfOwn() int {
	again := exec.Command("unshare", append([]string{"--user", "--map-root-user", os.Args[0]}, os.Args[1:]...)...)
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := again.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need root, or user namespaces (unshare --user): %v\n", err)
		return 1
	}
	return 0
}

// carryOut traces, and prints a line of JSON for each line.
func carryOut(text string) int {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}

	t := Target{Address: o.Address, Protocol: o.Protocol}
	if len(o.Roots) > 0 {
		t.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		t.TLS.RootCAs.AppendCertsFromPEM(o.Roots)
	}
	out := json.NewEncoder(os.Stdout)
	if _, err := Run(context.Background(), o.Address, []Target{t}, func(l Line) error { return out.Encode(l) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// network is a box, two routers and a hub, each in a network namespace that a process holds:
//
//	box 10.91.1.2 - .1 r1 10.91.2.1 - .2 r2 10.91.3.1 - .2 hub
//
// and the same with fd91:1:: and so on.
type network struct {
	box, r1, r2, hub int // processes
}

// layout connects the namespaces, and gives routes that lead nowhere to networks of their own.
const layout = `
at() { holder=$1; shift; nsenter -t $holder -n "$@"; }
give() { # holder, device, network, host
	at $1 ip link set $2 up
	at $1 ip address add 10.91.$3.$4/24 dev $2
	at $1 ip address add fd91:$3::$4/64 dev $2 nodad
}
wire() { # holder, device, host, and again; the network
	at $1 ip link add $2 type veth peer name $5 netns $4
	give $1 $2 $7 $3
	give $4 $5 $7 $6
}
for pid in $BOX $R1 $R2 $HUB; do at $pid ip link set lo up; done
wire $BOX eth0 2 $R1 near 1 1
wire $R1 far 1 $R2 near 2 2
wire $R2 far 1 $HUB eth0 2 3
for pid in $R1 $R2; do
	at $pid sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
done
for pid in $R1 $HUB; do
	at $pid sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit'
done
for n in 3 4 5 6; do
	at $BOX ip route add 10.91.$n.0/24 via 10.91.1.1
	at $BOX ip route add fd91:$n::/64 via fd91:1::1
done
at $R1 ip route add 10.91.0.0/16 via 10.91.2.2
at $R1 ip route add fd91::/16 via fd91:2::2
at $R1 ip route add 10.91.6.0/24 via 10.91.2.2 mtu 1400
at $R2 ip route add 10.91.1.0/24 via 10.91.2.1
at $R2 ip route add fd91:1::/64 via fd91:2::1
at $R2 ip route add blackhole 10.91.4.0/24
at $R2 ip route add blackhole fd91:4::/64
at $R2 ip route add prohibit 10.91.5.0/24
at $R2 ip route add prohibit fd91:5::/64
at $R2 ip route add 10.91.6.0/24 via 10.91.3.2
at $HUB ip address add 10.91.6.6/32 dev lo
at $HUB ip route add 10.91.0.0/16 via 10.91.3.1
at $HUB ip route add fd91::/16 via fd91:3::1
at $BOX ip route add prohibit 10.91.7.0/24
at $BOX ip route add unreachable 10.91.8.0/24
at $BOX ip route add blackhole 10.91.9.0/24
`

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{}
	for _, pid := range []*int{&n.box, &n.r1, &n.r2, &n.hub} {
		*pid = namespace(t)
	}
	script := exec.Command("sh", "-euc", layout)
	script.Env = append(os.Environ(), fmt.Sprintf("BOX=%d", n.box), fmt.Sprintf("R1=%d", n.r1), fmt.Sprintf("R2=%d", n.r2), fmt.Sprintf("HUB=%d", n.hub))
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("the network can't be laid out; these tests need ip of iproute2 and nsenter of util-linux: %v\n%s", err, out)
	}
	return n
}

// namespace starts a process that holds a network namespace until the test ends.
func namespace(t *testing.T) (pid int) {
	t.Helper()
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		t.Fatalf("no network namespace can be made; these tests need root, or user namespaces that allow it: %v", err)
	}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	return holder.Process.Pid
}

// listen opens a listener in the hub's namespace.
func (n *network) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	type result struct {
		ln  net.Listener
		err error
	}

	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.hub))
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		var ln net.Listener
		if err == nil {
			ln, err = net.Listen("tcp", address)
		}
		done <- result{ln, err}
	}()

	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.ln.Close() })
	return r.ln
}

// trace begins a trace from the box, without any privilege. The function that it returns waits for
// the lines, and returns them by step.
func (n *network) trace(t *testing.T, o order) (lines func(*testing.T) map[string]Line) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command("nsenter", "-t", fmt.Sprint(n.box), "-n", "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", os.Args[0])
	cmd.Env = append(os.Environ(), orders+"="+string(text))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("no trace; these tests need nsenter and setpriv of util-linux: %v", err)
	}

	return func(t *testing.T) map[string]Line {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the trace failed: %v\n%s", err, &stderr)
		}
		return byStep(t, &stdout)
	}
}

// byStep reads lines of JSON.
func byStep(t *testing.T, r io.Reader) map[string]Line {
	t.Helper()
	lines := make(map[string]Line)
	for d := json.NewDecoder(r); ; {
		var l Line
		if err := d.Decode(&l); err == io.EOF {
			return lines
		} else if err != nil {
			t.Fatal(err)
		}
		if l.Result != Running {
			lines[l.Step] = l
			t.Logf("%-8s %-5s %s %s", l.Step, l.Result, l.At, l.Text)
		}
	}
}

// serveNATS greets each client with an INFO and, if there is a certificate, goes on with TLS.
func serveNATS(ln net.Listener, certificate *tls.Certificate) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "INFO {\"server_name\":\"hub-1\",\"version\":\"2.15.2\",\"tls_required\":%v}\r\n", certificate != nil)
			if certificate != nil {
				c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*certificate}})
			}
			io.Copy(io.Discard, c)
		}()
	}
}

func TestTheVerdictNamesTheObstacle(t *testing.T) {
	n := newNetwork(t)
	for _, address := range []string{"10.91.3.2:4222", "10.91.6.6:4222", "[fd91:3::2]:4222"} {
		go serveNATS(n.listen(t, address), nil)
	}
	silent := n.listen(t, "10.91.3.2:5000")
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()

	tests := []struct {
		name, address string
		step, result  string
		text          string // in the line of the step
		verdict       string
	}{
		{"open", "10.91.3.2:4222", "nats", OK, "nats-server 2.15.2 (hub-1)", "reached: nats-server 2.15.2 (hub-1)"},
		{"open, IPv6", "[fd91:3::2]:4222", "nats", OK, "nats-server 2.15.2 (hub-1)", "reached: nats-server 2.15.2 (hub-1)"},
		{"route", "10.91.3.2:4222", "route", OK, "eth0 by the gateway 10.91.1.1 (answers ARP), from 10.91.1.2", ""},
		{"route, IPv6", "[fd91:3::2]:4222", "route", OK, "eth0 by the gateway fd91:1::1, from fd91:1::2", ""},
		{"MTU", "10.91.3.2:4222", "mtu", OK, "1500 bytes on the whole way", ""},
		{"small MTU", "10.91.6.6:4222", "mtu", OK, "1400 bytes on the whole way, says 10.91.1.1", ""},
		{"says nothing", "10.91.3.2:5000", "nats", OK, "it is no NATS server", ""},
		{"closed", "10.91.3.2:4223", "connect", Fail, "refused: the host is there, and nothing listens at port 4223", "is the server running"},
		{"closed, IPv6", "[fd91:3::2]:4223", "connect", Fail, "refused: the host is there", "is the server running"},
		{"black hole", "10.91.4.4:4222", "hops", Fail, "silence after 10.91.1.1 (hop 1)", "silence after 10.91.1.1 (hop 1): a router or firewall after it"},
		{"black hole, IPv6", "[fd91:4::4]:4222", "hops", Fail, "silence after fd91:1::1 (hop 1)", "silence after fd91:1::1 (hop 1): a router or firewall after it"},
		{"prohibited", "10.91.5.5:4222", "hops", Fail, "does not pass packets on, it says: prohibited by a filter", "ask the administrator of 10.91.2.2"},
		{"prohibited, IPv6", "[fd91:5::5]:4222", "hops", Fail, "does not pass packets on, it says: prohibited by a filter", "ask the administrator of fd91:2::2"},
		{"prohibited here", "10.91.7.7:4222", "route", Fail, "this box's own route to 10.91.7.7 says prohibit", "see ip route"},
		{"unreachable here", "10.91.8.8:4222", "route", Fail, "says unreachable", "see ip route"},
		{"black hole here", "10.91.9.9:4222", "route", Fail, "is a black hole", "see ip route"},
		{"no route", "203.0.113.2:4222", "route", Fail, "this box has no route to 203.0.113.2 (eth0 is up", "see ip route"},
		{"absent from the own network", "10.91.1.99:4222", "connect", Fail, "does not answer on this box's own network", "is it switched on"},
		{"no name", "hub.invalid:4222", "name", Fail, "name server", "check /etc/resolv.conf"},
	}
	traces := make([]func(*testing.T) map[string]Line, len(tests))
	for i, test := range tests {
		traces[i] = n.trace(t, order{Address: test.address})
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			lines := traces[i](t)
			if l := lines[test.step]; l.Result != test.result || !strings.Contains(l.Text, test.text) {
				t.Errorf("%s is %s: %s", test.step, l.Result, l.Text)
			}
			if v := lines["verdict"]; !strings.Contains(v.Text, test.verdict) || (v.Result == Fail) != (test.result == Fail) {
				t.Errorf("the verdict is %s: %s", v.Result, v.Text)
			}
		})
	}
}

// authority is an authority for certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Lab CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(2, 0, 0), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a server's certificate, valid between two times that are given in days from now.
func (a *authority) issue(t *testing.T, address string, from, until int) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().AddDate(0, 0, from), NotAfter: time.Now().AddDate(0, 0, until),
		IPAddresses: []net.IP{net.ParseIP(address)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTheVerdictNamesTheFaultOfACertificate(t *testing.T) {
	n, known, stranger := newNetwork(t), newAuthority(t), newAuthority(t)
	const hub = "10.91.3.2"
	for i, test := range []struct {
		name        string
		certificate *tls.Certificate
		result      string
		verdict     string
	}{
		{"good", known.issue(t, hub, -1, 90), OK, "nats-server 2.15.2"},
		{"about to expire", known.issue(t, hub, -1, 3), Warn, "reached, but the certificate expires on"},
		{"expired", known.issue(t, hub, -30, -1), Fail, "the certificate expired on"},
		{"not yet valid", known.issue(t, hub, 1, 30), Fail, "the certificate is not valid before"},
		{"wrong name", known.issue(t, "10.91.3.3", -1, 90), Fail, "the certificate is for 10.91.3.3, not for 10.91.3.2"},
		{"unknown authority", stranger.issue(t, hub, -1, 90), Fail, "an authority that this box does not know"},
		{"no TLS", nil, Fail, "the hub offers no TLS"},
	} {
		address := fmt.Sprintf("%s:%d", hub, 4222+i)
		go serveNATS(n.listen(t, address), test.certificate)
		t.Run(test.name, func(t *testing.T) {
			v := n.trace(t, order{Address: address, Protocol: NATS, Roots: known.pem})(t)["verdict"]
			if v.Result != test.result || !strings.Contains(v.Text, test.verdict) {
				t.Errorf("the verdict is %s: %s", v.Result, v.Text)
			}
		})
	}
}
