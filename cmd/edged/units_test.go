package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edged/internal/config"
	"edged/internal/daemon"
)

const unitFolder = "../../deploy/systemd"

// unitFiles are the units that the package installs.
var unitFiles = []string{"edged.service", "edged.socket", "edged-control.socket", "edged-status.socket", "edged-http.socket"}

// settings returns the settings of a unit file. The values of a key that appears several times are
// joined with a space; an empty value removes the earlier ones.
func settings(t *testing.T, name string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, line := range unitLines(t, name) {
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			if value == "" {
				delete(all, key)
			}
			all[key] = strings.TrimSpace(all[key] + " " + value)
		}
	}
	return all
}

func unitLines(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(unitFolder, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func TestUnitFileFitsTheProgram(t *testing.T) {
	unit := settings(t, "edged.service")
	for key, want := range map[string]string{
		"Type":                     "notify",
		"RestartPreventExitStatus": fmt.Sprint(exitConfig),
		"Restart":                  "on-failure", // a drain ends with 0 and is not restarted
		"StartLimitIntervalSec":    "0",          // never given up
		"RuntimeDirectoryPreserve": "yes",        // otherwise a stop removes the sockets of the .socket units
	} {
		if unit[key] != want {
			t.Errorf("%s=%s, want %s", key, unit[key], want)
		}
	}

	if unit["PrivateUsers"] != "" {
		t.Error("PrivateUsers= hides the users of the control sockets from edged")
	}

	if adjust, err := strconv.Atoi(unit["OOMScoreAdjust"]); err != nil || adjust <= 0 {
		t.Errorf("OOMScoreAdjust=%s, want more than 0: edged loses nothing, Redis may", unit["OOMScoreAdjust"])
	}
	args := strings.Fields(unit["ExecStart"])[1:]
	if !slices.Equal(args, []string{"-config", defaultConfig}) {
		t.Errorf("ExecStart has the arguments %q, want -config %s", args, defaultConfig)
	}

	// A flag that does not exist would be a usage error, not a missing file.
	args[len(args)-1] = filepath.Join(t.TempDir(), "missing.toml")
	var stderr strings.Builder
	if code := run(args, &stderr, &stderr); code != exitFailed {
		t.Errorf("edged %s ends with %d: %s", strings.Join(args, " "), code, &stderr)
	}
	defaults, err := config.Load("")
	if err != nil {
		t.Fatal(err)
	}

	if folder := "/run/" + unit["RuntimeDirectory"]; filepath.Dir(defaults.Control.Socket) != folder {
		t.Errorf("the control socket's default is %s, which is not in %s of RuntimeDirectory", defaults.Control.Socket, folder)
	}
	defaults.TCP.TLS.CertFile = "cert.pem" // takes more memory
	var summary strings.Builder
	if daemon.Describe(&summary, defaults); unit["MemoryMax"] != "256M" || strings.Contains(summary.String(), "MemoryMax") {
		t.Errorf("MemoryMax=%s does not fit edged check, which says:\n%s", unit["MemoryMax"], &summary)
	}
	if stop, err := time.ParseDuration(unit["TimeoutStopSec"]); err != nil || stop <= time.Duration(defaults.Drain.Timeout) {
		t.Errorf("TimeoutStopSec=%s must be above the default of drain.timeout, %v", unit["TimeoutStopSec"], defaults.Drain.Timeout)
	}
}

func TestSocketUnitsFitTheProgram(t *testing.T) {
	defaults, err := config.Load("")
	if err != nil {
		t.Fatal(err)
	}

	for file, want := range map[string]map[string]string{
		"edged.socket":         {"FileDescriptorName": daemon.TCPSocket, "ListenStream": defaults.TCP.Listen, "Service": "edged.service"},
		"edged-control.socket": {"FileDescriptorName": daemon.ControlSocket, "ListenStream": defaults.Control.Socket, "Service": "edged.service", "SocketMode": "0660"},
		"edged-http.socket":    {"FileDescriptorName": daemon.HTTPSocket, "ListenStream": "127.0.0.1:8222", "Service": "edged.service"},
		"edged-status.socket":  {"FileDescriptorName": daemon.StatusSocket, "ListenStream": defaults.Control.StatusSocket, "Service": "edged.service", "SocketMode": "0666"},
	} {
		unit := settings(t, file)
		for key, value := range want {
			if unit[key] != value {
				t.Errorf("%s: %s=%s, want %s", file, key, unit[key], value)
			}
		}
	}
}

// To harden or loosen the unit, a reader must see why a line is there. So there is a comment above
// each setting, or above the first of its group.
func TestEverySettingOfTheServiceHasAComment(t *testing.T) {
	for _, file := range []string{"edged.service", "redis-socket.conf", "uplink-hub.conf"} {
		commented := false // by a comment since the last blank line or section
		for i, line := range unitLines(t, file) {
			switch {
			case line == "" || strings.HasPrefix(line, "["):
				commented = false
			case strings.HasPrefix(line, "#"):
				commented = true
			case !commented && !selfExplaining[strings.SplitN(line, "=", 2)[0]]:
				t.Errorf("%s:%d: %s has no comment", file, i+1, line)
			}
		}
	}
}

var selfExplaining = map[string]bool{"Description": true, "Documentation": true, "WantedBy": true}

// installUnits puts the units into a folder of their own, with a program and a configuration that
// exist, because systemd-analyze checks them.
func installUnits(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, file := range unitFiles {
		text := strings.Join(unitLines(t, file), "\n") + "\n"
		text = strings.ReplaceAll(text, "=/usr/bin/edged ", "="+self+" ")
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func haveAnalyze(t *testing.T) bool {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("NOT CHECKED: systemd-analyze is not installed, so the units are unchecked")
		return false
	}
	return true
}

func TestUnitFilesAreGoodForSystemd(t *testing.T) {
	if !haveAnalyze(t) {
		return
	}
	folder := installUnits(t)
	cmd := exec.Command("systemd-analyze", "verify")
	for _, file := range unitFiles {
		cmd.Args = append(cmd.Args, filepath.Join(folder, file))
	}
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+folder+":")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if err != nil || strings.Contains(line, folder) || strings.Contains(line, "edged") {
			t.Errorf("systemd-analyze verify: %v\n%s", err, line)
		}
	}
}

// Debian 12 has systemd 252, which ignores lines that it does not know. The list is the output of
// that version's `systemd --dump-configuration-items` for these sections.
func TestTheUnitsHaveNoLineThatSystemd252DoesNotKnow(t *testing.T) {
	known := map[string]bool{} // section and key
	section := ""
	for line := range strings.Lines(readDoc(t, "testdata/systemd-252.txt")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "[") {
			section = line
		}
		known[section+line] = true
	}

	for _, file := range append([]string{"redis-socket.conf", "uplink-hub.conf"}, unitFiles...) {
		section := ""
		for i, line := range unitLines(t, file) {
			if strings.HasPrefix(line, "[") {
				section = line
			}
			key, _, setting := strings.Cut(line, "=")
			if setting && !strings.HasPrefix(line, "#") && !known[section+key] {
				t.Errorf("%s:%d: systemd 252 knows no %s in %s", file, i+1, key, section)
			}
		}
	}
}

// Exposure as counted by `systemd-analyze security`, in tenths.
func TestTheUnitsAreHardened(t *testing.T) {
	if !haveAnalyze(t) {
		return
	}
	check := func(what string, tenths int, unit string) {
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", fmt.Sprintf("--threshold=%d", tenths), unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s: the exposure is above %.1f (%v):\n%s", what, float64(tenths)/10, err, out)
		}
	}
	folder := installUnits(t)
	unit := filepath.Join(folder, "edged.service")
	check("edged.service", 12, unit)

	plain, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	dropIn := strings.Join(unitLines(t, "redis-socket.conf"), "\n") + "\n"
	if err := os.WriteFile(unit, append(plain, "\n"+dropIn...), 0o600); err != nil {
		t.Fatal(err)
	}
	check("edged.service with redis-socket.conf", 4, unit)
}
