#!/usr/bin/env bash
# Installs what is used here and is missing: Debian's packages as root, else it
# names them. Changes nothing where all is there.
#
# `install.sh base` is what the build and `make demo` use, `install.sh shop` the
# servers of `make demo-full` too, and `install.sh` all that the tests use.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
parts=$root/tests/parts
what=${1:-all}
[[ $what == base || $what == shop || $what == all ]] || die "$what? say base, shop, or nothing for all"

needs_languages

missing=()
# wanted PACKAGE COMMAND…: PACKAGE is missing where none of its commands is there.
wanted() {
    local package=$1 name
    for name in "${@:2}"; do
        if command -v "$name" > /dev/null || [[ -x /usr/sbin/$name ]]; then return; fi
    done
    missing+=("$package")
}
for name in curl git make; do wanted "$name" "$name"; done
# A compiler without the C library's headers compiles nothing.
cc -E -include stdio.h -x c /dev/null > /dev/null 2>&1 || missing+=(gcc libc6-dev)
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
# Without these nothing can be fetched.
[[ -e /etc/ssl/certs/ca-certificates.crt || -z $(command -v apt-get) ]] || missing+=(ca-certificates)

if [[ $what != base ]]; then
    # Real servers, which tests/parts/start starts.
    ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || wanted postgresql postgres
    wanted postgresql-client psql
    wanted rabbitmq-server rabbitmq-server
    # For Kafka, and for librdkafka.
    wanted default-jre-headless java
    wanted maven mvn
    wanted g++ g++
fi
if [[ $what == all ]]; then
    wanted redis-server redis-server
    wanted redis-tools redis-benchmark
    wanted openssl openssl
    # For transparent capture: network namespaces and the rules of the kernel.
    wanted iproute2 ip
    wanted iptables iptables
    wanted nftables nft
    # Clients in Node and in a browser.
    wanted nodejs node
    wanted npm npm
    wanted chromium chromium chromium-browser google-chrome
fi

