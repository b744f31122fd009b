#!/usr/bin/env bash
# The tests with Consul once more, with a newer one that is built here: some five
# minutes of two processors, the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

tests/parts/consul/from-source
# Its servers are away for 2 minutes, and Consul itself takes out what is dead, no
# sooner than after a minute.
PILLION_TEST_CONSUL=1.20.6 PILLION_TEST_OUTAGE=120 PILLION_TEST_REAPED=1 cargo test --locked --test real consul

# What `make test` does in small: 500 services of 20 instances.
PILLION_TEST_CONSUL=1.20.6 PILLION_TEST_CONSUL_SERVICES=500 PILLION_TEST_CONSUL_SECONDS=30 \
    cargo test --locked --test real -- --nocapture consul::many
