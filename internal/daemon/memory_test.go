package daemon

import (
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"edged/internal/config"
)

const mebibyte = 1 << 20

// limitedTo is a file system in which the control group has a limit.
func limitedTo(bytes string) fstest.MapFS {
	return fstest.MapFS{
		"proc/self/cgroup":         {Data: []byte("0::/\n")},
		"sys/fs/cgroup/memory.max": {Data: []byte(bytes + "\n")},
	}
}

func TestTheMemoryLimitFollowsTheConfigurationAndTheControlGroup(t *testing.T) {
	cfg := config.Default()
	allowed := allowedMemory(cfg)
	for _, c := range []struct {
		name, environment string
		root              fstest.MapFS
		want              int64
		warns             bool
	}{
		{"no control group", "", fstest.MapFS{}, allowed - programPages, false},
		{"a control group that has room", "", limitedTo("1000000000"), allowed - programPages, false},
		{"a small control group", "", limitedTo("100000000"), 90_000_000 - programPages, true},
		{"a tiny control group", "", limitedTo("10000000"), 5_000_000, true},
		{"GOMEMLIMIT set", "off", limitedTo("1000000000"), math.MaxInt64, false},
		{"GOMEMLIMIT set in a small control group", "off", limitedTo("100000000"), math.MaxInt64, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", c.environment)
			before := debug.SetMemoryLimit(math.MaxInt64)
			defer debug.SetMemoryLimit(before)
			core, logged := observer.New(zap.WarnLevel)
			newLimiter(c.root, zap.New(core)).follow(cfg)
			if got := debug.SetMemoryLimit(-1); got != c.want {
				t.Errorf("the limit is %d, want %d", got, c.want)
			}
			if warns := logged.FilterMessageSnippet("MemoryMax=").Len() > 0; warns != c.warns {
				t.Errorf("it warns: %v, want %v", warns, c.warns)
			}
		})
	}
}

func TestEachBudgetIsPartOfTheMemoryAllowed(t *testing.T) {
	defaults := allowedMemory(config.Default())
	for name, c := range map[string]struct {
		change func(*config.Config)
		more   int64
	}{
		"tcp.memory":              {func(c *config.Config) { c.TCP.Memory += mebibyte }, mebibyte},
		"delivery.memory":         {func(c *config.Config) { c.Delivery.Memory += mebibyte }, 3 * mebibyte / 2},
		"delivery.inbound_buffer": {func(c *config.Config) { c.Delivery.InboundBuffer += mebibyte }, mebibyte},
		"delivery.batch_bytes":    {func(c *config.Config) { c.Delivery.BatchBytes += mebibyte }, 4 * mebibyte},
		"tcp.max_payload":         {func(c *config.Config) { c.TCP.MaxPayload += mebibyte }, 4 * mebibyte},
		"tcp.max_connections":     {func(c *config.Config) { c.TCP.MaxConnections += 1024 }, 40 * mebibyte},
		"tcp.max_control_line":    {func(c *config.Config) { c.TCP.MaxControlLine += 1024 }, mebibyte},
		"tcp.tls.cert_file":       {func(c *config.Config) { c.TCP.TLS.CertFile = "cert.pem" }, 96 * mebibyte},
	} {
		cfg := config.Default()
		c.change(cfg)
		if more := allowedMemory(cfg) - defaults; more != c.more {
			t.Errorf("%s makes %d bytes more, want %d", name, more, c.more)
		}
	}
}

func TestCheckSaysHowMuchMemoryIsAllowed(t *testing.T) {
	cfg := config.Default()
	var out strings.Builder
	Describe(&out, cfg)
	if want := "memory   143 MiB at most\n"; !strings.Contains(out.String(), want) {
		t.Errorf("it writes %q, want %q in it", &out, want)
	}
	out.Reset()
	cfg.TCP.Memory = 256 * mebibyte
	Describe(&out, cfg)
	if want := "memory   367 MiB at most, above MemoryMax=256M of the unit as shipped: raise that, or lower tcp.memory\n"; !strings.Contains(out.String(), want) {
		t.Errorf("it writes %q, want %q in it", &out, want)
	}
}

// The sum in docs/SECURITY.md is that of the defaults.
func TestTheDocumentsSayHowMuchMemoryIsAllowed(t *testing.T) {
	cfg := config.Default()
	plain := allowedMemory(cfg)
	cfg.TCP.TLS.CertFile = "cert.pem"
	want := fmt.Sprintf("| all | %d MiB, with TLS %d MiB | |", plain>>20, allowedMemory(cfg)>>20)
	if !strings.Contains(readDoc(t, "../../docs/SECURITY.md"), want) {
		t.Errorf("docs/SECURITY.md does not have the line %q", want)
	}
}
