#!/usr/bin/env bash
# Coverage-guided fuzzing of what reads strangers' bytes, with libFuzzer and the stable toolchain: no sanitizer is needed where there is
# no unsafe code. Needs a C++ compiler. docs/FUZZING.md says what the targets are.
#
#   scripts/fuzz.sh                     each target for a minute
#   scripts/fuzz.sh TARGET [SECONDS]    one of them
#   scripts/fuzz.sh --list
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../fuzz"
. ../scripts/lib.sh

targets() { find fuzz_targets -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort; }

run() { # TARGET SECONDS
  local found=$OUT/found/$1
  mkdir -p "$OUT/corpus/$1" "$found"
  # What is new goes into the first folder. To keep the best of it: libFuzzer's -merge=1 into corpus/.
  "$OUT/$TRIPLE/release/$1" "$OUT/corpus/$1" "corpus/$1" -max_total_time="$2" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -max_len=4096 -artifact_prefix="$found/"
}

[ "${1:-}" != --list ] || { targets && exit; }
ensure_rust
OUT=${CARGO_TARGET_DIR:-$NM_ROOT/target}/fuzz
TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
# As cargo-fuzz has it, without a sanitizer: those need a nightly toolchain.
COVERAGE="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
COVERAGE+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="$COVERAGE -Cdebug-assertions --cfg=fuzzing" cargo build --locked --release --target "$TRIPLE" --target-dir "$OUT"
if [ $# -gt 0 ]; then
  run "$1" "${2:-60}"
else
  for target in $(targets); do run "$target" 60; done
fi
