package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

func TestItemsReachTheStreamWithTheirHeaders(t *testing.T) {
	t.Parallel()
	_, stream, r, s := startDirect(t)
	r.Push("events", texts(0, 5000)...)
	await(t, r, s)
	once(t, stream, 5000)

	m, err := stream.GetMsg(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "edge.box.events" || m.Header.Get("Edged-Box") != "box" || m.Header.Get("Edged-List") != "events" || m.Header.Get("Edged-Epoch") == "" {
		t.Errorf("subject %s, headers %v", m.Subject, m.Header)
	}
	if _, err := time.Parse(time.RFC3339, m.Header.Get("Edged-Time")); err != nil {
		t.Error(err)
	}
}

func TestALinkThatBreaksAgainAndAgain(t *testing.T) {
	t.Parallel()
	p, stream, r, s := startProxied(t, 0, 2*time.Millisecond)
	const n = 20_000
	for i := range 10 {
		r.Push("events", texts(i*n/10, n/10)...)
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // sooner than it has resumed, at times
		p.swallow.Store(i%3 == 0)
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		p.cut()
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond) // some exceed the duplicates window
		p.swallow.Store(false)
	}

	await(t, r, s)
	once(t, stream, n)
}

func TestEdgedAndRedisAreKilledInMidStream(t *testing.T) {
	t.Parallel()
	_, stream, r, s := startProxied(t, 0, 5*time.Millisecond)
	const n = 20_000
	for i := range 10 {
		r.Push("events", texts(i*n/10, n/10)...)
		reaches(t, stream, i*n/10+rand.IntN(n/10)) // in mid-stream
		if i%2 == 0 {
			s.Kill()
			time.Sleep(time.Duration(rand.IntN(1200)) * time.Millisecond)
			s.Start()
			continue
		}
		r.Kill()
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		r.Restart()
	}

	await(t, r, s)
	once(t, stream, n)
}

func TestAStandbyResumesAtTheOwnersPlace(t *testing.T) {
	t.Parallel()
	h := startHub(t, "")
	stream := newStream(t, h.connect(), nil)
	p := startProxy(t, h.address, 0, 5*time.Millisecond)
	r := startRedis(t)
	with := append([]string{`redis.timeout = "1s"`, `redis.poll_interval = "1s"`, `redis.lease = "3s"`}, settings(p.address())...)
	first := edgedtest.Run(t, r.Address(), with...)
	second := edgedtest.Run(t, r.Address(), with...)

	const n = 10_000
	for i := range 4 {
		r.Push("events", texts(i*n/4, n/4)...)
		reaches(t, stream, i*n/4+rand.IntN(n/4)) // in mid-stream
		if i%2 == 0 {
			first.Kill()
		} else if err := first.Stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		first, second = second, first
		second.Start()
	}
	await(t, r, first)
	once(t, stream, n)
}

func TestItemsThatComeAfterRedisHasLostSomeReachTheStream(t *testing.T) {
	t.Parallel()
	h := startHub(t, "")
	stream := newStream(t, h.connect(), nil)
	r := redistest.Start(t, "--appendonly", "no", "--dbfilename", "old.rdb")
	s := edgedtest.Run(t, r.Address(), append([]string{}, settings(h.address)...)...)
	r.Push("events", texts(0, 100)...)
	await(t, r, s)
	if err := r.Client().Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	r.Push("events", texts(100, 500)...)
	await(t, r, s)
	r.Kill()
	r.Restart() // from the old copy
	others := texts(1000, 500)
	r.Push("events", others...)
	await(t, r, s)

	counts := make(map[string]int)
	for _, item := range stored(t, stream) {
		counts[item]++
	}
	for _, item := range append(texts(0, 600), others...) {
		if counts[item.(string)] == 0 {
			t.Fatalf("%s has not reached the stream", item)
		}
	}
}

