package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// makePackage makes a package of this version and puts it into the lab, once.
func makePackage(t *testing.T, version string) (path string) {
	t.Helper()
	arch := map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf"}[runtime.GOARCH]
	name := "edged_" + version + "_" + arch + ".deb"
	path = "/srv/" + name
	if _, err := os.Stat(root + path); err == nil {
		return path
	}

	cmd := exec.Command("make", "-s", "deb", "VERSION="+version, "DEBS="+arch)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	made := filepath.Join("..", "..", "bin", name)
	data, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if version != shipped {
		os.Remove(made)
		os.Remove(strings.TrimSuffix(made, "deb") + "sbom.json")
	} else if out, err := exec.Command("lintian", "--allow-root", "--fail-on", "warning", made).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	if err := os.WriteFile(root+path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	shipped = "0.1.0"
	older   = "0.0.9"
)

// everything lists edged's files in the lab by name, and the user that it runs as.
const everything = `find /etc /run /usr /var -name '*edged*' -not -name 'edged-lab*' -print
	getent passwd edged || true; getent group edged || true`

// keptChange checks that the file that the operator changed is there, and no other version beside
// it.
func keptChange(t *testing.T) {
	t.Helper()
	if got := sh(t, "grep timeout /etc/edged/edged.toml; ls -A /etc/edged"); !strings.Contains(got, "500ms") || !strings.HasSuffix(got, "\nedged.toml") {
		t.Errorf("of the operator's configuration is left: %q", got)
	}
}

// bare removes everything of edged's from the lab, packaged or not.
func bare(t *testing.T) {
	t.Helper()
	sh(t, `rm -f /var/lib/man-db/auto-update # the database of all manual pages takes seconds
		dpkg --purge edged 2>/dev/null
		rm -rf /etc/systemd/system/edged.service* /etc/systemd/system/edged*.socket /usr/bin/edged* /etc/edged
		rm -rf /etc/sysusers.d/edged* /run/edged
		if getent passwd edged; then userdel edged; fi; if getent group edged; then groupdel edged; fi; systemctl daemon-reload`)
}

// From here on the tests replace edged in the lab by the package.
func TestThePackageIsInstalledUpgradedUnderLoadRemovedAndPurged(t *testing.T) {
	prepare(t, "")
	bare(t)
	before := sh(t, everything)

	sh(t, "dpkg -i "+makePackage(t, older))
	if got := sh(t, "systemctl is-enabled edged.service edged.socket edged-control.socket || true; systemctl is-active edged.service edged.socket edged-control.socket || true"); got != "disabled\ndisabled\ndisabled\ninactive\ninactive\ninactive" {
		t.Errorf("the installation enabled or started something: %q", got)
	}
	if got := sh(t, "id -un edged; dpkg-query -W -f '${Conffiles}' edged; stat -c '%a %U %G' /etc/edged/edged.toml; cmp /etc/edged/edged.toml /usr/share/edged/edged.toml"); got != "edged\n644 root root" {
		t.Errorf("the user, dpkg's configuration files and the reference are %q", got)
	}
	sh(t, "ls /usr/share/man/man8/edged.8.gz /usr/share/bash-completion/completions/edged /usr/share/zsh/vendor-completions/_edged")

	// The operator's changes.
	sh(t, `echo '[drain]
		timeout = "500ms"' >/etc/edged/edged.toml
		systemctl --quiet enable edged.socket edged.service
		systemctl start edged.socket edged.service`)
	stop := keepAsking(t)
	sh(t, "dpkg -i "+makePackage(t, shipped))
	if got := control(t, "version"); !strings.Contains(got, shipped) {
		t.Errorf("after the upgrade the version is %q", got)
	}
	stop()
	keptChange(t)
	sh(t, "dpkg -i "+makePackage(t, older)+" && dpkg -i "+makePackage(t, shipped))
	keptChange(t)

	// An upgrade to a version that does not accept the configuration leaves edged running.
	pid := sh(t, show("MainPID"))
	sh(t, "echo nonsense = 1 >>/etc/edged/edged.toml")
	if out := sh(t, "dpkg -i "+"/srv/edged_"+shipped+"_*.deb 2>&1"); !strings.Contains(out, "nonsense") {
		t.Errorf("the installation does not name the mistake: %s", out)
	}
	if now := sh(t, show("MainPID")); now != pid {
		t.Error("edged was restarted with a configuration that it would not start with")
	}

	sh(t, "dpkg --remove edged")
	if got := sh(t, "systemctl is-active edged.service edged.socket || true; ls /etc/edged"); got != "inactive\ninactive\nedged.toml" {
		t.Errorf("after the removal: %q", got)
	}
	sh(t, "dpkg --purge edged")
	if after := sh(t, everything); after != before {
		t.Errorf("the purge leaves\n%s\nin place of\n%s", after, before)
	}
}

// conffile repacks a package as one of an earlier version, whose configuration is a conffile of
// dpkg's.
func conffile(t *testing.T, version string) (path string) {
	t.Helper()
	path = "/srv/edged_" + version + "_conffile.deb"
	sh(t, "rm -rf /srv/repacked; dpkg-deb -R "+makePackage(t, older)+` /srv/repacked; cd /srv/repacked
		mv usr/share/edged/edged.toml etc/edged/edged.toml; rmdir usr/share/edged
		echo /etc/edged/edged.toml >DEBIAN/conffiles
		sed -i '/edged.toml/d' DEBIAN/md5sums; sed -i '/install -m 644/d; /^\tfile=/d' DEBIAN/postinst; sed -i '/if \[ -z "$2" \]/,/^\tfi/d' DEBIAN/postinst
		sed -i 's/^Version: .*/Version: `+version+`/' DEBIAN/control
		dpkg-deb --root-owner-group -b . `+path)
	return path
}

// dpkg's standard input is /dev/null here, so a question would be an error.
func TestAChangedConffileSurvivesTheUpgradeAndTheWayBack(t *testing.T) {
	prepare(t, "")
	bare(t)
	t.Cleanup(func() { bare(t) })
	before := sh(t, everything)

	earlier := conffile(t, "0.0.8")
	sh(t, "dpkg -i "+earlier)
	if got := sh(t, "dpkg-query -W -f '${Conffiles}' edged"); !strings.Contains(got, "/etc/edged/edged.toml") {
		t.Fatalf("the earlier package has no conffile: %q", got)
	}
	sh(t, `printf '[drain]\ntimeout = "500ms"\n' >/etc/edged/edged.toml; systemctl start edged.socket edged.service`)
	for _, upgrade := range []struct{ file, version string }{
		{makePackage(t, shipped), shipped}, {earlier, older}, {makePackage(t, shipped), shipped},
	} {
		sh(t, "dpkg -i "+upgrade.file)
		keptChange(t)
		if got := control(t, "version"); !strings.Contains(got, upgrade.version) {
			t.Errorf("after %s the version is %q", upgrade.file, got)
		}
	}
	sh(t, "dpkg --purge edged")
	if after := sh(t, everything); after != before {
		t.Errorf("the purge leaves\n%s\nin place of\n%s", after, before)
	}
}

// The loop for many boxes, with commands of this box instead of ssh and scp. The second box has no
// Redis.
func TestTheLoopForManyBoxesStopsAtTheFirstThatIsNotWell(t *testing.T) {
	doc, err := os.ReadFile("../../docs/DEPLOY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, loop, found := strings.Cut(string(doc), "\n## Many boxes\n")
	_, loop, opened := strings.Cut(loop, "\n```sh\n")
	loop, _, closed := strings.Cut(loop, "```\n")
	if !found || !opened || !closed || !strings.Contains(loop, "for box in $(cat boxes)") || strings.Count(loop, "0.2.0") != 2 {
		t.Fatalf("docs/DEPLOY.md has no loop for many boxes:\n%s", loop)
	}

	prepare(t, "")
	bare(t)
	t.Cleanup(func() {
		sh(t, "systemctl start redis-server")
		bare(t)
	})
	sh(t, "dpkg -i "+makePackage(t, older)+"; systemctl --quiet enable --now edged.socket edged.service")
	sh(t, "mkdir -p /srv/fleet/bin; cp "+makePackage(t, shipped)+" /srv/fleet/bin/")
	run := func(boxes string) string {
		return sh(t, `cd /srv/fleet; printf '%s\n' `+boxes+` >boxes
			ssh() {
				if [ "$1" = root@broken ]; then systemctl stop redis-server; fi
				shift; sh -c "$*"
			}
			scp() { cp "$2" "${3#root@*:}"; }
			`+strings.ReplaceAll(loop, "0.2.0", shipped))
	}
	if out := run("first"); strings.Contains(out, "not well") || strings.Count(out, "edged "+shipped) != 1 {
		t.Errorf("one box that is well:\n%s", out)
	}
	if got := control(t, "version"); !strings.Contains(got, shipped) {
		t.Errorf("the box has the version %q", got)
	}
	if out := run("first broken third"); !strings.HasSuffix(out, "\nbroken is not well; stopped here") ||
		strings.Count(out, "edged "+shipped) != 2 || !strings.Contains(out, "\nfault      list events: ") {
		t.Errorf("three boxes, the second without Redis:\n%s", out)
	}
}

// The commands of docs/DEPLOY.md for a bare box, except apt-get, which has no network in the lab.
// The test comes after those above, which leave a bare box, and uses Debian's own redis-server.
func TestTheCommandsOfTheDocumentMakeABareBoxARelay(t *testing.T) {
	doc, err := os.ReadFile("../../docs/DEPLOY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, commands, found := strings.Cut(string(doc), "\n```sh\napt-get update && apt-get install -y redis-server socat\n")
	commands, _, closed := strings.Cut(commands, "```\n")
	if !found || !closed {
		t.Fatal("docs/DEPLOY.md has no commands for the box")
	}
	document := "edged_" + shipped + "_arm64.deb"
	if !strings.Contains(commands, "dpkg -i "+document) {
		t.Fatalf("docs/DEPLOY.md does not install %s", document)
	}
	sh(t, `systemctl stop redis-server; rm /etc/systemd/system/redis-server.service; systemctl daemon-reload`)
	if out := sh(t, strings.Replace(commands, document, makePackage(t, shipped), 1)); !strings.HasSuffix(out, "\nevents hello") {
		t.Errorf("the commands print:\n%s", out)
	}
	if got := sh(t, "systemctl is-active edged.socket edged-control.socket edged-status.socket edged; "+show("PrivateNetwork")); got != "active\nactive\nactive\nactive\nyes" {
		t.Errorf("afterwards: %q", got)
	}
	if got := sh(t, "echo status | socat - UNIX-CONNECT:/run/edged/status.sock"); !strings.Contains(got, "serving") || strings.Contains(got, "fault") {
		t.Errorf("status is %q", got)
	}
	if got := sh(t, "journalctl --quiet --output=cat -p warning _SYSTEMD_INVOCATION_ID=$("+show("InvocationID")+")"); got != "" {
		t.Errorf("edged warns of:\n%s", got)
	}

	// Clients from other machines.
	_, text, found := strings.Cut(string(doc), "\n## Clients from other machines: TLS and users\n")
	_, secure, opened := strings.Cut(text, "\n```sh\n")
	secure, text, _ = strings.Cut(secure, "```\n")
	_, checks, more := strings.Cut(text, "\n```sh\n")
	checks, _, _ = strings.Cut(checks, "```\n")
	if !found || !opened || !more {
		t.Fatal("docs/DEPLOY.md has no commands for TLS and users")
	}
	sh(t, secure)
	if out := sh(t, checks); out != "1\nevents hello\nconfirmed 1 of 1\n21" {
		t.Errorf("the checks print:\n%s", out)
	}

	// The way back to the older version.
	if out := sh(t, "dpkg -i "+makePackage(t, older)+" 2>&1; edged ctl version"); !strings.Contains(out, "edged "+older) {
		t.Errorf("after going back:\n%s", out)
	}
}
