package systemd

import (
	"strings"
	"testing"
)

// The lab has no network, so the test makes one: a router in another namespace, which has no route
// to the networks beyond it.
func TestTraceWorksUnderTheUnitAndNamesItsOwnRules(t *testing.T) {
	prepare(t, "")
	sh(t, "systemd-run --quiet --unit=lab-router --property=PrivateNetwork=yes sleep infinity")
	t.Cleanup(func() { sh(t, "ip link delete lab0 2>/dev/null || true; systemctl stop lab-router") })
	sh(t, `router=$(systemctl show lab-router -P MainPID)
		ip link add lab0 type veth peer name lab1 netns $router
		ip link set lab0 up; ip address add 10.91.1.2/24 dev lab0
		ip route add 203.0.113.0/24 via 10.91.1.1; ip route add 10.91.2.0/24 via 10.91.1.1
		in="nsenter -t $router -n"
		$in ip link set lab1 up; $in ip address add 10.91.1.1/24 dev lab1
		$in unshare --mount sh -c 'mount -t proc proc /proc; echo 1 >/proc/sys/net/ipv4/ip_forward' # that of the lab is read-only
		$in ip route add prohibit 10.91.2.0/24
		systemctl start edged`)

	for _, test := range []struct {
		host string
		want []string
	}{
		{"203.0.113.2", []string{"rules FAIL 203.0.113.2: IPAddressDeny= of edged.service", "forbids packets to 203.0.113.2",
			"route ok 203.0.113.2: lab0 by the gateway 10.91.1.1", "connect FAIL 203.0.113.2:4222: no answer",
			"verdict FAIL 203.0.113.2:4222: IPAddressDeny= of edged.service", "IPAddressAllow=203.0.113.2"}},
		{"10.91.1.1", []string{"rules ok", "connect FAIL 10.91.1.1:4222: refused", "verdict FAIL"}},
		{"10.91.2.2", []string{"rules ok", "10.91.1.1 says: prohibited by a filter", "verdict FAIL 10.91.2.2:4222: 10.91.1.1", "does not pass packets on, it says: prohibited by a filter"}},
		{"10.91.1.9", []string{"does not answer ARP", "does not answer on this box's own network", "verdict FAIL"}},
		{"redis", []string{"login ok Redis accepts the credentials", "verdict ok"}},
	} {
		answer := sh(t, "edged ctl trace "+test.host)
		words := strings.Join(strings.Fields(answer), " ")
		for _, want := range test.want {
			if !strings.Contains(words, want) {
				t.Errorf("trace %s does not say %q:\n%s", test.host, want, answer)
			}
		}
	}
	out, err := try("su -s /bin/sh visitor -c 'edged ctl -socket /run/edged/status.sock trace redis'")
	if err == nil || !strings.Contains(out, "trace needs the level operator") {
		t.Errorf("a visitor may trace: %v\n%s", err, out)
	}
}
