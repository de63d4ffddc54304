#!/usr/bin/env bash
# Every test of this repository, on a real Docker engine and a real PostgreSQL. Installs and starts what it needs, ends what it
# started. The last line is `N passed, N failed`; the exit code is 1 when anything failed. Steps that mostly wait run beside one another,
# three at a time; what measures, or needs the machine as it is, runs alone.
#
#   scripts/test.sh                 everything
#   scripts/test.sh --quick         what needs no service: style, lints, unit tests
#   scripts/test.sh --only A,B      only these steps (and the build they need)
#   scripts/test.sh --list          the steps' names
#
# Each step's output is kept in target/test-logs/. NM_TEST_POSTGRES_URL, where set, is used in place of a throw-away PostgreSQL.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

TARGET=${CARGO_TARGET_DIR:-$NM_ROOT/target}
LOGS=$TARGET/test-logs
export NM_BINARY=$TARGET/debug/neuralmesh
export PYTHONDONTWRITEBYTECODE=1

# ---- the steps -----------------------------------------------------------------------------------------------------

step_scripts() { # how to read them: shellcheck; that they can be read at all: python's compiler
  local shell python
  mapfile -t shell < <(git ls-files -co --exclude-standard '*.sh' .ci/run)
  shellcheck -x -P SCRIPTDIR -P . "${shell[@]}"
  mapfile -t python < <(git ls-files -co --exclude-standard '*.py')
  python3 - "${python[@]}" <<'PY'
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name).read(), name)
PY
}
step_rules() { python3 scripts/house_rules.py; }
step_format() { cargo fmt --all --check; }
step_dependencies() {
  if cargo deny --version >/dev/null 2>&1; then
    echo "by cargo-deny"
    cargo deny --locked check
  else
    echo "by scripts/check_dependencies.py: licences, bans and sources; cargo-deny, which also knows advisories, is not installed"
    python3 scripts/check_dependencies.py
  fi
}
step_lint() {
  cargo clippy --workspace --all-targets --locked -- -D warnings
  # A workspace of its own, whose lock file goes stale unseen: it is built only to fuzz.
  cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
}
npm_ready() { # the packages of the lock file, unless they are there
  if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then npm ci --no-audit --no-fund; fi
}
step_web() {
  cd web
  npm_ready
  npm run lint
  npm test
  npm run build
}
# Programs and tests in one go, so that both see the same features of each crate and nothing is built twice.
step_build() { cargo build --workspace --bins --tests --examples --locked; }
step_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    # Most of them wait: for a clock, a process, an answer.
    cargo nextest run --workspace --locked --no-fail-fast --test-threads $((3 * $(nproc))) --status-level fail --final-status-level fail
  else
    cargo test --workspace --locked --no-fail-fast --bins --lib --tests
  fi
}
step_doctests() { cargo test --workspace --locked --doc --no-fail-fast; }
# Programs that print `N passed, N failed` last; `--short` where they know it.
run_program() {
  case $1 in
    e2e/schemathesis.sh | e2e/faults/* | benches/*) "$1" --short ;;
    *) "$1" ;;
  esac
}

# ---- which, and how their tests are counted --------------------------------------------------------------------------

# Steps that run beside one another, LANES at a time, a line for those of one time, begun in this order: long ones first, so that none is
# waited for at the end, and the two that compute most apart. ON_ENGINE: those on the machine's own Docker engine, of which one runs at a
# time; the others have engines and networks of their own, or none. What is not named here runs alone: it holds figures to bounds that a
# busy machine may not keep, or looks at all that the machine has.
LANES=3
BESIDE=(
  "browser databases recovery jobs cluster_faults backups schemathesis acme far_backups scaling control_backup fleet proxy bad_input"
  "fault:database fault:packet_loss"
)
ON_ENGINE="browser control_backup bad_input"

# The line that a step is in; nothing of one that runs alone.
beside() {
  local names
  for names in "${BESIDE[@]}"; do
    if is_in "$1" "$names"; then echo "$names"; fi
  done
}
is_in() { [[ " $2 " == *" $1 "* ]]; }

name_of() { basename "$1" | sed 's/\.[a-z]*$//'; }
e2e_programs() { find e2e -maxdepth 1 -type f -perm -u+x \( -name '*.sh' -o -name '*.py' \) | sort; }
fault_programs() { find e2e/faults -maxdepth 1 -type f -perm -u+x \( -name '*.sh' -o -name '*.py' \) | sort; }
bench_programs() { find benches -maxdepth 1 -type f -perm -u+x \( -name '*.sh' -o -name '*.py' \) | sort; }

# One line a step: its name, how it is counted, the command.
steps() {
  echo "scripts one step_scripts"
  echo "rules checks step_rules"
  echo "format one step_format"
  echo "dependencies one step_dependencies"
  if [ -f web/package.json ]; then echo "web vitest step_web"; fi
  echo "lint one step_lint"
  echo "build one step_build"
  echo "tests cargo step_tests"
  echo "doctests cargo step_doctests"
  [ -z "$QUICK" ] || return 0
  local program
  for program in $(e2e_programs); do echo "$(name_of "$program") checks run_program $program"; done
  if [ -x e2e/browser/run.sh ]; then echo "browser playwright e2e/browser/run.sh"; fi
  for program in $(fault_programs); do echo "fault:$(name_of "$program") checks run_program $program"; done
  for program in $(bench_programs); do echo "bench:$(name_of "$program") one run_program $program"; done
}
# count KIND LOG STATUS: prints "passed failed".
count() {
  local passed=0 failed=0
  case $1 in
    cargo) # nextest's summary, or cargo's own lines
      read -r passed failed < <(awk '
        /^ *Summary \[/ { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^(failed|timed|exec)/) f += $i } }
        /^test result:/ { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i } }
        END { print p+0, f+0 }' "$2") ;;
    checks) # the last `N passed, N failed`
      read -r passed failed < <(sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p' "$2" | tail -n 1) || true ;;
    vitest) # `Tests  1 failed | 12 passed (13)`
      read -r passed failed < <(sed 's/\x1b\[[0-9;]*m//g' "$2" | awk '
        /^ *Tests / { for (i = 1; i < NF; i++) { if ($(i+1) == "passed") p += $i; if ($(i+1) == "failed") f += $i } } END { print p+0, f+0 }') ;;
    playwright) # `  12 passed (30s)`, `  1 failed`
      read -r passed failed < <(sed 's/\x1b\[[0-9;]*m//g' "$2" | awk '/^ +[0-9]+ passed/ { p = $1 } /^ +[0-9]+ failed/ { f = $1 } END { print p+0, f+0 }') ;;
    one) [ "$3" -ne 0 ] || passed=1 ;;
  esac
  # A step that failed without saying how often, or that says it is well but ran nothing, is one failure.
  if [ "${failed:-0}" -eq 0 ] && { [ "$3" -ne 0 ] || [ "${passed:-0}" -eq 0 ]; }; then failed=1; fi
  # A workspace without a single documentation test has passed those it has.
  if [ "$1" = cargo ] && [ "$3" -eq 0 ] && [ "${passed:-0}" -eq 0 ] && grep -q '^test result: ok' "$2"; then failed=0; fi
  echo "${passed:-0} ${failed:-0}"
}

log_of() { echo "$LOGS/${1//:/-}.log"; }
execute() { # NAME COMMAND...: its exit code is the command's, what it says is in its log
  local name=$1
  shift
  (
    set -e
    trap - EXIT # what the whole run started ends with the whole run
    "$@"
  ) >"$(log_of "$name")" 2>&1 </dev/null
}

tell() { # NAME KIND STATUS SECONDS: the rest of its line, and of its log the end where it failed
  local name=$1 kind=$2 status=$3 took=$4 log passed failed
  log=$(log_of "$name")
  read -r passed failed < <(count "$kind" "$log" "$status")
  PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
  if [ "$failed" -eq 0 ]; then
    printf 'ok      %5s passed %21s s\n' "$passed" "$took"
    TABLE+=("$(printf '%-28s %-7s %6s %6s %8s' "$name" ok "$passed" 0 "$took")")
  else
    printf 'FAILED  %5s passed, %s failed %10s s\n' "$passed" "$failed" "$took"
    TABLE+=("$(printf '%-28s %-7s %6s %6s %8s' "$name" FAILED "$passed" "$failed" "$took")")
    printf -- '--- of %s: what panicked, then its last lines\n' "$log"
    grep -aA 3 'panicked at' "$log" | head -n 60 || true
    tail -n 60 "$log"
    printf -- '---\n'
    [ "$name" != build ] || BUILD_FAILED=1
  fi
}

run_step() { # NAME KIND COMMAND...
  local name=$1 kind=$2 began=$EPOCHREALTIME status
  shift 2
  printf '%-28s' "$name"
  set +e # not `|| status=`: inside that, the step itself would not end where a command of it fails
  execute "$name" "$@"
  status=$?
  set -e
  tell "$name" "$kind" "$status" "$(seconds_since "$began")"
}

# ---- beside one another ----------------------------------------------------------------------------------------------

declare -A RUNNING=() # the step's process -> "its lane, when it began, its name, how it is counted"

begin() { # LANE NAME KIND COMMAND...: each lane has a lab of its own
  local lane=$1 name=$2 kind=$3
  shift 3
  set -m # a process group of its own, which heeds an interrupt and can be sent one
  LAB_ID=$((${LAB_ID:-77} - lane)) execute "$name" "$@" &
  set +m
  RUNNING[$!]="$lane $EPOCHREALTIME $name $kind"
}

one_ends() { # waits for it, tells of it and frees its lane
  local pid status=0 lane began name kind
  wait -n -p pid "${!RUNNING[@]}" || status=$?
  read -r lane began name kind <<<"${RUNNING[$pid]}"
  unset "RUNNING[$pid]"
  printf '%-28s' "$name"
  tell "$name" "$kind" "$status" "$(seconds_since "$began")"
}

end_running() { # as an interrupt of each one alone would: they clean up after themselves
  local pid
  for pid in "${!RUNNING[@]}"; do kill -INT -- "-$pid" 2>/dev/null || true; done
  for pid in "${!RUNNING[@]}"; do wait "$pid" || true; done
}

free_lane() {
  local lane=1 entry taken=''
  for entry in "${RUNNING[@]}"; do taken+=" ${entry%% *}"; done
  while is_in "$lane" "$taken"; do lane=$((lane + 1)); done
  echo "$lane"
}
engine_is_taken() {
  local entry name
  for entry in "${RUNNING[@]}"; do
    read -r _ _ name _ <<<"$entry"
    if is_in "$name" "$ON_ENGINE"; then return 0; fi
  done
  return 1
}
# The first of these lines that can begin now; nothing where none can.
next_of() {
  local line
  for line in "$@"; do
    if ! is_in "${line%% *}" "$ON_ENGINE" || ! engine_is_taken; then
      echo "$line"
      return
    fi
  done
}

run_beside() { # NAMES, in the order in which they are begun
  local name line words rest waiting=()
  for name in "$@"; do
    for line in "${PLAN[@]}"; do
      if [ "${line%% *}" = "$name" ] && wants "$name"; then waiting+=("$line"); fi
    done
  done
  while [ ${#waiting[@]} -gt 0 ] || [ ${#RUNNING[@]} -gt 0 ]; do
    line=''
    [ ${#RUNNING[@]} -ge "$LANES" ] || line=$(next_of "${waiting[@]}")
    if [ -z "$line" ]; then
      one_ends
      continue
    fi
    read -ra words <<<"$line"
    begin "$(free_lane)" "${words[@]}"
    rest=()
    for line in "${waiting[@]}"; do [ "${line%% *}" = "${words[0]}" ] || rest+=("$line"); done
    waiting=("${rest[@]}")
  done
}

# ---- what they need --------------------------------------------------------------------------------------------------

wants() { [ -z "$ONLY" ] || [[ ,$ONLY, == *",$1,"* ]]; }

prepare() {
  local began=$EPOCHREALTIME
  ensure_rust
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    die "rustfmt or clippy is missing; get them with: rustup component add rustfmt clippy"
  fi
  command -v shellcheck >/dev/null || apt_install shellcheck
  mkdir -p web/dist # the binary embeds the folder, which has to be there also while the dashboard is not built
  if [ -f web/package.json ]; then ensure_node; fi
  if [ -z "$QUICK" ]; then
    ensure_docker
    ensure_images
    ensure_balancers
    ensure_backup_programs
    ensure_pebble
    ensure_postgres
    ensure_registry
    registry_push busybox:latest
    ensure_lab
    export NM_TEST_REQUIRE_SERVICES=1 # a test that finds no Docker or PostgreSQL now fails, it does not step aside
  fi
  printf '%-28sready %37s s\n' "(services and tools)" "$(seconds_since "$began")"
}

QUICK='' ONLY='' BUILD_FAILED='' BEGUN='' PASSED=0 FAILED=0 TABLE=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) QUICK=1 ;;
    --only)
      ONLY=${2:?--only takes step names}
      shift
      ;;
    --list)
      steps | cut -d' ' -f1
      exit
      ;;
    *)
      sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'
      exit 2
      ;;
  esac
  shift
done

if [ -n "$ONLY" ]; then
  for name in ${ONLY//,/ }; do steps | cut -d' ' -f1 | grep -qxF "$name" || die "no step is called $name; scripts/test.sh --list names them"; done
fi

mkdir -p "$LOGS"
began_all=$EPOCHREALTIME
prepare
mapfile -t PLAN < <(steps)
on_exit end_running
for line in "${PLAN[@]}"; do
  read -ra words <<<"$line"
  name=${words[0]}
  if ! wants "$name" || is_in "$name" "$BEGUN"; then continue; fi
  read -ra together < <(beside "$name") || true
  if [ -n "$BUILD_FAILED" ]; then
    printf '%-28snot run: the build failed\n' "$name"
    FAILED=$((FAILED + 1))
  elif [ ${#together[@]} -gt 0 ]; then
    run_beside "${together[@]}"
    BEGUN+=" ${together[*]}"
  else
    run_step "${words[@]}"
  fi
done

printf '\n%-28s %-7s %6s %6s %8s\n' step result passed failed seconds
printf '%s\n' "${TABLE[@]}"
printf '%-28s %-7s %6s %6s %8s\n\n' all "$([ "$FAILED" -eq 0 ] && echo ok || echo FAILED)" "$PASSED" "$FAILED" "$(seconds_since "$began_all")"
printf '%s passed, %s failed\n' "$PASSED" "$FAILED"
[ "$FAILED" -eq 0 ]
