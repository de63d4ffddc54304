#!/usr/bin/env bash
# The browser tests, against a NeuralMesh of their own that starts and ends with them.
#
#   e2e/browser/run.sh [FILE...]
#
# NM_BINARY names the binary, target/debug/neuralmesh by default; NM_CHROMIUM the browser. With NM_URL and NM_ADMIN_PASSWORD_FILE
# set, what runs there is tested: a fleet of one node, for the tests only, whose agents' port NM_AGENTS names (127.0.0.1:7443) and which
# was started with --allow-outbound 127.0.0.0/8. NM_TEST_REGISTRY, where set, is a registry without TLS that has busybox:latest. Where a test fails, a picture of its pages is kept in NM_SHOTS, target/browser-shots by default.
# Prints `N passed` and `N failed` last.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/lib.sh
. "$here/../../scripts/lib.sh"
cd "$here"

target=${CARGO_TARGET_DIR:-$NM_ROOT/target}
binary=$(realpath -m "${NM_BINARY:-$target/debug/neuralmesh}")
export NM_BINARY=$binary # the tests run agents of their own
export NM_SHOTS=${NM_SHOTS:-$target/browser-shots}

ensure_node
ensure_chromium
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then npm ci; fi

start_mesh() {
  local data log pid port agents
  [ -x "$binary" ] || die "$binary is missing; build it with: cargo build --bin neuralmesh"
  docker image inspect busybox:latest >/dev/null 2>&1 || die "the image busybox:latest is missing; make the test images with: e2e/images/build.sh"
  data=$(mktemp -d "${TMPDIR:-/tmp}/nm-browser.XXXXXX")
  on_exit rm -rf "$data"
  log=$data/log
  for _ in 1 2 3; do # another program may take a free port first
    port=$(free_port)
    agents=$(free_port)
    "$binary" up --data-dir "$data/nm" --listen "127.0.0.1:$port" --agent-listen "127.0.0.1:$agents" --allow-outbound 127.0.0.0/8 \
      >"$log" 2>&1 </dev/null &
    pid=$!
    wait_until 30 answers_or_gone "$pid" curl -fs -o /dev/null "http://127.0.0.1:$port/readyz" || true
    if curl -fs -o /dev/null "http://127.0.0.1:$port/readyz"; then break; fi
    stop_pid "$pid"
    pid=
  done
  [ -n "$pid" ] || fail_with_log "$log" "NeuralMesh did not start"
  on_exit stop_pid "$pid"
  export NM_AGENTS=127.0.0.1:$agents NM_URL=http://127.0.0.1:$port NM_ADMIN_PASSWORD_FILE=$data/nm/initial-admin-password
}
if [ -z "${NM_URL:-}" ]; then
  if [ -z "$(find ../../web/dist -name index.html 2>/dev/null)" ]; then
    note "building the dashboard"
    (cd ../../web && { [ -e node_modules ] || npm ci; } && npm run build) >&2
  fi
  start_mesh
fi
if [ -z "${NM_TEST_REGISTRY:-}" ]; then
  ensure_registry
  registry_push busybox:latest
fi

rm -rf "$NM_SHOTS"
files=("$@")
[ ${#files[@]} -gt 0 ] || files=(*.test.mjs)
report=$(mktemp)
on_exit rm -f "$report"
status=0
node --test --test-concurrency=1 --test-reporter=spec --test-reporter-destination=stdout \
  --test-reporter=tap --test-reporter-destination="$report" "${files[@]}" || status=$?
printf '\n  %s passed\n  %s failed\n' "$(sed -n 's/^# pass //p' "$report")" "$(sed -n 's/^# fail //p' "$report")"
exit "$status"
