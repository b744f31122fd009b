#!/usr/bin/env bash
# What `make test` does in small: 20 s of nothing but failures through one sidecar
# and three, then 20 s of half of the endpoints, and the recovery; 10,000 calls
# with resets, and with one of three endpoints that ends in six ways; 20,000
# bodies however they are cut.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

PILLION_TEST_LASTS=20 PILLION_TEST_CALLS=10000 cargo test --locked --test it -- --nocapture retries
PILLION_TEST_CALLS=10000 cargo test --locked --test netns -- --nocapture --test-threads 1 endings
PILLION_TEST_CASES=20000 cargo test --locked --lib codec::tape
