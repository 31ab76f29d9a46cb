#!/bin/sh
# Installs the packages that the tests need and this machine lacks, on Debian and its
# derivatives as root or with sudo. Elsewhere it lists them. `tools.sh box` adds those
# of `make test-arm64-system`.
set -eu

need() { # command package
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
missing=""
need redis-server redis-server
need socat socat
need script bsdutils # a terminal for the program nats
need gcc gcc # for the race detector
need node nodejs
need npm npm
need python3 python3
need man man-db
[ -e /usr/include/nats/nats.h ] || missing="$missing libnats-dev" # the C client
need systemctl systemd # for the lab of test/systemd, and to look at the units
need nsenter util-linux
need qemu-aarch64-static qemu-user-static
need file file
need lintian lintian
need chromium chromium # for the page
if [ "${1:-}" = box ]; then
	need qemu-system-aarch64 qemu-system-arm
	need debootstrap debootstrap
	need fakeroot fakeroot
	need cpio cpio
	need ar binutils
	need debugfs e2fsprogs
fi
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
	as_root="sudo -n"
	$as_root true 2>/dev/null || as_root=none
fi
if [ "$as_root" = none ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "The tests need:$missing (Debian's names). Please install them and try again." >&2
	exit 1
fi
case "$missing" in *gcc*) missing="$missing libc6-dev" ;; esac
echo "Installing what the tests need:$missing"
# Debian starts services that are installed; this one the tests start themselves.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
	$as_root chmod +x "$policy"
	trap '$as_root rm -f "$policy"' EXIT
fi
$as_root apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
