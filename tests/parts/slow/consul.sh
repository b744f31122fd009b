#!/usr/bin/env bash
# The tests with Consul once more, with a newer one that is built here: some five
# minutes of two processors, the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

tests/parts/consul/from-source
PILLION_TEST_CONSUL=1.20.6 cargo test --locked --test real consul
