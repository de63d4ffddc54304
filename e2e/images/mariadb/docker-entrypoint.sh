#!/bin/bash
# Stand-in for the official image: first start makes the data folder from MARIADB_*, later starts only run the server.
set -eo pipefail
[ "$1" = mariadbd ] || exec "$@"
data=/var/lib/mysql
if [ ! -d "$data/mysql" ]; then
  : "${MARIADB_ROOT_PASSWORD:?You need to specify MARIADB_ROOT_PASSWORD}"
  chown mysql:mysql "$data"
  mariadb-install-db --user=mysql --datadir="$data" --skip-test-db --auth-root-authentication-method=normal >/dev/null
  quoted=${MARIADB_ROOT_PASSWORD//\'/\'\'}
  {
    echo "FLUSH PRIVILEGES;"
    echo "ALTER USER root@localhost IDENTIFIED BY '$quoted';"
    echo "CREATE USER root@'%' IDENTIFIED BY '$quoted';"
    echo "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;"
    [ -z "$MARIADB_DATABASE" ] || echo "CREATE DATABASE \`$MARIADB_DATABASE\`;"
  } | mariadbd --user=mysql --datadir="$data" --bootstrap
fi
exec mariadbd --user=mysql --datadir="$data" --bind-address=0.0.0.0 "${@:2}"
