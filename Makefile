# `make` lists the targets. They need Go and make; `make test` installs the other
# packages that it needs if it can, and lists them if it can't.

VERSION ?= 0.1.0
# The tools that the checks and packages need, in a module of their own.
TOOL = go tool -modfile=tools/go.mod
DEBS ?= amd64 arm64 armhf

export CGO_ENABLED ?= 0
LDFLAGS = -s -w -X main.version=$(VERSION)
# Two flags make the binary 29 kB smaller: zap links net/http, of which edged needs no
# HTTP/2, and go-redis is off the hot path, so that nothing is gained by inlining it.
SMALL = -tags nethttpomithttp2 -gcflags=github.com/redis/go-redis/v9/...=-l
BUILD = go build -trimpath $(SMALL) -ldflags '$(LDFLAGS)'

.PHONY: help run build build-dev build-arm64 man install test test-compat crash sim sim-long soak bench bench-compare costs tools check cross update fmt clean test-systemd test-arm64-system tools-box build-armv7 test-browser test-monitoring test-arm64 build-amd64 deb release

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build build-dev ## try edged: in-memory Redis, sample items, nothing else needed
	@bin/edged-dev

build: ## build bin/edged for this machine
	$(BUILD) -o bin/edged ./cmd/edged

build-dev: ## build bin/edged-dev, which is edged on an in-memory Redis
	$(BUILD) -o bin/edged-dev ./cmd/edged-dev

build-amd64: ## build bin/edged-amd64
	GOOS=linux GOARCH=amd64 $(BUILD) -o bin/edged-amd64 ./cmd/edged

build-arm64: ## build bin/edged-arm64 for an ARM edge box
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/edged-arm64 ./cmd/edged

man: ## make the manual pages in bin/man
	go run ./docs/man $(VERSION) bin/man

PREFIX ?= /usr
DESTDIR ?=