func TestALeaderIsKilledInMidStream(t *testing.T) {
	t.Parallel()
	routes := make([]string, 3)
	for i := range routes {
		routes[i] = edgedtest.Address(t)
	}
	var hubs []*hub
	for i := range 3 {
		hubs = append(hubs, newHub(t, fmt.Sprintf("server_name: n%d\ncluster: {name: c, listen: %q, routes: [\"nats://%s\"]}",
			i, routes[i], strings.Join(routes, `","nats://`))))
	}
	for _, h := range hubs {
		h.start()
	}
	js := hubs[0].connect(nats.DontRandomize())
	config := jetstream.StreamConfig{Name: "BOX", Subjects: []string{"edge.box.>"}, Duplicates: time.Second, Replicas: 3, Storage: jetstream.FileStorage}
	var stream jetstream.Stream
	redistest.Eventually(t, "the cluster makes a stream", func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		s, err := js.CreateOrUpdateStream(ctx, config)
		stream = s
		return err == nil
	})

	r := startRedis(t)
	with := settings(hubs[0].address)
	with[len(with)-1] = strings.Replace(with[len(with)-1], `"]`, fmt.Sprintf(`", "nats://%s", "nats://%s"]`, hubs[1].address, hubs[2].address), 1)
	s := edgedtest.Run(t, r.Address(), with...)
	const n = 20_000
	for i := range 4 {
		r.Push("events", texts(i*n/4, n/4)...)
		reaches(t, stream, i*n/4+100) // in mid-stream
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Logf("info: %v", err)
			continue
		}
		if i%2 == 0 {
			nc := js.Conn()
			if _, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN.BOX", nil, 5*time.Second); err != nil {
				t.Logf("step down: %v", err)
			}
			continue
		}
		for _, h := range hubs[1:] { // the test is connected to the first one
			if info.Cluster.Leader == fmt.Sprintf("n%d", map[*hub]int{hubs[1]: 1, hubs[2]: 2}[h]) {
				h.process.Kill()
				redistest.Eventually(t, "another server leads the stream", func() bool {
					after, err := stream.Info(t.Context())
					return err == nil && after.Cluster.Leader != "" && after.Cluster.Leader != info.Cluster.Leader
				})
				h.start()
			}
		}
	}
	await(t, r, s)
	once(t, stream, n)
}

func TestALinkOf64KilobitsIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	_, stream, r, s := startProxied(t, 8_000, 300*time.Millisecond) // 64 kbit/s, 600 ms
	items := make([]any, 250)
	for i := range items {
		items[i] = fmt.Sprintf("item-%07d%s", i, strings.Repeat("x", 600))
	}

	r.Push("events", items...)
	await(t, r, s)
	got := stored(t, stream)
	if len(got) != len(items) || got[249] != items[249] {
		t.Errorf("the stream has %d items", len(got))
	}

	var a struct {
		Uplinks []struct{ Breaks, Repeated, Skipped uint64 }
	}
	if s.ControlJSON("uplinks", &a); a.Uplinks[0].Breaks > 0 {
		t.Errorf("the link was taken for dead: %+v", a)
	}
}

func TestADeadLinkIsNoticed(t *testing.T) {
	t.Parallel()
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, stream, r, s := startProxied(t, 0, 0)
			r.Push("events", texts(0, 10)...)
			await(t, r, s)
			p.hold.Store(true)
			began := time.Now()
			if busy {
				r.Push("events", texts(10, 5000)...)
			}

			for !strings.Contains(s.Control("uplinks json"), "the hub has not") {
				if time.Since(began) > 40*time.Second {
					t.Fatalf("it is not noticed: %s", s.Control("uplinks json"))
				}
				time.Sleep(100 * time.Millisecond)
			}

			p.hold.Store(false)
			p.cut()
			if !busy {
				r.Push("events", texts(10, 5000)...)
			}
			await(t, r, s)
			once(t, stream, 5010)
		})
	}
}

func TestRefusalsAreNamedAndWaitedOut(t *testing.T) {
	t.Parallel()
	h := startHub(t, "")
	js := h.connect()
	r := startRedis(t)
	s := edgedtest.Run(t, r.Address(), settings(h.address)...)
	r.Push("events", texts(0, 10)...)
	reason(t, s, "no stream of the hub has the subject edge.box.events")

	stream := newStream(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 5, jetstream.DiscardNew })
	reason(t, s, "the stream takes nothing more")
	config := stream.CachedInfo().Config
	config.MaxMsgs = -1
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	await(t, r, s)
	once(t, stream, 10)

	config.MaxMsgSize = 1000
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.Push("events", strings.Repeat("x", 2000))
	r.Push("events", texts(10, 10)...)
	await(t, r, s)
	once(t, stream, 20)
	if dead := s.Control("dead events"); !strings.Contains(dead, "max_msg_size") {
		t.Errorf("dead letters: %s", dead)
	}
}

