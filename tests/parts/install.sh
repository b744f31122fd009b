#!/usr/bin/env bash
# Installs what the tests and the demo use, where it is missing: Debian's
# packages as root, else it names them. Changes nothing where all is there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

# command -> Debian package that brings it
declare -A packages=(
    [cc]=gcc
    [curl]=curl
    [git]=git
    [make]=make
)

need cargo "install Rust 1.90 or later"
need go "install Go 1.22 or later"
need python3 "install Python 3.10 or later"

missing=()
for name in "${!packages[@]}"; do
    command -v "$name" > /dev/null || missing+=("${packages[$name]}")
done
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)

if ((${#missing[@]} > 0)); then
    command -v apt-get > /dev/null || die "install these with your package manager: ${missing[*]}"
    [[ $(id -u) == 0 ]] || die "as root: apt-get install ${missing[*]}"
    say "installs ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" > "$PILLION_CACHE/apt.log" 2>&1 ||
        { tail -20 "$PILLION_CACHE/apt.log" >&2 && die "apt-get failed"; }
fi

for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version > /dev/null 2>&1 && continue
    command -v rustup > /dev/null || die "cargo ${component/rustfmt/fmt} is missing: install $component"
    say "installs $component"
    rustup component add "$component"
done
