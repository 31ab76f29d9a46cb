package main

import (
	"strings"
	"testing"
)

const (
	open     = "# Changelog\n\n## Unreleased\n\n- Added: one.\n\n## 0.1.0 - 2026-11-01\n\n- Unreleased once.\n"
	released = "# Changelog\n\n## 0.2.0 - 2026-12-01\n\n- Added: one.\n\n## 0.1.0 - 2026-11-01\n\n- Unreleased once.\n"
)

func TestTheUnreleasedSectionBecomesTheVersions(t *testing.T) {
	if got, err := release(open, "0.2.0", "2026-12-01"); err != nil || got != released {
		t.Errorf("got %v:\n%s", err, got)
	}
}

func TestAReleasedVersionKeepsItsDate(t *testing.T) {
	if got, err := release(released, "0.2.0", "2026-12-24"); err != nil || got != released {
		t.Errorf("got %v:\n%s", err, got)
	}
}

func TestAReleaseWithoutASectionIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, version, want string }{
		{"changes after the release", open, "0.1.0", "raise VERSION"},
		{"no changes", released, "0.3.0", "no changes"},
		{"a version that another begins with", released, "0.2", "no changes"},
	} {
		if got, err := release(c.text, c.version, "2026-12-01"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %q", c.name, err, got)
		}
	}
}
