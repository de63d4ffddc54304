#!/usr/bin/env bash
# Builds the images the tests run, from Debian packages alone: no image registry is needed, only a Debian mirror.
# They behave as the official images do where the tests look (environment variables, volumes, signals, first start).
#
#   e2e/images/build.sh              busybox nginx redis postgres mariadb node postgres-ha, what the tests need
#   e2e/images/build.sh NAME...      the named folders (mysql9, wordpress, prometheus, clickhouse, systemd-node too)
#   e2e/images/build.sh --list       the tags those names give
#
# Images that exist are left alone; NM_REBUILD_IMAGES=1 builds them again. Needs root and a running Docker engine;
# mmdebstrap only while a base image is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=SCRIPTDIR/../../scripts/lib.sh
. ../../scripts/lib.sh

POSTGRES_HA=../../images/postgres-ha
DEFAULT=(busybox nginx redis postgres mariadb node postgres-ha)

# The tags a folder gives. Debian bookworm has PostgreSQL 15 and Node.js 18 where the specification's templates name
# postgres:16 and node:20: those two tags stand in here, they do NOT hold version 16 and 20.
tags() {
  case $1 in
    busybox) echo busybox:latest ;;
    nginx) echo nginx:latest ;;
    redis) echo redis:7 redis:latest ;;
    postgres) echo postgres:15 postgres:16 postgres:latest ;;
    mariadb) echo mariadb:10 mariadb:latest ;;
    node) echo node:18 node:20 ;;
    mysql9) echo mysql:9 ;;
    wordpress) echo wordpress:latest ;;
    prometheus) echo prom/prometheus:latest ;;
    clickhouse) echo clickhouse/clickhouse-server:latest ;;
    # As the program names it, which builds it by itself where it is missing.
    postgres-ha) echo "neuralmesh/postgres-ha:15-$(cat "$POSTGRES_HA"/{Dockerfile,nm-postgres.py,nm_{common,document,etcd,run,database,commands,archive,restore}.py,nm-archive.sh} | sha256sum | cut -c1-12)" ;;
    systemd-node) echo lab/systemd-node:latest ;;
    *)
      echo "build.sh: no image is called $1; there are: $(find . -mindepth 1 -maxdepth 1 -type d -printf '%f ' | sort)" >&2
      return 1
      ;;
  esac
}

present() {
  local tag
  [ -z "${NM_REBUILD_IMAGES:-}" ] || return 1
  for tag in "$@"; do docker image inspect "$tag" >/dev/null 2>&1 || return 1; done
}

# base SUITE TAG [mmdebstrap options]: a minimal Debian as an image.
base() {
  present "$2" && return 0
  command -v mmdebstrap >/dev/null || {
    echo "build.sh: mmdebstrap is missing; install it with: apt-get install mmdebstrap" >&2
    return 1
  }
  # The key is named, since mmdebstrap finds it by itself only with gpg, or on Debian.
  mmdebstrap --quiet --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "${@:3}" "$1" - | docker import - "$2" >/dev/null
}

build() {
  local name=$1 wanted args=() tag log folder
  read -ra wanted <<<"$(tags "$name")"
  present "${wanted[@]}" && return 0
  if [ "$name" = mysql9 ]; then
    # MySQL is in Debian's unstable suite only; a mirror's copy of it may be older than its Valid-Until says.
    base sid debian:sid-slim --aptopt='Acquire::Check-Valid-Until "false"' --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
  else
    base bookworm debian:bookworm-slim
  fi
  # npm as the official image has it: Debian's own package of it brings four hundred others.
  if [ "$name" = node ] && [ ! -e node/npm/package.json ]; then npm_tarball npm "$NM_NPM_VERSION" node/npm; fi
  for tag in "${wanted[@]}"; do args+=(-t "$tag"); done
  folder=$name
  [ "$name" != postgres-ha ] || folder=$POSTGRES_HA
  log=$(mktemp)
  # The classic builder: it needs no plugin, and Debian's docker.io ships none.
  if ! DOCKER_BUILDKIT=0 docker build "${args[@]}" "$folder" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    echo "build.sh: the image $name could not be built; the end of its log is above" >&2
    return 1
  fi
  rm -f "$log"
  echo "built ${wanted[*]}"
}

if [ "${1:-}" = --list ]; then
  for name in "${DEFAULT[@]}"; do tags "$name"; done | tr ' ' '\n'
  exit
fi
[ $# -gt 0 ] || set -- "${DEFAULT[@]}"
for name in "$@"; do tags "$name" >/dev/null; done
for name in "$@"; do build "$name"; done
