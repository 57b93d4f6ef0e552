# CI runs `make test` and nothing else; see .ci/run.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BIN           := $(CURDIR)/bin
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.1
BENCHSTAT     := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
COMPOSE       := $(shell if docker compose version >/dev/null 2>&1; then echo docker compose; else echo docker-compose; fi)

# The crash tests stop the program at named points, which only this tag compiles in.
TEST_TAGS    := failpoint
TEST_FLAGS   ?= -count=1 -timeout 20m
FUZZ_TIME    ?= 20s
BENCH_FLAGS  ?= -benchtime 1s
BENCH_ROWS   ?= 1000000
# Microbenchmarks: how often each, and a file that keeps them.
COUNT        ?=
OUT          ?=
FLEET_FLAGS  ?=
# More flags of the benchmark; see go run ./benchmarks -help.
BENCH        ?=
KILLS        ?= 300
CHAOS        ?= 10m
SEED         ?=
# A single package or test, for example: make test PKG=./internal/encode RUN=TestFloat
PKG          ?= ./...
# The longest go first, or one of them would be at work alone in the end.
TEST_PKG     := $(if $(filter ./...,$(PKG)),./tests/integration ./tests/cli ./tests/crash ./tests/fault) $(PKG)
RUN          ?=

# The tests and the demo take the S3 server from here.
export ARCHIVER_S3DEV := $(BIN)/archiver-s3dev

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/archiver (static, no C compiler needed)
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/archiver ./cmd/archiver

.PHONY: demo
demo: deps build ## Archive, verify and delete on local servers; leaves nothing running
	$(BIN)/archiver demo

.PHONY: test
test: deps extras vet ## Everything that CI runs: vet, unit, integration and crash tests
	go test -tags $(TEST_TAGS) $(TEST_FLAGS) $(if $(RUN),-run '$(RUN)') $(TEST_PKG)
	go -C tools/s3dev test $(TEST_FLAGS) ./...
	go -C tools/deploycheck test $(TEST_FLAGS) ./...

.PHONY: integration
integration: deps extras ## Only the integration, crash and command-line tests
	go test -tags $(TEST_TAGS) $(TEST_FLAGS) $(if $(RUN),-run '$(RUN)') ./tests/...

.PHONY: crash
crash: deps ## Kill replicas KILLS times while rows move (300: some minutes); SEED=n repeats a run
	ARCHIVER_KILLS=$(KILLS) ARCHIVER_SEED=$(SEED) go test -tags $(TEST_TAGS) -count=1 -timeout 2h -v -run '^TestRandomKills$$' ./tests/crash

.PHONY: chaos
chaos: deps ## Six replicas, everything that can happen to them, and the fleet's limits watched for CHAOS (10m)
	ARCHIVER_CHAOS=$(CHAOS) ARCHIVER_SEED=$(SEED) go test -tags $(TEST_TAGS) -count=1 -timeout 2h -v -run '^TestChaos$$' ./tests/chaos

.PHONY: matrix
matrix: deps extras ## The tests that depend on the server, on PostgreSQL 14 to 18 from npm (some minutes each)
	TEST_TAGS=$(TEST_TAGS) RUN='$(RUN)' scripts/matrix.sh

.PHONY: race
race: deps extras ## The tests under the race detector (needs a C compiler)
	go test -race -tags $(TEST_TAGS) $(TEST_FLAGS) $(if $(RUN),-run '$(RUN)') $(PKG)

.PHONY: vet
vet: ## Check formatting and run go vet, with and without the tests' build tag
	@unformatted=$$(gofmt -l .); if [[ -n $$unformatted ]]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags $(TEST_TAGS) ./...
	go -C tools/s3dev vet ./...
	go -C tools/deploycheck vet ./...

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run golangci-lint (its first build takes two minutes)
	$(BIN)/golangci-lint run --build-tags $(TEST_TAGS) $(PKG)

$(BIN)/golangci-lint: Makefile
	GOBIN=$(BIN) go install $(GOLANGCI_LINT)
	touch $@

.PHONY: fuzz
fuzz: deps ## Run each fuzz target for FUZZ_TIME (20s)
	@for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; \
	    go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZ_TIME) $$pkg; \
	  done; \
	done

.PHONY: model
model: ## Check the model of the batch protocol, docs/model, in every state (needs gcc; installs spin)
	docs/model/check.sh

.PHONY: bench
bench: deps build bench-tools ## Archive BENCH_ROWS rows, beside the floor and a pipeline by hand (two minutes); BENCH='-shape wide -profile all' and more
	go run ./benchmarks -archiver $(BIN)/archiver -rows $(BENCH_ROWS) -out benchmarks/results $(BENCH)

