package daemon

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edged/internal/batch"
	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/inbound"
	"edged/internal/ledger"
	"edged/internal/poller"
	"edged/internal/redisconn"
	"edged/internal/redistest"
	"edged/internal/relay"
	"edged/internal/tcpserver"
)

// runLoop runs a loop until stop is called. The test fails if the loop does.
func runLoop(t *testing.T, loop *poller.Loop) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// connects runs a loop with a configuration until it has been to Redis or has
// failed, and returns why it failed.
func connects(t *testing.T, cfg config.Redis) (reason string) {
	t.Helper()
	files := fileReader{cfg: config.Default(), log: zap.NewNop()}
	redis := files.redis(cfg)
	if err := files.err(); err != nil {
		t.Fatal(err)
	}
	redis.Timeout = 5 * time.Second
	log := relay.New(relay.Options{Window: 10, Memory: 1 << 20})
	loop := poller.New(poller.Options{
		Redis: redis, Instance: "x", PollInterval: time.Minute, Lease: 5 * time.Minute, MaxPayload: 1000, BatchItems: 10, BatchBytes: 1000,
		Lists: []poller.List{{Key: "a", Subject: "a", Log: log}},
	})
	stop := runLoop(t, loop)
	redistest.Eventually(t, "the list was looked at", func() bool { return loop.Lists()[0].State != poller.Starting })
	status := loop.Lists()[0]
	stop()
	return status.Reason
}

func TestRedisIsReachedByTLSWithAPrivateAuthorityAndAClientCertificate(t *testing.T) {
	_, server := redistest.StartTLS(t)
	_, other := redistest.StartTLS(t)
	good := config.Redis{Address: server.Address, TLS: config.ClientTLS{
		Enabled: true, CAFile: server.CAFile, CertFile: server.CertFile, KeyFile: server.KeyFile, ServerName: server.ServerName,
	}}
	for _, test := range []struct {
		name   string
		change func(*config.Redis)
		reason string // a pattern
	}{
		{"as it should be", func(*config.Redis) {}, "^$"},
		{"a server of another authority", func(c *config.Redis) { c.TLS.CAFile = other.CAFile }, "is not trusted; check redis.tls.ca_file"},
		{"a server of another name", func(c *config.Redis) { c.TLS.ServerName = "" }, "is not trusted; check redis.tls.ca_file and redis.tls.server_name"},
		{"no client certificate", func(c *config.Redis) { c.TLS.CertFile, c.TLS.KeyFile = "", "" }, "check redis.tls.cert_file|closed the connection"},
		{"no TLS", func(c *config.Redis) { c.TLS = config.ClientTLS{} }, "closed the connection"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			reason := connects(t, cfg)
			if !regexp.MustCompile(test.reason).MatchString(reason) {
				t.Errorf("reason %q does not match %q", reason, test.reason)
			}
		})
	}
}

func TestABareNameIsASystemdCredential(t *testing.T) {
	s := redistest.Start(t)
	s.Client().ConfigSet(t.Context(), "requirepass", "secret")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "redis-password"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if reason := connects(t, config.Redis{Address: s.Address(), PasswordFile: "redis-password"}); reason != "" {
		t.Error(reason)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err := readFiles(&config.Config{Redis: config.Redis{PasswordFile: "redis-password"}}, zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), "redis.password_file: ") || !strings.Contains(err.Error(), "LoadCredential=redis-password:") {
		t.Errorf("error %v", err)
	}
}

func TestReloadNamesTheFilesThatSystemdKeepsAsTheyWere(t *testing.T) {
	cfg := &config.Config{}
	cfg.Redis.PasswordFile, cfg.Redis.TLS.CAFile = "redis-password", "/etc/edged/ca.crt"
	cfg.TCP.Users = []config.User{{PasswordFile: "/etc/edged/a"}, {PasswordFile: "b"}}
	var text strings.Builder
	reloadAnswer{Fixed: credentials(cfg)}.Text(&text)
	want := "no key has changed; certificates and passwords were read again, except systemd's credentials, which need a restart to change: " +
		"redis.password_file, tcp.user[2].password_file; 0 clients disconnected\n"
	if text.String() != want {
		t.Errorf("%q", text.String())
	}
}

func TestFilesThatHoldNoCertificateAreNamedWithTheirKey(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for key, cfg := range map[string]config.ClientTLS{
		"redis.tls.ca_file: ":           {CAFile: empty},
		"redis.tls.cert_file: ":         {CertFile: filepath.Join(dir, "missing"), KeyFile: empty},
		"redis.tls.key_file: ":          {CertFile: empty, KeyFile: filepath.Join(dir, "missing")},
		"redis.tls.cert_file: " + empty: {CertFile: empty, KeyFile: empty},
	} {
		cfg.Enabled = true
		if _, err := readFiles(&config.Config{Redis: config.Redis{TLS: cfg}}, zap.NewNop()); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("error %v, want one that begins with %s", err, key)
		}
	}
}

