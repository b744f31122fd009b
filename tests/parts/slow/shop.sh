#!/usr/bin/env bash
# The whole shop: its lints, then 20 seconds of everything that it does, with the
# database away for a moment, and all counts right at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

(cd examples/shop/users && go vet -tags full ./...)
CARGO_TARGET_DIR=$PILLION_CACHE/shop/orders cargo clippy --locked --features full \
    --manifest-path examples/shop/orders/Cargo.toml -- -D warnings
# Beyond half a minute one kind of call fails now and then: `too_many_data_frames`,
# an HTTP/2 connection that ends by the limits of the h2 crate (docs/grpc.md).
DEMO_SECONDS=20 scripts/demo-full
