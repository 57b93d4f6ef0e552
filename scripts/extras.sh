#!/usr/bin/env bash
# Installs what only some tests need beside PostgreSQL: PgBouncer, libfaketime, under
# which a server's clock is another one, systemd-analyze, which judges units, promtool,
# which judges alert rules, pigz, and a browser with what drives it. Where that is not
# possible it says so; the tests in question then fail and say it again.
set -euo pipefail

have_faketime() { compgen -G '/usr/lib*/*/faketime/libfaketime.so.1' >/dev/null || compgen -G '/usr/lib*/faketime/libfaketime.so.1' >/dev/null || compgen -G '/opt/homebrew/lib/faketime/libfaketime*' >/dev/null; }
have_pgbouncer() { PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null; }
have_systemd() { command -v systemd-analyze >/dev/null; }

if ! have_pgbouncer || ! have_faketime || ! have_systemd; then
  echo "extras: installing pgbouncer, libfaketime and systemd-analyze for tests" >&2
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # The package would start a PgBouncer of its own.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod +x $policy
      trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends pgbouncer faketime systemd >&2
  elif [[ $(id -u) -eq 0 ]] && command -v dnf >/dev/null; then
    dnf install -y -q pgbouncer libfaketime systemd >&2
  elif [[ $(id -u) -ne 0 ]] && command -v brew >/dev/null; then
    brew install --quiet pgbouncer libfaketime >&2
  fi
fi
have_pgbouncer && have_faketime ||
  echo "extras: install the packages pgbouncer and faketime (libfaketime) by hand; without them TestPgBouncer and TestClockOff fail" >&2
have_systemd || echo "extras: there is no systemd-analyze (package systemd, on Linux only); without it TestUnitsAreSound fails" >&2
if ! command -v promtool >/dev/null; then
  echo "extras: installing promtool for tests" >&2
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    # Only this one program of the package: not the server, nor the service for it.
    scratch=$(mktemp -d)
    (cd "$scratch" && chmod 755 . && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && install -m 755 usr/bin/promtool /usr/local/bin/promtool) >&2 || true
    rm -rf "$scratch"
  elif [[ $(id -u) -eq 0 ]] && command -v dnf >/dev/null; then
    dnf install -y -q golang-github-prometheus >&2 || true
  elif [[ $(id -u) -ne 0 ]] && command -v brew >/dev/null; then
    brew install --quiet prometheus >&2 || true
  fi
fi
command -v promtool >/dev/null ||
  echo "extras: install promtool by hand (package prometheus); without it TestAlerts and TestDashboard fail" >&2
"$(dirname "${BASH_SOURCE[0]}")/pigz.sh"
"$(dirname "${BASH_SOURCE[0]}")/browser.sh" install >/dev/null ||
  echo "extras: install Chromium and Node.js by hand, then: make extras; without them TestBrowser fails" >&2
