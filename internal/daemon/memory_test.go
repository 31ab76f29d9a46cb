package daemon

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"

	"go.uber.org/zap"
)

func TestTheMemoryLimitLeavesRoomInTheControlGroup(t *testing.T) {
	limitedTo := func(bytes string) fstest.MapFS {
		return fstest.MapFS{
			"proc/self/cgroup":         {Data: []byte("0::/\n")},
			"sys/fs/cgroup/memory.max": {Data: []byte(bytes + "\n")},
		}
	}
	for _, c := range []struct {
		name, environment string
		root              fstest.MapFS
		want              int64
	}{
		{"a limit", "", limitedTo("1000000000"), 900_000_000 - programPages},
		{"a low limit", "", limitedTo("10000000"), 5_000_000},
		{"no limit", "", fstest.MapFS{}, math.MaxInt64},
		{"GOMEMLIMIT set", "off", limitedTo("1000000000"), math.MaxInt64},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", c.environment)
			before := debug.SetMemoryLimit(math.MaxInt64)
			defer debug.SetMemoryLimit(before)
			limitMemory(c.root, zap.NewNop())
			if got := debug.SetMemoryLimit(-1); got != c.want {
				t.Errorf("the limit is %d, want %d", got, c.want)
			}
		})
	}
}
