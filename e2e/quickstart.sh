#!/usr/bin/env bash
# scripts/quickstart.sh as a newcomer runs it, on a data folder and ports of its own: it ends with a container that answers, a
# second run changes nothing and is quick, an outsider on its port is told apart, and --stop ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/nm-quickstart.XXXXXX")
on_exit rm -rf "$dir"
export NM_PROFILE=debug NM_DATA_DIR=$dir/data NM_FIRST_CONTAINER=nmt-hello-$$ XDG_CONFIG_HOME=$dir/config
NM_LISTEN=127.0.0.1:$(free_port)
NM_AGENT_LISTEN=127.0.0.1:$(free_port)
export NM_LISTEN NM_AGENT_LISTEN
unset NEURALMESH_SERVER NEURALMESH_TOKEN
passed=0 failed=0

check() { # WHAT COMMAND...
  local what=$1 began=$EPOCHREALTIME
  shift
  if "$@" >"$dir/check.log" 2>&1; then
    passed=$((passed + 1))
    printf '%s ... ok (%s s)\n' "$what" "$(seconds_since "$began")"
  else
    failed=$((failed + 1))
    printf '%s ... FAILED (%s s)\n' "$what" "$(seconds_since "$began")"
    sed 's/^/    /' "$dir/check.log"
  fi
}
cleanup() {
  scripts/quickstart.sh --stop >/dev/null 2>&1 || true
  docker rm -fv "$NM_FIRST_CONTAINER" >/dev/null 2>&1 || true
}
on_exit cleanup

started_at() { docker inspect -f '{{.State.StartedAt}}' "$NM_FIRST_CONTAINER"; }
first() { scripts/quickstart.sh | tee "$dir/first" && answers; }
answers() { curl -fs "$(sed -n 's/^ *Container *\(http[^ ]*\).*/\1/p' "$dir/first")"; }
again() {
  local before after
  before="$(cat "$NM_DATA_DIR/quickstart.pid") $(started_at)"
  timeout 60 scripts/quickstart.sh | tee "$dir/second" || return
  after="$(cat "$NM_DATA_DIR/quickstart.pid") $(started_at)"
  [ "$before" = "$after" ] && [ "$(grep -A9 Dashboard "$dir/first")" = "$(grep -A9 Dashboard "$dir/second")" ]
}
dashboard() { curl -fs "http://$NM_LISTEN/" | grep -qi '<html'; }
stopped_container() { docker stop -t 1 "$NM_FIRST_CONTAINER" && scripts/quickstart.sh && answers; }
ended() { # also one that nobody has waited for yet
  local state
  state=$(awk '{print $3}' "/proc/$1/stat" 2>/dev/null) || return 0
  [ "$state" = Z ]
}
stop() {
  local pid
  pid=$(cat "$NM_DATA_DIR/quickstart.pid")
  scripts/quickstart.sh --stop && ended "$pid" && docker inspect -f '{{.State.Running}}' "$NM_FIRST_CONTAINER" | grep -q true && answers
}
up_again() { scripts/quickstart.sh && answers; }
taken() { # another program on its port: said in a sentence, nothing started
  local pid
  scripts/quickstart.sh --stop
  python3 -m http.server --bind 127.0.0.1 "${NM_LISTEN#*:}" --directory "$dir/config" &
  pid=$!
  wait_until 10 curl -s -o /dev/null "http://$NM_LISTEN/"
  if scripts/quickstart.sh >"$dir/taken" 2>&1; then
    kill "$pid"
    return 1
  fi
  kill "$pid"
  cat "$dir/taken"
  grep -q 'something else answers' "$dir/taken" && [ ! -e "$NM_DATA_DIR/quickstart.pid" ]
}

check "the first run ends with a container that answers" first
if [ "$failed" -eq 0 ]; then
  check "the dashboard is served" dashboard
  check "the second run changes nothing, within a minute" again
  check "a stopped container is started again" stopped_container
  check "--stop ends it, and the container goes on" stop
  check "started again, the same container is found" up_again
  check "another program on its port is told apart" taken
fi
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
