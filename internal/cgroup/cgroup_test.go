package cgroup

import (
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v2 = "sys/fs/cgroup/"
	v1 = "sys/fs/cgroup/memory/"
)

func TestTheSmallestLimitOfTheGroupAndThoseAboveCounts(t *testing.T) {
	for name, c := range map[string]struct {
		groups string // proc/self/cgroup
		limits map[string]string
		want   int64
	}{
		"no limit": {"0::/system.slice/edged.service\n", map[string]string{v2 + "system.slice/edged.service/memory.max": "max\n"}, 0},
		"its own": {"0::/system.slice/edged.service\n", map[string]string{v2 + "system.slice/edged.service/memory.max": "33554432\n",
			v2 + "system.slice/memory.max": "67108864\n"}, 32 << 20},
		"the slice's": {"0::/system.slice/edged.service\n", map[string]string{v2 + "system.slice/edged.service/memory.max": "max\n",
			v2 + "system.slice/memory.max": "67108864\n"}, 64 << 20},
		"in a container":           {"0::/\n", map[string]string{v2 + "memory.max": "33554432\n"}, 32 << 20},
		"outside of the namespace": {"0::/../../other\n", map[string]string{v2 + "memory.max": "33554432\n"}, 32 << 20},
		"first version": {"9:name=systemd:/system.slice\n4:memory:/system.slice/edged.service\n0::/\n", map[string]string{
			v1 + "system.slice/edged.service/memory.limit_in_bytes": "33554432\n", v1 + "memory.limit_in_bytes": "9223372036854771712\n"}, 32 << 20},
		"first version, no limit":    {"4:cpu,memory:/\n", map[string]string{v1 + "memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"first version, 32 bits":     {"4:memory:/\n", map[string]string{v1 + "memory.limit_in_bytes": "8796093018112\n"}, 0},
		"a group that can't be seen": {"4:memory:/docker/0123\n", map[string]string{v1 + "memory.limit_in_bytes": "33554432\n"}, 32 << 20},
		"another controller":         {"4:memoryless:/\n", map[string]string{v1 + "memory.limit_in_bytes": "33554432\n"}, 0},
		"a colon in the path":        {"0::/a:b\n", map[string]string{v2 + "a:b/memory.max": "33554432\n"}, 32 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(c.groups)}}
			for file, text := range c.limits {
				root[file] = &fstest.MapFile{Data: []byte(text)}
			}
			if got, err := MemoryLimit(root); got != c.want || err != nil {
				t.Errorf("the limit is %d (%v), want %d", got, err, c.want)
			}
		})
	}
}

func TestWithoutControlGroupsThereIsNoLimit(t *testing.T) {
	if got, err := MemoryLimit(fstest.MapFS{}); got != 0 || err != nil {
		t.Errorf("the limit is %d (%v), want none", got, err)
	}
}

func TestAFileThatCannotBeParsedIsNamed(t *testing.T) {
	for file, text := range map[string]string{"proc/self/cgroup": "nonsense\n", v2 + "memory.max": "much\n"} {
		root := fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}}
		root[file] = &fstest.MapFile{Data: []byte(text)}
		if limit, err := MemoryLimit(root); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s with %q: %d, %v", file, text, limit, err)
		}
	}
}
