#!/bin/bash
# Brings every Go module and npm package up to date, runs `make check test`, and
# lists the changes. It commits nothing: `git diff` shows the outcome, and
# `git checkout` takes it back.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=". test test/compat test/browser test/monitor bench examples/go tools" # the rest builds on the first
packages="test/js examples/javascript"

# Prints "folder module version" for each requirement.
requirements() {
	local folder
	for folder in $modules; do
		awk -v folder="$folder" \
			'{ sub(/^require /, "") } $2 ~ /^v[0-9]/ { print folder, $1, $2 }' "$folder/go.mod"
	done
	for folder in $packages; do
		cat "$folder"/package*.json | awk -F '"' -v folder="$folder" '
			/^    "node_modules/ { name = substr($2, 14); next }
			/^    "/ && $4 { print folder, $2, $4 }
			/^      "version"/ { print folder, name, $4 }' | sort -u
	done
}

# Updates the module in this folder. Tools keep the dependencies that their
# authors chose; one whose new version can't be had stays as it is.
update_module() {
	if [ -n "$(go list ./... 2>/dev/null)" ]; then
		go get -u -t ./...
	fi
	local tool
	for tool in $(go list tool 2>/dev/null); do
		go get "$tool@latest" || echo "update: $tool is left as it is" >&2
	done
	go mod tidy
}

# Updates the npm package in this folder: exact versions of its dependencies, and the
# newest ones of their dependencies that those allow.
update_package() {
	local name
	for name in $(node -p 'Object.keys(require("./package.json").dependencies).join(" ")'); do
		npm pkg set "dependencies[$name]=$(npm view "$name" version)"
	done
	if [ -e package-lock.json ]; then
		npm update --package-lock-only --silent
	fi
}

before=$(requirements)
for folder in $modules; do
	echo "update: $folder"
	(cd "$folder" && update_module)
done
for folder in $packages; do
	echo "update: $folder"
	(cd "$folder" && update_package)
done
after=$(requirements)

outcome=0
make check test || outcome=$?

if [ "$before" = "$after" ]; then
	echo "update: everything was up to date"
else
	echo "update: the changes:"
fi
awk '
	NR == FNR { old[$1 " " $2] = $3; next }
	{ is = old[$1 " " $2]; delete old[$1 " " $2] }
	is == "" { is = "none" }
	is != $3 { print "  " $1 ": " $2 " " is " -> " $3 }
	END { for (gone in old) { split(gone, word, " "); print "  " word[1] ": " word[2] " " old[gone] " -> none" } }
' <(echo "$before") <(echo "$after")
[ "$outcome" = 0 ] || echo "update: make check test failed with these changes" >&2
exit "$outcome"
