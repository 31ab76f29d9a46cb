package systemd

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/edgedtest"

	"github.com/nats-io/nats.go"
)

const address = "127.0.0.1:4222"

// labDialer lets nats.go connect into the lab.
type labDialer struct{}

func (labDialer) Dial(_, address string) (net.Conn, error) { return dial(address) }

// request connects as a NATS client does, sends one request and leaves.
func request() error {
	conn, err := dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return edgedtest.Ping(conn, "{}", patience)
}

// keepAsking lets four clients send requests until stop is called.
func keepAsking(t *testing.T) (stop func() (answered int64)) {
	return edgedtest.KeepAsking(t, 4, request)
}

// control sends a command to the control socket, as root.
func control(t *testing.T, command string) string {
	t.Helper()
	return sh(t, fmt.Sprintf("echo '%s' | socat -t5 - UNIX-CONNECT:/run/edged/control.sock", command))
}

func TestAStartedServiceIsReadyAndSaysHowItIs(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged")
	if got := sh(t, "systemctl is-active edged; "+show("StatusText")); got != "active\n2 lists, 0 clients, backlog 0" {
		t.Errorf("systemctl says %q", got)
	}

	if err := request(); err != nil {
		t.Error(err)
	}

	if got := sh(t, "stat -c '%a %U %G' /run/edged /run/edged/control.sock"); got != "755 edged edged\n660 edged edged" {
		t.Errorf("the folder and the control socket are %q", got)
	}
	sh(t, "systemctl reload edged")
	sh(t, "redis-cli rpush events 1 2 3")
	await(t, "2 lists, 0 clients, backlog 3", show("StatusText"))
	sh(t, "systemctl stop edged")
	if got := sh(t, show("Result")+"; "+show("ExecMainStatus")+"; ls /run/edged; redis-cli llen events"); got != "success\n0\n3" {
		t.Errorf("after the stop: %q", got)
	}
}

func TestSocketsOfSystemdStartTheServiceAndOutliveIt(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged.socket") // also starts the control socket
	if got := sh(t, "systemctl is-active edged.socket edged-control.socket edged || true"); got != "active\nactive\ninactive" {
		t.Fatalf("before the first client: %q", got)
	}

	if err := request(); err != nil {
		t.Fatal(err)
	}
	if got := control(t, "status"); !strings.Contains(got, "serving") {
		t.Errorf("status is %q", got)
	}
	sh(t, "systemctl stop edged.service")
	if got := control(t, "status"); !strings.Contains(got, "serving") { // starts the service
		t.Errorf("status is %q", got)
	}

	// Only the group edged may use it.
	if out := sh(t, "runuser -u operator -- sh -c 'echo version | socat -t5 - UNIX-CONNECT:/run/edged/control.sock'"); !strings.Contains(out, "OK") {
		t.Errorf("a member of the group edged gets %q", out)
	}
	if out, err := try("runuser -u visitor -- sh -c 'echo version | socat -t5 - UNIX-CONNECT:/run/edged/control.sock'"); err == nil {
		t.Errorf("a visitor gets %q", out)
	}
}

func TestASocketThatIsMissingIsNamedAndTriedAgain(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged.socket && systemctl stop edged-control.socket")
	if out, err := try("systemctl start edged.service"); err == nil {
		t.Errorf("the service started: %s", out)
	}
	await(t, "yes", hasRestarted)
	if log := journal(t); !strings.Contains(log, `none named \"control\"`) {
		t.Errorf("the journal does not name it:\n%s", log)
	}
	await(t, "started", "systemctl start edged-control.socket && echo started || true") // fails while the service starts
	await(t, "active", "systemctl is-active edged.service || true")
	if err := request(); err != nil {
		t.Error(err)
	}
}

// hasRestarted prints yes once systemd has restarted it at least twice.
const hasRestarted = "test $(systemctl show edged -P NRestarts) -ge 2 && echo yes || true"

func TestATypoThatIsMendedEndsByItselfIfSystemdHoldsTheSockets(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged.socket edged.service")
	write(t, "/etc/edged/edged.toml", "nonsense = 1\n")
	if out, err := try("systemctl restart edged.service"); err == nil {
		t.Errorf("it started: %s", out)
	}
	answer := make(chan error, 1)
	go func() { answer <- request() }() // waits in the socket's queue, and starts the service
	await(t, "yes", hasRestarted)

	write(t, "/etc/edged/edged.toml", "")
	if err := <-answer; err != nil {
		t.Errorf("the client that waited: %v", err)
	}
	await(t, "active\nactive\nactive\nactive", "systemctl is-active edged.socket edged-control.socket edged-status.socket edged.service || true")
}

