#!/bin/sh
# Makes the virtual environment of requirements.txt, or of the file that is
# named, in .venv or $VENV; does nothing where it is up to date.
set -eu
cd "$(dirname "$0")"
requirements=${1:-requirements.txt}
venv=${VENV:-.venv}
proto=../proto
mark=$venv/made-from
if cat "$requirements" "$proto/shop.proto" | cmp -s - "$mark"; then
    exit 0
fi
echo "recommendations: installs $(wc -l < "$requirements") packages into $venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
if grep -q '^grpcio-tools' "$requirements"; then
    # Beside the packages, where `import shop_pb2` finds it.
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$venv/bin/python" -m grpc_tools.protoc -I "$proto" \
        --python_out="$packages" --grpc_python_out="$packages" shop.proto
fi
cat "$requirements" "$proto/shop.proto" > "$mark"
