#!/usr/bin/env bash
# From a clone to a container that answers, on Debian or Ubuntu with git and Rust: installs what is missing (Docker engine, C
# compiler, Node.js for the dashboard), builds NeuralMesh, starts it, and runs a first container. No image registry is needed.
# Run again it finds all that done and changes nothing.
#
#   scripts/quickstart.sh           do all that
#   scripts/quickstart.sh --stop    end the NeuralMesh it started; containers and the load balancer go on running
#
#   NM_DATA_DIR   where its data lies     (root: /var/lib/neuralmesh; else ~/.local/share/neuralmesh)
#   NM_LISTEN     the API and dashboard   (127.0.0.1:3001)
#   NM_AGENT_LISTEN  where agents connect (the program's own default, port 7443)
#   NM_PROFILE    release or debug        (release)
#   NM_FIRST_CONTAINER  its name          (hello)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

if [ -z "${NM_DATA_DIR:-}" ]; then
  if [ "$(id -u)" = 0 ]; then NM_DATA_DIR=/var/lib/neuralmesh; else NM_DATA_DIR=${XDG_DATA_HOME:-$HOME/.local/share}/neuralmesh; fi
fi
LISTEN=${NM_LISTEN:-127.0.0.1:3001}
PROFILE=${NM_PROFILE:-release}
TARGET=${CARGO_TARGET_DIR:-$NM_ROOT/target}
BINARY=$TARGET/$PROFILE/neuralmesh
PID_FILE=$NM_DATA_DIR/quickstart.pid
LOG=$NM_DATA_DIR/quickstart.log
# Wherever it listens, from here it is reached on loopback.
case $LISTEN in
  0.0.0.0:* | '[::]':*) URL=http://127.0.0.1:${LISTEN##*:} ;;
  *) URL=http://$LISTEN ;;
esac
PASSWORD_FILE=$NM_DATA_DIR/initial-admin-password
HELLO=${NM_FIRST_CONTAINER:-hello}
IMAGE=neuralmesh/hello:latest
STEPS=5

# ---- telling how far it is ---------------------------------------------------------------------------------------

step_number=0
begin() {
  step_number=$((step_number + 1))
  step_began=$EPOCHREALTIME
  printf '[%s/%s] %s\n' "$step_number" "$STEPS" "$*"
}
done_with() { printf '      %s (%s s)\n' "$*" "$(seconds_since "$step_began")"; }

# follow LOG COMMAND...: runs it with its output in LOG, and tells the log's newest line now and then.
follow() {
  local log=$1 pid told status=0 every=20
  shift
  if [ -t 1 ]; then every=1; fi
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  on_exit kill "$pid"
  told=$SECONDS
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    [ $((SECONDS - told)) -ge "$every" ] || continue
    told=$SECONDS
    if [ -t 1 ]; then
      printf '\r\033[K      %4d s  %.90s' "$((SECONDS - follow_began))" "$(tail -n 1 "$log")"
    else
      printf '      %4d s  %.90s\n' "$((SECONDS - follow_began))" "$(tail -n 1 "$log")"
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
  wait "$pid" || status=$?
  unset 'NM_EXIT_STEPS[-1]'
  return "$status"
}

# ---- what runs -----------------------------------------------------------------------------------------------------

# The pid of the NeuralMesh that an earlier run started, nothing when it has ended.
running_pid() {
  local pid
  pid=$(cat "$PID_FILE" 2>/dev/null) || return 0
  case $(readlink "/proc/$pid/exe" 2>/dev/null) in
    */neuralmesh | */neuralmesh' (deleted)') printf '%s' "$pid" ;;
  esac
}
ready() { curl -fs -m 5 -o /dev/null "$URL/readyz"; }

stop() {
  local pid
  pid=$(running_pid)
  if [ -z "$pid" ]; then
    echo "NeuralMesh does not run from $NM_DATA_DIR"
  else
    stop_pid "$pid" 30
    echo "NeuralMesh (pid $pid) has ended; its containers and the load balancer of its clusters run on, and its data stays in $NM_DATA_DIR"
  fi
  rm -f "$PID_FILE"
}

case ${1:-} in
  '') ;;
  --stop)
    stop
    exit
    ;;
  *)
    sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
case $PROFILE in release | debug) ;; *) die "NM_PROFILE is release or debug, not '$PROFILE'" ;; esac

# ---- 1: tools --------------------------------------------------------------------------------------------------------

began_all=$EPOCHREALTIME
begin "tools: Rust, a C compiler, Node.js, Docker"
ensure_rust
if [ -f web/package.json ]; then ensure_node; fi
# A user gets at the engine through the group docker; a login that is older than the membership does not have it yet.
if [ "$(id -u)" != 0 ] && [ -z "${NM_QUICKSTART_IN_GROUP:-}" ] && [ -z "${DOCKER_HOST:-}" ] && ! docker_answers; then
  command -v dockerd >/dev/null || apt_install docker.io
  command -v docker >/dev/null || apt_install docker-cli
  as_root docker version >/dev/null 2>&1 || start_docker_engine
  if ! docker_answers; then
    if ! id -nG "$(id -un)" | grep -qw docker; then
      note "  adding $(id -un) to the group docker, whose members may use the Docker engine"
      as_root usermod -aG docker "$(id -un)"
    fi
    trap - EXIT
    NM_QUICKSTART_IN_GROUP=1 exec sg docker -c "$(printf '%q ' "$NM_ROOT/scripts/quickstart.sh" "$@")"
  fi