func TestAFileThatComesLateIsWaitedFor(t *testing.T) {
	prepare(t, "[redis]\npassword_file = \"/srv/late/password\"\n")
	sh(t, "rm -rf /srv/late")
	if out, err := try("systemctl start edged.service"); err == nil {
		t.Errorf("it started: %s", out)
	}
	await(t, "yes", hasRestarted)
	if log := journal(t); !strings.Contains(log, "redis.password_file: open /srv/late/password: no such file") {
		t.Errorf("the journal does not name the file:\n%s", log)
	}

	sh(t, "redis-cli config set requirepass late")
	t.Cleanup(func() { sh(t, "rm -r /srv/late; redis-cli --no-auth-warning -a late config set requirepass ''") })
	write(t, "/srv/late/password", "late\n")
	await(t, "active", "systemctl is-active edged.service || true")
}

// A user that takes all connections of the status socket excludes no other user: edged sees the
// users as they are.
func TestOneUserCannotTakeAllConnectionsOfTheStatusSocket(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged")
	sh(t, `for i in $(seq 16); do
			systemd-run --quiet --uid=visitor --unit=greedy$i socat UNIX-CONNECT:/run/edged/status.sock 'EXEC:sleep 1000'
		done`)
	t.Cleanup(func() { sh(t, "systemctl stop 'greedy*'") })
	await(t, "16", "ss -Hx state connected src /run/edged/status.sock | wc -l")
	if got := sh(t, "runuser -u operator -- sh -c 'echo version | socat -t5 - UNIX-CONNECT:/run/edged/status.sock'"); !strings.Contains(got, "OK") {
		t.Errorf("another user gets %q", got)
	}
	if got := sh(t, "echo pause events | runuser -u operator -- socat -t5 - UNIX-CONNECT:/run/edged/control.sock"); got != "OK" {
		t.Errorf("pause answers %q", got)
	}
	await(t, "1", "journalctl --no-pager -o cat -u edged EDGED_USER=operator EDGED_OUTCOME=done | wc -l")
}

