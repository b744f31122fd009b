#!/usr/bin/env bash
# Makes users/shopv1 from shop.proto, which is kept in the tree: Go's build runs
# no tools. Python and Rust make theirs when they are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet grpcio-tools==1.85.1
GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
GOBIN=$tools go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
PATH=$tools:$PATH "$tools/venv/bin/python" -m grpc_tools.protoc -I. \
    --go_out=.. --go-grpc_out=.. shop.proto
gofmt -w ../users/shopv1
