package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"edged/internal/config"
	"edged/internal/poller"
	"edged/internal/redistest"
	"edged/internal/relay"
)

// connects runs a loop with a configuration until it has been to Redis or has
// failed, and returns why it failed.
func connects(t *testing.T, cfg config.Redis) (reason string) {
	t.Helper()
	redis, err := redisOptions(cfg)
	if err != nil {
		t.Fatal(err)
	}
	redis.Timeout = 5 * time.Second
	window := relay.NewList(relay.Options{Window: 10, Memory: 1 << 20})
	loop := poller.New(poller.Options{
		Redis: redis, Instance: "x", PollInterval: time.Minute, Lease: 5 * time.Minute, MaxPayload: 1000, BatchItems: 10, BatchBytes: 1000,
		Lists: []poller.List{{Key: "a", Subject: "a", Window: window}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	redistest.Eventually(t, "the list was looked at", func() bool { return loop.Lists()[0].State != poller.Starting })
	status := loop.Lists()[0]
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return status.Reason
}

func TestRedisIsReachedByTLSWithAPrivateAuthorityAndAClientCertificate(t *testing.T) {
	_, server := redistest.StartTLS(t)
	_, other := redistest.StartTLS(t)
	good := config.Redis{Address: server.Address, TLS: config.RedisTLS{
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
		{"no TLS", func(c *config.Redis) { c.TLS = config.RedisTLS{} }, "closed the connection"},
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
	_, err := redisOptions(config.Redis{PasswordFile: "redis-password"})
	if err == nil || !strings.Contains(err.Error(), "redis.password_file: ") || !strings.Contains(err.Error(), "LoadCredential=redis-password:") {
		t.Errorf("error %v", err)
	}
}

func TestFilesThatHoldNoCertificateAreNamedWithTheirKey(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for key, cfg := range map[string]config.RedisTLS{
		"redis.tls.ca_file: ":   {CAFile: empty},
		"redis.tls.cert_file: ": {CertFile: filepath.Join(dir, "missing"), KeyFile: empty},
		"redis.tls.key_file: ":  {CertFile: empty, KeyFile: filepath.Join(dir, "missing")},
		"redis.tls.cert_file, ": {CertFile: empty, KeyFile: empty},
	} {
		cfg.Enabled = true
		if _, err := redisOptions(config.Redis{TLS: cfg}); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("error %v, want one that begins with %s", err, key)
		}
	}
}
