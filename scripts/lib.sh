# Sourced by the scripts here: what they all say and need.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PILLION_CACHE=${PILLION_CACHE:-$root/.cache}
mkdir -p "$PILLION_CACHE"

# One line on what happens now; bold on a terminal.
say() {
    local bold='' plain=''
    if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\033[1m' plain=$'\033[0m'; fi
    printf '%s==> [%4ds]%s %s\n' "$bold" "$SECONDS" "$plain" "$*"
}

# The last words of a script that can't go on.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need COMMAND HINT: ends the script where COMMAND is missing.
need() { command -v "$1" > /dev/null || die "$1 is missing: $2"; }

# needs_languages: what must be there before anything can be installed or built.
# The versions are those of Cargo.toml and of the go.mod files.
needs_languages() {
    need cargo "install Rust 1.90 or later"
    need go "install Go 1.24 or later"
    need python3 "install Python 3.10 or later"
    newer "$(cargo --version)" 1.90 || die "$(cargo --version) is too old: install Rust 1.90 or later"
    newer "$(go env GOVERSION)" 1.24 || die "$(go version) is too old: install Go 1.24 or later"
    newer "$(python3 --version)" 3.10 || die "$(python3 --version) is too old: install 3.10 or later"
}

# newer TEXT VERSION: whether the first version in TEXT is VERSION or later.
newer() {
    local found
    found=$(grep -oE '[0-9]+\.[0-9]+' <<< "$1" | head -n 1)
    printf '%s\n' "$2" "$found" | sort -VC
}

# wait_for SECONDS COMMAND…: until it succeeds; fails when the time is over.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

# Closes a test that is not one of cargo's in cargo's words, so that
# scripts/count adds it up: `verdict NAME STATUS`.
verdict() {
    if (($2 == 0)); then
        printf 'test %s ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n' "$1"
    else
        printf 'test %s ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n' "$1"
    fi
    return "$2"
}
