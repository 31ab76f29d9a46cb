package systemd

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"edged/internal/edgedtest"
)

// get requests the page over a new connection.
func get() error {
	conn, err := dial("127.0.0.1:8222")
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1:8222\r\nConnection: close\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()

	page, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(page), "<title>") {
		return fmt.Errorf("%s, %v: %.200s", answer.Status, err, page)
	}
	return nil
}

func TestTheSocketOfThePageLosesNoRequestOverARestart(t *testing.T) {
	prepare(t, "[drain]\ntimeout = \"500ms\"\n")
	t.Cleanup(func() { sh(t, "systemctl stop edged-http.socket; systemctl reset-failed edged-http.socket || true") })
	sh(t, "systemctl start edged.socket edged-http.socket edged.service")
	stop := edgedtest.KeepAsking(t, 4, get)
	for range 3 {
		sh(t, "systemctl restart edged.service")
	}
	if answered := stop(); answered < 10 {
		t.Errorf("only %d requests were answered", answered)
	}

	// A request while edged is stopped starts it.
	sh(t, "systemctl stop edged.service")
	if err := get(); err != nil {
		t.Errorf("the first request: %v", err)
	}
	await(t, "active", "systemctl is-active edged.service || true")
}

// The hub is another edged, in its own network, without a stream for the box: its refusal shows
// that it was reached.
func TestOnlyTheDropInLetsAnUplinkOutOfPrivateNetworks(t *testing.T) {
	const noStream = "no stream"
	prepare(t, "")
	write(t, "/srv/hub.toml", `redis.address = "unix:///run/redis/redis-server.sock"
tcp.listen = "192.0.2.10:4222"
control.socket = "/run/lab-hub.sock"
control.status_socket = ""
[[list]]
key = "of-the-hub"
`)
	sh(t, "systemd-run --quiet --unit=lab-hub-network --property=PrivateNetwork=yes sleep infinity")
	t.Cleanup(func() { sh(t, "ip link delete lab0 2>/dev/null || true; systemctl stop lab-hub lab-hub-network") })
	sh(t, `hub=$(systemctl show lab-hub-network -P MainPID)
		ip link add lab0 type veth peer name lab1 netns $hub
		ip link set lab0 up; ip address add 192.0.2.1/24 dev lab0
		nsenter -t $hub -n ip link set lab1 up; nsenter -t $hub -n ip address add 192.0.2.10/24 dev lab1
		systemd-run --quiet --unit=lab-hub --property=Type=notify --property=NetworkNamespacePath=/proc/$hub/ns/net edged -config /srv/hub.toml`)

	const uplink = "[[uplink]]\nname = \"hub\"\nurl = [\"nats://192.0.2.10:4222\"]\n"
	dropIns := map[string]string{}
	for _, file := range []string{"uplink-hub.conf", "redis-socket.conf"} {
		text, err := os.ReadFile("../../deploy/systemd/" + file)
		if err != nil {
			t.Fatal(err)
		}
		dropIns[file] = string(text)
	}
	start := func(config string, files ...string) {
		sh(t, "systemctl stop edged.socket edged-control.socket edged-status.socket edged.service; rm -rf /etc/systemd/system/edged.service.d")
		for _, file := range files {
			write(t, "/etc/systemd/system/edged.service.d/"+file, dropIns[file])
		}
		write(t, "/etc/edged/edged.toml", config)
		sh(t, "systemctl daemon-reload; systemctl start edged.service")
	}

	// Without the drop-in.
	start(uplink)
	if out := sh(t, "edged check"); !strings.Contains(out, "edged.service may not reach it (IPAddressDeny=any)") || !strings.Contains(out, "uplink-hub.conf") {
		t.Errorf("edged check does not warn of the hub's address:\n%s", out)
	}
	answer := sh(t, "edged ctl trace uplink hub")
	if words := strings.Join(strings.Fields(answer), " "); !strings.Contains(words, "IPAddressDeny= of edged.service") ||
		!strings.Contains(words, "IPAddressAllow=192.0.2.10") {
		t.Errorf("trace does not name the unit's rule:\n%s", answer)
	}
	await(t, "1", "edged ctl uplinks | tr -s '\\n ' ' ' | grep -c timeout || true")
	if answer := sh(t, "edged ctl uplinks"); strings.Contains(answer, noStream) {
		t.Errorf("the hub was reached:\n%s", answer)
	}

	// With it, and with the drop-in that takes the network away.
	start(uplink, "uplink-hub.conf")
	await(t, "1", "edged ctl uplinks | tr -s '\\n ' ' ' | grep -c '"+noStream+"' || true")
	start("[redis]\naddress = \"unix:///run/redis/redis-server.sock\"\n"+uplink, "redis-socket.conf", "uplink-hub.conf")
	await(t, "1", "edged ctl uplinks | tr -s '\\n ' ' ' | grep -c '"+noStream+"' || true")
}