install: build man ## install edged, unit, configuration, manual, completion (DESTDIR, PREFIX=/usr)
	install -D -m 755 bin/edged $(DESTDIR)$(PREFIX)/bin/edged
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/share/doc/edged
	set -e; for unit in deploy/systemd/*.service deploy/systemd/*.socket; do [ ! -e $$unit ] || \
	  sed 's|/usr/bin/edged|$(PREFIX)/bin/edged|' $$unit >$(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit##*/}; done
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/edged*
	install -m 644 README.md configs/edged.toml $(DESTDIR)$(PREFIX)/share/doc/edged
	[ -e $(DESTDIR)/etc/edged/edged.toml ] || install -D -m 644 configs/edged.toml $(DESTDIR)/etc/edged/edged.toml
	set -e; for page in bin/man/*; do \
	  install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	bin/edged completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/edged
	bin/edged completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_edged

build-armv7: ## build bin/edged-armv7 for a 32-bit one
	GOOS=linux GOARCH=arm GOARM=7 $(BUILD) -o bin/edged-armv7 ./cmd/edged

test: tools build ## run all tests with -race; installs their packages
	cd test/js && npm ci --silent --no-audit --no-fund
	CGO_ENABLED=1 go test -race ./...
	cd test && CGO_ENABLED=1 go test -race -count=1 ./...
	cd test && go test -count=1 -run 'Memory|Honest' ./e2e
	cd test/compat && go test -count=1 -parallel 6 ./...
	cd test/browser && go test -count=1 ./...
	cd bench && go test -count=1 ./...

test-compat: tools ## compare edged with nats-server, as third-party clients see them
	cd test/js && npm ci --silent --no-audit --no-fund
	cd test/compat && go test -count=1 -parallel 6 ./...

test-monitoring: tools ## ask edged as Prometheus, Telegraf and nats-server's tools do (1100 packages)
	cd test/monitor && go vet ./... && go test -count=1 ./...

test-browser: tools ## look at the page with chromium; pictures go to bin/browser
	cd test/js && npm ci --silent --no-audit --no-fund
	cd test/browser && go test -count=1 ./...

test-systemd: tools ## the units under a real systemd, booted in namespaces (root on Linux)
	cd test && EDGED_LAB=1 CGO_ENABLED=0 go test -count=1 -timeout 900s -v ./systemd

test-arm64: tools build-arm64 build-armv7 ## both ARM builds, emulated: unit tests, 10,000 items, SIGTERM
	VERSION=$(VERSION) scripts/test-arm.sh

test-arm64-system: tools-box ## docs/DEPLOY.md on an emulated arm64 Debian, with a power cut; for each release
	$(MAKE) -s deb VERSION=0.2.0 DEBS=arm64
	$(MAKE) -s deb VERSION=0.1.0 DEBS=arm64
	cd test && CGO_ENABLED=0 go test -tags box -count=1 -timeout 3h -v ./box

deb: build man $(addprefix build-,$(DEBS:armhf=armv7)) ## Debian packages for amd64, arm64 and armhf, in bin
	scripts/deb.sh $(VERSION) $(DEBS)

release: ## the changelog's section, packages, binaries, lists of parts and licences (SBOM), checksums
	go run ./scripts/changelog $(VERSION) $$(TZ=UTC git log -1 --date=format-local:%F --format=%cd)
	$(MAKE) deb
	cd bin && sha256sum edged-amd64 edged-arm64 edged-armv7 edged_$(VERSION)_* >SHA256SUMS

crash: ## the proof: kill and stop everything, 200,000 items a run, and count
	cd test && CGO_ENABLED=0 go run ./crash

SEED ?= 1
RUNS ?= 200
HOURS ?= 1
LIMIT ?= 10h
sim: ## simulate bad luck: RUNS= seeds from SEED= on, HOURS= of simulated life each, until LIMIT=; docs/TESTING.md
	@scripts/fixed-chance.sh bin/sim/.runtime
	cd test && CGO_ENABLED=0 go test -v -count=1 -timeout 0 -overlay '$(abspath bin/sim/.runtime/overlay.json)' -run '^TestNewSeeds$$' ./sim \
	  -runs $(RUNS) -seed $(SEED) -hours $(HOURS) -limit $(LIMIT) -keep '$(abspath bin/sim)'

sim-long: ## simulate a week of outage of the hub
	@scripts/fixed-chance.sh bin/sim/.runtime
	cd test && CGO_ENABLED=0 go test -v -count=1 -timeout 0 -tags long -overlay '$(abspath bin/sim/.runtime/overlay.json)' -run '^TestLongScenarios$$' ./sim

MINUTES ?= 10
soak: build tools ## the same bad luck for real processes, MINUTES= long, and their memory over time
	cd test && CGO_ENABLED=0 go build -o '$(abspath bin/soak)' ./soak # go run would leave it running after SIGTERM
	@exec bin/soak -binary '$(abspath bin/edged)' -minutes $(MINUTES) -seed $(SEED)

OUT ?= bin/bench.json
ROUNDS ?= 6
RUN ?= .
bench: tools ## measure edged and other programs, about an hour; docs/PERFORMANCE.md
	@mkdir -p bin
	cd bench && CGO_ENABLED=0 go run . -run '$(RUN)' -rounds $(ROUNDS) -json '$(abspath $(OUT))'

COSTS ?= bin/costs.json
costs: tools ## measure the costs of an item, and estimate those of a box, about 20 minutes
	@mkdir -p bin
	cd bench && CGO_ENABLED=0 go run . -costs -run '$(RUN)' -rounds $(ROUNDS) -json '$(abspath $(COSTS))'
	cd bench && go run . -model '$(abspath $(COSTS))'

bench-compare: ## hold two outcomes of bench side by side: OLD=old.json NEW=new.json
	@test -n "$(OLD)" -a -n "$(NEW)" || { echo "usage: make bench-compare OLD=old.json NEW=new.json" >&2; exit 2; }
	@mkdir -p bin
	@cd bench && go run . -benchfmt '$(abspath $(OLD))' >../bin/old.txt && go run . -benchfmt '$(abspath $(NEW))' >../bin/new.txt
	@$(TOOL) benchstat bin/old.txt bin/new.txt

tools: ## install the packages that the tests need and this machine lacks
	@scripts/tools.sh

tools-box:
	@scripts/tools.sh box

check: cross ## gofmt, go vet, staticcheck, go mod tidy, govulncheck, builds for other machines
	@scripts/check.sh

cross: ## build for every kind of machine that edged runs on, and keep nothing
	@set -e; for target in darwin/arm64 linux/arm64 linux/arm; do \
	  echo "check: go build for $$target"; \
	  GOOS=$${target%/*} GOARCH=$${target#*/} GOARM=7 $(BUILD) -o /dev/null ./cmd/...; done

update: ## bring every Go module and npm package up to date, check, test, and list the changes
	@scripts/update.sh

fmt: ## format the Go files
	gofmt -w cmd internal docs test examples bench scripts

clean: ## remove built files
	rm -rf bin test/js/node_modules
