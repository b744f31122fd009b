#!/usr/bin/env bash
# What `make test` does in small: a million steps of calls, outcomes and time to
# gobreaker, pybreaker and failsafe and to the presets that are named after them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh

PILLION_TEST_TRACES=10000 cargo test --locked --test real -- --nocapture breakers
