#!/bin/bash
# Stand-in: CLICKHOUSE_USER/PASSWORD/DB as the official image has them.
set -e
[ $# -gt 0 ] && [ "${1:0:2}" != -- ] && exec "$@"
U=${CLICKHOUSE_USER:-default} P=${CLICKHOUSE_PASSWORD:-}
mkdir -p /etc/clickhouse-server/users.d /etc/clickhouse-server/config.d
cat >/etc/clickhouse-server/config.d/docker.xml <<X
<yandex><listen_host>0.0.0.0</listen_host><logger><console>1</console></logger></yandex>
X
if [ "$U" != default ] || [ -n "$P" ]; then
  cat >/etc/clickhouse-server/users.d/docker.xml <<X
<yandex><users>$([ "$U" = default ] || echo '<default remove="remove"/>')<$U replace="replace"><profile>default</profile><networks><ip>::/0</ip></networks><password>$P</password><quota>default</quota></$U></users></yandex>
X
fi
mkdir -p /var/lib/clickhouse /var/log/clickhouse-server
chown -R clickhouse:clickhouse /var/lib/clickhouse /var/log/clickhouse-server
S="setpriv --reuid=clickhouse --regid=clickhouse --clear-groups clickhouse-server --config-file=/etc/clickhouse-server/config.xml"
if [ -n "$CLICKHOUSE_DB" ] || [ -n "$(ls -A /docker-entrypoint-initdb.d)" ]; then
  $S &
  pid=$!
  c="clickhouse-client --host 127.0.0.1 -u $U --password $P"
  [ -n "$P" ] || c="clickhouse-client --host 127.0.0.1 -u $U"
  for _ in $(seq 60); do
    $c --query 'SELECT 1' >/dev/null 2>&1 && break
    sleep 0.5
  done
  [ -z "$CLICKHOUSE_DB" ] || $c --query "CREATE DATABASE IF NOT EXISTS $CLICKHOUSE_DB"
  # shellcheck disable=SC1090  # an init script of the caller, known only at run time
  for f in /docker-entrypoint-initdb.d/*; do case $f in *.sql) $c --multiquery <"$f" ;; *.sh) . "$f" ;; esac done
  kill $pid
  wait $pid || true
fi
exec $S "$@"
