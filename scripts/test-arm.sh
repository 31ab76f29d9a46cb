#!/bin/bash
# test-arm.sh: tests bin/edged-arm64 and bin/edged-armv7 on an emulated processor,
# with qemu's user mode. `make test-arm64` builds them first.
#
# Left out, by name: cmd/edged, cmd/edged-dev and a test of internal/signals start
# themselves as another process, which needs binfmt; internal/poller and
# internal/inbound take over a minute (10,000 items through the whole daemon below
# stand in for them); most random plays of internal/relay.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

for need in qemu-aarch64-static qemu-arm-static redis-server redis-cli; do
	command -v $need >/dev/null || { echo "test-arm64 needs $need: run \`make tools\`" >&2; exit 1; }
done
folder=$(mktemp -d /tmp/edged-arm.XXXX)
redis='' edged=''
trap 'kill $edged $redis 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

echo "arm: two builds, in two folders, are the same to the byte"
mkdir "$folder/copy"
tar --exclude=./bin --exclude=node_modules -cf - . | tar -xf - -C "$folder/copy"
make -s -C "$folder/copy" build-arm64 build-armv7 VERSION="$VERSION"
for arch in arm64 armv7; do
	cmp "bin/edged-$arch" "$folder/copy/bin/edged-$arch"
	if file -b "bin/edged-$arch" 2>/dev/null | grep -q 'dynamically linked\|not stripped'; then
		echo "bin/edged-$arch is not static, or not stripped" >&2
		exit 1
	fi
done

echo "arm: unit tests, emulated"
GOARCH=arm64 go test -timeout 200s -exec qemu-aarch64-static -skip 'TestAClosedStandardOutput|TestTheRuleHoldsWhateverHappens' \
	./internal/{batch,client,config,relay,signals,systemd,tcpserver,uds,watchdog}
GOARCH=arm GOARM=7 go test -timeout 200s -exec qemu-arm-static -skip TestTheRuleHoldsWhateverHappens \
	./internal/{batch,relay,tcpserver}

# till CONDITION: waits until it holds.
till() {
	for _ in {1..300}; do
		if eval "$1"; then return; fi
		sleep 0.1
	done
	echo "in vain: $1" >&2
	cat "$folder"/log* >&2
	exit 1
}

redis-server --port 0 --unixsocket "$folder/redis" --save '' >"$folder/log.redis" &
redis=$!
till 'redis-cli -s "$folder/redis" ping >/dev/null 2>&1'
cat >"$folder/edged.toml" <<TOML
[redis]
address = "unix://$folder/redis"
[tcp]
listen = "127.0.0.1:0"
[control]
socket = "$folder/control"
TOML
grep -q status_socket configs/edged.toml && echo "status_socket = \"$folder/status\"" >>"$folder/edged.toml"
run() { # ARCH QEMU
	echo "arm: bin/edged-$1: 10,000 items through it, then SIGTERM"
	local log=$folder/log.$1
	"$2" "bin/edged-$1" -config "$folder/edged.toml" 2>"$log" &
	edged=$!
	till 'grep -q "\"serving\"" "$folder/log.'"$1"'"'
	seq 10000 | xargs -n 1000 redis-cli -s "$folder/redis" rpush events >/dev/null
	address=$(sed -n 's/.*"serving".*"tcp":"\([^"]*\)".*/\1/p' "$log")
	"$2" "bin/edged-$1" sub -server "$address" -count 10000 -timeout 60s events >"$folder/items"
	sed 's/^events //' "$folder/items" | sort -n | cmp - <(seq 10000)
	kill -TERM "$edged"
	local code=0
	wait "$edged" || code=$?
	if [ $code != 0 ] || [ "$(redis-cli -s "$folder/redis" llen events)" != 0 ]; then
		echo "bin/edged-$1 ended with $code, and left items:" >&2
		cat "$log" >&2
		exit 1
	fi
	edged=''
}
run arm64 qemu-aarch64-static
run armv7 qemu-arm-static
