#!/usr/bin/env bash
# What `make test` does in small: three sidecars share 1,000 a second for 20 s,
# through Redis and through Envoy's rate-limit service, and none waits for one
# that hangs or is gone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

PILLION_TEST_LASTS=20 cargo test --locked --test real -- --nocapture --test-threads 1 rate_
