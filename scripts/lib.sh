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
