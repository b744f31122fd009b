#!/usr/bin/env bash
# The tests with Consul once more, with a newer one that is built here: some five
# minutes of two processors, the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

tests/parts/consul/from-source
PILLION_TEST_CONSUL=1.20.6 cargo test --locked --test real consul

# What `make test` does in small: 500 services of 20 instances, two minutes
# without any server.
export PILLION_TEST_CONSUL_SERVICES=500 PILLION_TEST_CONSUL_SECONDS=60 PILLION_TEST_OUTAGE=120
for version in 1.8.7 1.20.6; do
    PILLION_TEST_CONSUL=$version cargo test --locked --test real -- --nocapture consul::many consul::found::a_cluster
done
