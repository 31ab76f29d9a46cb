#!/bin/sh
# check.sh STATICCHECK GOVULNCHECK: looks at all modules without running them.
set -eu
staticcheck=$1 govulncheck=$2
failed=0

unformatted=$(gofmt -l cmd internal docs test examples bench)
if [ -n "$unformatted" ]; then
	echo "gofmt: run \`make fmt\` for: $unformatted" >&2
	failed=1
fi

for module in . test test/compat examples/go bench; do
	(
		cd "$module"
		echo "check $module: go mod tidy, go vet, staticcheck"
		GOFLAGS=-mod=mod go mod tidy -diff
		go vet ./...
		go run "$staticcheck" ./...
	) || failed=1
done

echo "check: govulncheck"
log=$(mktemp)
if ! go run "$govulncheck" ./... >"$log" 2>&1; then
	if grep -q 'fetching vulnerabilities\|dial tcp\|no such host\|Forbidden\|connection refused' "$log"; then
		echo "govulncheck: NOT CHECKED, the vulnerability database can't be reached from here" >&2
	else
		cat "$log" >&2
		failed=1
	fi
fi
rm -f "$log"
exit $failed
