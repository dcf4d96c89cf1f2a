# The one list of verbs. `make` alone prints them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

DIR ?= /usr/share
REPO ?=
# Where cargo builds: .cargo/config.toml names the host as the target.
BUILT := target/$(shell rustc --print host-tuple)/release
STASH_FS := $(BUILT)/stash-fs
export STASH_FS_TOOLS ?= /var/tmp/stash-fs-tools

help: ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build the program
	cargo build --release --locked -p stash-fs

demo: ## back up DIR (default a part of /usr) into a repository, mount it, browse it; REPO= mounts your own
	tests/tools/install.sh demo
	cargo build --release --locked -p stash-fs
	DIR='$(DIR)' REPO='$(REPO)' tests/demo.sh $(STASH_FS)

tools: ## install the programs and servers that the tests run
	tests/tools/install.sh test

check: ## formatting, lints and documentation
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --release --locked --workspace --no-deps -q

test: ## install what is missing, build, and run every check and test (needs root)
	tests/test.sh

cluster: ## start the Kubernetes of the tests by hand (needs root); `make cluster-down` stops it
	tests/tools/install.sh test
	tests/cluster/cluster.sh up

cluster-down: ## stop it, and clear what an unclean end has left
	tests/cluster/cluster.sh down

soak: ## the long loops, whole
	tests/tools/install.sh test
	STASH_FS_ROUNDS=200 cargo test --release --locked --workspace -- --nocapture soak

bench: ## measure against the peers and the physical floors; three runs, a table and JSON
	tests/tools/install.sh test
	cargo build --release --locked --workspace --bins
	$(BUILT)/bench --stash-fs $(STASH_FS) $(BENCH_ARGS)

bench-controller: ## measure the controller: 1,000 configurations due each minute for ten minutes, on a real API server
	tests/tools/install.sh test
	cargo build --release --locked --workspace --bins
	$(BUILT)/bench-controller $(BENCH_ARGS)

# The parsers are safe Rust: a sanitizer would find nothing that a panic does not say, and doubles the build.
fuzz: ## run each fuzz target for T seconds (needs a nightly toolchain and cargo-fuzz); NEW=DIR keeps what is found there
	cp Cargo.lock fsd/repo/fuzz/Cargo.lock
	cd fsd/repo/fuzz && for target in $$(cargo +nightly fuzz list); do \
		found=$(or $(NEW),target/corpus)/$$target; mkdir -p $$found; \
		cargo +nightly fuzz run --sanitizer none $$target $$found corpus/$$target -- -max_total_time=$(or $(T),60); done

crds: ## write the definitions of the Kubernetes API to deploy/crds, and to the chart
	cargo run --release --locked -p stash-crds --bin crdgen -- deploy/crds deploy/charts/stash-fs/files/crds

rbac: ## write the controller's rights to the chart and to docs/security.md
	cargo run --release --locked -p stash-controller --bin rbacgen -- .

csi-proto: ## write the Rust of CSI's messages anew
	cargo run --release --locked -p stash-csi --example protogen

man: build ## write the manual pages and completions to target/man
	$(STASH_FS) man target/man

.PHONY: help build demo tools check test cluster cluster-down soak bench bench-controller fuzz crds rbac csi-proto man
