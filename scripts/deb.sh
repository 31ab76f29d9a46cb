#!/bin/bash
# deb.sh VERSION ARCH...: makes bin/edged_VERSION_ARCH.deb for each of the
# architectures, which are Debian's names, from the binaries and manual pages in
# bin/; bin/edged, which runs on this machine, writes the completions.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
shift
# The same sources make the same packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

for arch in "$@"; do
	binary=bin/edged-$arch
	[ "$arch" != armhf ] || binary=bin/edged-armv7
	share=bin/deb/share
	rm -rf bin/deb
	doc=$share/doc/edged
	mkdir -p "$doc"
	# The documents lie as they do in the sources, so that their links lead somewhere.
	cp --parents README.md CHANGELOG.md CONTRIBUTING.md docs/*.md docs/*.png deploy/grafana/edged.json deploy/prometheus/edged.rules.yml "$doc/"
	cp -r examples "$doc/"
	cp deploy/systemd/redis-socket.conf deploy/systemd/uplink-hub.conf configs/edged.toml "$doc/examples/"
	mkdir "$doc/configs" "$doc/deploy/systemd"
	ln -s ../examples/edged.toml "$doc/configs/edged.toml"
	ln -s ../../../../../lib/systemd/system/edged.service "$doc/deploy/systemd/edged.service"
	cp deploy/deb/copyright "$doc/"
	go run ./scripts/sbom "$binary" >"$doc/sbom.json"
	printf 'edged (%s) stable; urgency=medium\n\n  * See CHANGELOG.md beside this file.\n\n -- edged developers <edged@localhost.localdomain>  %s\n' \
		"$version" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
	for page in bin/man/*; do
		mkdir -p "$share/man/man${page##*.}"
		gzip -9nc "$page" >"$share/man/man${page##*.}/${page##*/}.gz"
	done
	mkdir -p "$share/bash-completion/completions" "$share/zsh/vendor-completions"
	bin/edged completion bash >"$share/bash-completion/completions/edged"
	bin/edged completion zsh >"$share/zsh/vendor-completions/_edged"
	chmod -R u=rwX,go=rX "$share"
	find "$share" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	ARCH=$arch VERSION=$version BINARY=$binary go tool -modfile=tools/go.mod nfpm package -f deploy/deb/nfpm.yaml -p deb -t "bin/edged_${version}_$arch.deb" >/dev/null
	cp "$doc/sbom.json" "bin/edged_${version}_$arch.sbom.json"
	echo "bin/edged_${version}_$arch.deb"
done
rm -rf bin/deb
