#!/usr/bin/env bash
# Installs pigz, which the benchmark's pipeline by hand compresses with, where it can.
# Where it cannot, the benchmark and its test fail and say what is missing.
set -euo pipefail

command -v pigz >/dev/null && exit
echo "installing pigz for the benchmark" >&2
if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends pigz >&2 || true
elif [[ $(id -u) -eq 0 ]] && command -v dnf >/dev/null; then
  dnf install -y -q pigz >&2 || true
elif [[ $(id -u) -ne 0 ]] && command -v brew >/dev/null; then
  brew install --quiet pigz >&2 || true
fi
command -v pigz >/dev/null || echo "install pigz by hand; without it make bench and TestHarness fail" >&2
