#!/usr/bin/env bash
# Schemathesis over the API's own OpenAPI document: every check it has, on a running service with a Docker engine of its own.
# A 5xx, an answer the document does not name, bad input taken or good input refused fails it.
#
#   e2e/schemathesis.sh            at least 2,000 cases
#   e2e/schemathesis.sh --short    fewer
#   NM_SEED=N repeats a run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

least=2000 examples=60
if [ "${1:-}" = --short ]; then least=500 examples=8; fi

tools=target/tools/schemathesis
if ! cmp -s e2e/requirements.txt "$tools/requirements.txt"; then
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install -q --disable-pip-version-check -r e2e/requirements.txt ||
    die "pip could not install what e2e/requirements.txt names; see that this machine reaches a Python package index"
  cp e2e/requirements.txt "$tools/"
fi

ensure_docker
ensure_images
need_root_or_sudo "a Docker engine of the tests' own"

log=$(mktemp)
on_exit rm -f "$log"
# The streams (…/events, follow=true) stay open by design: an answer is their status and headers, so they are read with a deadline.
status=0
# An authority that is rotated by force twice in a row drops nodes that have not renewed in between, as it says: nothing else could be
# tried after that, so it has a service of its own.
rotate=/api/nodes/authority/rotate
for path in "--exclude-path=$rotate" "--include-path=$rotate"; do
  # shellcheck disable=SC2016  # expands in the inner shell, which knows the service's address
  python3 e2e/lib/with_mesh.py --own-engine busybox:latest -- bash -c '
    exec "$1" run "$NEURALMESH_SERVER/api/openapi.json" --header "Authorization: Bearer $NEURALMESH_TOKEN" "${@:2}"' schemathesis \
    "$tools/bin/schemathesis" "$path" --checks all --mode all --max-examples "$examples" --workers 1 --seed "${NM_SEED:-1}" --request-timeout 45 \
    --continue-on-failure --warnings off --no-color >>"$log" 2>&1 || status=$?
done

cases=$(sed -n 's/^ *\([0-9,]*\) generated.*/\1/p' "$log" | tr -d , | head -n 1)
if [ "$status" -ne 0 ]; then
  cat "$log"
  echo "schemathesis: ${cases:-0} cases ... FAILED"
  echo "0 passed, 1 failed"
  exit 1
fi
tail -n 25 "$log"
if [ "${cases:-0}" -lt "$least" ]; then
  echo "schemathesis: only ${cases:-0} cases, at least $least are asked for ... FAILED"
  echo "0 passed, 1 failed"
  exit 1
fi
echo "schemathesis: $cases cases ... ok"
echo "1 passed, 0 failed"
