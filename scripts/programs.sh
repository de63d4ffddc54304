# shellcheck shell=bash
# For faults.sh and bench.sh: runs the programs of FOLDER, all of them, those named, or one with options of its own.
# The caller defines `prepare`, which makes ready what they need.

SHORT=
all_programs() { find "$FOLDER" -maxdepth 1 -type f -perm -u+x \( -name '*.sh' -o -name '*.py' \) | sort; }
program_of() { # NAME: its path
  local path
  for path in "$FOLDER/$1.py" "$FOLDER/$1.sh"; do
    if [ -x "$path" ]; then
      echo "$path"
      return
    fi
  done
  die "there is no $1 in $FOLDER/; --list names what there is"
}

run_programs() {
  local programs=() options=() path failed=0
  while [ $# -gt 0 ]; do
    case $1 in
      --list)
        all_programs | sed 's#.*/##; s/\.[a-z]*$//'
        return
        ;;
      --help | -h)
        sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
        return
        ;;
      --short) SHORT=1 ;;
      -*) # from here on, options of the one program named before
        [ ${#programs[@]} -eq 1 ] || die "$1 is not known here; options of a program stand behind its name"
        options=("$@")
        break
        ;;
      *)
        path=$(program_of "$1")
        programs+=("$path")
        ;;
    esac
    shift
  done
  if [ ${#programs[@]} -eq 0 ]; then mapfile -t programs < <(all_programs); fi
  if [ -n "$SHORT" ]; then options=(--short "${options[@]}"); fi
  prepare >&2
  for path in "${programs[@]}"; do
    note "== $path ${options[*]}"
    "$path" "${options[@]}" || failed=1
  done
  return "$failed"
}
