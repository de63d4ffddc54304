#!/usr/bin/env bash
# What NeuralMesh must survive: each fault is a program in e2e/faults/ that causes it for real and checks what is left.
#
#   scripts/faults.sh                        all of them, in full
#   scripts/faults.sh --short [NAME...]      few rounds
#   scripts/faults.sh NAME [OPTIONS...]      one of them, with its own options (NAME --help names them)
#   scripts/faults.sh --list
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
FOLDER=e2e/faults
. scripts/programs.sh

prepare() {
  ensure_rust
  ensure_docker
  ensure_images
  ensure_lab
  mkdir -p web/dist
  cargo build --locked --bin neuralmesh
  export NM_BINARY=${CARGO_TARGET_DIR:-$NM_ROOT/target}/debug/neuralmesh
}

run_programs "$@"
