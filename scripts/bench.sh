#!/usr/bin/env bash
# What is measured, and against whom: each bench is a program in benches/ that prints a table and one JSON line a row.
# The lines are also added to target/bench.jsonl.
#
#   scripts/bench.sh                         all of them, on a release build
#   scripts/bench.sh --short [NAME...]       few rounds on a debug build: shows that they work
#   scripts/bench.sh NAME [OPTIONS...]       one of them, with its own options (NAME --help names them)
#   scripts/bench.sh --list
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
FOLDER=benches
. scripts/programs.sh

prepare() {
  local profile=release flag=(--release)
  if [ -n "$SHORT" ]; then profile=debug flag=(); fi
  ensure_rust
  ensure_docker
  ensure_images
  ensure_balancers
  ensure_backup_programs
  mkdir -p web/dist
  cargo build --locked "${flag[@]}" --bin neuralmesh --example fleet
  export NM_BINARY=${CARGO_TARGET_DIR:-$NM_ROOT/target}/$profile/neuralmesh
}

results=${CARGO_TARGET_DIR:-target}/bench.jsonl
mkdir -p "$(dirname "$results")"
run_programs "$@" | tee >(grep '^{' >>"$results" || true)
