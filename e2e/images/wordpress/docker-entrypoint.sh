#!/bin/bash
set -e
case "$1" in apache2* | php-fpm)
  if [ ! -e index.php ] && [ ! -e wp-includes/version.php ]; then
    cp -a /usr/src/wordpress/. . && chown -R www-data:www-data .
    echo "WordPress has been copied to $PWD" >&2
  fi
  [ -s wp-config.php ] || {
    cp wp-config-docker.php wp-config.php
    chown www-data:www-data wp-config.php
  }
  ;;
esac
exec "$@"
