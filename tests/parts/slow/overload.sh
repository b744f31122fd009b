#!/usr/bin/env bash
# Three tiers under load, of which the last loses most of its capacity for 30 s:
# with three tries in each service's code, and with sidecars. `--out FILE.svg`
# draws it, as for the docs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

tiers=$PILLION_CACHE/overload
mkdir -p "$tiers"
rustc -O --edition 2024 -o "$tiers/last" tests/parts/overload/last.rs
(cd tests/parts/overload/front && go build -o "$tiers/front" .)
cargo build --locked
python3 tests/parts/overload/run.py target/debug/pillion "$tiers/front" "$tiers/last" "$@"
