# shellcheck shell=sh
# Reads an RDB file on standard input into the Redis that runs in this container. A second server loads the file, and the first one
# becomes its replica until it has all of it: so whatever it held is replaced at once, its append-only file included, and nothing
# is lost where the file is no good.
set -eu
dir=$(mktemp -d)
server=
replica=
password=${REDISCLI_AUTH:-}
unset REDISCLI_AUTH
main() { if [ -n "$password" ]; then REDISCLI_AUTH=$password redis-cli "$@"; else redis-cli "$@"; fi; }
second() { redis-cli -h 127.0.0.1 -p 46379 "$@"; }
leave() {
  if [ -n "$replica" ]; then main REPLICAOF NO ONE >/dev/null; fi
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap leave EXIT
# until WHAT COMMAND...: a tenth of a second apart, ten minutes long while the second server lives.
await() {
  what=$1 left=6000
  shift
  until "$@"; do
    left=$((left - 1))
    if [ "$left" -eq 0 ] || ! kill -0 "$server" 2>/dev/null; then
      tail -n 3 "$dir/log" >&2
      echo "$what" >&2
      exit 1
    fi
    sleep 0.1
  done
}
# Where the container shares its host's network, another server may have the port: it is ours by its folder.
loaded() { [ "$(second PING 2>/dev/null)" = PONG ] && [ "$(second CONFIG GET dir 2>/dev/null | tail -n 1)" = "$dir" ]; }
ready() { [ "$(main PING 2>/dev/null)" = PONG ]; }
synced() { main INFO replication | grep -q '^master_link_status:up'; }
# What it took is in memory until its append-only file has been written anew; a start before that would read the old one. Where
# there is no such file, the dump was written to its disk before it was loaded.
kept() {
  state=$(main INFO persistence | tr -d '\r')
  says() { printf '%s\n' "$state" | grep -qx "$1"; }
  says aof_enabled:0 || { says aof_rewrite_in_progress:0 && says aof_rewrite_scheduled:0 && says aof_last_bgrewrite_status:ok; }
}
cat >"$dir/dump.rdb"
redis-server --port 46379 --bind 127.0.0.1 --dir "$dir" --dbfilename dump.rdb --save '' --appendonly no --repl-diskless-sync-delay 0 \
  >"$dir/log" 2>&1 &
server=$!
await "the dump could not be loaded" loaded
await "Redis does not answer" ready
replica=1
[ "$(main REPLICAOF 127.0.0.1 46379)" = OK ] || { echo "Redis does not take the dump: REPLICAOF was refused" >&2; exit 1; }
await "Redis did not take the dump" synced
await "Redis holds the dump, but could not write its append-only file: see its log" kept
[ "$(main REPLICAOF NO ONE)" = OK ] || { echo "Redis still follows the second server: say REPLICAOF NO ONE to it" >&2; exit 1; }
replica=
