#!/usr/bin/env bash
# Finds what the browser tests need, or installs it: Chromium, Node.js, and
# playwright-core, which drives the one from the other.
#
#   scripts/browser.sh find      print two lines, Chromium's program and the folder of
#                                playwright-core, or say what is missing and fail
#   scripts/browser.sh install   find them, or install them, then print the lines
#   scripts/browser.sh fetch     only take playwright-core from npm into a cache
#
# CHROMIUM names a program in an unusual place. playwright-core is kept in a cache, and
# brings no browser of its own.
set -euo pipefail

# The SHA-512 of its archive: `npm view playwright-core@VERSION dist.integrity` shows it.
readonly playwright=1.65.1
readonly playwright_sum=hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==

say() { echo "browser: $*" >&2; }

cache_dir() {
  if [[ $(id -u) -eq 0 ]]; then
    echo /var/cache/archiver
  elif [[ $(uname -s) == Darwin ]]; then
    echo "$HOME/Library/Caches/archiver"
  else
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/archiver"
  fi
}

find_chromium() {
  local program
  for program in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome google-chrome-stable \
    '/Applications/Chromium.app/Contents/MacOS/Chromium' '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'; do
    command -v "$program" && return
  done
  return 1
}

have_node() { command -v node >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)'; }

playwright_dir() { echo "$(cache_dir)/playwright-core-$playwright"; }

install_system() {
  local packages=()
  find_chromium >/dev/null || packages+=(chromium)
  have_node || packages+=(nodejs)
  command -v npm >/dev/null || packages+=(npm)
  ((${#packages[@]})) || return 0
  say "installing ${packages[*]}"
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
  elif [[ $(id -u) -eq 0 ]] && command -v dnf >/dev/null; then
    dnf install -y -q "${packages[@]}" >&2
  elif [[ $(id -u) -ne 0 ]] && command -v brew >/dev/null; then
    brew install --quiet node >&2
    brew install --quiet --cask chromium >&2
  fi
}

fetch_playwright() {
  local target work
  target=$(playwright_dir)
  if [[ -e $target/package.json ]]; then
    return
  fi
  if ! command -v npm >/dev/null || ! have_node; then
    say "npm and Node.js are not on PATH"
    return 1
  fi
  say "fetching playwright-core@$playwright with npm (about 4 MB)"
  mkdir -p "$(cache_dir)"
  work=$(mktemp -d "$(cache_dir)/fetch.XXXXXX")
  # shellcheck disable=SC2064 # the directory of this very call
  trap "rm -rf '$work'" EXIT
  (
    cd "$work"
    npm pack --silent "playwright-core@$playwright" >/dev/null
    # shellcheck disable=SC2016 # the ${} are JavaScript's
    node -e '
      const [file, want] = process.argv.slice(1)
      const have = require("crypto").createHash("sha512").update(require("fs").readFileSync(file)).digest("base64")
      if (have !== want) { console.error(`browser: ${file} has SHA-512 ${have}, not ${want}`); process.exit(1) }
    ' ./*.tgz "$playwright_sum"
    tar -xzf ./*.tgz
  )
  mv "$work/package" "$target"
}

find_all() {
  local chromium
  chromium=$(find_chromium) || { say "no Chromium or Chrome on this machine"; return 1; }
  have_node || { say "no Node.js of version 18 or newer on PATH"; return 1; }
  [[ -e $(playwright_dir)/package.json ]] || { say "no playwright-core $playwright in $(cache_dir)"; return 1; }
  echo "$chromium"
  playwright_dir
}

case ${1:-} in
  find) find_all ;;
  install)
    find_all 2>/dev/null && exit
    install_system || say "not all packages could be installed"
    # As a process of its own: in a condition, bash would go on after a failed command.
    bash "${BASH_SOURCE[0]}" fetch || say "playwright-core could not be fetched"
    find_all
    ;;
  fetch) fetch_playwright ;;
  *)
    echo "usage: $0 find|install|fetch" >&2
    exit 10
    ;;
esac
