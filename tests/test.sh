#!/usr/bin/env bash
# Everything that must hold, in stages with their times. Called by `make test`; CI runs the same.
set -uo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "the tests mount filesystems and start servers: run them as root" >&2; exit 1; }

declare -a names=() seconds=() results=()
started=$SECONDS
stage() {
  local name=$1 before=$SECONDS status=0
  shift
  echo "=== $name"
  "$@" || status=$?
  names+=("$name") seconds+=($((SECONDS - before))) results+=($status)
  echo "=== $name: $((SECONDS - before)) s, status $status"
  return $status
}
summary() {
  local status=0
  echo "stage                          seconds  status"
  for i in "${!names[@]}"; do
    printf '%-30s %7d  %s\n' "${names[$i]}" "${seconds[$i]}" "${results[$i]}"
    [ "${results[$i]}" = 0 ] || status=1
  done
  printf '%-30s %7d\n' "all" $((SECONDS - started))
  exit $status
}
build() {
  # The servers (Go) are built beside the program (Rust): together they fill the two cores.
  tests/tools/install.sh test > target/tools.log 2>&1 &
  local tools=$! status=0
  cargo build --release --locked --workspace --all-targets || status=$?
  wait "$tools" || { status=1; tail -20 target/tools.log; }
  grep ': built in' target/tools.log
  return $status
}
mkdir -p target
stage "tools and builds" build || summary
stage "format" cargo fmt --all --check
stage "lints" cargo clippy --release --locked --workspace --all-targets --quiet -- -D warnings
stage "documentation" env RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --release --locked --workspace --no-deps --quiet
stage "unit tests" cargo test --release --locked --workspace --lib --bins --test suite
# Most tests wait most of the time: on two cores three at once took 1,187 s, where two at once had taken 1,413 s for fewer of them.
stage "suites" env RUST_TEST_THREADS="${RUST_TEST_THREADS:-3}" cargo test --release --locked --workspace --test suites
# It ends with the process that ran the suites; this waits for it.
[ "${STASH_FS_CLUSTER:-}" = attach ] || stage "cluster gone" tests/cluster/cluster.sh down
stage "demo" env DIR="$PWD/docs" REPO= tests/demo.sh "target/$(rustc --print host-tuple)/release/stash-fs" </dev/null
summary
