#!/bin/sh
# Looks at all modules without running them.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
failed=0

tool() { go tool -modfile="$root/tools/go.mod" "$@"; }

unformatted=$(gofmt -l cmd internal docs test examples bench scripts)
if [ -n "$unformatted" ]; then
	echo "gofmt: run \`make fmt\` for: $unformatted" >&2
	failed=1
fi

for module in . test test/compat test/browser examples/go bench; do
	(
		echo "check $module: go mod tidy, go vet, staticcheck"
		# The shell ignores set -e on the left of ||, so each step hangs on the last.
		cd "$module" &&
			GOFLAGS=-mod=mod go mod tidy -diff &&
			go vet ./... &&
			tool staticcheck ./...
	) || failed=1
done

echo "check: govulncheck"
log=$(mktemp)
if ! tool govulncheck ./... >"$log" 2>&1; then
	if grep -q 'fetching vulnerabilities\|dial tcp\|no such host\|Forbidden\|connection refused' "$log"; then
		echo "govulncheck: NOT CHECKED, the vulnerability database can't be reached from here" >&2
	else
		cat "$log" >&2
		failed=1
	fi
fi
rm -f "$log"
exit $failed