if ((${#missing[@]} > 0)); then
    command -v apt-get > /dev/null || die "install these with your package manager: ${missing[*]}"
    [[ $(id -u) == 0 ]] || die "as root: apt-get install ${missing[*]}"
    say "installs ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$PILLION_CACHE/apt.log
    # Somebody else's apt may run; a repository that is down may not matter.
    apt-get update -qq -o DPkg::Lock::Timeout=120 > "$log" 2>&1 || say "apt-get update failed; goes on with what is known"
    "$parts/quietly" apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends "${missing[@]}" >> "$log" 2>&1 ||
        { tail -20 "$log" >&2 && die "apt-get failed: see above, or install these by hand: ${missing[*]}"; }
    python3 -c 'import ensurepip, venv' || die "$(command -v python3) still has no venv: it is not Debian's; install one that has"
fi

[[ $what != base ]] || exit 0

# The console of Kafka comes with its jars.
if [[ ! -d $PILLION_CACHE/kafka-3.9.1 ]]; then
    say "fetches Kafka"
    new=$PILLION_CACHE/kafka-3.9.1.new
    rm -rf "$new"
    mvn -q -B -f "$parts/start/kafka.pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$new" > "$PILLION_CACHE/maven.log" 2>&1 ||
        { tail -20 "$PILLION_CACHE/maven.log" >&2 && die "Maven could not fetch Kafka: see above, and run this again"; }
    mv "$new" "$PILLION_CACHE/kafka-3.9.1"
fi

[[ $what == all ]] || exit 0

for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version > /dev/null 2>&1 && continue
    command -v rustup > /dev/null || die "cargo ${component/rustfmt/fmt} is missing: install $component"
    say "installs $component"
    rustup component add "$component"
done

"$parts/consul/from-debian"

# Clients in Python, in an environment of their own.
python=$PILLION_CACHE/python
if ! cmp -s "$parts/requirements.txt" "$python/requirements.txt"; then
    say "installs clients in Python"
    [[ -x $python/bin/python ]] || python3 -m venv "$python"
    "$python/bin/pip" install -q --disable-pip-version-check -r "$parts/requirements.txt" > "$PILLION_CACHE/pip.log" 2>&1 ||
        { tail -20 "$PILLION_CACHE/pip.log" >&2 && die "pip failed: see above, and run this again"; }
    cp "$parts/requirements.txt" "$python/requirements.txt"
fi

# Go's tools: gRPC's own client and server of the interoperability cases, a
# client for the command line, and the conformance tests of HTTP/2.
bin=$PILLION_CACHE/bin
go_log=$PILLION_CACHE/go.log
# go_tool PACKAGE VERSION NAME: the program of a Go package as $bin/NAME.
go_tool() {
    local wanted="$1@$2"
    [[ ! -x $bin/$3 || $(cat "$bin/.$3" 2> /dev/null) != "$wanted" ]] || return 0
    say "installs $3"
    GOBIN=$bin/new go install "$wanted" > "$go_log" 2>&1 || { tail -20 "$go_log" >&2 && die "go install $wanted failed: see above, and run this again"; }
    mv "$bin/new/$(basename "$1")" "$bin/$3"
    echo "$wanted" > "$bin/.$3"
}
mkdir -p "$bin/new"
go_tool google.golang.org/grpc/interop/client v1.80.0 grpc-go-client
go_tool google.golang.org/grpc/interop/server v1.80.0 grpc-go-server
go_tool github.com/fullstorydev/grpcurl/cmd/grpcurl v1.9.3 grpcurl
go_tool github.com/summerwind/h2spec/cmd/h2spec v2.2.1+incompatible h2spec
# Envoy's rate-limit service.
go_tool github.com/envoyproxy/ratelimit/src/service_cmd v1.4.1-0.20260122083618-3fb702589d36 ratelimit
# go_part FOLDER NAME: a program of ours as $bin/NAME.
go_part() {
    go build -C "$parts/$1" -o "$bin/$2" . > "$go_log" 2>&1 || { tail -20 "$go_log" >&2 && die "tests/parts/$1 was not built: see above"; }
}
go_part grpc-go grpc-go-errors
go_part go-clients go-clients
go_part websocket/go websocket-go
go_part consul/go consul-go
go_part ../../examples/gateway/chi gateway-chi
# A test, for the clock that stands still in one.
go test -C "$parts/breakers/go" -c -o "$bin/breakers-go" . > "$go_log" 2>&1 || { tail -20 "$go_log" >&2 && die "tests/parts/breakers/go was not built: see above"; }

# tonic's client and server of the same cases.
CARGO_TARGET_DIR=$PILLION_CACHE/tonic-interop cargo build --locked \
    --manifest-path "$parts/tonic-interop/Cargo.toml" > "$PILLION_CACHE/tonic.log" 2>&1 ||
    { tail -20 "$PILLION_CACHE/tonic.log" >&2 && die "tests/parts/tonic-interop was not built: see above"; }

# Clients of gRPC-Web, for a browser and for Node.
browser=$PILLION_CACHE/browser
if [[ ! -x $browser/node_modules/.bin/esbuild ]] || ! cmp -s "$parts/browser/package-lock.json" "$browser/package-lock.json"; then
    say "installs clients of gRPC-Web"
    mkdir -p "$browser"
    cp "$parts/browser/package.json" "$browser/"
    (cd "$browser" && cp "$parts/browser/package-lock.json" new-lock.json && mv new-lock.json package-lock.json &&
        npm ci --no-audit --no-fund > "$PILLION_CACHE/npm.log" 2>&1) ||
        { rm -f "$browser/package-lock.json" && tail -20 "$PILLION_CACHE/npm.log" >&2 && die "npm failed: see above, and run this again"; }
fi
# bundle NAME PLATFORM: one file with all that it imports.
bundle() {
    NODE_PATH=$browser/node_modules "$browser/node_modules/.bin/esbuild" "$parts/browser/$1.js" --bundle --format=esm \
        --platform="$2" --loader:.pb=binary --outfile="$browser/$1.js" --target=es2022 --log-level=warning ||
        die "tests/parts/browser/$1.js was not bundled"
}
bundle page browser
bundle node node
mv "$browser/node.js" "$browser/node.mjs"
cp "$parts/browser/page.html" "$browser/"
