package tcpserver

import (
	"encoding/json"
	"strings"
	"testing"
)

// request sends a request and returns its answer as JSON.
func (c *conn) request(subject string) (answer map[string]any) {
	c.t.Helper()
	c.send("SUB re 1\r\nPUB " + subject + " re 0\r\n\r\n")
	head := c.line()
	if !strings.HasPrefix(head, "MSG re 1 ") {
		c.t.Fatalf("the request to %s is answered %q", subject, head)
	}
	if err := json.Unmarshal([]byte(c.line()), &answer); err != nil {
		c.t.Fatal(err)
	}
	c.send("UNSUB 1\r\n")
	return answer
}

func TestServicesAreFoundAndCounted(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Services, opts.Discovery = echo, true
	_, addr := serve(t, opts)
	c := dial(t, addr)
	c.send("SUB echoed 2\r\nPUB edged.echo echoed 2\r\nhi\r\nPUB edged.echo 2\r\nhi\r\n")
	c.expect("MSG echoed 2 5", "re:hi")

	ping := c.request("$SRV.PING")
	id, _ := ping["id"].(string)
	if ping["type"] != "io.nats.micro.v1.ping_response" || ping["name"] != "edged" || ping["version"] != "1.2.3" || id == "" {
		t.Errorf("PING is answered %v", ping)
	}
	for _, tail := range []string{"", ".edged", ".edged." + id} {
		info := c.request("$SRV.INFO" + tail)
		first := info["endpoints"].([]any)[0].(map[string]any)
		if info["type"] != "io.nats.micro.v1.info_response" || info["id"] != id || first["name"] != "echo" || first["subject"] != "edged.echo" {
			t.Errorf("INFO%s is answered %v", tail, info)
		}
		stats := c.request("$SRV.STATS" + tail)
		first = stats["endpoints"].([]any)[0].(map[string]any)
		if stats["type"] != "io.nats.micro.v1.stats_response" || stats["started"] == nil || first["num_requests"] != 2.0 {
			t.Errorf("STATS%s is answered %v", tail, stats)
		}
	}
}

func TestOtherServicesAreNotAnsweredFor(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Services = echo
	_, addr := serve(t, opts)
	c, other := dial(t, addr), dial(t, addr)
	c.send("SUB re 1\r\n")
	for _, subject := range []string{"$SRV.PING.other", "$SRV.PING.edged.x", "$SRV.PONG", "$SRV", "$SRV.ping", "$SRV.PING.edged.x.y"} {
		c.send("PUB " + subject + " re 0\r\n\r\n")
		c.line()
		c.expect("NATS/1.0 503", "Nats-Subject: "+subject, "", "")
	}
	other.send("SUB $SRV.PING 1\r\n") // a client's own service
	other.sync()
	c.send("PUB $SRV.PING re 0\r\n\r\n")
	other.expect("MSG $SRV.PING 1 re 0", "")
}
