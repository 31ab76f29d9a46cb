#!/bin/bash
# wear.sh: the bytes that reach the disk when Redis keeps an append-only file and items come
# one by one: bytes a second, for some rates. It needs root, for a file system of its
# own (ext4, as on an SD card) in a file, and a bin/edged (`make build`).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${SECONDS_EACH:-30}
folder=$(mktemp -d /tmp/edged-wear.XXXX)
redis='' edged='' sub=''
trap 'kill $sub $edged $redis 2>/dev/null || true; wait; umount "$folder/disk" 2>/dev/null || true; rm -rf "$folder"' EXIT

truncate -s 512M "$folder/image"
mkfs.ext4 -q "$folder/image"
mkdir "$folder/disk"
mount -o loop "$folder/image" "$folder/disk"
device=$(basename "$(findmnt -no SOURCE "$folder/disk")")
redis-server --port 0 --unixsocket "$folder/redis" --save '' --appendonly yes --dir "$folder/disk" >"$folder/log" &
redis=$!
cat >"$folder/edged.toml" <<TOML
redis.address = "unix://$folder/redis"
tcp.listen = "127.0.0.1:14222"
control.socket = "$folder/control"
TOML
bin/edged -config "$folder/edged.toml" 2>>"$folder/log" &
edged=$!
for _ in {1..100}; do if bin/edged ctl -socket "$folder/control" status >/dev/null 2>&1; then break; fi; sleep 0.1; done
bin/edged sub -server 127.0.0.1:14222 events >/dev/null &
sub=$!
item=$(printf 'x%.0s' {1..256})

# Bytes in the append-only file, and that have gone to the disk.
appended() { cat "$folder"/disk/appendonlydir/*.incr.aof | wc -c; }
written() { echo $(($(awk '{ print $7 }' "/sys/block/$device/stat") * 512)); }

sleep 5
echo "items/s  to the append-only file, B/s  to the disk, B/s"
while read -r rate pause; do # about so many items a second
	sync -f "$folder/disk"
	from=$(written) aof=$(appended) end=$((SECONDS + seconds))
	while [ $SECONDS -lt $end ]; do
		for ((i = 0; i < rate; i++)); do
			echo "RPUSH events $item"
			sleep "$pause"
		done
		if [ "$rate" = 0 ]; then sleep 1; fi
	done | redis-cli -s "$folder/redis" >/dev/null
	sync -f "$folder/disk"
	printf '%-7s  %-28s  %s\n' "$rate" $((($(appended) - aof) / seconds)) $((($(written) - from) / seconds))
done <<RATES
0 0
1 0.99
10 0.097
100 0.008
RATES
