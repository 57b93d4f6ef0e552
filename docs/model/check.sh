#!/usr/bin/env bash
# Checks batch.pml with spin: the protocol as it is must pass, searched to the
# last state; with a guard taken out it must fail. Needs spin and a C compiler.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
memory_mb=4000
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_tools() {
  local missing=()
  command -v spin >/dev/null || missing+=(spin)
  command -v gcc >/dev/null || missing+=(gcc libc6-dev)
  [[ ${#missing[@]} -eq 0 ]] && return
  echo "model: installing ${missing[*]} with apt-get"
  if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$work/apt.log" 2>&1; then
    tail -n 3 "$work/apt.log" >&2
    echo "model: ${missing[*]} could not be installed; nothing was checked. Install it (https://spinroot.com), then: make model" >&2
    exit 1
  fi
}

# search DIR "SPIN FLAGS" "GCC FLAGS" "PAN FLAGS" leaves the report in DIR/report.
# A search that finds an error ends with a status of its own: the report decides.
search() {
  mkdir -p "$1"
  cd "$1"
  # shellcheck disable=SC2086 # the flags are lists
  spin -a $2 "$here/batch.pml" >report 2>&1 || { cat report >&2; exit 1; }
  # shellcheck disable=SC2086
  gcc -O1 -w -DCOLLAPSE -DMEMLIM=$memory_mb $3 -o pan pan.c
  # shellcheck disable=SC2086
  { time ./pan $4 >report 2>&1 || true; } 2>cpu
  cd "$work"
}

TIMEFORMAT=%U
number() { sed -n "s/^[[:space:]]*\([0-9.e+]*\)[[:space:]]*$2.*/\1/p" "$1/report" | head -n 1; }
seconds() { tail -n 1 "$1/cpu"; }
failed=0

# passes NAME FLAGS: no error in any reachable state.
passes() {
  local d=$work/run; rm -rf "$d"
  search "$d" "$2" "${3:--DSAFETY}" "${4:-} -m1000000 -w25"
  if grep -q 'errors: 0' "$d/report" && ! grep -Eq 'Search not completed|max search depth too small|out of memory' "$d/report"; then
    printf 'pass  %-16s %9s states, all of them  %6s MB  %6s s   %s\n' "$1" "$(number "$d" 'states, stored')" \
      "$(number "$d" 'total actual memory')" "$(seconds "$d")" "$2"
  else
    failed=1
    printf 'FAIL  %-16s %s\n' "$1" "$2"
    grep -E '^pan:|not completed|too small|memory|errors:' "$d/report" | sed 's/^/        /'
    keep_trail "$d" "$1" "$2"
  fi
}

# finds NAME FLAGS: the shortest way into an assertion's violation. An error of
# any other kind, such as an invalid end state, is not what was asked for.
finds() {
  local d=$work/run what; rm -rf "$d"
  search "$d" "-D$1 ${*:2}" '-DSAFETY -DBFS' '-w24'
  what=$(sed -n 's/^pan:1: assertion violated  *!(\([a-z_]*\)).*/\1/p' "$d/report")
  if [[ -n $what ]]; then
    printf 'found %-20s %-30s in %3s steps %9s states %6s s   %s\n' "$1" "$what" \
      "$(sed -n 's/^pan:1: .*at depth \([0-9]*\)).*/\1/p' "$d/report")" "$(number "$d" 'states, stored')" "$(seconds "$d")" "${*:2}"
    [[ -n ${KEEP_TRAILS:-} ]] && keep_trail "$d" "$1" "-D$1 ${*:2}"
    return 0
  else
    failed=1
    printf 'FAIL  %-20s nothing was found, so the model does not see what this guard is for: %s\n' "$1" "${*:2}"
    grep -E '^pan:|not completed|too small|errors:' "$d/report" | sed 's/^/        /'
  fi
}

# keep_trail DIR NAME FLAGS: copies the way to the error out, readable.
keep_trail() {
  [[ -e $1/batch.pml.trail ]] || return 0
  local out=${KEEP_TRAILS:-$(mktemp -d)}
  mkdir -p "$out"
  # shellcheck disable=SC2086
  spin $3 -p -g -l -k "$1/batch.pml.trail" "$here/batch.pml" >"$out/$2.txt" 2>&1 || true
  echo "        trail: $out/$2.txt"
}

install_tools
cd "$work"

echo "The protocol (each search is exhaustive):"
passes base        "-DFAULTS=2 -DOPS=2"
passes damage      "-DFAULTS=1 -DOPS=2 -DTWINS=1 -DDAMAGE -DCANCEL"
passes failover    "-DFAULTS=0 -DOPS=2 -DFAILOVER=1 -DLOOSE"
passes failover_crash "-DFAULTS=1 -DOPS=1 -DTWINS=1 -DFAILOVER=1 -DLOOSE"
passes standby     "-DFAULTS=0 -DOPS=2 -DFAILOVER=1 -DLOOSE -DTWINS=1 -DSTANDBY_READS"
passes reuse       "-DFAULTS=1 -DOPS=2 -DREUSE -DLOOSE -DLOOSE_END"
passes no_state    "-DFAULTS=1 -DOPS=2 -DNO_STATE"
passes termination "-DFAULTS=1 -DOPS=2 -DTWINS=1" "-DNP -DNOFAIR" "-l"

echo "With a guard taken out (the shortest way to the harm):"
finds NO_VERIFY        -DFAULTS=1 -DTWINS=0 -DDAMAGE
finds NO_READBACK      -DFAULTS=2 -DTWINS=0 -DOPS=0 -DDAMAGE
finds NO_DIGEST        -DFAULTS=1 -DTWINS=1
finds NO_ATTEMPT       -DFAULTS=1
finds NO_CAS           -DFAULTS=1 -DTWINS=1
finds NO_LOCK          -DFAULTS=1 -DTWINS=1
finds NO_RESOLVE       -DFAULTS=1 -DTWINS=1
finds NO_RESOLVE_FENCE -DFAULTS=1 -DTWINS=2
finds STALE_RESOLVE    -DFAULTS=1 -DTWINS=1
finds OVERWRITE        -DFAULTS=1 -DTWINS=1
finds MANIFEST_FIRST   -DFAULTS=1 -DTWINS=1
finds NO_TIMELINE      -DFAULTS=0 -DTWINS=0 -DFAILOVER=1 -DLOOSE

echo "Outside the promise (README.md, What it does not cover):"
finds LEDGER_LOSES_COMMIT -DFAULTS=1 -DTWINS=0
finds REUSE               -DFAULTS=1 -DTWINS=0

if [[ $failed -ne 0 ]]; then
  echo "model: something is not as it should be, see FAIL above" >&2
  exit 1
fi
echo "model: all as it should be"
