package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// rendered returns a page as a terminal of 80 columns shows it. A warning of man's fails the test.
func rendered(t *testing.T, file string) string {
	t.Helper()
	cmd := exec.Command("man", "--warnings", "--local-file", file)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80", "MAN_KEEP_FORMATTING=", "MANROFFOPT=-c")
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: run `make tools`, or install the package man-db\n%s", err, &warnings)
	}
	if warnings.Len() > 0 {
		t.Errorf("man warns of %s:\n%s", filepath.Base(file), &warnings)
	}
	return string(out)
}

func TestThePagesRenderWithoutAWarningAndHaveEveryKeyAndCommand(t *testing.T) {
	folder := t.TempDir()
	if err := write(root, "1.2.3", folder); err != nil {
		t.Fatal(err)
	}

	for _, p := range pages {
		source, err := os.ReadFile(filepath.Join(root, p.source))
		if err != nil {
			t.Fatal(err)
		}
		marks := map[string]string{ // beginnings of terms and sections
			"edged.8":         `(?m)^# (.+)$`,
			"edged.toml.5":    `(?m)^#?([a-z_]+) = `,
			"edged-control.7": "(?m)^### `(.+)`$",
		}[p.name]
		text := rendered(t, filepath.Join(folder, p.name))
		wanted := regexp.MustCompile(marks).FindAllStringSubmatch(string(source), -1)
		if len(wanted) < 8 {
			t.Errorf("%s has only %d keys, commands or sections", p.source, len(wanted))
		}
		for _, w := range wanted {
			if !regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(w[1]) + `( |$)`).MatchString(text) {
				t.Errorf("%s does not have %s", p.name, w[1])
			}
		}
		if !strings.Contains(text, "edged 1.2.3") {
			t.Errorf("%s does not say of which version it is", p.name)
		}
	}
}
