#!/usr/bin/env bash
# fleet.sh - a whole fleet on this one machine: a control plane, and N nodes that have each a Docker engine and an agent of
# their own (lab.sh makes the nodes). Needs root, Docker, and the packages tini, iproute2, iptables.
#
#   fleet.sh up [N]      3 nodes: n1..nN, joined by token, labelled zone=a, b, c, a, ...; then says how to use it
#   fleet.sh down        ends all of it: nothing stays but a cache of image layers
#   fleet.sh env         how a shell uses it: eval "$(e2e/lab/fleet.sh env)"
#   fleet.sh status      what runs
#   fleet.sh join nK     boots one more node and joins it
#   fleet.sh control start|stop|kill     the control plane alone
#   fleet.sh ...         any other command is lab.sh's: exec, docker, cut, heal, loss, crash, boot, kill-engine, ...
#
# The control plane listens on the address of the lab's bridge, which is in the lab's own network, and nowhere else.
# Environment: NM_BINARY (target/debug/neuralmesh), FLEET_IMAGES ("busybox:latest nginx:latest", of the machine's engine, those it
# has), FLEET_OWNER (a pid: once that process is gone, the next `up` ends what it left), and lab.sh's LAB_ID, ENGINE_PATH, ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../scripts/lib.sh

LAB_ID=${LAB_ID:-77}
STATE=${LAB_STATE:-${TMPDIR:-/tmp}/nmlab$LAB_ID}
NODES=${LAB:-$STATE/nodes}
CONTROL=$STATE/control
GATEWAY=10.$LAB_ID.0.1
URL=http://$GATEWAY:3001
AGENTS=https://$GATEWAY:7443
NM_BINARY=$(realpath -m "${NM_BINARY:-$NM_ROOT/target/debug/neuralmesh}")
ZONES=(a b c)
export LAB_ID LAB_STATE=$STATE
case ${1:-help} in
  up | down | env | status | join | control | help | -h | --help) ;;
  *) exec ./lab.sh "$@" ;; # with all of the caller's environment, which a service may be meant to have
esac
for name in $(compgen -v NEURALMESH_); do unset "$name"; done # the caller's own fleet is not meant

lab() { ./lab.sh "$@"; }
mesh() { NEURALMESH_SERVER=$URL NEURALMESH_TOKEN_FILE=$CONTROL/token "$NM_BINARY" "$@"; }
pid_lives() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
control_pid() { cat "$CONTROL/pid" 2>/dev/null || true; }
control_ready() { curl -fs -m 2 -o /dev/null "$URL/readyz"; }
nodes_ready() { [ "$(mesh nodes ls -o json | grep -c '"status": *"ready"')" -ge "$1" ]; }

prepare() {
  local program
  [ "$(id -u)" = 0 ] || die "the lab needs root: network namespaces, mounts and Docker engines of its own"
  [ -x "$NM_BINARY" ] || die "$NM_BINARY is missing; build it with: cargo build --bin neuralmesh"
  for program in tini ip iptables dockerd curl; do
    command -v "$program" >/dev/null || die "$program is missing; install it with: apt-get install tini iproute2 iptables docker.io curl"
  done
}

control_start() {
  local pid
  if pid_lives "$(control_pid)"; then return 0; fi
  mkdir -p "$CONTROL"
  setsid "$NM_BINARY" server --data-dir "$CONTROL/data" --listen "$GATEWAY:3001" --agent-listen "$GATEWAY:7443" \
    >>"$CONTROL/log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$CONTROL/pid"
  wait_until 30 answers_or_gone "$pid" control_ready || true
  control_ready || fail_with_log "$CONTROL/log" "the control plane did not start"
}
control_end() { # KILL or TERM
  local pid
  pid=$(control_pid)
  if ! pid_lives "$pid"; then return 0; fi
  kill "-$1" "$pid"
  wait_until 40 test ! -d "/proc/$pid" || kill -KILL "$pid"
  rm -f "$CONTROL/pid"
}
admin_token() { # one that programs use; the first password serves for this once
  [ -e "$CONTROL/token" ] && return 0
  XDG_CONFIG_HOME=$CONTROL "$NM_BINARY" login --server-url "$URL" --username admin \
    --password-file "$CONTROL/data/initial-admin-password" >/dev/null 2>>"$CONTROL/log"
  (umask 077 && XDG_CONFIG_HOME=$CONTROL "$NM_BINARY" tokens create lab --role admin --server-url "$URL" 2>/dev/null >"$CONTROL/token.new")
  mv "$CONTROL/token.new" "$CONTROL/token"
}