// answers takes what publishers are told.
type answers struct {
	mu  sync.Mutex
	all []string
}

func (a *answers) answer(reply []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, string(reply))
}

func (a *answers) got() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

// write runs a writer for lists with these keys and returns what lets it write an
// item to one of them.
func write(t *testing.T, redis redisconn.Options, keys ...string) (write func(i int, item string, answer func([]byte)), stats func() []inbound.Stats) {
	redis.Timeout = 2 * time.Second
	lists := make([]inbound.List, len(keys))
	for i, key := range keys {
		lists[i] = inbound.List{Subject: key, Key: key}
	}
	w := inbound.New(inbound.Options{Redis: redis.NewClients(), Lists: lists, Buffer: 4 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func(i int, item string, answer func([]byte)) { w.Write(i, "", []byte(item), answer) }, w.Stats
}

func TestPublishedItemsReachTheirMastersInACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, true)
	keys := []string{cluster.Key("a", 0), cluster.Key("b", 1)}
	write, stats := write(t, redisconn.Options{Cluster: []string{cluster.Masters[2].Address(), cluster.Masters[1].Address()}}, keys...)
	var told answers
	for i := range keys {
		for range 10 {
			write(i, "asked", told.answer)
			write(i, "kept", nil)
		}
	}
	written := func() bool { s := stats(); return s[0].Waiting == 0 && s[1].Waiting == 0 }
	redistest.Eventually(t, "the items are written", func() bool { return written() && len(told.got()) == 20 })
	for _, answer := range told.got() {
		if strings.Contains(answer, "error") {
			t.Errorf("a publisher is told %s", answer)
		}
	}
	for i, key := range keys {
		if n := cluster.Masters[i].Len(key); n != 20 {
			t.Errorf("%d items in list %d, want 20", n, i)
		}
	}

	cluster.Masters[0].Kill()
	for range 10 {
		write(0, "after", nil)
	}
	redistest.Eventually(t, "the items are written", written)
	after := 0
	for _, item := range cluster.Replicas[0].Client().LRange(t.Context(), keys[0], 0, -1).Val() {
		if item == "after" {
			after++
		}
	}
	if after < 10 {
		t.Errorf("%d items of 10 are with the new master", after)
	}
}

func TestPublishedItemsFollowTheMasterOfSentinels(t *testing.T) {
	sentinels := redistest.StartSentinels(t)
	master, replica := sentinels.Master()
	write, stats := write(t, redisconn.Options{Sentinel: redisconn.SentinelOptions{Addresses: sentinels.Addresses(), Master: "mymaster"}}, "a")
	written := func() bool { return stats()[0].Waiting == 0 }
	var told answers
	write(0, "before", told.answer)
	redistest.Eventually(t, "the item is written", func() bool { return len(told.got()) == 1 && master.Len("a") == 1 })
	master.Kill()
	write(0, "after", nil)
	redistest.Eventually(t, "the item is written", written)
	if !slices.Contains(replica.Client().LRange(t.Context(), "a", 0, -1).Val(), "after") {
		t.Error("the item is not with the new master")
	}
}

// reader is a member that confirms what it gets, from a goroutine of its own as
// real ones do.
type reader struct {
	owed chan func()
	done chan struct{}
	got  atomic.Int64
	m    batch.Membership
}

func join(t *testing.T, w tcpserver.Joiner) *reader {
	r := &reader{owed: make(chan func(), 1000), done: make(chan struct{})}
	r.m = w.Join("", "1", r)
	go func() {
		defer close(r.done)
		for confirm := range r.owed {
			confirm()
		}
	}()
	t.Cleanup(func() {
		r.m.Leave()
		close(r.owed)
		<-r.done
	})
	return r
}

func (r *reader) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	r.got.Add(int64(to - from))
	r.owed <- func() {
		receipt.Confirm()
		for i := from; i < to; i++ {
			r.m.(batch.Acknowledger).Acknowledge(b.Epoch(), b.First()+uint64(i), batch.Ack{}, nil)
		}
	}
	return to - from
}

// aclRule returns the arguments of ACL SETUSER in docs/OPERATIONS.md.
func aclRule(t *testing.T) (args []any) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rule, _ := strings.Cut(string(doc), "redis-cli ACL SETUSER ")
	rule, _, _ = strings.Cut(rule, "```")
	for _, word := range strings.Fields(strings.NewReplacer("\\\n", " ", `\|`, "|", "'", "").Replace(rule)) {
		args = append(args, word)
	}
	if len(args) < 10 {
		t.Fatal("docs/OPERATIONS.md has no rule")
	}
	return args
}

