package daemon

import (
	"math"
	"strings"
	"testing"
)

func TestConnectionsAreLoweredToWhatTheLimitOfOpenFilesHolds(t *testing.T) {
	for _, c := range []struct {
		configured int
		files      uint64
		fit        int
	}{
		{1024, math.MaxUint64, 1024}, // RLIM_INFINITY
		{1024, 1024 + ownFiles, 1024},
		{1024, 1024 + ownFiles - 1, 1023},
		{1024, ownFiles + 1, 1},
		{1024, ownFiles, 1},
		{1024, 0, 1},
		{1_000_000, 1024, 1024 - ownFiles},
	} {
		fit, shortage := fitConnections(c.configured, c.files)
		if fit != c.fit {
			t.Errorf("%d connections in %d files: %d fit, want %d", c.configured, c.files, fit, c.fit)
		}
		if lowered := fit < c.configured; lowered != strings.Contains(shortage, "LimitNOFILE=") {
			t.Errorf("%d connections in %d files: %q", c.configured, c.files, shortage)
		}
	}
}
