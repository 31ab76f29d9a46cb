// Package cgroup reads how much memory the control group of this process may use, in versions 1 and
// 2 of control groups, see cgroups(7).
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// MemoryLimit returns the smallest limit, in bytes, of this process's control group and its
// ancestors, or 0 if there is none. root is the file system's root. Groups that cannot be seen,
// such as those outside of a container, are skipped. An error is about a file that exists but
// cannot be read or parsed.
func MemoryLimit(root fs.FS) (int64, error) {
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without control groups
		return 0, nil
	}
	if err != nil {
		return 0, err
	}

	var smallest int64
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:path; version 2 is hierarchy 0, without controllers
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			return 0, fmt.Errorf("proc/self/cgroup has the line %q, which is not hierarchy:controllers:path", line)
		}
		var top, name string
		switch {
		case f[0] == "0":
			top, name = "sys/fs/cgroup", "memory.max"
		case hasMemory(f[1]):
			top, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// Rooted, so that Clean leaves no ".." of a group outside of the namespace.
		for group := path.Clean("/" + f[2]); ; group = path.Dir(group) {
			limit, err := read(root, path.Join(top, group, name))
			if err != nil {
				return 0, err
			}
			if limit > 0 && (smallest == 0 || limit < smallest) {
				smallest = limit
			}
			if group == "/" {
				break
			}
		}
	}

	return smallest, nil
}

func hasMemory(controllers string) bool {
	for name := range strings.SplitSeq(controllers, ",") {
		if name == "memory" {
			return true
		}
	}
	return false
}

// A limit of unlimited or more is none: without a limit, version 1 writes the largest number that
// it can count, 8 TiB on 32-bit machines and 8 EiB on 64-bit ones.
const unlimited = 1 << 42

// read returns the limit in a file, or 0 if there is none.
func read(root fs.FS, file string) (int64, error) {
	data, err := fs.ReadFile(root, file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}

	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}

	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s has %q, which is no number of bytes", file, text)
	}
	if limit >= unlimited {
		return 0, nil
	}
	return limit, nil
}
