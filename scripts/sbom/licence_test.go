package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryPartOfAProgramHasItsLicence(t *testing.T) {
	parts := []component{{Name: "std"}}
	for _, name := range []string{"github.com/BurntSushi/toml", "github.com/coreos/go-systemd/v22", "github.com/redis/go-redis/v9"} {
		version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, component{Name: name, Version: strings.TrimSpace(string(version))})
	}

	if err := addLicenses(parts); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"BSD-3-Clause", "MIT", "Apache-2.0", "BSD-2-Clause"} {
		got := parts[i].Licenses[0].License
		if got.ID != want || len(got.Text.Content) < 500 {
			t.Errorf("%s has the licence %q, of %d bytes; want %s", parts[i].Name, got.ID, len(got.Text.Content), want)
		}
	}

	if text := parts[2].Licenses[0].License.Text.Content; !strings.Contains(text, "This product includes software developed at CoreOS") {
		t.Error("the NOTICE of go-systemd is missing")
	}
}

func TestAnUnknownLicenceIsAnError(t *testing.T) {
	folder := t.TempDir()
	if _, err := licenseIn(folder); err == nil {
		t.Error("no licence passed for one")
	}
	if err := os.WriteFile(filepath.Join(folder, "LICENSE"), []byte("All rights reserved."), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := licenseIn(folder); err == nil || !strings.Contains(err.Error(), "scripts/sbom") {
		t.Errorf("an unknown licence gave %v", err)
	}
}