// Requests all the time, a subscriber, a producer, and three restarts.
func TestARestartUnderLoadRefusesNoClientAndLosesNoItem(t *testing.T) {
	prepare(t, "[drain]\ntimeout = \"500ms\"\n")
	sh(t, "systemctl start edged.socket edged.service")

	const items = 30_000
	var mu sync.Mutex
	got := make(map[string]bool, items)
	all := make(chan struct{})
	nc, err := nats.Connect(address, nats.SetCustomDialer(labDialer{}), nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Subscribe("events", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if len(got) < items {
			if got[string(m.Data)] = true; len(got) == items {
				close(all)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}

	stop := keepAsking(t)
	var pushing sync.WaitGroup
	defer pushing.Wait()
	pushing.Go(func() {
		for i := 0; i < items; i += 1000 {
			if out, err := try(fmt.Sprintf("seq %d %d | xargs redis-cli rpush events", i+1, i+1000)); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	for range 3 {
		sh(t, "systemctl restart edged.service")
	}
	select {
	case <-all:
	case <-time.After(patience):
		mu.Lock()
		t.Errorf("%d of %d items arrived", len(got), items)
		mu.Unlock()
	}
	answered := stop()
	if answered < 10 {
		t.Errorf("only %d requests were answered", answered)
	}
	await(t, "0", "redis-cli llen events")
	t.Logf("%d requests answered during 3 restarts", answered)
}

func TestALoopThatStandsStillIsKilledAndLeavesItsGoroutinesInTheJournal(t *testing.T) {
	for fault, trace := range map[string]string{
		"poll":    "daemon.(*daemon).alive",
		"tcp":     "watchdog.(*Listener).Accept",
		"control": "watchdog.(*Listener).Accept",
		"relay":   "daemon.stuck.Deliver",
	} {
		t.Run(fault, func(t *testing.T) {
			prepare(t, "[redis]\npoll_interval = \"100ms\"\n")
			dropIn(t, "[Service]\nExecStart=\nExecStart=/usr/bin/edged-faults -config /etc/edged/edged.toml\nWatchdogSec=1s\nRestartSec=100ms\n"+
				"ExecStopPost=/bin/rm -f /run/edged/fault\nEnvironment=EDGED_FAULT="+fault+"\n")
			sh(t, "systemctl start edged; redis-cli rpush events 1; touch /run/edged/fault")
			await(t, "1", show("NRestarts"))
			await(t, "active", "systemctl is-active edged")
			log := journal(t)
			for _, want := range []string{"SIGABRT", "goroutine ", trace} {
				if !strings.Contains(log, want) {
					t.Errorf("the journal has no %q", want)
				}
			}

			if err := request(); err != nil {
				t.Errorf("after the restart: %v", err)
			}
		})
	}
}

func TestADrainLongerThanTimeoutStopSecEndsWell(t *testing.T) {
	prepare(t, "[drain]\ntimeout = \"4s\"\n")
	dropIn(t, "[Service]\nTimeoutStopSec=1s\n")
	sh(t, "systemctl start edged")
	conn, err := dial(address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "CONNECT {}\r\nPING\r\n")
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	sh(t, "systemctl stop edged") // this client stays to the end
	if got := sh(t, show("Result")+"; "+show("ExecMainStatus")); got != "success\n0" {
		t.Errorf("the drain ended with %q", got)
	}
}

func TestEachSignalDrainsAndTheServiceStaysEnded(t *testing.T) {
	for _, signal := range []string{"SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT"} {
		t.Run(signal, func(t *testing.T) {
			prepare(t, "")
			sh(t, "systemctl start edged; systemctl kill --kill-whom=main --signal="+signal+" edged")
			await(t, "inactive", "systemctl is-active edged || true")
			if got := sh(t, show("Result")+"; "+show("ExecMainStatus")+"; "+show("NRestarts")); got != "success\n0\n0" {
				t.Errorf("result, exit code and restarts: %q", got)
			}
			if log := journal(t); !strings.Contains(log, signal) {
				t.Errorf("the journal does not name %s:\n%s", signal, log)
			}
		})
	}
}

func TestABadConfigurationIsNotTriedAgain(t *testing.T) {
	prepare(t, "nonsense = 1\n")
	if out, err := try("systemctl start edged"); err == nil {
		t.Errorf("it started: %s", out)
	}
	if got := sh(t, "systemctl is-failed edged; "+show("ExecMainStatus")+"; "+show("NRestarts")); got != "failed\n78\n0" {
		t.Errorf("state, exit code and restarts: %q", got)
	}
	if log := journal(t); !strings.Contains(log, "/etc/edged/edged.toml:1: nonsense:") {
		t.Errorf("the journal does not name the mistake:\n%s", log)
	}
}

func TestACrashIsFollowedByARestart(t *testing.T) {
	prepare(t, "")
	dropIn(t, "[Service]\nRestartSec=100ms\n")
	sh(t, "systemctl start edged; systemctl kill --kill-whom=main --signal=SIGKILL edged")
	await(t, "1", show("NRestarts"))
	await(t, "active", "systemctl is-active edged")
	if err := request(); err != nil {
		t.Error(err)
	}
}

func TestThePasswordOfRedisIsACredential(t *testing.T) {
	prepare(t, "[redis]\npassword_file = \"/run/credentials/edged.service/redis-password\"\n")
	write(t, "/etc/credstore/edged.redis-password", "open sesame\n")
	sh(t, "chmod 600 /etc/credstore/edged.redis-password; redis-cli config set requirepass 'open sesame'")
	t.Cleanup(func() {
		sh(t, "rm /etc/credstore/edged.redis-password; redis-cli -a 'open sesame' config set requirepass ''")
	})
	sh(t, "systemctl start edged; redis-cli --no-auth-warning -a 'open sesame' rpush events 1")
	await(t, "2 lists, 0 clients, backlog 1", show("StatusText"))
}

func TestAJournalThatStandsStillHoldsUpNothingAndLostLinesAreCounted(t *testing.T) {
	prepare(t, "[log]\nlevel = \"debug\"\n")
	sh(t, "systemctl start edged")
	journald := sh(t, "systemctl show systemd-journald -P MainPID")
	sh(t, "kill -STOP "+journald)
	resume := sync.OnceFunc(func() { sh(t, "kill -CONT "+journald) })
	t.Cleanup(resume)

	stop := keepAsking(t)
	await(t, "1", "edged ctl status | grep -c '^fault *log: [0-9]* lines were lost' || true")
	if answered := stop(); answered == 0 {
		t.Error("no request was answered")
	}
	resume()
	if err := request(); err != nil { // its lines get through
		t.Error(err)
	}
	await(t, "yes", "journalctl --no-pager -o cat -u edged | grep -q 'lines of the log were lost' && echo yes || true")
}

func TestItRunsAsADynamicUser(t *testing.T) {
	prepare(t, "")
	dropIn(t, "[Service]\nDynamicUser=yes\nUser=edged-dynamic\nGroup=edged-dynamic\n")
	sh(t, "systemctl start edged; redis-cli rpush events 1")
	await(t, "2 lists, 0 clients, backlog 1", show("StatusText"))
	if got := control(t, "status"); !strings.Contains(got, "serving") {
		t.Errorf("status is %q", got)
	}
}

func TestWithRedisOnAUnixSocketItNeedsNoNetwork(t *testing.T) {
	prepare(t, "[redis]\naddress = \"unix:///run/redis/redis-server.sock\"\n")
	shipped, err := os.ReadFile("../../deploy/systemd/redis-socket.conf")
	if err != nil {
		t.Fatal(err)
	}
	dropIn(t, string(shipped))
	sh(t, "systemctl start edged.service; redis-cli rpush events item")
	if got := sh(t, "nsenter -n -t $("+show("MainPID")+") ip -brief address show up"); strings.Contains(got, ".") && !strings.HasPrefix(got, "lo ") {
		t.Errorf("edged has a network: %q", got)
	}
	nc, err := nats.Connect(address, nats.SetCustomDialer(labDialer{}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	sub, err := nc.SubscribeSync("events")
	if err != nil {
		t.Fatal(err)
	}

	if m, err := sub.NextMsg(patience); err != nil || string(m.Data) != "item" {
		t.Errorf("got %v, %v", m, err)
	}
	await(t, "0", "redis-cli llen events")
}

// As edged's user, in edged's view of the file system.
func TestItCanWriteNowhereButInItsOwnFolder(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged")
	pid := sh(t, show("MainPID"))
	if _, err := strconv.Atoi(pid); err != nil {
		t.Fatal(err)
	}
	// Folders that belong to the process's own user are writable: /run/edged, and those of the
	// kernel for each process.
	got := sh(t, `nsenter -m -t `+pid+` setpriv --reuid edged --regid edged --clear-groups sh -c '
		find / \( -path /proc -o -path /sys \) -prune -o -type d -writable -print 2>/dev/null |
		while read -r folder; do if touch "$folder/probe" 2>/dev/null; then rm "$folder/probe"; echo "$folder"; fi; done'`)
	if got != "/run/edged" {
		t.Errorf("it can write in:\n%s", got)
	}
}

func TestLevelsFollowTheSocketAndTheUser(t *testing.T) {
	prepare(t, "")
	sh(t, "systemctl start edged")
	sh(t, "id member 2>/dev/null || useradd --no-create-home --groups edged member")

	ask := func(user, socket, command string) string {
		return sh(t, fmt.Sprintf("echo '%s' | runuser -u %s -- socat -t5 - UNIX-CONNECT:/run/edged/%s.sock 2>&1 | tail -n 1", command, user, socket))
	}
	for _, c := range []struct{ user, socket, command, want string }{
		{"member", "control", "pause events", "OK"},
		{"member", "control", "resume events", "OK"},
		{"member", "control", "reload", "needs the level admin"},
		{"nobody", "control", "status", "Permission denied"},
		{"nobody", "status", "status", "OK"},
		{"nobody", "status", "pause events", "needs the level operator"},
		{"root", "status", "pause events", "needs the level operator"},
		{"root", "control", "reload", "OK"},
	} {
		if got := ask(c.user, c.socket, c.command); !strings.Contains(got, c.want) {
			t.Errorf("%s to the %s socket, %s: %q, want %q", c.user, c.socket, c.command, got, c.want)
		}
	}
}

func TestTheJournalHasFieldsToAskFor(t *testing.T) {
	prepare(t, "")
	sh(t, "redis-cli set events 'no list'; systemctl start edged")
	count := func(match string) string {
		return "journalctl --no-pager -o cat -u edged " + match + " | wc -l"
	}
	await(t, "1", count("EDGED_LIST=events PRIORITY=3"))
	await(t, "1", count("MESSAGE_ID=0f9f2b9c6ff24d3f8a8b8e6a0c6f4a51 EDGED_EVENT=started PRIORITY=6"))
	sh(t, "systemctl stop edged")
	await(t, "1", count("MESSAGE_ID=5b1a3f1e2f6e4c4e9a57b9c3b2a7d60e EDGED_EVENT=draining"))
}
