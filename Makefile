# `make` lists the targets; `make demo` and `make test` need only Rust on a Debian-like machine.

SHELL := /bin/sh
CARGO ?= cargo
BENCH ?=
REGRESS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test differential reload-under-load chaos regress drivers matrix lint doc bench bench-quick bench-replication bench-micro check

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole product on throw-away PostgreSQL clusters
	@.ci/install demo
	$(CARGO) build --release --locked
	@target/release/pgtandem demo

test: ## all tests, against a throw-away PostgreSQL
	@.ci/install test
	@# Examples first: a run of tests should end with the count that matters.
	$(CARGO) test --locked --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --locked; \
	else \
		set -x; $(CARGO) test --locked --lib --bins --tests; \
	fi

differential: ## 100,000 random sequences of messages, to PostgreSQL and through the proxy: what differs is printed
	@.ci/install test
	PGTANDEM_IT_SEQUENCES=$${PGTANDEM_IT_SEQUENCES:-100000} \
		PGTANDEM_IT_FIRST=$${PGTANDEM_IT_FIRST:-$$(date +%s)000} \
		$(CARGO) test --locked --test it differential::random_sequences -- --exact --ignored --nocapture

reload-under-load: ## 50 reloads, PAUSEs, RECONNECTs and KILLs under pgbench: nothing fails
	@.ci/install test
	PGTANDEM_IT_RELOADS=50 $(CARGO) test --locked --test it reload::reload_under_load -- --exact

chaos: ## 200 disasters (crashes, hangs, cut connections, full disk) under load: both sides stay equal
	@.ci/install test
	PGTANDEM_IT_CHAOS_ROUNDS=$${PGTANDEM_IT_CHAOS_ROUNDS:-200} \
		$(CARGO) test --locked --test it replication::chaos::rounds -- --exact --nocapture

regress: ## PostgreSQL's own regression suite through the proxy; options as in REGRESS="--help"
	@.ci/install regress
	$(CARGO) build --locked
	@python3 tests/regress/run.py $(REGRESS)

drivers: ## programs of a dozen drivers, directly and through the proxy, in both pool modes
	@.ci/install test
	PGTANDEM_IT_SQLX=1 $(CARGO) test --locked --test it drivers:: -- --test-threads 2

matrix: ## the tests that depend on the server, over PostgreSQL 13 to 18; VERSIONS="13 18"
	@.ci/install test
	@.ci/matrix $(VERSIONS)

lint: ## formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: ## API documentation in target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

bench: ## direct, PgBouncer and pgtandem side by side; options as in BENCH="--pin --workers 1,2"
	@.ci/install bench
	$(CARGO) build --release --locked
	@python3 bench/compare.py $(BENCH)

bench-quick: ## the same in a few minutes
	@$(MAKE) --no-print-directory bench BENCH="--quick $(BENCH)"

bench-replication: ## what capture costs, and how fast a secondary follows; BENCH="--quick"
	@.ci/install bench
	$(CARGO) build --release --locked
	@python3 bench/replication.py $(BENCH)

bench-micro: ## the codec alone, with criterion
	$(CARGO) bench --locked --bench codec

check: ## everything that must pass before a change lands
	@.ci/run