// rightsOptions are those of a loop whose lists use all that there is.
func rightsOptions(redis redisconn.Options, lists ...poller.List) poller.Options {
	for i := range lists {
		lists[i].Dedup, lists[i].DedupItems = dedupOf(config.List{Dedup: "payload", DedupItems: 100})
	}
	return poller.Options{
		Redis: redis, Instance: "x", PollInterval: 100 * time.Millisecond, Lease: 300 * time.Millisecond,
		MaxPayload: 1000, BatchItems: 10, BatchBytes: 10000, Lists: lists,
	}
}

// servesAgain serves the list "events" once more until it is empty: a process that reads the keys of the items
// that another one has removed.
func servesAgain(t *testing.T, s *redistest.Server, redis redisconn.Options) {
	t.Helper()
	var loop *poller.Loop
	log := relay.New(relay.Options{Window: 10, Memory: 1 << 20, Changed: func() { loop.Wake("events") }})
	loop = poller.New(rightsOptions(redis, poller.List{Key: "events", Subject: "e", Log: log}))
	stop := runLoop(t, loop)
	join(t, log)
	redistest.Eventually(t, "the list is empty", func() bool { return s.Len("events") == 0 })
	if n := log.Stats().Duplicates; n != 1 {
		t.Errorf("%d items were duplicates, want 1", n)
	}
	stop()
}

func TestTheRightsInTheDocumentsAreEnough(t *testing.T) {
	s := redistest.Start(t)
	if err := s.Client().Do(t.Context(), append([]any{"ACL", "SETUSER"}, aclRule(t)...)...).Err(); err != nil {
		t.Fatal(err)
	}
	redis := redisconn.Options{Address: s.Address(), Username: "edged", Password: "secret", Timeout: 2 * time.Second}
	// The ledger of one list was lost, with an item set aside.
	s.Client().HSet(t.Context(), ledger.KeysOf("readings").Aside, "0", "left")
	large := strings.Repeat("x", 2000)
	for _, key := range []string{"events", "readings"} {
		s.Push(key, "one", large, "two", "three")
	}

	var loop *poller.Loop
	received := relay.New(relay.Options{Window: 10, Memory: 1 << 20, Changed: func() { loop.Wake("events") }})
	explicit := relay.New(relay.Options{Window: 10, Memory: 1 << 20, Changed: func() { loop.Wake("readings") }, Terms: relay.Terms{Explicit: true, AckWait: time.Hour, MaxAckPending: 10}})
	loop = poller.New(rightsOptions(redis,
		poller.List{Key: "events", Subject: "e", Log: received}, poller.List{Key: "readings", Subject: "r", Log: explicit}))
	stop := runLoop(t, loop)
	readers := []*reader{join(t, received), join(t, explicit)}
	settled := func() bool {
		return s.Len("events") == 0 && s.Len("readings") == 0
	}
	redistest.Eventually(t, "the items are settled", func() bool {
		return settled() && readers[0].got.Load() >= 3 && readers[1].got.Load() >= 4
	})
	for _, key := range []string{"events", "readings"} {
		if letters, _, err := loop.Dead(t.Context(), key, 10); err != nil || len(letters) != 1 {
			t.Errorf("%s has %d dead letters, want 1: %v", key, len(letters), err)
		}
		if n, err := loop.Requeue(t.Context(), key, 10, func(int, int) error { return nil }); n != 1 || err != nil {
			t.Errorf("%s: %d requeued, want 1: %v", key, n, err)
		}
	}
	publish, stats := write(t, redis, "events", "readings")
	publish(0, "published", nil)
	publish(1, "published", nil)
	redistest.Eventually(t, "what was published is settled", func() bool {
		st := stats()
		return st[0].Written == 1 && st[1].Written == 1 && settled()
	})
	for _, r := range readers {
		r.m.Leave()
	}
	redistest.Eventually(t, "the lists are given back", func() bool {
		events, _ := s.Client().HExists(t.Context(), ledger.KeysOf("events").Ledger, "owner").Result()
		readings, _ := s.Client().HExists(t.Context(), ledger.KeysOf("readings").Ledger, "owner").Result()
		return !events && !readings
	})
	if !strings.Contains(s.Client().ClientList(t.Context()).Val(), " sub=1 ") {
		t.Error("nobody listens to hints")
	}
	stop()
	s.Push("events", "published", "four")
	servesAgain(t, s, redis)
	if refused, err := s.Client().Do(t.Context(), "ACL", "LOG").Slice(); err != nil || len(refused) > 0 {
		t.Errorf("refused: %v %v", refused, err)
	}
}
