#!/bin/sh
# Where Pillion's user-space time goes, under the load of `make bench`.
#
# usage: profile.sh [h1|h2|h2h2|big|connect] [SECONDS] [perf|callgrind]
#
# Builds the release profile with symbols and frame pointers into
# target/profile, then writes target/bench/profile-*.txt. perf is the default;
# callgrind counts instructions and needs no counters from the processor.
set -eu
cd "$(dirname "$0")/../.."
scenario=${1:-h1}
seconds=${2:-5}
tool=${3:-perf}
command -v "$([ "$tool" = callgrind ] && echo valgrind || echo "$tool")" >/dev/null || {
    echo "profile: \`$tool\` is missing: install the package linux-perf or valgrind" >&2
    exit 1
}
echo "Building with symbols into target/profile …"
CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
    RUSTFLAGS="-C force-frame-pointers=yes" \
    cargo build --release --bin pillion --target-dir target/profile
exec python3 tests/bench/profiler.py --pillion target/profile/release/pillion \
    --scenario "$scenario" --seconds "$seconds" --tool "$tool"
