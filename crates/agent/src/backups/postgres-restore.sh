# shellcheck shell=sh
# Reads a dump of pg_dumpall on standard input into the PostgreSQL that runs in this container. The databases that the dump makes
# anew go first, and whoever is connected to them is cut off: left in place they would be mixed with what the dump holds.
set -eu
sql() { psql --no-psqlrc --quiet --dbname=postgres "$@"; }
version=$(sql --no-align --tuples-only --command='SHOW server_version_num')
force=''
if [ "$version" -ge 130000 ]; then force=' WITH (FORCE)'; fi

# All before the first database: the names of databases, and the roles. Read by lines, so that the rest stays where it is.
newline='
'
head='' drops='' line=''
while IFS= read -r line; do
  head=$head$line$newline
  case $line in
    'DROP DATABASE IF EXISTS '*';') drops=$drops${line%;}$force\;$newline ;;
    '\connect '*) break ;;
  esac
done
case $line in
  '\connect '*) ;;
  *)
    echo 'this is no dump of pg_dumpall; nothing was changed' >&2
    exit 1
    ;;
esac
said=$(printf %s "$drops" | sql --set=ON_ERROR_STOP=1 2>&1) || {
  why=$(printf '%s\n' "$said" | sed -n 's/.*\(ERROR\|FATAL\): *//p' | head -n 1)
  echo "a database could not be replaced, and the dump was not read in: ${why:-$said}" >&2
  exit 1
}

# `postgres` itself is dropped in the middle of the dump. Rows that look the same are left as they are.
edit='/^COPY .* FROM stdin;$/,/^\\\.$/b
/^SET row_security = off;$/{
n
n
s/^\(DROP DATABASE .*postgres\);$/\1'$force';/
}'
{
  printf %s "$head"
  sed -e "$edit" || {
    echo 'the dump broke off' >&2
    kill $$
  }
} | sql --output=/dev/null