fi
ensure_docker
done_with "Docker $(docker version --format '{{.Server.Version}}'), $(rustc --version | cut -d' ' -f1,2)$(if [ -f web/package.json ]; then echo ", Node.js $(node --version)"; fi)"

# ---- 2 and 3: build --------------------------------------------------------------------------------------------------

(umask 077 && mkdir -p "$NM_DATA_DIR") 2>/dev/null || die "can't make the folder $NM_DATA_DIR; run this as root, or set NM_DATA_DIR to a folder of yours"
mkdir -p "$TARGET" web/dist
build_log=$TARGET/quickstart-build.log

build_web() {
  cd web || return
  if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then npm ci --no-audit --no-fund || return; fi
  npm run build
}
web_is_built() {
  [ -e web/dist/index.html ] &&
    [ -z "$(find web \( -path web/node_modules -o -path web/dist \) -prune -o -type f -newer web/dist/index.html -print -quit)" ]
}
begin "the dashboard"
if [ ! -f web/package.json ] || web_is_built; then
  done_with "is built"
else
  follow_began=$SECONDS
  follow "$build_log" build_web || fail_with_log "$build_log" "the dashboard could not be built; the log above says why"
  done_with "built"
fi

begin "neuralmesh, $PROFILE build (the first one takes some minutes)"
profile_flag=()
if [ "$PROFILE" = release ]; then profile_flag=(--release); fi
follow_began=$SECONDS
follow "$build_log" cargo build --locked "${profile_flag[@]}" --bin neuralmesh || fail_with_log "$build_log" "neuralmesh could not be built; the log above says why"
done_with "$BINARY"

# ---- 4: start --------------------------------------------------------------------------------------------------------

begin "starting it"
pid=$(running_pid)
if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe")" != "$(readlink -f "$BINARY")" ]; then
  stop_pid "$pid" 30 # it runs an older build
  pid=''
fi
if [ -n "$pid" ] && ready; then
  done_with "runs already (pid $pid)"
else
  if [ -z "$pid" ]; then
    if ready || curl -s -m 5 -o /dev/null "$URL/"; then
      die "something else answers on $LISTEN; end it, or choose another address: NM_LISTEN=127.0.0.1:3101 scripts/quickstart.sh"
    fi
    start=(up --data-dir "$NM_DATA_DIR" --listen "$LISTEN")
    if [ -n "${NM_AGENT_LISTEN:-}" ]; then start+=(--agent-listen "$NM_AGENT_LISTEN"); fi
    setsid "$BINARY" "${start[@]}" >>"$LOG" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$PID_FILE"
  fi
  wait_until 60 answers_or_gone "$pid" ready || true
  ready || {
    kill -0 "$pid" 2>/dev/null || rm -f "$PID_FILE"
    fail_with_log "$LOG" "neuralmesh did not become ready at $URL; mend what its log says above (also: '$BINARY doctor'), then run this again"
  }
  done_with "ready at $URL (pid $pid, log $LOG)"
fi

# ---- 5: the first container --------------------------------------------------------------------------------------------

export NEURALMESH_SERVER=$URL
cli() { "$BINARY" "$@"; }
# The first container as the API shows it; fails when there is none.
hello_json() { cli containers get "$HELLO" -o json 2>/dev/null; }
# of_hello EXPRESSION: of its JSON on stdin, `c`.
of_hello() { python3 -c 'import json,sys; c = json.load(sys.stdin); c = c[0] if isinstance(c, list) else c; print(eval(sys.argv[1]))' "$1"; }
port_is_free() { ! python3 -c 'import socket,sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1)' "$1" 2>/dev/null; }

begin "a first container"
if ! cli containers ps >/dev/null 2>&1; then
  [ -r "$PASSWORD_FILE" ] || die "the first password is no longer in $PASSWORD_FILE; log in with your own: $BINARY login --server-url $URL --username admin, then run this again"
  cli login --username admin --password-file "$PASSWORD_FILE" >/dev/null || fail_with_log "$LOG" "the admin could not log in with the password in $PASSWORD_FILE; if you changed it: $BINARY login --server-url $URL --username admin"
fi
if ! hello=$(hello_json); then
  port=8080
  until port_is_free "$port"; do port=$((port + 1)); done
  cli containers run --name "$HELLO" -p "$port:8080" "$IMAGE" >/dev/null || fail_with_log "$LOG" "the first container did not start"
elif [ "$(of_hello 'c["status"]' <<<"$hello")" != running ]; then
  cli containers start "$HELLO" >/dev/null || fail_with_log "$LOG" "the container $HELLO did not start"
fi
port=$(hello_json | of_hello 'next((p["host"] for p in c["ports"] if p["host"]), "")')
[ -n "$port" ] || die "the container $HELLO has no port on this machine; remove it with '$BINARY containers rm -f $HELLO', then run this again"
hello_answers() { curl -fs -m 5 -o /dev/null "http://127.0.0.1:$port/"; }
wait_until 30 hello_answers || {
  cli containers logs "$HELLO" >&2 || true
  die "the container $HELLO runs, but does not answer on http://127.0.0.1:$port/; its log is above"
}
done_with "it answers on http://localhost:$port/: $(curl -fsi -m 5 "http://127.0.0.1:$port/" | head -n 1 | tr -d '\r')"

cat <<TEXT

NeuralMesh is up ($(seconds_since "$began_all") s).
  Dashboard   $URL/
  Log in      as admin, with the password in $PASSWORD_FILE
  Container   http://localhost:$port/  ($BINARY containers ps)
  Stop        scripts/quickstart.sh --stop
TEXT
