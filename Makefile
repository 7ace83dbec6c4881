# Needs Go, make and a POSIX shell. The e2e tests need more: see .ci/apt.
SHELL := /bin/sh
.DEFAULT_GOAL := help

GO ?= go
# A count, not a duration: at the end of a duration go test may report
# "context deadline exceeded" without a finding (golang/go#75804, until Go 1.27).
FUZZTIME ?= 100000x
BENCHTIME ?= 1s
PKGS ?= ./...
GOLANGCI = $(GO) tool -modfile=.ci/tools.mod golangci-lint

# A device speaks HTTP/1.1 alone.
DEVICE_TAGS = device,urfave_cli_no_docs,nethttpomithttp2
PKG_VERSION ?= $(shell git describe --tags --always 2>/dev/null | sed 's/^v//; s/^[^0-9]/0~&/' | grep . || echo 0~dev)
ARCH ?= $(shell $(GO) env GOARCH)
SOAK ?= 30m
NFPM = $(GO) tool -modfile=.ci/nfpm.mod nfpm
# What others run: the same in .goreleaser.yaml, and the Dockerfile makes it here.
RELEASE = CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags "-s -w -X main.buildVersion=$(PKG_VERSION)"

.PHONY: help build build-device binaries packages soak demo cluster-demo test race e2e lint fuzz bench bench-fleet vulncheck fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the one binary, bin/atls-ws
	$(GO) build -trimpath -o bin/atls-ws ./cmd/atls-ws

build-device: ## build what a device needs, bin/atls-ws-device
	$(GO) build -tags $(DEVICE_TAGS) -trimpath -ldflags "-s -w" -o bin/atls-ws-device ./cmd/atls-ws

binaries: ## build both as they are released: static, for linux and ARCH
	$(RELEASE) -o bin/atls-ws ./cmd/atls-ws
	$(RELEASE) -tags $(DEVICE_TAGS) -o bin/atls-ws-device ./cmd/atls-ws

packages: binaries ## build the Debian packages of server and device, bin/*.deb
	VERSION=$(PKG_VERSION) ARCH=$(ARCH) $(NFPM) package -f packaging/nfpm-server.yaml -p deb -t bin/
	VERSION=$(PKG_VERSION) ARCH=$(ARCH) $(NFPM) package -f packaging/nfpm-device.yaml -p deb -t bin/
	@for p in bin/*.deb; do dpkg-deb -c $$p >/dev/null || exit 1; done 2>/dev/null || echo "dpkg-deb is not here: the packages were not looked at"

demo: build ## show the whole path: server, middlebox, device, a signal and its ack
	@bin/atls-ws demo

cluster-demo: build ## show three nodes with 200 devices: one is killed, then each is restarted
	@bin/atls-ws demo --cluster

test: ## run the tests that need nothing but Go
	$(GO) test $(PKGS)

race: ## run them under the race detector, in random order
	$(GO) test -race -shuffle=on $(PKGS)

e2e: ## run the built binaries against real middleboxes (install them with .ci/apt)
	$(GO) test -tags e2e -count=1 -timeout 12m ./e2e

soak: ## churn, push and stream for SOAK (30m) with 2,000 sessions; nothing may grow
	SOAK=$(SOAK) $(GO) test -race -run '^TestSoak$$' -count=1 -v -timeout 0 ./internal/daemon

lint: ## check formatting, vet and golangci-lint
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "not gofmt-ed, run make fmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags device ./...
	$(GO) vet -tags e2e ./...
	$(GOLANGCI) run ./...
	$(GOLANGCI) run --build-tags device ./cmd/...
	$(GOLANGCI) run --build-tags e2e ./e2e/...

fuzz: ## run every fuzz target for FUZZTIME (100000x: executions)
	@set -e; for pkg in $$($(GO) list $(PKGS)); do \
		targets=$$($(GO) test -list '^Fuzz' $$pkg) || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz' || true); do \
			echo "fuzz $$target in $$pkg"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

vulncheck: ## look for known vulnerabilities, where their database is reached (else VULN_REQUIRED=1 fails)
	@GO="$(GO)" .ci/vulncheck

bench: build ## measure CPU, throughput, latency and a long path beside their baselines, for docs/bench
	$(GO) run ./internal/bench streams -o docs/bench
	$(GO) run ./internal/bench wan -o docs/bench
	$(GO) run ./internal/bench forward -o docs/bench bin/atls-ws
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./postconn

bench-fleet: ## measure a server with 4000 devices: memory, goroutines, connects, a storm; for docs/bench
	$(GO) run ./internal/bench fleet -o docs/bench
	$(GO) run ./internal/bench storm -o docs/bench

fmt: ## format the code
	gofmt -w .

clean: ## remove what build and demo make
	rm -rf bin atls-ws-dev
