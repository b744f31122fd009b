#!/usr/bin/env bash
# A real kube-apiserver with etcd, built the first time (about 6 minutes), and the
# sidecar in its cluster: followed, away for 2 minutes with its history forgotten,
# a token replaced.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
source scripts/lib.sh
part=tests/parts/kube-apiserver
version=1.34.4
program=$PILLION_CACHE/bin/kube-apiserver

test -z "$(gofmt -l "$part")"
sum=$(cat "$part"/main.go "$part"/go.* | sha256sum | cut -d' ' -f1)
if [[ ! -x $program || $(cat "$PILLION_CACHE/bin/.kube-apiserver" 2> /dev/null) != "$sum" ]]; then
    say "builds kube-apiserver $version (minutes)"
    names=k8s.io/component-base/version
    mkdir -p "$PILLION_CACHE/bin"
    CGO_ENABLED=0 go build -C "$part" -trimpath -o "$program.new" \
        -ldflags="-s -w -X $names.gitVersion=v$version -X $names.gitMajor=1 -X $names.gitMinor=34" . ||
        die "$part was not built: see above"
    mv "$program.new" "$program"
    echo "$sum" > "$PILLION_CACHE/bin/.kube-apiserver"
fi
cargo clippy --locked --test kubernetes -- -D warnings
PILLION_TEST_AWAY=${PILLION_TEST_AWAY:-120} cargo test --locked --test kubernetes -- --test-threads=1 --nocapture
