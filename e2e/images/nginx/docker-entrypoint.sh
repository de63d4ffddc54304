#!/bin/sh
# Stand-in for the official image: renders /etc/nginx/templates/*.template with the
# environment, runs /docker-entrypoint.d/*.sh, then becomes the command.
set -e
if [ "$1" = nginx ] || [ "$1" = nginx-debug ]; then
  if [ -d /etc/nginx/templates ]; then
    vars=$(env | sed 's/=.*//; s/^/${/; s/$/}/' | tr '\n' ' ')
    for t in /etc/nginx/templates/*.template; do
      out=/etc/nginx/conf.d/$(basename "$t" .template)
      [ -f "$t" ] && envsubst "$vars" <"$t" >"$out"
    done
  fi
  for s in /docker-entrypoint.d/*.sh; do [ -x "$s" ] && "$s"; done
fi
exec "$@"