.PHONY: bench-all
bench-all: deps build bench-tools ## Three shapes, all profiles, 1, 2 and 4 replicas on slow storage (half an hour)
	go run ./benchmarks -archiver $(BIN)/archiver -rows $(BENCH_ROWS) -profile all -out benchmarks/results
	go run ./benchmarks -archiver $(BIN)/archiver -rows $(BENCH_ROWS) -shape narrow -out benchmarks/results
	go run ./benchmarks -archiver $(BIN)/archiver -rows $$(($(BENCH_ROWS) / 10)) -shape wide -out benchmarks/results
	for n in 1 2 4; do go run ./benchmarks -archiver $(BIN)/archiver -rows $$(($(BENCH_ROWS) / 5)) -only default -workers $$n -out benchmarks/results; done

.PHONY: bench-curve
bench-curve: deps build ## Archive 1 to 20 million rows: the cost of a row must not grow (an hour, 40 GB)
	for m in 1 2 5 10 20; do go run ./benchmarks -archiver $(BIN)/archiver -rows $${m}000000 -only floor,default -out benchmarks/results; done

.PHONY: bench-tools
bench-tools:
	@scripts/pigz.sh

.PHONY: bench-fleet
bench-fleet: deps ## What a fleet costs its control database: a million batches, 50 replicas (ten minutes); FLEET_FLAGS shortens it
	go run ./benchmarks/fleet -json benchmarks/results/fleet.json $(FLEET_FLAGS)

# The commit is that of the code, so the header is written before the file is.
.PHONY: microbench
microbench: deps ## Run the Go benchmarks of single functions; COUNT=6 OUT=benchmarks/results/microbench.txt keeps them
	@$(if $(OUT),mkdir -p $(dir $(OUT)) && header=$$(printf '# %s\n' "commit $$(git describe --always --dirty --abbrev=12), $$(date -u +%FT%TZ)" "$$(go version)" \
	  "$$(uname -sm), $$(getconf _NPROCESSORS_ONLN) cores, load before: $$(uptime | sed 's/.*load average[s]*: *//')") && echo "$$header" >$(OUT))
	go test -run '^$$' -bench . -benchmem $(BENCH_FLAGS) $(if $(COUNT),-count $(COUNT)) $(PKG)$(if $(OUT), | tee /dev/stderr | grep -E '^(goos|goarch|pkg|cpu|Benchmark)' >>$(OUT))

# Out of go.mod: a tool that compares two files is none of the product's dependencies.
.PHONY: benchstat
benchstat: ## Run them six times (COUNT=) and compare with benchmarks/results/microbench.txt, where there is one
	@$(MAKE) --no-print-directory microbench COUNT=$(or $(COUNT),6) OUT=$(BIN)/microbench.txt
	go run $(BENCHSTAT) $(addprefix before=,$(wildcard benchmarks/results/microbench.txt)) now=$(BIN)/microbench.txt

.PHONY: fmt
fmt: $(BIN)/golangci-lint ## Format the code
	$(BIN)/golangci-lint fmt

.PHONY: deps
deps: ## Find or install PostgreSQL's programs, and build the local S3 server
	@echo "PostgreSQL: $$(scripts/postgres.sh install)"
	@echo "S3 server: $(ARCHIVER_S3DEV) (a first build takes about a minute)"
	@CGO_ENABLED=0 go -C tools/s3dev build -trimpath -ldflags '-s -w' -o $(ARCHIVER_S3DEV) .

.PHONY: extras
extras: ## Install what only some tests need: PgBouncer, libfaketime, pigz, Chromium and what drives it
	@scripts/extras.sh

.PHONY: up
up: ## Start the stack of docker-compose.yml; WORKERS=4 for a larger fleet
	$(COMPOSE) up --build --detach --scale worker=$(or $(WORKERS),1)

.PHONY: down
down: ## Stop the stack and remove its data
	$(COMPOSE) down --volumes --remove-orphans

.PHONY: compose-check
compose-check: ## Check docker-compose.yml; needs no Docker engine
	$(COMPOSE) config -q

.PHONY: deploy-check
deploy-check: deps extras ## Check deploy/: manifests against the Kubernetes types, units with systemd-analyze
	go -C tools/deploycheck run . $(wildcard $(CURDIR)/deploy/kubernetes/base $(CURDIR)/deploy/kubernetes/overlays/*)
	go test -count=1 ./tests/deploy

.PHONY: clean
clean: ## Remove what was built here
	rm -rf $(BIN)
