#!/bin/bash
# Stand-in for mysql:8.0 on Debian sid's MySQL: same variables, same first-start behaviour.
set -eo pipefail
from_file() {
  local v=$1 f=${1}_FILE
  [ -n "${!f:-}" ] && export "$v=$(cat "${!f}")"
  unset "$f"
  true
}
[ "${1:0:1}" = - ] && set -- mysqld "$@"
[ "$1" = mysqld ] || [ "$1" = mariadbd ] || exec "$@"
for p in MYSQL MARIADB; do for v in ROOT_PASSWORD DATABASE USER PASSWORD ALLOW_EMPTY_PASSWORD ROOT_HOST; do from_file ${p}_$v; done; done
for v in ROOT_PASSWORD DATABASE USER PASSWORD ALLOW_EMPTY_PASSWORD ROOT_HOST RANDOM_ROOT_PASSWORD; do
  a=MYSQL_$v b=MARIADB_$v
  [ -z "${!a}" ] && [ -n "${!b}" ] && export "$a=${!b}"
done
if [ "$(id -u)" = 0 ]; then
  chown -R mysql:mysql /var/lib/mysql /run/mysqld
  exec setpriv --reuid=mysql --regid=mysql --clear-groups "${BASH_SOURCE[0]}" "$@"
fi
if [ ! -d /var/lib/mysql/mysql ]; then
  if [ -z "$MYSQL_ROOT_PASSWORD$MYSQL_ALLOW_EMPTY_PASSWORD$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    echo '[ERROR] [Entrypoint]: Database is uninitialized and password option is not specified' >&2
    echo '    You need to specify one of: MYSQL_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD, MYSQL_RANDOM_ROOT_PASSWORD' >&2
    exit 1
  fi
  if [ -n "$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    MYSQL_ROOT_PASSWORD=$(head -c 24 /dev/urandom | base64 -w0)
    echo "[Entrypoint]: GENERATED ROOT PASSWORD: $MYSQL_ROOT_PASSWORD"
  fi
  "$1" --initialize-insecure --user=mysql --datadir=/var/lib/mysql
  "$@" --skip-networking --mysqlx=OFF --socket=/run/mysqld/init.sock &
  pid=$!
  for _ in $(seq 120); do
    mysqladmin --socket=/run/mysqld/init.sock -uroot ping >/dev/null 2>&1 && break
    sleep 0.25
  done
  q() { mysql --socket=/run/mysqld/init.sock -uroot ${P:+--password="$P"} "$@"; }
  esc() { printf %s "$1" | sed "s/\\\\/\\\\\\\\/g; s/'/\\\\'/g"; }
  P=
  {
    echo "CREATE USER IF NOT EXISTS 'root'@'${MYSQL_ROOT_HOST:-%}' IDENTIFIED BY '$(esc "$MYSQL_ROOT_PASSWORD")';"
    echo "GRANT ALL ON *.* TO 'root'@'${MYSQL_ROOT_HOST:-%}' WITH GRANT OPTION;"
    [ -z "$MYSQL_DATABASE" ] || echo "CREATE DATABASE IF NOT EXISTS \`$MYSQL_DATABASE\`;"
    if [ -n "$MYSQL_USER" ]; then
      echo "CREATE USER '$MYSQL_USER'@'%' IDENTIFIED BY '$(esc "$MYSQL_PASSWORD")';"
      [ -z "$MYSQL_DATABASE" ] || echo "GRANT ALL ON \`${MYSQL_DATABASE//_/\\_}\`.* TO '$MYSQL_USER'@'%';"
    fi
    echo "ALTER USER 'root'@'localhost' IDENTIFIED BY '$(esc "$MYSQL_ROOT_PASSWORD")';"
  } | q mysql
  P=$MYSQL_ROOT_PASSWORD
  # shellcheck disable=SC1090  # an init script of the caller, known only at run time
  for f in /docker-entrypoint-initdb.d/*; do
    case $f in *.sh) if [ -x "$f" ]; then "$f"; else . "$f"; fi ;; *.sql) q ${MYSQL_DATABASE:+"$MYSQL_DATABASE"} <"$f" ;; *.sql.gz) gunzip -c "$f" | q ${MYSQL_DATABASE:+"$MYSQL_DATABASE"} ;; esac
  done
  mysqladmin --socket=/run/mysqld/init.sock -uroot ${P:+--password="$P"} shutdown
  wait $pid || true
  echo '[Note] [Entrypoint]: MySQL init process done. Ready for start up.'
fi
exec "$@"
