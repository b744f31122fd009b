#!/usr/bin/env bash
# The whole shop: its lints, then a minute of everything that it does, with the
# database away for a moment, and all counts right at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

(cd examples/shop/users && go vet -tags full ./...)
CARGO_TARGET_DIR=$PILLION_CACHE/shop/orders cargo clippy --locked --features full \
    --manifest-path examples/shop/orders/Cargo.toml -- -D warnings
DEMO_SECONDS=60 scripts/demo-full