func TestRights(t *testing.T) {
	t.Parallel()
	h := startHub(t, `accounts: {
	SYS: {users: [{user: admin, password: admin}]}
	A: {jetstream: enabled, users: [
		{user: all, password: all}
		{user: box, password: secret, permissions: {
			publish: ["edge.box.>", "$JS.API.STREAM.MSG.GET.BOX", "$JS.API.STREAM.INFO.BOX", "$JS.API.STREAM.NAMES"], subscribe: ["_INBOX.>"]}}
		{user: poor, password: secret, permissions: {publish: ["$JS.API.STREAM.MSG.GET.BOX", "$JS.API.STREAM.INFO.BOX", "$JS.API.STREAM.NAMES"], subscribe: ["_INBOX.>"]}}
	]}
}
system_account: SYS`)

	stream := newStream(t, h.connect(nats.UserInfo("all", "all")), nil)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	r := startRedis(t)
	r.Push("events", texts(0, 100)...)
	s := edgedtest.Run(t, r.Address(), settings(h.address, `user = "poor"`, fmt.Sprintf("password_file = %q", password))...)
	reason(t, s, "lacks a right")
	if answer := s.Reload(settings(h.address, `user = "box"`, fmt.Sprintf("password_file = %q", password))...); !strings.Contains(answer, "uplink") {
		t.Fatal(answer)
	}
	await(t, r, s)
	once(t, stream, 100)
}

func TestTLSWithATokenAndAnNKey(t *testing.T) {
	t.Parallel()
	r, certificates := redistest.StartTLS(t, "--appendonly", "yes", "--appendfsync", "always")
	folder := filepath.Dir(certificates.CAFile)
	write := func(name, text string) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}

	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}

	public, _ := user.PublicKey()
	seed, _ := user.Seed()
	secure := fmt.Sprintf(`[uplink.tls]
enabled = true
ca_file = %q
cert_file = %q
key_file = %q
server_name = %q`, certificates.CAFile, certificates.CertFile, certificates.KeyFile, certificates.ServerName)

	tls := fmt.Sprintf("tls: {cert_file: %q, key_file: %q, ca_file: %q, verify: true}\n",
		filepath.Join(folder, "server.crt"), filepath.Join(folder, "server.key"), certificates.CAFile)
	for name, c := range map[string]struct {
		hub, box string
		own      nats.Option
	}{
		"token": {`authorization: {token: "secret"}`, fmt.Sprintf("token_file = %q", write("token", "secret\n")), nats.Token("secret")},
		"nkey": {fmt.Sprintf("authorization: {users: [{nkey: %q}]}", public), fmt.Sprintf("nkey_file = %q", write("seed", string(seed))),
			nats.Nkey(public, func(nonce []byte) ([]byte, error) { return user.Sign(nonce) })},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHub(t, tls+c.hub)
			stream := newStream(t, h.connect(c.own, nats.RootCAs(certificates.CAFile), nats.ClientCert(certificates.CertFile, certificates.KeyFile),
				func(o *nats.Options) error { o.TLSConfig.ServerName = certificates.ServerName; return nil }), nil)
			s := edgedtest.Run(t, r.Address(), settings(h.address, c.box, secure)...)
			r.Push("events", texts(0, 100)...)
			await(t, r, s)
			once(t, stream, 100)
			r.Client().FlushAll(t.Context())
		})
	}
}

