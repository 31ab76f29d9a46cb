#!/bin/sh
# Writes DIR/overlay.json for `go test -overlay`: a Go runtime whose chance is the same in
# each process (it orders timers of one instant, cases of a select, and maps), and which
# does not preempt. With it, a scenario of the simulator tells the same story each time.
set -eu
mkdir -p "$1"
dir=$(cd "$1" && pwd)
source=$(go env GOROOT)/src/runtime

# patch FILE EXPRESSION: a sed expression that must change something
patch() {
	[ -e "$dir/$1" ] || cp "$source/$1" "$dir/$1"
	sed "$2" "$dir/$1" >"$dir/new"
	if cmp -s "$dir/new" "$dir/$1"; then
		echo "fixed-chance: $source/$1 has changed; adapt scripts/fixed-chance.sh. Until then stories differ from run to run." >&2
		printf '{}\n' >"$dir/overlay.json"
		exit 0
	fi
	mv "$dir/new" "$dir/$1"
}

rm -f "$dir"/*.go
# The hashes of maps.
patch rand.go 's/^	if len(startupRand) >= 16 &&$/	if seed[0] = 1; true {\n	} else if len(startupRand) >= 16 \&\&/'
# One generator for the process (splitmix64), not one for each thread.
patch rand.go 's/^func rand() uint64 {$/func rand() uint64 {\n\tchance += 0x9e3779b97f4a7c15\n\tz := chance\n\tz = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9\n\tz = (z ^ (z >> 27)) * 0x94d049bb133111eb\n\treturn z ^ (z >> 31)\n}\n\n\/\/go:nosplit\nfunc randOfThread() uint64 {/'
patch rand.go '$a\\nvar chance uint64 = 1'
patch rand.go 's/^	mp.cheaprand = rand()$/	mp.cheaprand = randOfThread()/'
patch select.go 's/cheaprandn(uint32(norder + 1))/randn(uint32(norder + 1))/'
patch time.go 's/t.rand = cheaprand()/t.rand = uint32(rand())/'
# No goroutine is preempted because the machine is busy with another process.
patch proc.go 's/^const forcePreemptNS = .*/const forcePreemptNS = 3600 * 1000 * 1000 * 1000/'
printf '{"Replace": {"%s/proc.go": "%s/proc.go", "%s/rand.go": "%s/rand.go", "%s/select.go": "%s/select.go", "%s/time.go": "%s/time.go"}}\n' \
	"$source" "$dir" "$source" "$dir" "$source" "$dir" "$source" "$dir" >"$dir/overlay.json"