# node_join NODE: its agent as a service of the node, the token in the environment as docs/DEPLOYMENT.md has it.
node_join() {
  NEURALMESH_JOIN=$(mesh nodes join-token -q) lab service "$1" agent "$NM_BINARY" agent --server "$AGENTS" --data-dir "$NODES/$1/neuralmesh"
}
node_known() { mesh nodes get "$1" >/dev/null; }
node_label() { # once it has joined
  local number=${1#n}
  wait_until 20 node_known "$1" || fail_with_log "$NODES/$1/log/agent.log" "$1 did not join"
  mesh nodes label "$1" "zone=${ZONES[$(((number - 1) % ${#ZONES[@]}))]}" >/dev/null
}

up() {
  local count=$1 began=$EPOCHREALTIME image images=() i
  prepare
  if [ -e "$STATE" ]; then
    if [ ! -e "$STATE/owner" ] || pid_lives "$(cat "$STATE/owner")"; then
      die "a lab is up already, or was not ended ($STATE): end it with 'fleet.sh down', or choose another with LAB_ID"
    fi
    note "fleet: ending what another run left"
    down
  fi
  mkdir -p "$STATE"
  [ -z "${FLEET_OWNER:-}" ] || echo "$FLEET_OWNER" >"$STATE/owner"
  for image in ${FLEET_IMAGES:-busybox:latest nginx:latest}; do
    if docker image inspect "$image" >/dev/null 2>&1; then images+=("$image"); fi
  done
  [ ${#images[@]} -eq 0 ] || lab golden "${images[@]}"
  lab up "$count" >"$STATE/up.log" 2>&1 || fail_with_log "$STATE/up.log" "the nodes did not come up"
  control_start
  admin_token
  for ((i = 1; i <= count; i++)); do node_join "n$i"; done
  for ((i = 1; i <= count; i++)); do node_label "n$i"; done
  wait_until 30 nodes_ready "$count" || fail_with_log "$CONTROL/log" "not all of $count nodes are ready"
  note "fleet: $count nodes are up after $(seconds_since "$began") s; images: ${images[*]:-none}"
}
down() {
  control_end TERM
  lab purge
  rm -rf "$STATE"
}
environment() {
  [ -e "$CONTROL/token" ] || die "no fleet is up"
  echo "export NEURALMESH_SERVER=$URL NEURALMESH_TOKEN_FILE=$CONTROL/token"
}

case ${1:-help} in
  up)
    up "${2:-3}"
    environment
    note "use it:  eval \"\$(e2e/lab/fleet.sh env)\"; $NM_BINARY nodes ls"
    note "end it:  e2e/lab/fleet.sh down"
    ;;
  down) down ;;
  env) environment ;;
  status)
    lab status
    if control_ready; then mesh nodes ls; else echo "the control plane is not up"; fi
    ;;
  join)
    prepare
    lab boot "$2"
    node_join "$2"
    node_label "$2"
    ;;
  control)
    case ${2:-} in
      start) control_start ;;
      stop) control_end TERM ;;
      kill) control_end KILL ;;
      *) die "control start, stop or kill" ;;
    esac
    ;;
  *) sed -n '2,/^set/p' fleet.sh | sed '$d; s/^# \{0,1\}//' ;;
esac