func TestPauseReloadAndForget(t *testing.T) {
	t.Parallel()
	h, stream, r, s := startDirect(t)
	s.Control("pause uplink hub")
	r.Push("events", texts(0, 100)...)
	redistest.Eventually(t, "the uplink is paused, and behind", func() bool {
		answer := s.Control("uplinks json")
		return strings.Contains(answer, `"paused"`) && strings.Contains(answer, `"lag_items":100`)
	})
	s.Control("resume uplink hub")
	await(t, r, s)

	const n = 10_000
	for i := range 10 { // each time it is another uplink of the same name
		r.Push("events", texts(100+i*n/10, n/10)...)
		s.Reload(settings(h.address, fmt.Sprintf("window_items = %d", 64+i))...)
	}
	await(t, r, s)
	once(t, stream, 100+n)

	s.Reload(settings(h.address)[:3]...)
	r.Push("events", texts(100+n, 10)...)
	redistest.Eventually(t, "status names the uplink", func() bool {
		return strings.Contains(s.Control("status"), "uplink hub is in no configuration")
	})
	s.Kill()
	s.Start()
	nc, err := nats.Connect("nats://" + s.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.SubscribeSync("events"); err != nil { // a list without consumers is not read
		t.Fatal(err)
	}
	redistest.Eventually(t, "status names the uplink after a start", func() bool {
		return strings.Contains(s.Control("status"), "uplink hub is in no configuration")
	})
	if r.Len("events") != 10 {
		t.Errorf("the list has %d items, want 10", r.Len("events"))
	}
	if answer := s.Control("forget events uplink/hub"); !strings.HasPrefix(answer, "OK") {
		t.Fatal(answer)
	}
	redistest.Eventually(t, "status does not name it any more", func() bool { return !strings.Contains(s.Control("status"), "uplink hub") })
}

func TestASecondPublisherUsesTheStream(t *testing.T) {
	t.Parallel()
	h := startHub(t, "")
	js := h.connect()
	stream := newStream(t, js, func(c *jetstream.StreamConfig) { c.Subjects = []string{"edge.>"} })
	r := startRedis(t)
	s := edgedtest.Run(t, r.Address(), settings(h.address)...)
	r.Push("events", texts(0, 3000)...)
	for i := range 300 {
		if _, err := js.Publish(t.Context(), "edge.other", []byte("other")); err != nil {
			t.Error(err)
		}
		reaches(t, stream, 11*i) // ten items between two of the other's
	}
	await(t, r, s)
	var own []string
	for _, item := range stored(t, stream) {
		if item != "other" {
			own = append(own, item)
		}
	}

	for i, want := range texts(0, 3000) {
		if i >= len(own) || own[i] != want {
			t.Fatalf("message %d of %d is not %s", i, len(own), want)
		}
	}

	answer := s.Control("uplinks")
	if !strings.Contains(strings.Join(strings.Fields(answer), " "), "other publishers use its stream") {
		t.Error(answer)
	}
}

// operated returns the configuration of a hub with an operator and an account that has JetStream,
// and the credentials of a user of that account with some rights.
func operated(t *testing.T, rights jwt.Permissions) (config string, all, box []byte) {
	t.Helper()
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		key, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return key, public
	}
	sign := func(claims jwt.Claims, by nkeys.KeyPair) string {
		token, err := claims.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	operator, operatorKey := pair(nkeys.CreateOperator)
	account, accountKey := pair(nkeys.CreateAccount)
	_, systemKey := pair(nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	config = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {%s: %s, %s: %s}\n",
		sign(jwt.NewOperatorClaims(operatorKey), operator), systemKey,
		accountKey, sign(claims, operator), systemKey, sign(jwt.NewAccountClaims(systemKey), operator))

	credentials := func(rights jwt.Permissions) []byte {
		user, userKey := pair(nkeys.CreateUser)
		claims := jwt.NewUserClaims(userKey)
		claims.Permissions = rights
		seed, err := user.Seed()
		if err != nil {
			t.Fatal(err)
		}
		text, err := jwt.FormatUserConfig(sign(claims, account), seed)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	return config, credentials(jwt.Permissions{}), credentials(rights)
}

func TestACredentialsFile(t *testing.T) {
	t.Parallel()
	config, all, box := operated(t, jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{"edge.box.>", "$JS.API.STREAM.MSG.GET.BOX", "$JS.API.STREAM.INFO.BOX", "$JS.API.STREAM.NAMES"}},
		Sub: jwt.Permission{Allow: jwt.StringList{"_INBOX.>"}},
	})
	h := startHub(t, config)
	stream := newStream(t, h.connect(nats.UserCredentialBytes(all)), nil)
	file := filepath.Join(t.TempDir(), "box.creds")
	_, _, strange := operated(t, jwt.Permissions{})
	if err := os.WriteFile(file, strange, 0o600); err != nil {
		t.Fatal(err)
	}

	r := startRedis(t)
	r.Push("events", texts(0, 100)...)
	s := edgedtest.Run(t, r.Address(), settings(h.address, fmt.Sprintf("creds_file = %q", file))...)
	reason(t, s, "Authorization Violation")
	if err := os.WriteFile(file, box, 0o600); err != nil { // the next attempt reads it
		t.Fatal(err)
	}
	await(t, r, s)
	once(t, stream, 100)
}
