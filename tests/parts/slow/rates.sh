#!/usr/bin/env bash
# What `make test` does in small: 20 s of a rate that three sidecars share, by
# Redis and by Envoy's rate-limit service.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

PILLION_TEST_SECONDS=20 cargo test --locked --test real -- --nocapture --test-threads=1 three_sidecars_share
