#!/bin/sh
# What PostgreSQL runs for each segment of its log. No Python, whose start would take longer than the work.
#
#   nm-archive keep LIMIT PATH NAME   archive_command: into the folder, compressed, as long as that holds at most LIMIT bytes
#   nm-archive fetch NAME PATH        restore_command: out of what is to be restored
#
# Beyond the limit nothing is kept any more, and the file `gap` says since when: what comes after a hole is of no use. The database does
# not stand still because of the archive, neither where that is full nor where it can't be written to.
set -u
folder=/var/lib/nm-archive
waiting=64 # segments, 1 GiB: with so many of them not archived yet, one that can't be is given up

history() {
  case $name in *.history) ;; *) return 1 ;; esac
}

drop() {
  if [ ! -e "$folder/gap" ]; then
    # A history of timelines has no place in the log: then what is still here is all doubtful.
    segment=$(printf %.24s "$name")
    if history; then segment=$(find pg_wal -maxdepth 1 -regex '.*/[0-9A-F]*' -name '????????????????????????' -printf '%f\n' | sort -k 1.9 | head -n 1); fi
    said=$folder/.gap.$$.new
    rm -f "$folder/.reserve"
    printf '{"since":"%s","segment":"%s"}\n' "$(date -u +%FT%TZ)" "$segment" >"$said" || exit 1
    sync "$said" && mv -f "$said" "$folder/gap" && sync "$folder" || exit 1
    echo "nm-archive: $1: nothing is kept from $segment on" >&2
  fi
  exit 0
}

trouble() {
  rm -f "$fresh"
  echo "nm-archive: $name $1" >&2
  set -- "$1" pg_wal/archive_status/*.ready
  [ $# -gt $waiting ] || exit 1
  drop "$name $1"
}

fits() {
  find "$folder" -maxdepth 1 -name '*.zst' -printf '%s\n' | awk -v sum="$(stat -c %s "$fresh")" -v limit="$limit" '{ sum += $1 } END { exit !(sum <= limit) }'
}

keep() {
  limit=$1 path=$2 name=$3
  kept=$folder/$name.zst fresh=$folder/.$name.$$.new
  exec 9>>"$folder/.lock" && flock 9 || exit 1
  rm -f "$folder"/.*.new # of one that was killed
  if [ -e "$folder/gap" ] && ! history; then exit 0; fi
  [ -e "$folder/.reserve" ] || head -c 8192 /dev/zero >"$folder/.reserve" # so that a full disk still takes the word of a gap
  if [ -e "$kept" ]; then
    if zstd -dqc "$kept" | cmp -s - "$path"; then exit 0; fi
    # Of a timeline that has a successor the end may be there in two versions, and nobody needs either: the successor has its own.
    newest=$(find pg_wal -maxdepth 1 -name '????????.history' -printf '%.8f\n' | sort | tail -n 1)
    if [ "$(printf '%.8s\n%s\n' "$name" "$newest" | sort | head -n 1)" != "$newest" ]; then exit 0; fi
    trouble "is there already, with another content"
  fi
  zstd -qf -o "$fresh" "$path" || trouble "can't be written"
  if ! history && ! fits; then
    rm -f "$fresh"
    drop "the limit of $limit bytes is reached"
  fi
  sync "$fresh" && mv "$fresh" "$kept" && sync "$folder" && exit 0
  trouble "can't be written"
}

fetch() {
  from=$folder/restore/wal/$1.zst
  [ -e "$from" ] || exit 1
  # To PostgreSQL a failure means that the log ends here; above 125 it means that something is wrong.
  zstd -dqf -o "$2" "$from" || exit 200
}

"$@"
